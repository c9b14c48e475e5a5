//! Listeners and their server blocks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::hash::Fingerprint;
use crate::base::host::HostPattern;
use crate::base::id::Origin;
use crate::route::hosts::HostIndex;
use crate::route::path::Normalization;
use crate::route::weight::Weighted;
use crate::tls::revocation::Crls;
use crate::tls::server::ServerTls;

use super::cluster::ClusterId;
use super::forwarded::{ByHost, Forwarded, Said, contain};
use super::inbound::Inbound;
use super::route::RouteTable;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    /// What is bound: the Gateway's port after `--port-map`, or a sidecar's.
    pub address: ListenAddress,
    /// Port as written in the Gateway (`servers[].port.number`), or the application's.
    pub port: u16,
    /// Where its address was written; nothing when it is the command line's.
    pub written: Option<Written>,
    /// Who announces its clients by PROXY headers, where Gateways say it of this port.
    pub announcers: Option<Announcers>,
    /// What is behind it.
    pub servers: Servers,
}

/// Where the address of a listener's first server is written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The line.
    pub origin: Origin,
    /// The column, from 1.
    pub column: u32,
    /// `spec.servers[0].port`, or its `bind`.
    pub field: String,
}

/// Who stands before a port and announces whom each connection is for, by the PROXY protocol.
#[derive(Clone, Debug)]
pub struct Announcers {
    /// Those that are believed; the connections of others are closed.
    pub peers: Vec<IpNet>,
    /// Where it is written.
    pub origin: Origin,
}

impl Announcers {
    /// Whether a peer is believed.
    pub fn trust(&self, peer: IpAddr) -> bool {
        contain(&self.peers, peer)
    }
}

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// One address.
    Socket(SocketAddr),
    /// Every address, IPv6 and IPv4.
    Any(u16),
    /// A Unix domain socket (`bind: unix:///path`).
    Unix(PathBuf),
}

