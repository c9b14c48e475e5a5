//! A connection to a workload's port: what it begins with says who takes it.

use tokio::time::timeout;

use super::connection::{Connection, Next};
use super::hello::{HELLO_WIRE_BYTES, hello};
use super::serving::serving;
use super::tcp;
use crate::base::limit;
use crate::decide::inbound::{self, Opening, Plain};
use crate::net::rewind::Rewind;
use crate::snapshot::inbound::Inbound;
use crate::telemetry::downstream::{ConnectionKind, HandshakeOutcome};

/// What takes a connection; nothing when it is over.
pub(super) async fn arrive<S: tcp::Raw>(
    mut connection: Connection,
    inbound: &Inbound,
    stream: S,
) -> Option<Next<S>> {
    let mut stream = Rewind::record(stream, HELLO_WIRE_BYTES);
    let told = |seen: &[u8]| inbound::opening(inbound, seen).is_some();
    let seen = timeout(limit::CLIENT_HELLO_TIME, stream.peek(HELLO_WIRE_BYTES, told)).await;
    match seen {
        Ok(Err(_)) => return None,
        Ok(Ok([])) if !told(&[]) => return None,
        // A caller that stays silent waits for the application to speak first.
        Ok(Ok(_)) | Err(_) => {}
    }
    let opening = inbound::opening(inbound, stream.recorded()).unwrap_or(Opening::Other);
    if opening == Opening::Tls {
        stream.again();
        return hello(connection, stream).await;
    }
    let Some(plain) = inbound::plain(inbound, opening) else {
        let metrics = &connection.registered.worker.telemetry.metrics;
        let silent = stream.recorded().is_empty();
        let outcome =
            if silent { HandshakeOutcome::HelloTimeout } else { HandshakeOutcome::Plaintext };
        metrics.handshake("", outcome);
        let (details, reason) = ("filter_chain_not_found", "mutual_tls_required");
        let refusal = tcp::Refusal { flag: "NR", details, reason, origin: None };
        tcp::log_refused(&connection, &refusal);
        return None;
    };
    match plain {
        Plain::Http(block, http2) => {
            stream.replay();
            let serving = serving(&connection, block.clone());
            Some(Next::Plain(connection, serving, stream, http2))
        }
        Plain::Tcp(block) => {
            connection.open.becomes(ConnectionKind::Tcp);
            let (stream, first) = stream.into_parts();
            Some(Next::Passthrough(connection, block.clone(), stream, first))
        }
    }
}
