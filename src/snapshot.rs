//! The compiled world: immutable, shared, complete.
//!
//! Control code builds a [`Snapshot`] and publishes it through [`cell::SnapshotCell`]; data code
//! loads it once for each request. Everything a request could need is in it, already compiled.
//!
//! **Invariant:** no `Option` here means "use the default": defaults were applied by `compile`.

pub mod cell;
pub mod cluster;
pub mod external;
pub mod forwarded;
pub mod inbound;
pub mod listener;
pub mod route;
pub mod view;

use std::sync::Arc;

use http::HeaderValue;

use crate::auth::authz::{Policies, Shadow};
use crate::auth::jwt::Authenticator;
use crate::base::hash::Fingerprint;
use crate::base::id::{Generation, Origin};
use crate::route::path::Normalization;

use cluster::{Cluster, ClusterId, Endpoints};
use external::External;
use forwarded::Forwarded;
use listener::{ListenAddress, Listener};

/// Everything the data path knows.
#[derive(Debug)]
pub struct Snapshot {
    /// Number of this snapshot.
    pub generation: Generation,
    /// Digest of everything it was compiled from.
    pub hash: Fingerprint,
    /// Sockets to listen on, each with its server blocks.
    pub listeners: Vec<Arc<Listener>>,
    /// Backends; routes refer to them by [`ClusterId`].
    pub clusters: Vec<Arc<Cluster>>,
    /// Token rules of this gateway; nothing when no RequestAuthentication selects it.
    pub authentication: Option<Arc<Authenticator>>,
    /// Who may do what.
    pub authorization: Authorization,
    /// What holds for every listener.
    pub edge: EdgeSettings,
}

impl Snapshot {
    /// A snapshot of nothing, from before the first configuration was read.
    pub fn empty() -> Self {
        Self {
            generation: Generation(0),
            hash: Fingerprint::of(b""),
            listeners: Vec::new(),
            clusters: Vec::new(),
            authentication: None,
            authorization: Authorization::Open,
            edge: EdgeSettings::default(),
        }
    }

    /// The cluster of an id from this snapshot's routes.
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.index())
    }

    /// What listens at an address.
    pub fn listener(&self, address: &ListenAddress) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.address == *address)
    }

    /// Every name of an endpoint that DNS has to resolve.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters
            .iter()
            .flat_map(|cluster| match &cluster.endpoints {
                Endpoints::Static(_) => &[],
                Endpoints::Dns(names) => &names[..],
                Endpoints::LogicalDns(name) => std::slice::from_ref(&**name),
            })
            .map(|endpoint| &endpoint.name)
    }
}

/// Outcome of the authorization policies that select this gateway.
#[derive(Clone, Debug)]
pub enum Authorization {
    /// No policy: everything passes.
    Open,
    /// A policy is there but is not enforced, or is broken: everything is refused.
    Refuse(Origin),
    /// Policies judge every request and connection.
    Enforce(Arc<Access>),
}

impl Authorization {
    /// Whether providers are asked about some requests.
    pub fn asks(&self) -> bool {
        matches!(self, Self::Enforce(access) if !access.external.is_empty())
    }
}

/// Policies in force.
#[derive(Clone, Debug)]
pub struct Access {
    /// CUSTOM, by provider, in the order in which providers are asked.
    pub external: Vec<External>,
    /// DENY and ALLOW.
    pub policies: Policies,
    /// AUDIT and dry runs, where there are any.
    pub shadow: Option<Box<Shadow>>,
}

/// Settings of MeshConfig for every listener.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// Every connection to a gateway begins with a PROXY header, whose addresses are taken for its own
    /// (`gatewayTopology.proxyProtocol`).
    pub proxy_protocol: bool,
    /// What is believed of proxies and told of certificates, where no Gateway says it.
    pub forwarded: Arc<Forwarded>,
    /// Path normalisation.
    pub normalization: Normalization,
    /// Value of `server` on every response (`proxyHeaders.server`); removed when nothing.
    pub server_header: Option<HeaderValue>,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            proxy_protocol: false,
            forwarded: Arc::default(),
            normalization: Normalization::default(),
            server_header: Some(HeaderValue::from_static("istio-envoy")),
        }
    }
}
