//! Streams of bytes: PASSTHROUGH, TLS-terminated TCP and plain TCP.

use std::pin::Pin;
use std::sync::Arc;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, Established};
use crate::balance::hash_policy::{HashFacts, HashPolicy};
use crate::decide::connection::{ConnectionFacts, admit};
use crate::net::copy::{self, End, Moved};
use crate::snapshot::listener::TcpBlock;
use crate::telemetry::destination::StreamBytes;
use crate::telemetry::{Protocol, RequestRecord};
use crate::upstream::connect::Stream;
use crate::upstream::pool::{AcquireError, Demand, RawStream, Wanted};

/// A socket below everything else.
pub trait Raw: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The TCP socket, for the kernel to copy from.
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

/// Logs a connection that was refused before it had a destination.
pub fn log_refused(
    connection: &Connection,
    flag: &'static str,
    details: &str,
    reason: &'static str,
) {
    let record = refused(connection, flag, details, reason);
    record.finish_refused(&connection.registered.worker.telemetry);
}

fn refused(
    connection: &Connection,
    flag: &'static str,
    details: &str,
    reason: &'static str,
) -> RequestRecord {
    let mut record = record(connection);
    record.flags = flag;
    record.details = details.to_owned().into();
    record.reason = Some(reason);
    record
}

/// Passes on a stream as it came; `first` was read already.
pub async fn plain<S: Raw>(
    connection: Connection,
    block: Arc<TcpBlock>,
    stream: S,
    first: Vec<u8>,
) {
    let opened = Box::pin(open(&connection, &block)).await;
    let Some(Opened { mut upstream, mut record, counted, until }) = opened else { return };
    let connection = connection.established();
    let moved = Moved::default();
    moved.forth.set(first.len() as u64);
    let end = if let Err(error) = upstream.stream.write_all(&first).await {
        End::Failed(error)
    } else {
        drop(first);
        let mut stream = stream;
        match (stream.tcp(), &mut upstream.stream) {
            (Some(client), Stream::Tcp(backend)) => {
                let copy = copy::sockets(client, backend, block.idle_timeout, &moved);
                cuttable(&connection, until, Box::pin(copy)).await
            }
            (_, upstream) => {
                let copy = copy::streams(&mut stream, upstream, block.idle_timeout, &moved);
                cuttable(&connection, until, Box::pin(copy)).await
            }
        }
    };
    counted.sent(moved.back.get());
    counted.received(moved.forth.get());
    finish(&connection, &mut record, &moved, &end);
    record.finish(&connection.registered.worker.telemetry);
}

/// Passes on the plaintext of a stream whose TLS ended here.
pub async fn terminated<S>(connection: Connection, block: Arc<TcpBlock>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opened = Box::pin(open(&connection, &block)).await;
    let Some(Opened { mut upstream, mut record, counted, until }) = opened else { return };
    let connection = connection.established();
    let moved = Moved::default();
    let copy = copy::streams(&mut stream, &mut upstream.stream, block.idle_timeout, &moved);
    let end = cuttable(&connection, until, Box::pin(copy)).await;
    counted.sent(moved.back.get());
    counted.received(moved.forth.get());
    finish(&connection, &mut record, &moved, &end);
    record.finish(&connection.registered.worker.telemetry);
}

