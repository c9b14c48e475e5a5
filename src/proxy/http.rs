//! HTTP over one connection: version, limits, deadlines; requests go to [`service::serve`].

pub mod attempt;
pub mod body;
mod client;
pub mod deadline;
pub mod dress;
pub mod exchange;
pub mod external;
pub mod forward;
pub mod grpc_web;
pub mod head;
pub mod mirror;
pub mod request_body;
pub mod respond;
pub mod service;
pub mod tee;
pub mod upgrade;
pub mod upload;
pub mod websocket;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use self::body::ResponseBody;
pub use self::client::Client;
use super::caller;
use super::connection::Connection;
use super::serving::ServingCell;
use super::worker::Registered;
use crate::base::limit;
use crate::decide::connection::ConnectionFacts;
use crate::decide::standing::Admission;
use crate::decide::trusted::Sender;
use crate::net::coalesce::coalesce;
use crate::net::executor::LocalExecutor;
use crate::net::flood::Metered;
use crate::net::frames::PREFACE;
use crate::net::guarded::Guarded;
use crate::net::liveness::{Kind, Liveness, Order};
use crate::net::rewind::Rewind;
use crate::net::strict::Strict;
use crate::snapshot::listener::Servers;
use crate::telemetry::Destination;
use crate::telemetry::downstream::{ConnectionKind, OpenConnection};

/// What every request of a connection shares.
pub struct HttpConnection {
    /// Its worker and liveness.
    pub registered: Registered,
    /// The block that serves it.
    pub serving: Rc<ServingCell>,
    /// What TLS told of the client.
    pub client: Client,
    /// The client's address.
    pub peer: std::net::SocketAddr,
    /// The client's IP as a header value.
    pub peer_ip: HeaderValue,
    /// This end's address.
    pub local: std::net::SocketAddr,
    /// Name in its ClientHello.
    pub server_name: Option<Arc<str>>,
    /// It goes to a workload, not to a gateway.
    pub inbound: bool,
}

impl HttpConnection {
    /// Who its requests come from.
    pub fn sender(&self) -> Sender {
        let Client { tls, ref identity, .. } = self.client;
        Sender { peer: self.peer.ip(), tls, workload: self.inbound && identity.is_some() }
    }

    /// How it was let in; `now` in Unix seconds.
    pub fn admission(&self, now: i64) -> Admission<'_> {
        Admission {
            address: self.serving.address(),
            client_rule: self.serving.client_rule(),
            chain: &self.client.chain,
            now,
        }
    }

    /// Where its requests to a destination are counted.
    fn counted(&self, destination: Rc<Destination>) -> Rc<Destination> {
        caller::counted(self.client.peer.as_deref(), destination)
    }

    /// What deciding looks at.
    pub fn facts(&self) -> ConnectionFacts<'_> {
        ConnectionFacts {
            client: self.client.peer.as_deref(),
            source: self.peer.ip(),
            local: self.local,
            server_name: self.server_name.as_deref(),
        }
    }
}

/// HTTP on a connection, ready to run to its end.
pub type Served = Pin<Box<dyn Future<Output = ()>>>;

/// Finds out the version and makes ready to serve. `http2` is what ALPN agreed on, if anything.
pub async fn begin<S>(
    mut connection: Connection,
    serving: ServingCell,
    stream: S,
    client: Client,
    http2: Option<bool>,
) -> Option<Served>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    connection.open.becomes(ConnectionKind::Http);
    let mut stream = Rewind::record(stream, limit::HTTP1_HEAD_BYTES);
    let liveness = connection.registered.liveness.clone();
    let http2 = version(&mut stream, http2, &liveness).await?;
    let peer_ip = HeaderValue::try_from(connection.peer.ip().to_string());
    let Connection { registered, open, listener, peer, local, server_name, .. } = connection;
    let inbound = matches!(listener.servers, Servers::Inbound(_));
    drop(listener);
    let serving = Rc::new(serving);
    registered.serves(&serving);
    let shared = Rc::new(HttpConnection {
        registered,
        serving,
        client,
        peer,
        peer_ip: peer_ip.unwrap_or_else(|_| HeaderValue::from_static("0.0.0.0")),
        local,
        server_name,
        inbound,
    });
    let io = Guarded::new(stream, liveness.clone());
    let own = shared.clone();
    // Boxed: the connection holds the future's place even while it is idle.
    let serve = move |request| Box::pin(service::serve(shared.clone(), request).map(Ok));
    if http2 {
        liveness.begin(Kind::Http2);
        let io = Metered::client(io, liveness.clone());
        let (flooded, heads) = (io.flooded(), io.heads());
        let (io, waiting) = coalesce(io);
        let counted = heads.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            counted.served();
            serve(request) as ServiceFuture
        });
        let served = Box::pin(http2_builder().serve_connection(TokioIo::new(io), service));
        let of = own.clone();
        let ended = move |error: &hyper::Error| service::ended(&of, error, flooded.get());
        let finishing = heads.clone();
        let finish = move |served: Pin<&mut http2::Connection<_, _, _>>| {
            finishing.stop();
            served.graceful_shutdown();
        };
        let flush = move |cx: &mut Context<'_>| {
            heads.refused().for_each(|why| service::refused(&own, why));
            waiting.poll_drain(cx)
        };
        Some(Box::pin(supervise(served, (liveness, open), (finish, flush, ended))))
    } else {
        liveness.begin(Kind::Http1);
        let io = TokioIo::new(Strict::new(io, liveness.clone()));
        let ended = move |error: &hyper::Error| service::ended(&own, error, None);
        let service = service_fn(move |request| serve(request) as ServiceFuture);
        let served = Box::pin(http1_builder().serve_connection(io, service).with_upgrades());
        let finish = http1::UpgradeableConnection::graceful_shutdown;
        let flush = |_: &mut Context<'_>| Poll::Ready(Ok(()));
        Some(Box::pin(supervise(served, (liveness, open), (finish, flush, ended))))
    }
}

