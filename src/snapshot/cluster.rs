//! Backends: one cluster for each service host, port, subset and use.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use rustls::pki_types::ServerName;

use crate::balance::hash_policy::HashPolicy;
use crate::balance::{Member, Policy, outlier};
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
    /// The DestinationRules that say the rest: of the policy, and of the subset.
    pub rules: Box<[Origin]>,
    /// Where to connect.
    pub endpoints: Endpoints,
    /// How endpoints are chosen.
    pub balance: Policy,
    /// What of a request keeps it on one endpoint (`loadBalancer.consistentHash`).
    pub hash: Option<HashPolicy>,
    /// When endpoints are ejected (`outlierDetection`).
    pub outliers: Option<outlier::Policy>,
    /// Bounds on what the process does at a time.
    pub limits: Limits,
    /// What is spoken on connections.
    pub protocol: Protocol,
    /// The cluster that requests of HTTP/2 clients go to instead (`useClientProtocol`).
    pub for_http2: Option<ClusterId>,
    /// What holds for each connection.
    pub connection: ConnectionRules,
    /// Streams of bytes go through a proxy at the endpoint.
    pub tunnel: Option<Tunnel>,
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

/// Bounds on what the process does at a time for a cluster (`connectionPool`); nothing bounds what is
/// not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections (`tcp.maxConnections`).
    pub connections: Option<NonZeroU32>,
    /// Requests that wait for a connection (`http.http1MaxPendingRequests`).
    pub pending: Option<NonZeroU32>,
    /// Requests (`http.http2MaxRequests`).
    pub requests: Option<NonZeroU32>,
    /// Retries (`http.maxRetries`).
    pub retries: Option<NonZeroU32>,
    /// Retries by the number of requests, instead of [`Limits::retries`]
    /// (`trafficPolicy.retryBudget`).
    pub budget: Option<RetryBudget>,
}

/// `trafficPolicy.retryBudget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries for each 10,000 requests (`percent`).
    pub parts: u32,
    /// Retries there may always be (`minRetryConcurrency`).
    pub least: u32,
    /// Requests that began within it count, instead of those in flight (`budgetInterval`); those
    /// when it is zero.
    pub interval: Duration,
}

impl fmt::Display for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = f64::from(self.parts) / 100.0;
        write!(f, "retries at a time: {} or {percent} % of the requests ", self.least)?;
        match self.interval {
            Duration::ZERO => f.write_str("in flight"),
            time => write!(f, "of the last {time:?}"),
        }
    }
}

/// What holds for each connection to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRules {
    /// Requests after which it is used no more (`http.maxRequestsPerConnection`).
    pub requests: Option<NonZeroU32>,
    /// Age after which it is used no more (`tcp.maxConnectionDuration`).
    pub age: Option<Duration>,
    /// Streams at a time on one HTTP/2 connection (`http.maxConcurrentStreams`).
    pub streams: NonZeroU32,
    /// The system's probes of a silent peer (`tcp.tcpKeepalive`); off when nothing.
    pub keepalive: Option<Keepalive>,
    /// HTTP/2 PING frames (`http.http2KeepAlive`); none when nothing.
    pub ping: Option<Ping>,
    /// The PROXY header that starts it (`trafficPolicy.proxyProtocol`); none when nothing.
    pub proxy: Option<ProxyVersion>,
}

/// `tcp.tcpKeepalive`; the system's values where nothing is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between two probes.
    pub interval: Option<Duration>,
    /// Probes without an answer after which the connection is dead.
    pub probes: Option<u32>,
}

/// `http.http2KeepAlive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Time between two PING frames.
    pub interval: Duration,
    /// Longest wait for the answer.
    pub timeout: Duration,
}

/// `trafficPolicy.tunnel`: how a proxy at the endpoint is asked to connect on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The host and port to connect to.
    pub target: Authority,
    /// The method of the request.
    pub method: TunnelMethod,
    /// HTTP/2, else HTTP/1.1.
    pub http2: bool,
}

/// `trafficPolicy.tunnel.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelMethod {
    /// The connection becomes the target's.
    Connect,
    /// The two bodies are the two directions.
    Post,
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            TunnelMethod::Connect => "CONNECT",
            TunnelMethod::Post => "POST",
        };
        let version = if self.http2 { "HTTP/2" } else { "HTTP/1.1" };
        write!(f, "{method} to {} over {version}", self.target)
    }
}

/// Version of the PROXY protocol (`trafficPolicy.proxyProtocol.version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl fmt::Display for ProxyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V2 => "2",
        })
    }
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

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tcp => "TCP",
        })
    }
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug)]
pub enum Endpoints {
    /// Known addresses; may be none.
    Static(Arc<[Endpoint]>),
    /// Names resolved all the time; every address of every name is an endpoint.
    Dns(Arc<[DnsEndpoint]>),
    /// One name, one endpoint; each new connection takes the first address of the latest answer.
    LogicalDns(Arc<DnsEndpoint>),
}

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP and port.
    Socket(SocketAddr),
    /// Unix domain socket (`unix:///path`); a name that starts with a zero byte is an abstract one
    /// (`unix://@name`).
    Unix(Arc<PathBuf>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.fmt(f),
            Self::Unix(path) => match path.to_string_lossy().strip_prefix('\0') {
                Some(name) => write!(f, "@{name}"),
                None => path.display().fmt(f),
            },
        }
    }
}

/// An endpoint with a known address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its share of traffic.
    pub member: Member,
    /// Whether it is spoken to through the cluster's TLS (false for a plaintext endpoint of a
    /// cluster with automatic mutual TLS).
    pub tls: bool,
    /// The network that it is a gateway of, in place of endpoints there; nothing for an endpoint.
    pub through: Option<Arc<str>>,
}

/// An endpoint with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsEndpoint {
    /// Name to resolve.
    pub name: Arc<str>,
    /// Port at each of its addresses.
    pub port: u16,
    /// Share of traffic of each address.
    pub member: Member,
    /// As [`Endpoint::tls`].
    pub tls: bool,
    /// As [`Endpoint::through`].
    pub through: Option<Arc<str>>,
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
        /// Names of which the server's certificate must have one; empty accepts every one.
        accepted: Arc<[String]>,
        /// Who the certificate that is shown stands for; nothing when none is.
        shown: Option<Box<str>>,
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
