//! Streams of bytes: PASSTHROUGH, TLS-terminated TCP and plain TCP.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use super::caller;
use super::connection::{Connection, Established};
use super::http::external::stream::{Refused, consult};
use crate::auth::authz::{Denial, Remark};
use crate::balance::hash_policy::{HashFacts, HashPolicy};
use crate::base::id::Origin;
use crate::decide::connection::{ConnectionFacts, admit, remarks};
use crate::decide::reject::{Answer, Reject};
use crate::net::copy::{self, End, Moved, Side};
use crate::net::liveness::{Liveness, Order};
use crate::net::rewind::Rewind;
use crate::snapshot::cluster::Cluster;
use crate::snapshot::listener::TcpBlock;
use crate::telemetry::destination::StreamBytes;
use crate::telemetry::{Protocol, RequestRecord};
use crate::upstream::connect::{ConnectError, Stream};
use crate::upstream::pool::{AcquireError, Demand, RawStream, Wanted};

/// A socket below everything else.
pub trait Raw: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The TCP socket, for what only the kernel knows.
    fn tcp(&self) -> Option<&TcpStream>;
}

impl Raw for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Raw for UnixStream {
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

/// Why a connection goes nowhere.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// Envoy's response flag; `-` for none.
    pub flag: &'static str,
    /// Envoy's response code details.
    pub details: &'a str,
    /// Our stable reason code.
    pub reason: &'static str,
    /// The resource that decided.
    pub origin: Option<&'a Origin>,
}

/// Logs a connection that was refused before it had a destination.
pub fn log_refused(connection: &Connection, refusal: &Refusal<'_>) {
    let record = refused(record(connection), refusal);
    record.finish_refused(&connection.registered.worker.telemetry);
}

fn refused(mut record: RequestRecord, refusal: &Refusal<'_>) -> RequestRecord {
    record.flags = refusal.flag;
    record.details = refusal.details.to_owned().into();
    record.reason = Some(refusal.reason);
    if let (Some(log), Some(origin)) = (&mut record.log, refusal.origin) {
        log.resource = Some(origin.clone());
    }
    record
}

/// Asks the providers of CUSTOM policies; the record of a connection that they let pass.
async fn asked(
    connection: &Connection,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
    socket: Option<&TcpStream>,
    record: RequestRecord,
) -> Option<RequestRecord> {
    let refused = tokio::select! {
        asked = consult(connection, block, facts) => match asked {
            Ok(()) => return Some(record),
            Err(why) => externally_refused(record, &why),
        },
        () = cut(&connection.registered.liveness) => {
            let refusal = Refusal { flag: "-", details: STOPPED, reason: STOPPED, origin: None };
            refused(record, &refusal)
        }
        () = reset(socket) => {
            let Answer { flag, details, code, .. } = Reject::ClientGone.answer();
            refused(record, &Refusal { flag, details, reason: code, origin: None })
        }
    };
    refused.finish_refused(&connection.registered.worker.telemetry);
    None
}

/// Waits until a client resets its connection: one that ended its own direction may await an answer.
async fn reset(socket: Option<&TcpStream>) {
    match socket {
        Some(socket) => drop(socket.ready(Interest::ERROR).await),
        None => std::future::pending().await,
    }
}

fn externally_refused(mut record: RequestRecord, why: &Refused<'_>) -> RequestRecord {
    let (details, reason, origin) = match why {
        Refused::Denied(origin) => ("ext_authz_denied", "external_authorization_denied", origin),
        Refused::Failed(origin, why) => {
            if let Some(log) = &mut record.log {
                log.upstream_transport_failure = Some((*why).into());
            }
            ("ext_authz_error", "external_authorization_failed", origin)
        }
    };
    refused(record, &Refusal { flag: "UAEX", details, reason, origin: Some(origin) })
}

/// Passes on a stream as it came; `first` was read already.
pub async fn plain<S: Raw>(
    connection: Connection,
    block: Arc<TcpBlock>,
    mut stream: S,
    first: Vec<u8>,
) {
    let Some(opened) = Box::pin(open(&connection, &block, stream.tcp())).await else { return };
    let Opened { mut upstream, record, counted, until } = opened;
    let connection = connection.established(&block);
    let moved = Moved::counted(counted);
    let pass = pass(&mut stream, &mut upstream.stream, first, block.idle_timeout, &moved);
    let over = cuttable(&connection, until, Box::pin(pass)).await;
    finish(&connection, record, &moved, &over);
}

