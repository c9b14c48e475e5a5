//! From a ClientHello to the chain that takes the connection, and whether it may go on.

use std::net::{IpAddr, SocketAddr};

use super::external::refuse_unasked_stream;
use crate::auth::authz::{Denial, Facts, Peer, PeerId, Remark, RuleVerdict};
use crate::route::hosts::HostIndex;
use crate::snapshot::listener::{Chain, TcpBlock};
use crate::snapshot::{Access, Authorization, Snapshot};
use crate::tls::identity::{PeerIdentity, SCHEME, SpiffeId};

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

/// Whether the policies let a connection through whose bytes are passed on, where every provider that is
/// asked about it allows it.
pub fn admit(
    snapshot: &Snapshot,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
) -> Result<(), Denial> {
    match &snapshot.authorization {
        _ if !block.judged => Ok(()),
        Authorization::Open => Ok(()),
        Authorization::Refuse(origin) => Err(Denial::whole(origin.clone())),
        Authorization::Enforce(access) => {
            let facts = facts.for_policies();
            refuse_unasked_stream(access, &facts)?;
            access.policies.judge(&facts).map(|_| ())
        }
    }
}

/// What each rule of the policies says of a connection whose bytes are passed on; nothing where none is
/// asked.
pub fn rule_verdicts<'a>(
    snapshot: &'a Snapshot,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
) -> Option<(&'a Access, Vec<RuleVerdict<'a>>)> {
    match &snapshot.authorization {
        Authorization::Enforce(access) if block.judged => {
            Some((&**access, access.policies.verdicts(&facts.for_policies())))
        }
        _ => None,
    }
}

/// What policies that are not enforced say of a connection whose bytes are passed on.
pub fn remarks<'a>(
    snapshot: &'a Snapshot,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
) -> Vec<Remark<'a>> {
    match &snapshot.authorization {
        Authorization::Enforce(access) if block.judged => {
            let shadow = access.shadow.as_ref();
            shadow.map(|shadow| shadow.judge(&facts.for_policies())).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// A certificate's names as policies write them.
pub fn peer(identity: &PeerIdentity) -> Peer {
    let id = |uri: &String| {
        let principal = uri.strip_prefix(SCHEME)?.into();
        let id = SpiffeId::parse(uri).ok();
        let workload = id.and_then(|id| id.workload());
        Some(PeerId {
            principal,
            trust_domain: id.map(|id| id.trust_domain().into()),
            workload: workload.map(|(namespace, account)| (namespace.into(), account.into())),
        })
    };
    let unnamed =
        identity.uri_sans.is_empty() && identity.dns_sans.is_empty() && identity.subject.is_empty();
    Peer { named: !unnamed, ids: identity.uri_sans.iter().filter_map(id).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::Fingerprint;

    #[test]
    fn only_spiffe_ids_are_principals() {
        let identity = |uris: &[&str], dns: &[&str]| PeerIdentity {
            uri_sans: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            dns_sans: dns.iter().map(|name| (*name).to_owned()).collect(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            fingerprint: Fingerprint::of(b""),
            not_after: 0,
        };
        let found = peer(&identity(&["https://x", "spiffe://td/ns/shop/sa/cart"], &["a.com"]));
        let cart = PeerId {
            principal: "td/ns/shop/sa/cart".into(),
            trust_domain: Some("td".into()),
            workload: Some(("shop".into(), "cart".into())),
        };
        assert_eq!(found.ids, [cart]);
        let named = peer(&identity(&[], &["td/ns/shop/sa/cart"]));
        assert!(named.named && named.ids.is_empty());
        assert_eq!(peer(&identity(&[], &[])), Peer::default());
    }
}
