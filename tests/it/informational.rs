//! Informational answers (RFC 9110 section 15.2): 100 is waited for, others are not passed on, and none
//! breaks its exchange.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::{Http, connect};
use crate::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, fields, frame};
use crate::gateway::{Gateway, PATIENCE, front};
use crate::scripted::{Scripted, Step};

const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
                     HTTP/1.1 102 Processing\r\n\r\n";

/// An HTTP/2 backend that answers one request per connection: informational heads, the request's body if
/// it has one, then `ok`.
async fn http2(early: &'static [&str]) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut raw = Raw::server(stream, &[]).await;
        while let Some(head) = raw.wait(HEADERS).await {
            for status in early {
                let head_of = fields(&[(":status", status), ("link", "</a.css>; rel=preload")]);
                raw.send(&frame(HEADERS, END_HEADERS, head.stream, &head_of)).await;
            }
            let mut ended = head.flags & END_STREAM != 0;
            while !ended {
                ended = raw.wait(DATA).await.unwrap().flags & END_STREAM != 0;
            }
            let answer = fields(&[(":status", "200")]);
            raw.send(&frame(HEADERS, END_HEADERS, head.stream, &answer)).await;
            raw.send(&frame(DATA, END_STREAM, head.stream, b"ok")).await;
        }
    });
    (port, task)
}

async fn check(gateway: &Gateway) {
    for http2 in [false, true] {
        let port = gateway.port(80);
        let mut http = if http2 { Http::plain2(port).await } else { Http::plain(port).await };
        for (method, body) in [("GET", ""), ("POST", "body")] {
            let request = http.request(method, "http://a.com/", &[], body);
            let reply = http.send(request).await;
            let seen = (reply.status.as_u16(), reply.text(), reply.headers.get("link"));
            assert_eq!(seen, (200, "ok", None), "{method} by HTTP/2: {http2}");
        }
    }
    // Nothing but the answer comes, byte by byte.
    let mut client = connect(gateway.port(80)).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nok"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn early_answers_of_a_backend_are_not_the_answer() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let early: &'static str = format!("{EARLY}{OK}").leak();
    let script = vec![
        Step::Say(early),
        Step::Read(4, early),
        Step::Say(early),
        Step::Read(4, early),
        Step::Say(early),
    ];
    let backend = Scripted::start(script.leak()).await;
    let (_site, gateway) = front("HTTP", backend.port);
    check(&gateway).await;
    assert_eq!(backend.heads(), 5);

    let (port, _task) = http2(&["103", "102", "103"]).await;
    let (_site, gateway) = front("HTTP2", port);
    check(&gateway).await;
}

/// A client of either version that announces its body by `Expect: 100-continue` is answered.
async fn expecting(gateway: &Gateway) {
    let mut client = connect(gateway.port(80)).await;
    let head = "PUT / HTTP/1.1\r\nhost: a.com\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    timeout(PATIENCE, client.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, client.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    let mut http = Http::plain2(gateway.port(80)).await;
    let expect = [("expect", "100-continue")];
    let request = http.request("PUT", "http://a.com/", &expect, "body");
    let reply = http.send(request).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "ok"));
}

#[tokio::test]
async fn a_body_that_is_announced_is_sent_whatever_either_side_speaks() {
    // The backend of HTTP/1.1 hints before it asks; the body follows only then.
    const ASK: &str = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                seen.push(byte);
            }
            assert!(String::from_utf8(seen).unwrap().contains("expect: 100-continue"));
            stream.write_all(ASK.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 4]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let (_site, gateway) = front("HTTP", port);
    expecting(&gateway).await;
    for early in [&["100"][..], &["103", "100"], &[]] {
        let (port, _task) = http2(early).await;
        let (_site, gateway) = front("HTTP2", port);
        expecting(&gateway).await;
    }
}

#[tokio::test]
async fn a_backend_that_answers_with_1xx_without_end_is_given_up() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let most: &str = format!("{}{OK}", EARLY.repeat(6_000)).leak();
    let more: &str = format!("{}{OK}", EARLY.repeat(20_000)).leak();
    let script = vec![Step::Say(most), Step::Say(most), Step::Say(more)];
    let backend = Scripted::start(script.leak()).await;
    let (_site, gateway) = front("HTTP", backend.port);
    let mut http = Http::plain(gateway.port(80)).await;
    for expected in [200, 200, 502] {
        assert_eq!(http.get("http://a.com/").await.status, expected);
    }
    gateway.wait("the log tells why", || gateway.out().contains("upstream_protocol_error"));
}
