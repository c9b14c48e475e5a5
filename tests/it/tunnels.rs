//! Streams that go through a proxy at the endpoint (`trafficPolicy.tunnel`).

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::HOST;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::backend::counter;
use crate::client::{Http, connect};
use crate::gateway::{Gateway, Site, gateway, policy, routes, service};

/// A proxy that knows where `far.example:443` is, and refuses everything else.
struct Proxy {
    port: u16,
    /// What it was asked, and bodies that broke off.
    seen: Arc<Mutex<Vec<String>>>,
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

impl Proxy {
    async fn start(far: u16, http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let notes = seen.clone();
        tokio::spawn(async move {
            loop {
                let stream = TokioIo::new(listener.accept().await.unwrap().0);
                let notes = notes.clone();
                let service = service_fn(move |request| answer(request, far, notes.clone()));
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(server.serve_connection(stream, service));
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(server.serve_connection(stream, service).with_upgrades());
                }
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    far: u16,
    notes: Arc<Mutex<Vec<String>>>,
) -> Result<Answer, Infallible> {
    let (method, version) = (request.method().clone(), request.version());
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
    let target = host.unwrap_or_else(|| request.uri().authority().unwrap().to_string());
    notes.lock().unwrap().push(format!("{method} {target} {version:?}"));
    let nothing = Empty::new().map_err(|never| match never {}).boxed();
    if target != "far.example:443" {
        return Ok(Response::builder().status(403).body(nothing).unwrap());
    }
    let mut backend = connect(far).await;
    if method == Method::CONNECT {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let _ = copy_bidirectional(&mut stream, &mut backend).await;
        });
        return Ok(Response::new(nothing));
    }
    assert_eq!((&method, request.uri().path()), (&Method::POST, "/"));
    let (read, mut write) = backend.into_split();
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => write.write_all(frame.data_ref().unwrap()).await.unwrap(),
                Err(_) => return notes.lock().unwrap().push("broke off".to_owned()),
            }
        }
    });
    let down = unfold(read, |mut read| async move {
        let mut bytes = vec![0; 4096];
        match read.read(&mut bytes).await {
            Ok(0) => None,
            Ok(count) => Some((Ok(Frame::data(Bytes::copy_from_slice(&bytes[..count]))), read)),
            Err(error) => Some((Err(error), read)),
        }
    });
    Ok(Response::new(StreamBody::new(down).boxed()))
}

/// TCP on 9000, through the proxy at a port.
fn start(proxy: u16, protocol: &str, tunnel: &str) -> (Site, Gateway) {
    let site = Site::new();
    let rules = "  tcp: [{route: [{destination: {host: echo.shop.internal}}]}]\n";
    site.config(
        "all",
        &(gateway("tcp", 9000, "TCP", "'*'", "")
            + &routes("t", "istio-system/tcp", "'*'", rules)
            + &service("echo", protocol, proxy)
            + &policy("echo", &format!("tunnel: {{{tunnel}, targetPort: 443}}"))),
    );
    let gateway = site.start(&[9000]);
    (site, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_asked_as_the_policy_and_the_ports_protocol_say() {
    let echo = Backend::http1().await;
    for (http2, protocol, version) in [(false, "TCP", "HTTP/1.1"), (true, "HTTP2", "HTTP/2.0")] {
        for method in ["CONNECT", "POST"] {
            let proxy = Proxy::start(echo.port, http2).await;
            let tunnel = format!("protocol: {method}, targetHost: far.example");
            let (_site, gateway) = start(proxy.port, protocol, &tunnel);
            let mut http = Http::plain(gateway.port(9000)).await;
            for _ in 0..3 {
                assert_eq!(http.get("http://b.com/x").await.json()["path"], "/x");
            }
            assert_eq!(proxy.seen(), [format!("{method} far.example:443 {version}")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_ends_the_connection() {
    for http2 in [false, true] {
        let proxy = Proxy::start(0, http2).await;
        let protocol = if http2 { "HTTP2" } else { "TCP" };
        for method in ["CONNECT", "POST"] {
            let tunnel = format!("protocol: {method}, targetHost: near.example");
            let (_site, gateway) = start(proxy.port, protocol, &tunnel);
            let mut stream = connect(gateway.port(9000)).await;
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
            gateway.wait("the log tells", || gateway.out().contains(" UF "));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_carries_a_half_close_and_tells_when_the_client_breaks_off() {
    for (http2, protocol) in [(false, "TCP"), (true, "HTTP2")] {
        let proxy = Proxy::start(counter().await, http2).await;
        let (_site, gateway) =
            start(proxy.port, protocol, "protocol: POST, targetHost: far.example");
        let mut stream = connect(gateway.port(9000)).await;
        stream.write_all(&vec![b'x'; 3 << 20]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, (3 << 20).to_string());
        assert_eq!(proxy.seen().len(), 1, "{:?}", proxy.seen());

        let mut stream = connect(gateway.port(9000)).await;
        stream.write_all(b"abc").await.unwrap();
        gateway.wait("it is asked", || proxy.seen().len() == 2);
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(stream);
        gateway.wait("it is told", || proxy.seen().last().is_some_and(|note| note == "broke off"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_no_end_in_good_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(begun).await.unwrap();
    });
    let (_site, gateway) = start(port, "TCP", "protocol: POST, targetHost: far.example");
    let mut stream = connect(gateway.port(9000)).await;
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    gateway.wait("the log tells", || gateway.out().contains(" UC "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_to_nowhere_is_no_way_around_the_proxy() {
    let echo = Backend::http1().await;
    let (_site, gateway) = start(echo.port, "TCP", "targetHost: real target");
    gateway.tells("IST0106");
    let mut stream = connect(gateway.port(9000)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    assert_eq!(echo.connections(), 0);
}
