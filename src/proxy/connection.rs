//! One connection: read the ClientHello, choose, then terminate, pass through or refuse.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::http::{self, Client};
use super::worker::Registered;
use super::{inbound, tcp};
use crate::auth::authz::Peer;
use crate::base::hash::Fingerprint;
use crate::base::id::{Generation, Origin};
use crate::base::limit;
use crate::decide::connection::{choose, peer};
use crate::decide::inbound::chain;
use crate::net::rewind::Rewind;
use crate::snapshot::Snapshot;
use crate::snapshot::listener::{
    Chain, ListenAddress, Listener, ServerBlock, Servers, TcpBlock, Termination,
};
use crate::telemetry::downstream::{ConnectionKind, HandshakeOutcome, OpenConnection};
use crate::telemetry::worker::WorkerMetrics;
use crate::tls::identity::PeerIdentity;

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
}

/// A connection that needs its snapshot no more.
pub struct Established {
    /// Its place among the worker's connections.
    pub registered: Registered,
    /// The peer.
    pub peer: SocketAddr,
    _open: OpenConnection,
}

impl Connection {
    /// Lets go of the snapshot, which a long stream would keep alive.
    pub fn established(self) -> Established {
        let Self { registered, open, peer, .. } = self;
        Established { registered, peer, _open: open }
    }
}

/// The block that serves a connection, looked up again when the snapshot changes.
#[derive(Debug)]
pub struct Serving {
    /// The snapshot it was looked up in.
    pub generation: Generation,
    /// The listener.
    pub listener: Arc<Listener>,
    /// The block.
    pub block: Arc<ServerBlock>,
}

/// What a connection's block is in the live snapshot.
#[derive(Debug)]
pub struct ServingCell {
    address: ListenAddress,
    server_name: Option<Arc<str>>,
    key: Arc<str>,
    client_rule: Option<Fingerprint>,
    current: RefCell<Option<Rc<Serving>>>,
}

impl ServingCell {
    /// The block in this snapshot; nothing when it is gone, or asks other client certificates.
    pub fn resolve(&self, snapshot: &Snapshot) -> Option<Rc<Serving>> {
        if let Some(current) = self.current.borrow().as_ref()
            && current.generation == snapshot.generation
        {
            return Some(current.clone());
        }
        let (listener, block) = self.find(snapshot)?;
        let (listener, block) = (listener.clone(), block.clone());
        let next = Rc::new(Serving { generation: snapshot.generation, listener, block });
        self.current.replace(Some(next.clone()));
        Some(next)
    }

    /// Whether a snapshot has the block still, with the same rule for clients. Where it has not, the
    /// connection ends with what it carries.
    pub fn is_served(&self, snapshot: &Snapshot) -> bool {
        self.find(snapshot).is_some()
    }

    fn find<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Option<(&'a Arc<Listener>, &'a Arc<ServerBlock>)> {
        let listener = find_listener(snapshot, &self.address)?;
        let block = match &listener.servers {
            Servers::Http(block) => block,
            Servers::Tls(chains) => match choose(chains, self.server_name.as_deref())? {
                Chain::Http(block) => block,
                _ => return None,
            },
            Servers::Inbound(inbound) => inbound.http(self.client_rule.is_some())?,
            Servers::Tcp(_) => return None,
        };
        let same = block.key == self.key && client_rule(block) == self.client_rule;
        same.then_some((listener, block))
    }

    /// Lets go of a former snapshot, which an idle connection would keep alive.
    pub fn forget(&self) {
        self.current.take();
    }
}

fn client_rule(block: &ServerBlock) -> Option<Fingerprint> {
    block.tls.as_ref().map(|tls| tls.client_rule)
}

fn find_listener<'a>(snapshot: &'a Snapshot, address: &ListenAddress) -> Option<&'a Arc<Listener>> {
    snapshot.listeners.iter().find(|listener| listener.address == *address)
}

/// Serves a connection to its end.
pub async fn serve(registered: Registered, address: ListenAddress, accepted: Accepted) {
    let snapshot = registered.worker.snapshot().0.clone();
    let Some(listener) = find_listener(&snapshot, &address).cloned() else { return };
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
    let (server_name, client) = (None, None);
    let connection =
        Connection { registered, open, listener, snapshot, peer, local, server_name, client };
    match accepted {
        Accepted::Tcp(stream, ..) => Box::pin(begin(connection, stream)).await,
        Accepted::Unix(stream) => Box::pin(begin(connection, stream)).await,
    }
}