async fn pass<S: Raw>(
    stream: &mut S,
    upstream: &mut Stream,
    first: Vec<u8>,
    idle: Duration,
    moved: &Moved,
) -> End {
    match timeout(idle, upstream.write_all(&first)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return End::Failed(Side::Second, error),
        Err(_) => return End::Idle,
    }
    moved.sent_before(first.len());
    drop(first);
    match (stream.tcp(), upstream) {
        (Some(client), Stream::Tcp(backend)) => {
            Box::pin(copy::sockets(client, backend, idle, moved)).await
        }
        (_, upstream) => Box::pin(copy::streams(stream, upstream, idle, moved)).await,
    }
}

/// Passes on the plaintext of a stream whose TLS ended here.
pub async fn terminated<S: Raw>(
    connection: Connection,
    block: Arc<TcpBlock>,
    mut stream: TlsStream<Rewind<S>>,
) {
    let socket = stream.get_ref().0.stream().tcp();
    let Some(opened) = Box::pin(open(&connection, &block, socket)).await else { return };
    let Opened { mut upstream, record, counted, until } = opened;
    let connection = connection.established(&block);
    let moved = Moved::counted(counted);
    let copy = copy::streams(&mut stream, &mut upstream.stream, block.idle_timeout, &moved);
    let over = cuttable(&connection, until, Box::pin(copy)).await;
    finish(&connection, record, &moved, &over);
}

async fn open(
    connection: &Connection,
    block: &TcpBlock,
    socket: Option<&TcpStream>,
) -> Option<Opened> {
    let facts = ConnectionFacts {
        client: connection.client.as_deref(),
        source: connection.peer.ip(),
        local: connection.local,
        server_name: connection.server_name.as_deref(),
    };
    let worker = &connection.registered.worker;
    let mut record = record(connection);
    for Remark { action, result, by } in remarks(&connection.snapshot, block, &facts) {
        record.shadow(&worker.telemetry, (action, result), by);
    }
    if let Err(Denial { details, origin, .. }) = admit(&connection.snapshot, block, &facts) {
        let reason = "authorization_denied";
        let origin = Some(&origin);
        let refusal = Refusal { flag: "-", details: &details, reason, origin };
        refused(record, &refusal).finish_refused(&worker.telemetry);
        return None;
    }
    if connection.snapshot.authorization.asks() {
        // Boxed: most gateways ask nobody.
        record = Box::pin(asked(connection, block, &facts, socket, record)).await?;
    }
    let origin = Some(&block.origin);
    let cluster = block.destinations.pick(fastrand::u32(..)).copied().flatten();
    let Some(cluster) = cluster.and_then(|id| connection.snapshot.cluster(id)) else {
        let reason = "cluster_not_found";
        let refusal = Refusal { flag: "NC", details: reason, reason, origin };
        refused(record, &refusal).finish_refused(&worker.telemetry);
        return None;
    };
    let pool = worker.upstreams.pool(cluster, &worker.telemetry.metrics);
    let destination = caller::counted(connection.client.as_deref(), pool.destination());
    record.destination = Some(destination.clone());
    if let Some(log) = &mut record.log {
        log.upstream_cluster = Some(cluster.name.clone());
        log.resource = Some(block.origin.clone());
    }
    let (flag, details, reason) = match pool.open_raw(&demand(connection, cluster)).await {
        Ok(upstream) => {
            if let Some(log) = &mut record.log {
                log.upstream_host = upstream.peer;
                log.upstream_local = upstream.stream.local_address();
            }
            let counted = destination.stream_opened("-");
            let until = cluster.connection.age.map(|age| Instant::now() + age);
            return Some(Opened { upstream, record, counted, until });
        }
        Err(AcquireError::NoEndpoint) => ("UH", "no_healthy_upstream", "no_endpoint"),
        Err(AcquireError::Overflow(_)) => ("UO", "upstream_overflow", "overflow"),
        Err(AcquireError::Connect(error)) => {
            tracing::debug!(cluster = &*cluster.name, %error, "connect failed");
            let (reason, why) = connect_failure(&error);
            if let Some(log) = &mut record.log {
                log.upstream_transport_failure = why;
            }
            ("UF", "upstream_connect_failed", reason)
        }
    };
    let record = refused(record, &Refusal { flag, details, reason, origin });
    record.finish_refused(&worker.telemetry);
    None
}

