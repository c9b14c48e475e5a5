//! Bytes through the gateway: plain TCP, TLS ended here, half-close, weights.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::counter;
use crate::client::{connect, raw, shake, tls};
use crate::gateway::{Gateway, Site, gateway, routes, service};

fn rules(name: &str) -> String {
    format!("  tcp: [{{route: [{{destination: {{host: {name}.shop.internal}}}}]}}]\n")
}

fn start(port: u16) -> (Site, Gateway) {
    start_with(port, &[])
}

fn start_with(port: u16, arguments: &[&str]) -> (Site, Gateway) {
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
    let gateway = site.start_with(&[9000, 9001, 443], arguments);
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

/// Lines of the access log that tell of a reason.
fn told(gateway: &Gateway, reason: &str) -> Vec<Value> {
    let lines = gateway.out();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["reason"] == reason).collect()
}

/// The sum of a metric's samples that have this text among their labels.
fn sum(gateway: &Gateway, name: &str, labels: &str) -> u64 {
    let metrics = gateway.metrics();
    let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn refused_connections_name_cluster_resource_and_reason() {
    let dead = crate::gateway::free_port();
    let (_site, gateway) = start_with(dead, &["--access-log", "json"]);
    assert!(raw(gateway.port(9000), b"x").await.is_empty());
    assert!(raw(gateway.port(9001), b"x").await.is_empty());
    gateway.wait("both are told", || {
        !told(&gateway, "connect_refused").is_empty()
            && !told(&gateway, "cluster_not_found").is_empty()
    });
    let refused = &told(&gateway, "connect_refused")[0];
    assert_eq!(refused["response_flags"], "UF");
    assert_eq!(refused["upstream_cluster"], "outbound|80||counter.shop.internal");
    for line in [refused, &told(&gateway, "cluster_not_found")[0]] {
        let resource = line["resource"].as_str().unwrap();
        assert!(resource.contains("config/all.yaml:"), "{line}");
    }
    for name in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
        let labels = "destination_service=\"counter.shop.internal\"";
        assert_eq!(sum(&gateway, name, labels), 1, "{name}");
        assert_eq!(sum(&gateway, name, "response_flags=\"UF\""), 1, "{name}");
    }
    assert_eq!(sum(&gateway, "portcullis_rejections_total", "\"connect_refused\""), 1);
}

/// Accepts and hands the connections over.
async fn acceptor() -> (u16, tokio::sync::mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, accepted) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            sender.send(stream).await.unwrap();
        }
    });
    (port, accepted)
}

#[tokio::test]
async fn bytes_are_counted_while_the_stream_lives() {
    let (port, mut accepted) = acceptor().await;
    let (_site, gateway) = start(port);
    let mut client = connect(gateway.port(9000)).await;
    let mut buffer = vec![b'x'; 300_000];
    client.write_all(b"hello").await.unwrap();
    let mut backend = accepted.recv().await.unwrap();
    backend.read_exact(&mut buffer[..5]).await.unwrap();
    let received = || sum(&gateway, "istio_tcp_received_bytes_total", "");
    gateway.wait("the first bytes are counted", || received() == 5);
    // Enough for the kernel to take over.
    for round in 1..=2 {
        let mut read = vec![0; buffer.len()];
        let (sent, got) = tokio::join!(client.write_all(&buffer), backend.read_exact(&mut read));
        sent.unwrap();
        got.unwrap();
        gateway.wait("they are counted", || received() == 5 + round * 300_000);
    }
    backend.write_all(&buffer).await.unwrap();
    client.read_exact(&mut buffer).await.unwrap();
    gateway.wait("both ways", || sum(&gateway, "istio_tcp_sent_bytes_total", "") == 300_000);
    assert_eq!(sum(&gateway, "istio_tcp_connections_opened_total", ""), 1);
    assert_eq!(sum(&gateway, "istio_tcp_connections_closed_total", ""), 0);
    drop((client, backend));
    gateway.wait("its end is counted", || {
        sum(&gateway, "istio_tcp_connections_closed_total", "response_flags=\"-\"") == 1
    });
}

#[tokio::test]
async fn a_broken_stream_tells_who_broke_it() {
    let (port, mut accepted) = acceptor().await;
    let (_site, gateway) = start_with(port, &["--access-log", "json"]);
    for (by_client, flag, reason) in
        [(true, "DC", "client_gone"), (false, "UC", "upstream_closed_midway")]
    {
        let mut client = connect(gateway.port(9000)).await;
        client.write_all(b"x").await.unwrap();
        let mut backend = accepted.recv().await.unwrap();
        backend.read_u8().await.unwrap();
        let (breaks, _stays) = if by_client { (client, backend) } else { (backend, client) };
        socket2::SockRef::from(&breaks).set_linger(Some(Duration::ZERO)).unwrap();
        drop(breaks);
        gateway.wait("it is told", || !told(&gateway, reason).is_empty());
        let line = &told(&gateway, reason)[0];
        assert_eq!(line["response_flags"], flag, "{line}");
        assert_eq!(line["upstream_cluster"], "outbound|80||counter.shop.internal", "{line}");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_at_the_end_tells_so() {
    let (port, mut accepted) = acceptor().await;
    let (_site, gateway) = start_with(port, &["--access-log", "json", "--drain-deadline", "100ms"]);
    let mut client = connect(gateway.port(9000)).await;
    client.write_all(b"x").await.unwrap();
    let _backend = accepted.recv().await.unwrap();
    gateway.signal("-TERM");
    gateway.wait("it is told", || !told(&gateway, "gateway_stopped").is_empty());
}

#[tokio::test]
async fn a_name_whose_server_has_no_route_goes_to_no_other_server() {
    let site = Site::new();
    site.certificate("tcp", &["other.com", "alone.com"]);
    let ended = "mode: SIMPLE, credentialName: tcp";
    site.config(
        "all",
        &(gateway("wide", 443, "TLS", "'*'", ended)
            + &gateway("alone", 443, "TLS", "alone.com", ended)
            + &routes("r", "istio-system/wide", "'*'", &rules("counter"))
            + &service("counter", "TCP", counter().await)),
    );
    let gateway = site.start(&[443]);
    for (name, expected) in [("other.com", "3"), ("alone.com", "")] {
        let mut stream = shake(&tls(&site.edge, None, &[]), gateway.port(443), name).await.unwrap();
        let _ = stream.write_all(b"abc").await;
        let _ = stream.shutdown().await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert_eq!(answer, expected, "{name}");
    }
    assert!(gateway.admin("/diagnostics").to_string().contains("PC034"));
}
