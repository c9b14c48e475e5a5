//! TLS from its ClientHello on: choose by name, then terminate, pass through or refuse.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::connection::{Connection, Next};
use super::http::Client;
use super::serving::serving;
use super::tcp;
use crate::base::id::Origin;
use crate::base::limit;
use crate::decide::connection::{choose, peer};
use crate::decide::inbound::chain;
use crate::net::rewind::Rewind;
use crate::snapshot::listener::{Chain, Servers, Termination};
use crate::telemetry::downstream::{ConnectionKind, HandshakeOutcome};
use crate::telemetry::worker::WorkerMetrics;
use crate::tls::identity::PeerIdentity;

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
            connection.chain = stream.get_ref().1.peer_certificates().unwrap_or_default().into();
            let leaf = connection.chain.first();
            let identity = leaf.and_then(|leaf| PeerIdentity::from_der(leaf).ok());
            connection.client = identity.as_ref().map(peer).map(Box::new);
            return Some(Next::Terminated(connection, block.clone(), stream));
        }
        Some(Chain::Http(block)) => {
            let termination = block.tls.as_ref()?;
            let stream =
                handshake(&connection, (&block.key, &block.origin), termination, start).await?;
            let client = Client::of(&stream, &termination.certificate_uris);
            let alpn = stream.get_ref().1.alpn_protocol().map(|protocol| protocol == b"h2");
            let serving = serving(&connection, block.clone()).of_member(&client.chain);
            return Some(Next::Http(connection, serving, stream, Box::new(client), alpn));
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