/// An IPv4 client on a dual-stack socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a connection does once its first phase is over.
pub(super) enum Next<S> {
    Plain(Connection, ServingCell, Rewind<S>, Option<bool>),
    Http(Connection, ServingCell, TlsStream<Rewind<S>>, Client, Option<bool>),
    Terminated(Connection, Arc<TcpBlock>, TlsStream<Rewind<S>>),
    Passthrough(Connection, Arc<TcpBlock>, S, Vec<u8>),
}

/// Each phase is boxed: a connection that idles in one holds no room for the others.
async fn begin<S: tcp::Raw>(mut connection: Connection, stream: S) {
    let listener = connection.listener.clone();
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
            let begun = http::begin(connection, serving, stream, client, alpn);
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

pub(super) fn serving(connection: &Connection, block: Arc<ServerBlock>) -> ServingCell {
    ServingCell {
        address: connection.listener.address.clone(),
        server_name: connection.server_name.clone(),
        key: block.key.clone(),
        client_rule: client_rule(&block),
        current: RefCell::new(Some(Rc::new(Serving {
            generation: connection.snapshot.generation,
            listener: connection.listener.clone(),
            block,
        }))),
    }
}

/// Most bytes read for a ClientHello: the message in the smallest records there can be would be
/// more, but a record a byte is no client of ours.
pub(super) const HELLO_WIRE_BYTES: usize =
    limit::CLIENT_HELLO_BYTES + (limit::CLIENT_HELLO_BYTES / 8);

/// The ClientHello; nothing when it is none, or does not come in time.
async fn read_hello<S: tcp::Raw>(
    metrics: &WorkerMetrics,
    recorded: Rewind<S>,
) -> Option<StartHandshake<Rewind<S>>> {
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), recorded);
    match timeout(limit::CLIENT_HELLO_TIME, &mut acceptor).await {
        Ok(Ok(start)) => Some(start),
        Ok(Err(error)) => {
            let seen = acceptor.take_io();
            let first = seen.as_ref().and_then(|io| io.recorded().first().copied());
            metrics.handshake("", hello_failure(first));
            // What TLS itself refused was told to the client.
            let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let too_large = told.is_none() && error.kind() == io::ErrorKind::InvalidData;
            if let Some(seen) = seen.filter(|_| too_large) {
                refuse(seen, DECODE_ERROR).await;
            }
            None
        }
        Err(_) => {
            metrics.handshake("", HandshakeOutcome::HelloTimeout);
            None
        }
    }
}

/// TLS, from its ClientHello on.
pub(super) async fn hello<S: tcp::Raw>(
    mut connection: Connection,
    recorded: Rewind<S>,
) -> Option<Next<S>> {
    let worker = connection.registered.worker.clone();
    let metrics = &worker.telemetry.metrics;
    let start = read_hello(metrics, recorded).await?;
    connection.server_name = start.client_hello().server_name().map(Into::into);
    let listener = connection.listener.clone();
    let taken = match &listener.servers {
        Servers::Tls(chains) => choose(chains, connection.server_name.as_deref()).cloned(),
        Servers::Inbound(inbound) => chain(inbound, start.client_hello().alpn()),
        Servers::Http(_) | Servers::Tcp(_) => None,
    };
    let sealed = match &taken {
        None => None,
        Some(Chain::Passthrough(block)) => Some(block),
        Some(Chain::AutoPassthrough(auto)) => {
            auto.service(connection.server_name.as_deref(), start.client_hello().alpn())
        }
        Some(Chain::Tcp(block)) => {
            let stream =
                handshake(&connection, (&block.key, &block.origin), block.tls.as_ref()?, start)
                    .await?;
            connection.open.becomes(ConnectionKind::Tcp);
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let identity = leaf.and_then(|leaf| PeerIdentity::from_der(leaf).ok());
            connection.client = identity.as_ref().map(peer).map(Box::new);
            return Some(Next::Terminated(connection, block.clone(), stream));
        }
        Some(Chain::Http(block)) => {
            let termination = block.tls.as_ref()?;
            let stream =
                handshake(&connection, (&block.key, &block.origin), termination, start).await?;
            let forwarding = connection.snapshot.edge.client_cert;
            let client = Client::of(&stream, &termination.certificate_uris, forwarding);
            let alpn = stream.get_ref().1.alpn_protocol().map(|protocol| protocol == b"h2");
            let serving = serving(&connection, block.clone());
            return Some(Next::Http(connection, serving, stream, client, alpn));
        }
    };
    let Some(block) = sealed else {
        let (reason, alert) = match &listener.servers {
            Servers::Inbound(_) => ("mutual_tls_required", NO_APPLICATION_PROTOCOL),
            _ => ("sni_not_served", UNRECOGNIZED_NAME),
        };
        metrics.handshake("", HandshakeOutcome::NoSniMatch);
        let details = "filter_chain_not_found";
        let refusal = tcp::Refusal { flag: "NR", details, reason, origin: None };
        tcp::log_refused(&connection, &refusal);
        refuse(start.io, alert).await;
        return None;
    };
    metrics.handshake(&block.key, HandshakeOutcome::Passthrough);
    connection.open.becomes(ConnectionKind::Passthrough);
    let (stream, first) = original(start);
    Some(Next::Passthrough(connection, block.clone(), stream, first))
}

