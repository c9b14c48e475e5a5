//! From a ClientHello to the chain that takes the connection, and whether it may go on.

use std::net::{IpAddr, SocketAddr};

use crate::auth::authz::{Denial, Facts, Peer};
use crate::route::hosts::HostIndex;
use crate::snapshot::listener::{Chain, TcpBlock};
use crate::snapshot::{Authorization, Snapshot};
use crate::tls::identity::PeerIdentity;

/// The chain for a server name: exact name over longest wildcard over `*`, in any mode. A client
/// without SNI, or with one that no server has, reaches only a `*` server.
pub fn choose<'a>(chains: &'a HostIndex<Chain>, server_name: Option<&str>) -> Option<&'a Chain> {
    chains.lookup(server_name.unwrap_or_default())
}

/// What of a connection deciding looks at.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// Who the client is by its certificate.
    pub client: Option<&'a Peer>,
    /// Its address.
    pub source: IpAddr,
    /// This end.
    pub local: SocketAddr,
    /// Name in its ClientHello.
    pub server_name: Option<&'a str>,
}

impl<'a> ConnectionFacts<'a> {
    /// For authorization, without a request.
    pub(super) fn for_policies(&self) -> Facts<'a> {
        Facts {
            peer: self.client,
            source: self.source,
            remote: self.source,
            local: self.local,
            server_name: self.server_name,
            http: None,
        }
    }
}

/// Whether the policies let a connection through whose bytes are passed on.
pub fn admit(
    snapshot: &Snapshot,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
) -> Result<(), Denial> {
    match &snapshot.authorization {
        _ if !block.judged => Ok(()),
        Authorization::Open => Ok(()),
        Authorization::Refuse(origin) => Err(Denial::whole(origin.clone())),
        Authorization::Enforce(policies) => policies.judge(&facts.for_policies()).map(|_| ()),
    }
}

/// A certificate's names as policies write them.
pub fn peer(identity: &PeerIdentity) -> Peer {
    let id = identity.spiffe_id();
    let bare = |uri: &String| uri.strip_prefix("spiffe://").unwrap_or(uri).into();
    let principals = if !identity.uri_sans.is_empty() {
        identity.uri_sans.iter().map(bare).collect()
    } else if !identity.dns_sans.is_empty() {
        identity.dns_sans.iter().map(|name| name.as_str().into()).collect()
    } else {
        vec![identity.subject.as_str().into()]
    };
    let workload = id.and_then(|id| id.workload());
    Peer {
        principals,
        trust_domain: id.map(|id| id.trust_domain().into()),
        workload: workload.map(|(namespace, account)| (namespace.into(), account.into())),
    }
}
