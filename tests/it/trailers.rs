//! Answers with trailers of a backend that speaks HTTP/1.1: they are whole, and their connection is used
//! again.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::client::{Http, connect};
use crate::gateway::{PATIENCE, front};
use crate::scripted::{Scripted, Step};

const ONE: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3\r\none\r\n\
                   0\r\nx-t: 1\r\n\r\n";
const TWO: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n0\r\nx-t: \
                   2\r\n\r\n";
const CUT: &str =
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3\r\none\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_with_its_trailers_and_its_connection_is_used_again() {
    const SCRIPT: &[Step] = &[Step::Say(ONE), Step::Say(TWO), Step::Say(ONE), Step::Say(TWO)];
    let backend = Scripted::start(SCRIPT).await;
    let (_site, gateway) = front("HTTP", backend.port);
    let port = gateway.port(80);
    for mut http in [Http::plain(port).await, Http::plain2(port).await] {
        for (text, trailer) in [("one", "1"), ("", "2")] {
            let request = http.request("GET", "http://a.com/", &[("te", "trailers")], "");
            let reply = http.send(request).await;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, text));
            assert_eq!(reply.trailers.unwrap()["x-t"], trailer);
        }
    }
    // Another connection would begin the script again.
    assert_eq!(backend.heads(), 4);
    gateway.wait("they are logged", || gateway.out().matches("\" 200 - ").count() == 4);
    let metrics = gateway.metrics();
    let series = metrics.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
    assert!(series.contains("response_flags=\"-\"") && series.ends_with(" 4"), "{series}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_trailers_has_left() {
    const SCRIPT: &[Step] = &[Step::Say(CUT), Step::Stall];
    let backend = Scripted::start(SCRIPT).await;
    let (_site, gateway) = front("HTTP", backend.port);
    let mut client = connect(gateway.port(80)).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a.com\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"one\r\n") {
        seen.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
    }
    drop(client);
    gateway.wait("it is logged", || gateway.out().contains(" 200 DC "));
    assert!(gateway.out().contains("client_gone"));
}