fn hello_failure(first: Option<u8>) -> HandshakeOutcome {
    match first {
        None => HandshakeOutcome::Closed,
        Some(0x16) => HandshakeOutcome::HelloMalformed,
        Some(_) => HandshakeOutcome::Plaintext,
    }
}

/// The stream as the client began it, and the bytes read so far.
fn original<S>(start: StartHandshake<Rewind<S>>) -> (S, Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    start.io.into_parts()
}

/// The ClientHello is larger than any (RFC 8446 section 6.2).
const DECODE_ERROR: u8 = 50;
/// Nobody has that name (RFC 6066 section 3).
const UNRECOGNIZED_NAME: u8 = 112;

/// None of the client's application protocols is served (RFC 7301 section 3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Sends a fatal alert rather than leaving without a word. What the client still sends is read for a
/// while: closed with bytes unread, the connection would be reset, and the alert lost.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(seen: Rewind<S>, alert: u8) {
    let (mut stream, _) = seen.into_parts();
    let _ = timeout(limit::CLIENT_HELLO_TIME, async {
        stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).await?;
        stream.shutdown().await?;
        if alert == DECODE_ERROR {
            let mut rest = stream.take(limit::CLIENT_HELLO_BYTES as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        }
        io::Result::Ok(())
    })
    .await;
}

async fn handshake<S>(
    connection: &Connection,
    (key, origin): (&str, &Origin),
    termination: &Termination,
    mut start: StartHandshake<Rewind<S>>,
) -> Option<TlsStream<Rewind<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let metrics = &connection.registered.worker.telemetry.metrics;
    let tls = match &termination.tls {
        Ok(tls) => tls,
        Err(unusable) => {
            metrics.handshake(key, HandshakeOutcome::NoCertificate);
            let (details, reason) = (&*unusable.reason, "certificate_unusable");
            let origin = Some(origin);
            tcp::log_refused(connection, &tcp::Refusal { flag: "-", details, reason, origin });
            return None;
        }
    };
    let config = {
        let hello = start.client_hello();
        tls.config_for(hello.alpn()).clone()
    };
    start.io.consume();
    let accept = start.into_stream(config);
    match timeout(limit::HANDSHAKE_TIME, accept).await {
        Ok(Ok(stream)) => {
            let resumed =
                stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            let outcome = if resumed { HandshakeOutcome::Resumed } else { HandshakeOutcome::Ok };
            metrics.handshake(key, outcome);
            Some(stream)
        }
        Ok(Err(error)) => {
            let outcome = handshake_failure(&error);
            metrics.handshake(key, outcome);
            tracing::debug!(peer = %connection.peer, server = key, %error, "handshake failed");
            None
        }
        Err(_) => {
            metrics.handshake(key, HandshakeOutcome::Timeout);
            None
        }
    }
}

fn handshake_failure(error: &io::Error) -> HandshakeOutcome {
    use rustls::Error as Tls;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
    match tls {
        Some(Tls::NoCertificatesPresented | Tls::InvalidCertificate(_)) => {
            HandshakeOutcome::ClientCertificate
        }
        Some(_) => HandshakeOutcome::Protocol,
        None => HandshakeOutcome::Closed,
    }
}