async fn open(connection: &Connection, block: &TcpBlock) -> Option<Opened> {
    let worker = &connection.registered.worker;
    let facts = ConnectionFacts {
        client: connection.client.as_deref(),
        source: connection.peer.ip(),
        local: connection.local,
        server_name: connection.server_name.as_deref(),
    };
    if let Err(denial) = admit(&connection.snapshot, block, &facts) {
        let mut record = refused(connection, "-", &denial.details, "authorization_denied");
        if let Some(log) = &mut record.log {
            log.resource = Some(denial.origin);
        }
        record.finish_refused(&worker.telemetry);
        return None;
    }
    let cluster = block.destinations.pick(fastrand::u32(..)).copied().flatten();
    let Some(cluster) = cluster.and_then(|id| connection.snapshot.cluster(id)) else {
        log_refused(connection, "NC", "cluster_not_found", "cluster_not_found");
        return None;
    };
    let pool = worker.upstreams.pool(cluster, &worker.telemetry.metrics);
    let ip = cluster.hash.as_ref().map(|_| connection.peer.ip().to_string());
    let key = |policy: &HashPolicy| {
        policy.key(&HashFacts {
            headers: &HeaderMap::new(),
            query: None,
            client: ip.as_deref().unwrap_or_default().as_bytes(),
            connection: (connection.peer, connection.local),
        })
    };
    let demand = Demand {
        host: "",
        hash: cluster.hash.as_ref().and_then(|policy| key(policy).key),
        client: (connection.peer, connection.local),
        wanted: Wanted::Fresh,
    };
    let (flag, details, reason) = match pool.open_raw(&demand).await {
        Ok(upstream) => {
            let mut record = record(connection);
            let destination = pool.destination();
            let counted = destination.stream_opened("-");
            record.destination = Some(destination);
            if let Some(log) = &mut record.log {
                log.upstream_cluster = Some(cluster.name.clone());
                log.upstream_host = upstream.peer;
                log.upstream_local = upstream.stream.local_address();
                log.resource = Some(block.origin.clone());
            }
            let until = cluster.connection.age.map(|age| Instant::now() + age);
            return Some(Opened { upstream, record, counted, until });
        }
        Err(AcquireError::NoEndpoint) => ("UH", "no_healthy_upstream", "no_endpoint"),
        Err(AcquireError::Overflow(_)) => ("UO", "upstream_overflow", "overflow"),
        Err(AcquireError::Connect(error)) => {
            tracing::debug!(cluster = &*cluster.name, %error, "connect failed");
            ("UF", "upstream_connect_failed", "connect_failed")
        }
    };
    log_refused(connection, flag, details, reason);
    None
}

/// A stream to a destination.
struct Opened {
    upstream: RawStream,
    record: RequestRecord,
    counted: StreamBytes,
    /// When it ends at the latest (`connectionPool.tcp.maxConnectionDuration`).
    until: Option<Instant>,
}

/// Runs a copy until it ends or the worker cuts the connection.
async fn cuttable(
    connection: &Established,
    until: Option<Instant>,
    mut copy: Pin<Box<impl Future<Output = End>>>,
) -> End {
    use crate::net::liveness::Order;
    let liveness = Arc::clone(&connection.registered.liveness);
    let cut = std::future::poll_fn(|cx| match liveness.watch(cx.waker()) {
        Order::Cut => std::task::Poll::Ready(()),
        Order::Serve | Order::Drain => std::task::Poll::Pending,
    });
    let over = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        end = &mut copy => end,
        () = over => End::Closed,
        () = cut => End::Failed(std::io::ErrorKind::ConnectionAborted.into()),
    }
}

fn finish(connection: &Established, record: &mut RequestRecord, moved: &Moved, end: &End) {
    record.bytes_received = moved.forth.get();
    record.bytes_sent = moved.back.get();
    match end {
        End::Closed => {}
        End::Idle => {
            record.flags = "SI";
            record.reason = Some("tcp_idle");
        }
        End::Failed(error) => {
            tracing::debug!(peer = %connection.peer, %error, "stream failed");
            record.flags = "UC";
        }
    }
}

fn record(connection: &Connection) -> RequestRecord {
    let worker = &connection.registered.worker;
    let mut log = worker.telemetry.log.fields();
    if let Some(log) = &mut log {
        log.start_time = Some(std::time::SystemTime::now());
        log.downstream_local = Some(connection.local);
        log.downstream_remote = Some(connection.peer);
        log.server_name.clone_from(&connection.server_name);
    }
    RequestRecord::new(Instant::now(), Protocol::Tcp, log)
}
