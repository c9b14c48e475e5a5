//! Large bodies before somebody who does not take them: memory stays bounded, and all of it arrives.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::client::connect;
use crate::gateway::{Gateway, Site, gateway, routes, service, to};

const SIZE: u64 = 300 << 20;
/// Most that the gateway may grow by while it holds a body back.
const BOUND: u64 = 16 << 20;
const CHUNK: usize = 64 << 10;
/// The content repeats after so many bytes, a prime.
const PERIOD: usize = 65_521;

/// What stands from a place on.
fn content(place: u64, count: usize) -> Bytes {
    static PATTERN: std::sync::LazyLock<Bytes> = std::sync::LazyLock::new(|| {
        (0..PERIOD + CHUNK).map(|i| u8::try_from(i % PERIOD % 253).unwrap()).collect()
    });
    let start = usize::try_from(place % PERIOD as u64).unwrap();
    PATTERN.slice(start..start + count)
}

/// A body of `SIZE` bytes that counts what was taken of it.
struct Large {
    taken: Arc<AtomicU64>,
    place: u64,
}

impl Body for Large {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = usize::try_from(SIZE - self.place).unwrap().min(CHUNK);
        if left == 0 {
            return Poll::Ready(None);
        }
        let bytes = content(self.place, left);
        self.place += left as u64;
        self.taken.store(self.place, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(SIZE - self.place)
    }
}

/// Reads a body to its end and looks at every byte of it.
async fn read(mut body: Incoming) -> u64 {
    let mut place = 0;
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.unwrap().into_data() else { continue };
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            assert!(part == content(place, part.len()), "other bytes near {place}");
            place += part.len() as u64;
        }
    }
    place
}

/// Sends a large body to a GET; reads that of a POST once it may.
struct Store {
    port: u16,
    sent: Arc<AtomicU64>,
    may_read: Arc<Semaphore>,
}

impl Store {
    async fn start(http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sent, may_read) = (Arc::<AtomicU64>::default(), Arc::new(Semaphore::new(0)));
        let store = Self { port, sent: sent.clone(), may_read: may_read.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let stream = TokioIo::new(stream);
                let (sent, may_read) = (sent.clone(), may_read.clone());
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (sent, may_read) = (sent.clone(), may_read.clone());
                    async move {
                        if request.method() == "GET" && request.uri().path() == "/large" {
                            let body = Either::Left(Large { taken: sent, place: 0 });
                            return Ok::<_, Infallible>(Response::new(body));
                        }
                        if request.method() == "POST" {
                            may_read.acquire().await.unwrap().forget();
                        }
                        let read = read(request.into_body()).await.to_string();
                        Ok(Response::new(Either::Right(Full::<Bytes>::from(read))))
                    }
                });
                tokio::spawn(async move {
                    if http2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(stream, answer).await;
                    } else {
                        let server = hyper::server::conn::http1::Builder::new();
                        let _ = server.serve_connection(stream, answer).await;
                    }
                });
            }
        });
        store
    }
}

type Upload = Either<Large, Full<Bytes>>;

/// A client of one version.
enum Client {
    One(hyper::client::conn::http1::SendRequest<Upload>),
    Two(hyper::client::conn::http2::SendRequest<Upload>),
}

impl Client {
    async fn new(port: u16, http2: bool) -> Self {
        let stream = connect(port).await;
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        if http2 {
            let executor = TokioExecutor::new();
            let (sender, connection) =
                hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
            tokio::spawn(connection);
            return Self::Two(sender);
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self::One(sender)
    }

    async fn send(&mut self, method: &str, path: &str, body: Upload) -> Response<Incoming> {
        let request = Request::builder().method(method);
        match self {
            Self::One(sender) => {
                let request = request.uri(path).header("host", "a.com").body(body).unwrap();
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Two(sender) => {
                let request = request.uri(format!("http://a.com{path}")).body(body).unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }
}

fn none() -> Upload {
    Either::Right(Full::default())
}

/// A gateway between a store and a client, warm; and what memory it has and had at most.
async fn start(http2: bool) -> (Site, Store, Gateway, Client, u64) {
    let store = Store::start(http2).await;
    let site = Site::new();
    let protocol = if http2 { "HTTP2" } else { "HTTP" };
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "a.com", "")
            + &routes("r", "istio-system/plain", "a.com", &to("store"))
            + &service("store", protocol, store.port)),
    );
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    let mut client = Client::new(gateway.port(80), http2).await;
    assert_eq!(client.send("GET", "/", none()).await.status(), 200);
    let before = memory(&gateway, "VmRSS:");
    (site, store, gateway, client, before)
}

/// A line of the process's memory, in bytes.
fn memory(gateway: &Gateway, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Waits until nothing more is taken of a body, which is long before its end.
fn held_back(gateway: &Gateway, taken: &AtomicU64) {
    let (mut last, mut same) = (0, 0);
    gateway.wait("the body is held back", || {
        let now = taken.load(Ordering::Relaxed);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        same > 60
    });
    assert!(last < SIZE / 2, "{last} bytes went into nowhere");
}

fn bounded(gateway: &Gateway, before: u64) {
    let most = memory(gateway, "VmHWM:").saturating_sub(before);
    assert!(most < BOUND, "it grew by {most} bytes");
}

async fn download(http2: bool) {
    let (_site, store, gateway, mut client, before) = start(http2).await;
    let response = client.send("GET", "/large", none()).await;
    held_back(&gateway, &store.sent);
    bounded(&gateway, before);
    assert_eq!(read(response.into_body()).await, SIZE);
    bounded(&gateway, before);
}

async fn upload(http2: bool) {
    let (_site, store, gateway, mut client, before) = start(http2).await;
    let taken = Arc::<AtomicU64>::default();
    let body = Either::Left(Large { taken: taken.clone(), place: 0 });
    let answer = tokio::spawn(async move { client.send("POST", "/", body).await });
    held_back(&gateway, &taken);
    bounded(&gateway, before);
    store.may_read.add_permits(1);
    let body = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, SIZE.to_string());
    bounded(&gateway, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_costs_no_memory() {
    download(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_client_that_does_not_read_costs_no_memory() {
    download(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_read_costs_no_memory() {
    upload(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_backend_that_does_not_read_costs_no_memory() {
    upload(true).await;
}