fn demand(connection: &Connection, cluster: &Cluster) -> Demand<'static> {
    let client = (connection.peer, connection.local);
    let key = |policy: &HashPolicy| {
        let ip = connection.peer.ip().to_string();
        let facts = HashFacts {
            headers: &HeaderMap::new(),
            query: None,
            client: ip.as_bytes(),
            connection: client,
        };
        policy.key(&facts).key
    };
    Demand { host: "", hash: cluster.hash.as_ref().and_then(key), client, wanted: Wanted::Fresh }
}

/// A reason code, and what TLS says for the log.
fn connect_failure(error: &ConnectError) -> (&'static str, Option<Box<str>>) {
    match error {
        ConnectError::Refused(_) => ("connect_refused", None),
        ConnectError::Timeout => ("connect_timeout", None),
        ConnectError::Tls(source) => ("upstream_tls_failed", Some(source.to_string().into())),
        ConnectError::Unusable(why) => ("upstream_tls_unusable", Some((**why).into())),
    }
}

/// A stream to a destination.
struct Opened {
    upstream: RawStream,
    record: RequestRecord,
    counted: StreamBytes,
    /// When it ends at the latest (`connectionPool.tcp.maxConnectionDuration`).
    until: Option<Instant>,
}

/// How a stream ended.
enum Over {
    /// By itself.
    Ended(End),
    /// It had its time.
    Expired,
    /// It would be refused now.
    Refused(Reject),
    /// The worker cut it.
    Cut,
}

/// Runs a copy until it ends or the worker cuts the connection.
async fn cuttable(
    connection: &Established,
    until: Option<Instant>,
    mut copy: Pin<Box<impl Future<Output = End>>>,
) -> Over {
    let cut = cut(&connection.registered.liveness);
    let expired = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        end = &mut copy => Over::Ended(end),
        () = expired => Over::Expired,
        reject = connection.standing.refused() => Over::Refused(reject),
        () = cut => Over::Cut,
    }
}

/// Waits until the worker cuts a connection.
fn cut(liveness: &Liveness) -> impl Future<Output = ()> {
    std::future::poll_fn(|cx| match liveness.watch(cx.waker()) {
        Order::Cut => std::task::Poll::Ready(()),
        Order::Serve | Order::Drain => std::task::Poll::Pending,
    })
}

fn finish(connection: &Established, mut record: RequestRecord, moved: &Moved, over: &Over) {
    record.bytes_received = moved.forth.get();
    record.bytes_sent = moved.back.get();
    let verdict = match over {
        Over::Ended(end) => verdict(end),
        Over::Expired => Some(("DT", "max_connection_duration")),
        Over::Refused(reject) => {
            record.rejected(reject.details(), reject.origin());
            Some((reject.answer().flag, reject.answer().code))
        }
        Over::Cut => Some(("-", STOPPED)),
    };
    if let Over::Ended(End::Failed(side, error)) = over {
        tracing::debug!(peer = %connection.peer, ?side, %error, "stream failed");
    }
    if let Some((flag, reason)) = verdict {
        record.flags = flag;
        record.reason = Some(reason);
    }
    record.finish(&connection.registered.worker.telemetry);
}

/// The reason of what was cut because the gateway stops.
pub const STOPPED: &str = "gateway_stopped";

/// Envoy's response flag and our reason code of a stream that did not end by itself; the first of the
/// two is the client's.
pub fn verdict(end: &End) -> Option<(&'static str, &'static str)> {
    match end {
        End::Closed => None,
        End::Idle => Some(("SI", "tcp_idle")),
        End::Failed(Side::First, _) => Some(("DC", "client_gone")),
        End::Failed(Side::Second, _) => Some(("UC", "upstream_closed_midway")),
    }
}

fn record(connection: &Connection) -> RequestRecord {
    let worker = &connection.registered.worker;
    let mut log = worker.telemetry.log.fields();
    if let Some(log) = &mut log {
        log.downstream_local = Some(connection.local);
        log.downstream_remote = Some(connection.peer);
        log.server_name.clone_from(&connection.server_name);
    }
    RequestRecord::new(Instant::now(), Protocol::Tcp, log)
}
