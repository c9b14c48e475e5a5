//! WebSockets between every pair of versions (RFC 6455, RFC 8441), and those that are not to be had.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::connect;
use crate::gateway::{Gateway, PATIENCE, Site, gateway, routes, service, to};
use crate::scripted::{Scripted, Step};

/// A plaintext server for `a.com`; a policy refuses `/private`.
fn before(protocol: &str, port: u16) -> (Site, Gateway) {
    let site = Site::new();
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: \
                  {name: p, namespace: istio-system}\nspec: {action: DENY, rules: [{to: \
                  [{operation: {methods: [GET], paths: [/private]}}]}]}\n";
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("echo"))
            + &service("echo", protocol, port)
            + policy),
    );
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    (site, gateway)
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// An HTTP/2 client that has the gateway's settings.
async fn client(gateway: &Gateway) -> Sender {
    let stream = TokioIo::new(connect(gateway.port(80)).await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://elsewhere/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
    sender
}

/// An extended CONNECT for this protocol; a plain one for none.
async fn ask(sender: &mut Sender, protocol: Option<&str>, path: &str) -> Response<Incoming> {
    let uri =
        if protocol.is_some() { format!("http://a.com{path}") } else { "a.com:80".to_owned() };
    let mut request = Request::builder().method(Method::CONNECT).uri(uri);
    if let Some(protocol) = protocol {
        request = request.extension(Protocol::from(protocol)).header("sec-websocket-version", "13");
    }
    let request = request.body(Full::default()).unwrap();
    timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
}

/// Says something and hears it again, both ways until the end.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let long = vec![7; 200_000];
    for message in [&b"\x81\x82\0\0\0\0hi"[..], b"\n\nGET / HTTP/1.1\n\n", &long] {
        stream.write_all(message).await.unwrap();
        let mut heard = vec![0; message.len()];
        timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
        assert!(heard == message);
    }
    stream.shutdown().await.unwrap();
    let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let (mut from, mut to) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// A backend of HTTP/1.1 that grants every WebSocket; a wrong proof for `/wrong`.
async fn http1() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with("GET "), "{head}");
                for field in
                    ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
                {
                    assert!(head.contains(field), "{head}");
                }
                let key = head.split_once("sec-websocket-key: ").unwrap().1.split_once("\r\n");
                let mut proof =
                    tungstenite::handshake::derive_accept_key(key.unwrap().0.as_bytes());
                if head.starts_with("GET /wrong") {
                    "wrong".clone_into(&mut proof);
                }
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: \
                     websocket\r\nsec-websocket-accept: {proof}\r\nsec-websocket-protocol: chat\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                echo(stream).await;
            });
        }
    });
    port
}

/// A backend of HTTP/2 that grants every WebSocket, except for `/refused`.
async fn http2() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async |mut request: Request<Incoming>| {
        let protocol = request.extensions().get::<Protocol>().cloned();
        assert!(request.headers().get("sec-websocket-key").is_none());
        let mut response = Response::new(Full::<Bytes>::default());
        if request.uri().path() == "/refused" || protocol.is_none() {
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            return Ok::<_, Infallible>(response);
        }
        assert_eq!(protocol.unwrap().as_ref(), b"websocket");
        assert_eq!(request.uri(), "http://a.com/up");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { echo(TokioIo::new(upgrade.await.unwrap())).await });
        let chat = HeaderValue::from_static("chat");
        response.headers_mut().insert("sec-websocket-protocol", chat);
        Ok(response)
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.enable_connect_protocol();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(serve)));
        }
    });
    port
}

const UPGRADE: &str = "GET /up HTTP/1.1\r\nhost: a.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_backends_of_every_version_talk() {
    for (protocol, port) in [("HTTP", http1().await), ("HTTP2", http2().await)] {
        let (_site, gateway) = before(protocol, port);
        let mut sender = client(&gateway).await;
        for _ in 0..3 {
            let response = ask(&mut sender, Some("websocket"), "/up").await;
            assert_eq!(response.status(), 200, "{protocol}");
            let headers = response.headers();
            assert_eq!(headers["sec-websocket-protocol"], "chat");
            assert!(headers.get("sec-websocket-accept").is_none());
            talk(TokioIo::new(hyper::upgrade::on(response).await.unwrap())).await;
        }

        let mut stream = connect(gateway.port(80)).await;
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        assert!(head.contains("sec-websocket-protocol: chat\r\n"), "{head}");
        talk(stream).await;
        gateway.wait("all are over", || gateway.metrics().contains("requests_active 0"));
        gateway.wait("all are logged", || gateway.out().matches("via_upstream").count() == 4);
    }
}

/// What a WebSocket over HTTP/2 is answered.
async fn refused(gateway: &Gateway, protocol: Option<&str>, path: &str) -> u16 {
    let response = ask(&mut client(gateway).await, protocol, path).await;
    response.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_websocket_is_refused() {
    let (_site, gateway) = before("HTTP", http1().await);
    assert_eq!(refused(&gateway, None, "").await, 403);
    assert_eq!(refused(&gateway, Some("connect-udp"), "/up").await, 403);
    assert_eq!(refused(&gateway, Some("websocket"), "/private").await, 403);
    assert_eq!(refused(&gateway, Some("websocket"), "/wrong").await, 502);
    gateway.wait("the policy is told", || gateway.out().contains("rbac_access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_refusal_is_passed_on_and_never_taken_for_a_grant() {
    const NO: &str = "HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno";
    const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for (script, expected) in [(&[Step::Say(NO)], 404), (&[Step::Say(PAGE)], 502)] {
        let backend = Scripted::start(script).await;
        let (_site, gateway) = before("HTTP", backend.port);
        assert_eq!(refused(&gateway, Some("websocket"), "/up").await, expected);
    }
    let (_site, gateway) = before("HTTP2", http2().await);
    assert_eq!(refused(&gateway, Some("websocket"), "/refused").await, 404);
    // A backend that does not announce that it takes WebSockets.
    let backend = Backend::http2().await;
    let (_site, gateway) = before("HTTP2", backend.port);
    assert_eq!(refused(&gateway, Some("websocket"), "/up").await, 502);
    assert_eq!(backend.requests(), 0);
}