impl ListenAddress {
    /// The port that is bound; nothing for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Socket(address) => Some(address.port()),
            Self::Any(port) => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// Whether the system refuses to listen here and there at once.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (one, other) = match (self, other) {
            (Self::Any(a), Self::Any(b)) => return a == b,
            (Self::Any(port), Self::Socket(socket)) | (Self::Socket(socket), Self::Any(port)) => {
                return *port == socket.port();
            }
            (Self::Socket(one), Self::Socket(other)) => (one, other),
            (Self::Unix(a), Self::Unix(b)) => return a == b,
            (Self::Unix(_), _) | (_, Self::Unix(_)) => return false,
        };
        let covers = |wide: IpAddr, narrow: IpAddr| {
            wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
        };
        let (a, b) = (one.ip(), other.ip());
        one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Any(port) => write!(f, "every address, port {port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// The server blocks of a listener.
#[derive(Debug)]
pub enum Servers {
    /// Plaintext HTTP: one block for all servers of the port.
    Http(Arc<ServerBlock>),
    /// TLS of every kind, told apart by SNI.
    Tls(HostIndex<Chain>),
    /// Plaintext TCP.
    Tcp(Arc<TcpBlock>),
    /// A workload's port, told apart by its first bytes.
    Inbound(Arc<Inbound>),
}

impl Servers {
    /// Keys of the blocks that a ClientHello may choose, some more than once.
    pub fn tls_keys(&self) -> impl Iterator<Item = &str> {
        let (chains, inbound) = match self {
            Self::Tls(chains) => (Some(chains), None),
            Self::Inbound(inbound) => (None, inbound.mutual.as_ref()),
            Self::Http(_) | Self::Tcp(_) => (None, None),
        };
        let inbound = inbound.into_iter().flat_map(|spoken| {
            let (http, tcp) = (spoken.http(), spoken.tcp());
            http.map(|block| &*block.key).into_iter().chain(tcp.map(|block| &*block.key))
        });
        let chains = chains.into_iter().flat_map(HostIndex::values).flat_map(|chain| {
            let (own, services) = match chain {
                Chain::Http(block) => (Some(&block.key), None),
                Chain::Tcp(block) | Chain::Passthrough(block) => (Some(&block.key), None),
                Chain::AutoPassthrough(auto) => (None, Some(&auto.services)),
            };
            let services = services.into_iter().flat_map(HostIndex::values);
            own.into_iter().chain(services.map(|block| &block.key)).map(|key| &**key)
        });
        chains.chain(inbound)
    }
}

/// What a TLS connection meets.
#[derive(Clone, Debug)]
pub enum Chain {
    /// Terminated, then HTTP.
    Http(Arc<ServerBlock>),
    /// Terminated, then bytes.
    Tcp(Arc<TcpBlock>),
    /// Sent on as it came.
    Passthrough(Arc<TcpBlock>),
    /// Sent on to the service that the SNI `outbound_.PORT_.SUBSET_.HOST` names.
    AutoPassthrough(Arc<AutoPassthrough>),
}

/// A Gateway server that serves HTTP.
#[derive(Debug)]
pub struct ServerBlock {
    /// `gatewayNamespace/gatewayName/portName`, or `http/PORT` for merged plaintext servers: stays
    /// the same across snapshots, so that a connection finds its block again.
    pub key: Arc<str>,
    /// Where it is written.
    pub origin: Origin,
    /// Hosts it serves, with or without routes.
    pub hosts: HostIndex<()>,
    /// TLS termination; nothing on a plaintext port.
    pub tls: Option<Termination>,
    /// Calls of gRPC-Web become gRPC (protocol `GRPC-WEB`).
    pub grpc_web: bool,
    /// What it believes of those before it, and tells of clients' certificates.
    pub forwarded: ByHost<Forwarded>,
    /// How paths are normalised before they are matched.
    pub normalization: ByHost<Said<Normalization>>,
    /// Its routes.
    pub routes: RouteTable,
}

/// How a block terminates TLS.
#[derive(Clone, Debug)]
pub struct Termination {
    /// Certificates and rules, or why every handshake fails.
    pub tls: Result<Arc<ServerTls>, Unusable>,
    /// Equal for blocks that ask the same of client certificates.
    pub client_rule: Fingerprint,
    /// What the mesh revoked; nothing where clients are not of the mesh.
    pub revocations: Option<Crls>,
    /// Names of the certificate: what a connection may be reused for.
    pub certificate_names: Vec<HostPattern>,
    /// URI names of the certificate: `By` of `x-forwarded-client-cert`.
    pub certificate_uris: Vec<String>,
    /// Whether backends are told of the client's certificate by `Client-Cert` (RFC 9440).
    pub client_cert_headers: bool,
}

/// TLS material that cannot serve; its handshakes fail.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Why, for the log.
    pub reason: Arc<str>,
}

/// A server that passes bytes on.
#[derive(Debug)]
pub struct TcpBlock {
    /// Stays the same across snapshots.
    pub key: Arc<str>,
    /// The route, or without one the server.
    pub origin: Origin,
    /// The server, whose rule for clients it is.
    pub server: Origin,
    /// TLS termination, where the server terminates.
    pub tls: Option<Termination>,
    /// Where connections go; a missing cluster closes them.
    pub destinations: Weighted<Option<ClusterId>>,
    /// No byte either way for this long ends a stream.
    pub idle_timeout: Duration,
    /// Whether authorization policies are asked; not for `AUTO_PASSTHROUGH`.
    pub judged: bool,
}

/// Application protocols by which clients of the mesh say that they speak its TLS.
pub const MESH_PROTOCOLS: [&[u8]; 5] =
    [b"istio", b"istio-peer-exchange", b"istio-http/1.0", b"istio-http/1.1", b"istio-h2"];

/// Services reachable by their SNI.
#[derive(Debug)]
pub struct AutoPassthrough {
    /// Where it is written.
    pub origin: Origin,
    /// Full SNI to block.
    pub services: HostIndex<Arc<TcpBlock>>,
}

impl AutoPassthrough {
    /// The service of a name, for a client that offers one of the mesh's protocols.
    pub fn service<'a>(
        &self,
        server_name: Option<&str>,
        mut offered: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> Option<&Arc<TcpBlock>> {
        let of_the_mesh = offered
            .as_mut()
            .is_some_and(|offered| offered.any(|name| MESH_PROTOCOLS.contains(&name)));
        if of_the_mesh { self.services.lookup(server_name?) } else { None }
    }
}
