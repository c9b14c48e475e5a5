//! Requests of any kind that last while policies change: long answers, late ones, and uploads.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{iter, pending};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::client::connect;
use crate::gateway::{Gateway, PATIENCE, Site, gateway, routes, service, to};
use crate::standing::{NO_ONE, OPEN, access, counted, told};

/// Longest time from a change to an upload's end.
const BOUND: Duration = Duration::from_secs(5);

/// A backend whose every answer goes on when it is told to.
struct Source {
    port: u16,
    more: Arc<Semaphore>,
}

impl Source {
    /// At once it says `first`, then `rest`.
    async fn start(first: &'static str, rest: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let more = Arc::new(Semaphore::new(0));
        let told = more.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, (first, rest), told.clone()));
            }
        });
        Self { port, more }
    }

    /// So many answers go on.
    fn goes_on(&self, answers: usize) {
        self.more.add_permits(answers);
    }
}

async fn answer(
    mut stream: TcpStream,
    (first, rest): (&'static str, &'static str),
    more: Arc<Semaphore>,
) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        seen.push(byte);
    }
    stream.write_all(first.as_bytes()).await.unwrap();
    more.acquire().await.unwrap().forget();
    // A gateway that gave up reads no more.
    let _ = stream.write_all(rest.as_bytes()).await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn start(port: u16) -> (Site, Gateway) {
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("source"))
            + &service("source", "HTTP", port)),
    );
    site.config("policies", &access(OPEN));
    let gateway = site.start_with(&[80], &["--access-log", "json"]);
    (site, gateway)
}

/// Asks over a connection of its own.
async fn ask(port: u16, two: bool, path: &str, body: Body) -> hyper::Result<Response<Incoming>> {
    let io = TokioIo::new(connect(port).await);
    let method = if body.size_hint().exact() == Some(0) { "GET" } else { "POST" };
    let request = Request::builder().method(method).header("accept", "*/*");
    if two {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request = request.uri(format!("http://a.com{path}")).body(body).unwrap();
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        let request = request.uri(path).header("host", "a.com").body(body).unwrap();
        sender.send_request(request).await
    }
}

fn none() -> Body {
    Empty::new().boxed_unsync()
}

/// The next part of an answer.
async fn part(body: &mut Incoming) -> hyper::Result<Bytes> {
    let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap();
    frame.map(|frame| frame.into_data().unwrap())
}

const DOWNLOAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nfirst\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_a_policy_denies_ends_before_its_next_part_and_others_go_on() {
    let source = Source::start(DOWNLOAD, "more\n").await;
    for two in [false, true] {
        let (site, gateway) = start(source.port);
        let port = gateway.port(80);
        let mut one = ask(port, two, "/one", none()).await.unwrap().into_body();
        let mut other = ask(port, two, "/two", none()).await.unwrap().into_body();
        for body in [&mut one, &mut other] {
            assert_eq!(part(body).await.unwrap(), "first\n");
        }
        gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
        source.goes_on(2);
        let error = part(&mut one).await.unwrap_err();
        if two {
            let reason = std::error::Error::source(&error);
            let reason = reason.and_then(|error| error.downcast_ref::<h2::Error>());
            let reason = reason.and_then(h2::Error::reason);
            assert_eq!(reason, Some(h2::Reason::INADEQUATE_SECURITY));
        }
        assert_eq!(part(&mut other).await.unwrap(), "more\n");
        told(
            &gateway,
            &[
                "\"path\":\"/one\"",
                "tightened_authorization",
                "AuthorizationPolicy istio-system/p config/policies.yaml:",
            ],
        );
        counted(&gateway, "tightened_authorization");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_when_a_policy_denies_it_is_not_passed_on() {
    let source = Source::start("", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nin\n").await;
    for two in [false, true] {
        let (site, gateway) = start(source.port);
        let port = gateway.port(80);
        let asked = |path: &'static str| tokio::spawn(ask(port, two, path, none()));
        let (one, other) = (asked("/one"), asked("/two"));
        let active = "portcullis_requests_active 2\n";
        gateway.wait("both are under way", || gateway.metrics().contains(active));
        gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
        source.goes_on(2);
        let one = timeout(PATIENCE, one).await.unwrap().unwrap().unwrap();
        assert_eq!(one.status(), StatusCode::FORBIDDEN);
        let text = one.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "RBAC: access denied");
        let other = timeout(PATIENCE, other).await.unwrap().unwrap().unwrap();
        assert_eq!(other.status(), StatusCode::OK);
        told(&gateway, &["\"path\":\"/one\"", "tightened_authorization"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_a_policy_denies_is_answered_though_no_more_of_it_comes() {
    let source = Source::start("", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for two in [false, true] {
        let (site, gateway) = start(source.port);
        let port = gateway.port(80);
        let upload = |path: &'static str| {
            let parts = iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"part")))])
                .chain(pending());
            tokio::spawn(ask(port, two, path, StreamBody::new(parts).boxed_unsync()))
        };
        let (one, other) = (upload("/one"), upload("/two"));
        let active = "portcullis_requests_active 2\n";
        gateway.wait("both are under way", || gateway.metrics().contains(active));
        gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
        let one = timeout(BOUND, one).await.expect("it is answered").unwrap().unwrap();
        assert_eq!(one.status(), StatusCode::FORBIDDEN);
        told(&gateway, &["\"path\":\"/one\"", "tightened_authorization"]);
        source.goes_on(2);
        let other = timeout(PATIENCE, other).await.unwrap().unwrap().unwrap();
        assert_eq!(other.status(), StatusCode::OK);
    }
}