/// Whether HTTP/2 is spoken: by ALPN, or by the client's first bytes. A client that is asked to end
/// before it sent them has no request that could be lost.
async fn version<S>(
    stream: &mut Rewind<S>,
    agreed: Option<bool>,
    liveness: &Liveness,
) -> Option<bool>
where
    S: AsyncRead + Unpin,
{
    if agreed.is_some() {
        stream.consume();
        return agreed;
    }
    let differs = |seen: &[u8]| !PREFACE.starts_with(seen);
    let peek = stream.peek(PREFACE.len(), differs);
    let ordered = poll_fn(|cx| match liveness.watch(cx.waker()) {
        Order::Drain | Order::Cut => Poll::Ready(()),
        Order::Serve => Poll::Pending,
    });
    let seen = tokio::select! {
        // What has come already is served.
        biased;
        seen = timeout(limit::REQUEST_HEAD_TIME, peek) => seen.ok()?.ok()?,
        () = ordered => return None,
    };
    let http2 = seen.starts_with(PREFACE);
    let empty = seen.is_empty();
    stream.replay();
    (!empty).then_some(http2)
}

type ServiceFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>>>>;

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(limit::HTTP1_HEAD_BYTES)
        .max_buf_size(limit::HTTP1_HEAD_BYTES.next_power_of_two());
    builder
}

fn http2_builder() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(limit::HTTP2_STREAMS)
        .initial_stream_window_size(limit::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limit::HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(limit::HTTP2_HEADER_LIST_BYTES)
        .max_send_buf_size(limit::HTTP2_STREAM_WINDOW as usize)
        .max_pending_accept_reset_streams(limit::HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(limit::HTTP2_LOCAL_RESETS);
    builder
}

/// Drives a connection and carries out the worker's orders: `finish` asks it to end, `flush` sends
/// what a turn of it wrote, `failed` is told why it ended before its time.
async fn supervise<C>(
    mut served: Pin<Box<C>>,
    (liveness, _open): (Arc<Liveness>, OpenConnection),
    (finish, mut flush, failed): (
        impl Fn(Pin<&mut C>),
        impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
        impl Fn(&hyper::Error),
    ),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut drained = false;
    let mut ended = false;
    poll_fn(move |cx: &mut Context<'_>| {
        match liveness.watch(cx.waker()) {
            Order::Cut => return Poll::Ready(()),
            Order::Drain if !drained => {
                drained = true;
                finish(served.as_mut());
            }
            Order::Serve | Order::Drain => {}
        }
        if !ended && let Poll::Ready(result) = served.as_mut().poll(cx) {
            ended = true;
            if let Err(error) = result {
                failed(&error);
            }
        }
        match flush(cx) {
            Poll::Ready(Ok(())) if ended => Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "connection ended");
                Poll::Ready(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::net::liveness::Ticks;

    /// What a client that sends this and then waits is taken for, and after how many seconds; the
    /// worker gives the order after one.
    async fn check(sent: &str, order: Order, expected: (Option<bool>, u64)) {
        let (mut client, server) = duplex(64);
        client.write_all(sent.as_bytes()).await.unwrap();
        let start = Instant::now();
        let liveness = Liveness::new(Ticks::default());
        let mut stream = Rewind::record(server, 64);
        let told = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            liveness.order(order);
            std::future::pending::<()>().await;
        };
        let spoken = tokio::select! {
            spoken = version(&mut stream, None, &liveness) => spoken,
            () = told => None,
        };
        assert_eq!((spoken, start.elapsed().as_secs()), expected, "{sent:?} {order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn first_bytes_tell_the_version_or_the_connection_ends() {
        let most = limit::REQUEST_HEAD_TIME.as_secs();
        check("G", Order::Serve, (Some(false), 0)).await;
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Order::Serve, (Some(true), 0)).await;
        check("PRI * HTTP/2", Order::Serve, (None, most)).await;
        check("", Order::Serve, (None, most)).await;
        check("", Order::Drain, (None, 1)).await;
        check("PRI", Order::Cut, (None, 1)).await;
    }

    #[tokio::test]
    async fn a_request_that_has_come_is_served_though_its_worker_drains() {
        let (mut client, server) = duplex(64);
        client.write_all(b"GET").await.unwrap();
        let liveness = Liveness::new(Ticks::default());
        liveness.order(Order::Drain);
        assert_eq!(version(&mut Rewind::record(server, 64), None, &liveness).await, Some(false));
    }
}
