//! Backends that fail, and clients that go away: who is told what, and what is given up.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{Http, connect};
use crate::gateway::{Gateway, PATIENCE, Site, gateway, routes, service};
use crate::scripted::{Scripted, Step};

/// A plaintext server for `a.com` before a backend; one worker.
fn before(protocol: &str, port: u16, rule: &str) -> (Site, Gateway) {
    let rules =
        format!("  http: [{{route: [{{destination: {{host: b.shop.internal}}}}]{rule}}}]\n");
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &service("b", protocol, port)),
    );
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    (site, gateway)
}

const TWICE: &str = ", retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}";

#[tokio::test]
async fn a_backend_that_resets_its_connection_has_terminated_it() {
    let backend = Scripted::start(&[Step::Reset]).await;
    let (_site, gateway) = before("HTTP", backend.port, "");
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().ends_with("reset reason: connection termination"), "{}", reply.text());
    gateway.wait("the log tells", || gateway.out().contains(" 503 UC "));
}

#[tokio::test]
async fn a_backends_head_that_is_too_large_is_a_protocol_error() {
    static HEAD: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(70 << 10))
    });
    let script = Box::leak(Box::new([Step::Say(&HEAD)]));
    let backend = Scripted::start(script).await;
    let (_site, gateway) = before("HTTP", backend.port, "");
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 502);
    gateway.wait("the log tells", || gateway.out().contains(" 502 UPE "));
}

#[tokio::test]
async fn an_answer_in_a_coding_of_the_hop_is_a_protocol_error() {
    for coding in ["gzip", "gzip, chunked"] {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\n");
        let script = Box::leak(Box::new([Step::Say(head.leak())]));
        let backend = Scripted::start(script).await;
        let (_site, gateway) = before("HTTP", backend.port, "");
        let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
        assert_eq!(reply.status, 502, "{coding}");
        gateway.wait("the log tells", || gateway.out().contains(" 502 UPE "));
    }
}

/// Accepts one connection, reads its first bytes, and waits for its end.
async fn silent() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ended = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    (port, ended)
}

#[tokio::test]
async fn a_request_is_given_up_when_its_client_is_gone() {
    let (port, ended) = silent().await;
    let (_site, gateway) = before("HTTP", port, TWICE);
    let mut client = connect(gateway.port(80)).await;
    client.write_all(b"GET /one HTTP/1.1\r\nhost: a.com\r\n\r\n").await.unwrap();
    gateway.wait("it is on its way", || gateway.metrics().contains("requests_active 1"));
    drop(client);
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    gateway.wait("the log tells", || {
        gateway.out().contains("/one")
            && gateway.out().contains(" 0 DC downstream_remote_disconnect")
    });

    let (port, ended) = silent().await;
    let (_site, gateway) = before("HTTP", port, TWICE);
    let mut http = Http::plain2(gateway.port(80)).await;
    let request = http.request("GET", "http://a.com/two", &[], "");
    let given_up = timeout(Duration::from_millis(300), http.try_send(request)).await;
    assert!(given_up.is_err(), "nobody answers");
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    gateway.wait("the log tells", || gateway.out().contains(" 0 DC downstream_remote_disconnect"));
    gateway.wait("nothing is left", || gateway.metrics().contains("requests_active 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_within_its_body_is_not_a_reason_to_send_again() {
    let backend = Scripted::start(&[Step::Read(1 << 20, "")]).await;
    let (_site, gateway) = before("HTTP", backend.port, TWICE);
    let mut client = connect(gateway.port(80)).await;
    let head = b"POST / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 10\r\n\r\nabc";
    client.write_all(head).await.unwrap();
    gateway.wait("it is on its way", || backend.heads() == 1);
    drop(client);
    gateway.wait("the log tells", || gateway.out().contains(" 0 DC "));
    assert_eq!(backend.heads(), 1);
    assert!(!gateway.out().contains("URX"), "{}", gateway.out());
}

#[tokio::test(flavor = "multi_thread")]
async fn first_requests_to_an_http_2_backend_share_a_connection() {
    let backend = Backend::http2().await;
    let (_site, gateway) = before("HTTP2", backend.port, "");
    let http = Http::plain2(gateway.port(80)).await;
    let Http::Two(sender) = &http else { unreachable!() };
    let all: Vec<_> = (0..50)
        .map(|_| {
            let mut http = Http::Two(sender.clone());
            tokio::spawn(async move { http.get("http://a.com/").await.status })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!((backend.connections(), backend.requests()), (1, 50));
}

/// Reads one HTTP/2 frame: its type and its payload.
async fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], payload)
}

#[tokio::test]
async fn what_a_backend_that_goes_away_did_not_process_is_sent_to_it_again() {
    let echo = Backend::http2().await;
    let echo_port = echo.port;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        first.read_exact(&mut [0; 24]).await.unwrap();
        first.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        while frame(&mut first).await.0 != 1 {}
        // GOAWAY: nothing was processed, NO_ERROR.
        first.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let mut backend = connect(echo_port).await;
        let _ = tokio::io::copy_bidirectional(&mut second, &mut backend).await;
    });
    let (_site, gateway) = before("HTTP2", port, "");
    let mut http = Http::plain(gateway.port(80)).await;
    let request = http.request("POST", "http://a.com/", &[], "hello");
    let reply = http.send(request).await;
    assert_eq!(reply.status, 200, "{} {}", reply.text(), gateway.out());
    assert_eq!(reply.json()["body_bytes"], 5);
    assert_eq!(reply.json()["headers"]["x-envoy-attempt-count"], "2");
}
