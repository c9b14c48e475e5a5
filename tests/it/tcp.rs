//! Bytes through the gateway: plain TCP, TLS ended here, half-close, weights.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::{connect, raw, shake, tls};
use crate::gateway::{Gateway, Site, gateway, routes, service};

/// Reads everything, then answers with its length: works only when a half-close comes through.
async fn counter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(all.len().to_string().as_bytes()).await.unwrap();
            });
        }
    });
    port
}

fn rules(name: &str) -> String {
    format!("  tcp: [{{route: [{{destination: {{host: {name}.shop.internal}}}}]}}]\n")
}

fn start(port: u16) -> (Site, Gateway) {
    let site = Site::new();
    site.certificate("tcp", &["tcp.com"]);
    site.config(
        "all",
        &(gateway("plain", 9000, "TCP", "'*'", "")
            + &gateway("ended", 443, "TLS", "tcp.com", "mode: SIMPLE, credentialName: tcp")
            + &gateway("empty", 9001, "TCP", "'*'", "")
            + &routes("r", "istio-system/plain, istio-system/ended", "'*'", &rules("counter"))
            + &routes("e", "istio-system/empty", "'*'", &rules("nobody"))
            + &service("counter", "TCP", port)),
    );
    let gateway = site.start(&[9000, 9001, 443]);
    (site, gateway)
}

#[tokio::test]
async fn half_closes_come_through_with_and_without_tls() {
    let (site, gateway) = start(counter().await);
    let sent = vec![b'x'; 3 << 20];
    let mut stream = connect(gateway.port(9000)).await;
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, sent.len().to_string());

    let mut stream =
        shake(&tls(&site.edge, None, &[]), gateway.port(443), "tcp.com").await.unwrap();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, sent.len().to_string());
    gateway.wait("bytes are counted", || {
        let metrics = gateway.metrics();
        metrics.lines().any(|line| {
            line.starts_with("istio_tcp_received_bytes_total") && line.ends_with(" 6291456")
        })
    });
}

#[tokio::test]
async fn unknown_and_dead_destinations_close_the_connection() {
    let dead = crate::gateway::free_port();
    let (_site, gateway) = start(dead);
    assert!(raw(gateway.port(9001), b"x").await.is_empty());
    assert!(raw(gateway.port(9000), b"x").await.is_empty());
    gateway.wait("the log tells why", || {
        let log = gateway.out();
        log.contains(" NC ") && log.contains(" UF ")
    });
}
