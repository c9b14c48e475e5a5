//! Backends: one cluster for each service host, port, subset and use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::balance::Strategy;
use crate::base::hash::Fingerprint;
use crate::base::id::Origin;
use crate::base::labels::DestinationLabels;

/// Place of a cluster in its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u32);

impl ClusterId {
    /// Index into [`super::Snapshot::clusters`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One upstream pool.
#[derive(Debug)]
pub struct Cluster {
    /// `outbound|PORT|SUBSET|HOST`, as Envoy names it.
    pub name: Arc<str>,
    /// Equal as long as connections made for one may serve the other: endpoints and identities may
    /// differ, names, protocol and TLS rules may not.
    pub key: Fingerprint,
    /// The resource that defines the service.
    pub origin: Origin,
    /// Where to connect.
    pub endpoints: Endpoints,
    /// How an endpoint is chosen.
    pub strategy: Strategy,
    /// What is spoken on connections.
    pub protocol: Protocol,
    /// How connections are secured.
    pub tls: UpstreamTls,
    /// TCP and TLS connecting together.
    pub connect_timeout: Duration,
    /// Unused connections are closed after this.
    pub idle_timeout: Duration,
    /// TCP streams without a byte are ended after this.
    pub tcp_idle_timeout: Duration,
    /// Labels of its metrics.
    pub labels: Arc<DestinationLabels>,
}

/// What is spoken to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge or by ALPN.
    Http2,
    /// Bytes.
    Tcp,
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug)]
pub enum Endpoints {
    /// Known addresses; may be none.
    Static(Arc<[Endpoint]>),
    /// Names resolved all the time; every address of every name is an endpoint.
    Dns(Arc<[DnsEndpoint]>),
    /// One name; each new connection takes the first address of the latest answer.
    LogicalDns(Arc<DnsEndpoint>),
}

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP and port.
    Socket(SocketAddr),
    /// Unix domain socket (`unix:///path`).
    Unix(Arc<PathBuf>),
}

/// An endpoint with a known address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Share of traffic, at least 1.
    pub weight: u32,
    /// Whether it is spoken to through the cluster's TLS (false for a plaintext endpoint of a
    /// cluster with automatic mutual TLS).
    pub tls: bool,
}

/// An endpoint with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsEndpoint {
    /// Name to resolve.
    pub name: Arc<str>,
    /// Port at each of its addresses.
    pub port: u16,
    /// Share of traffic of each address, at least 1.
    pub weight: u32,
    /// As [`Endpoint::tls`].
    pub tls: bool,
}

/// How connections to a cluster are secured.
#[derive(Clone, Debug)]
pub enum UpstreamTls {
    /// Plaintext.
    Plain,
    /// TLS.
    Tls {
        /// Identity, roots, names and ALPN.
        config: Arc<rustls::ClientConfig>,
        /// Name to send and, where the configuration says so, to verify.
        sni: Sni,
    },
    /// TLS is asked for but its material is unusable: every connect fails.
    Broken(Arc<str>),
}

/// The SNI sent upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// Always this name.
    Fixed(ServerName<'static>),
    /// The host of the request that opens the connection.
    RequestHost,
    /// None.
    Absent,
}
