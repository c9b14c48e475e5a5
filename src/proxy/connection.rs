//! One connection: read the ClientHello, choose, then terminate, pass through or refuse.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::hello::{HELLO_WIRE_BYTES, hello};
use super::http::{self, Client};
use super::serving::{ServingCell, serving};
use super::standing::{Passed, Standing, Subject};
use super::worker::Registered;
use super::{inbound, tcp};
use crate::auth::authz::Peer;
use crate::base::id::Origin;
use crate::base::limit;
use crate::net::proxy_protocol;
use crate::net::rewind::Rewind;
use crate::snapshot::Snapshot;
use crate::snapshot::listener::{ListenAddress, Listener, Servers, TcpBlock};
use crate::telemetry::downstream::{ConnectionKind, OpenConnection};

/// A socket as it was accepted.
#[derive(Debug)]
pub enum Accepted {
    /// TCP, with the peer's and our own address.
    Tcp(TcpStream, SocketAddr, SocketAddr),
    /// Unix domain.
    Unix(UnixStream),
}

/// A connection on its way through the phases.
pub struct Connection {
    /// Its place among the worker's connections.
    pub registered: Registered,
    /// Its count in the metrics.
    pub open: OpenConnection,
    /// Where it was accepted.
    pub listener: Arc<Listener>,
    /// The snapshot it was accepted under.
    pub snapshot: Arc<Snapshot>,
    /// The peer.
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
    /// Name in its ClientHello.
    pub server_name: Option<Arc<str>>,
    /// Who the client is by its certificate, where bytes are passed on.
    pub client: Option<Box<Peer>>,
    /// That certificate, and its intermediates.
    pub chain: Box<[CertificateDer<'static>]>,
}

/// A connection that needs its snapshot no more.
pub struct Established {
    /// Its place among the worker's connections.
    pub registered: Registered,
    /// The peer.
    pub peer: SocketAddr,
    /// Whether it would be let in now.
    pub standing: Rc<Standing>,
    _open: OpenConnection,
}

impl Connection {
    /// Lets go of the snapshot, which a long stream would keep alive; `block` passes its bytes on.
    pub fn established(self, block: &TcpBlock) -> Established {
        let Self { registered, open, listener, snapshot, peer, local, server_name, client, chain } =
            self;
        let passed = Passed {
            address: listener.address.clone(),
            peer,
            local,
            server_name,
            client_rule: block.tls.as_ref().map(|tls| tls.client_rule),
            client,
            chain,
        };
        let subject = Subject::Stream(Box::new(passed));
        let standing = Standing::watch(&registered.worker, snapshot.generation, subject);
        Established { registered, peer, standing, _open: open }
    }
}

/// Serves a connection to its end.
pub async fn serve(registered: Registered, address: ListenAddress, accepted: Accepted) {
    let snapshot = registered.worker.snapshot().0.clone();
    let Some(listener) = snapshot.listener(&address).cloned() else { return };
    let open = registered.worker.telemetry.metrics.connection_opened();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (peer, mut local) = match &accepted {
        Accepted::Tcp(_, peer, local) => (canonical(*peer), canonical(*local)),
        Accepted::Unix(_) => (nowhere, nowhere),
    };
    if let Servers::Inbound(_) = listener.servers {
        // Callers mean the application's port, and policies name it.
        local.set_port(listener.port);
    }
    let connection = Connection {
        registered,
        open,
        listener,
        snapshot,
        peer,
        local,
        server_name: None,
        client: None,
        chain: Box::default(),
    };
    match accepted {
        Accepted::Tcp(stream, ..) => Box::pin(begin(connection, stream)).await,
        Accepted::Unix(stream) => Box::pin(begin(connection, stream)).await,
    }
}

fn refuse_header(connection: &Connection, reason: &'static str, origin: Option<&Origin>) {
    let refusal = tcp::Refusal { flag: "-", details: "proxy_protocol_error", reason, origin };
    tcp::log_refused(connection, &refusal);
}

/// Takes the addresses that whoever stands before this gateway announces; false when it announces nothing.
async fn announced<S: tcp::Raw>(connection: &mut Connection, stream: &mut S) -> bool {
    let read = timeout(limit::CLIENT_HELLO_TIME, proxy_protocol::read(stream)).await;
    let Ok(Ok(ends)) = read else {
        let origin = connection.listener.announcers.as_ref().map(|said| &said.origin);
        refuse_header(connection, "proxy_header_missing", origin);
        return false;
    };
    (connection.peer, connection.local) = ends.unwrap_or((connection.peer, connection.local));
    true
}

/// An IPv4 client on a dual-stack socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a connection does once its first phase is over.
pub(super) enum Next<S> {
    Plain(Connection, ServingCell, Rewind<S>, Option<bool>),
    Http(Connection, ServingCell, TlsStream<Rewind<S>>, Box<Client>, Option<bool>),
    Terminated(Connection, Arc<TcpBlock>, TlsStream<Rewind<S>>),
    Passthrough(Connection, Arc<TcpBlock>, S, Vec<u8>),
}

/// Each phase is boxed: a connection that idles in one holds no room for the others.
async fn begin<S: tcp::Raw>(mut connection: Connection, mut stream: S) {
    let listener = connection.listener.clone();
    let begins_with_header = match &listener.announcers {
        Some(announcers) if !announcers.trust(connection.peer.ip()) => {
            let origin = Some(&announcers.origin);
            return refuse_header(&connection, "proxy_peer_untrusted", origin);
        }
        Some(_) => true,
        None => {
            let inbound = matches!(listener.servers, Servers::Inbound(_));
            connection.snapshot.edge.proxy_protocol && !inbound
        }
    };
    if begins_with_header && !Box::pin(announced(&mut connection, &mut stream)).await {
        return;
    }
    match &listener.servers {
        Servers::Tcp(block) => {
            connection.open.becomes(ConnectionKind::Tcp);
            let block = block.clone();
            drop(listener);
            Box::pin(tcp::plain(connection, block, stream, Vec::new())).await;
        }
        Servers::Http(block) => {
            let serving = serving(&connection, block.clone());
            drop(listener);
            let begun = http::begin(connection, serving, stream, Client::plain(), None);
            if let Some(served) = Box::pin(begun).await {
                served.await;
            }
        }
        Servers::Tls(_) => {
            drop(listener);
            let recorded = Rewind::record(stream, HELLO_WIRE_BYTES);
            if let Some(next) = Box::pin(hello(connection, recorded)).await {
                proceed(next).await;
            }
        }
        Servers::Inbound(inbound) => {
            let inbound = inbound.clone();
            drop(listener);
            if let Some(next) = Box::pin(inbound::arrive(connection, &inbound, stream)).await {
                drop(inbound);
                proceed(next).await;
            }
        }
    }
}

async fn proceed<S: tcp::Raw>(next: Next<S>) {
    match next {
        Next::Plain(connection, serving, stream, http2) => {
            let begun = http::begin(connection, serving, stream, Client::plain(), http2);
            if let Some(served) = Box::pin(begun).await {
                served.await;
            }
        }
        Next::Http(connection, serving, stream, client, alpn) => {
            let begun = http::begin(connection, serving, stream, *client, alpn);
            if let Some(served) = Box::pin(begun).await {
                served.await;
            }
        }
        Next::Terminated(connection, block, stream) => {
            Box::pin(tcp::terminated(connection, block, stream)).await;
        }
        Next::Passthrough(connection, block, stream, first) => {
            Box::pin(tcp::plain(connection, block, stream, first)).await;
        }
    }
}
