//! `connectionPool`: what is bounded, and what those get who come too late.

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{Http, connect};
use crate::gateway::{Gateway, PATIENCE, Site, free_port, gateway, policy, routes, service, to};

/// A plaintext server whose routes for `a.com` lead to a service with a `connectionPool`.
fn start(protocol: &str, port: u16, pool: &str) -> (Site, Gateway) {
    start_with(protocol, port, &to("echo"), &format!("connectionPool: {{{pool}}}"))
}

fn start_with(protocol: &str, port: u16, rules: &str, traffic: &str) -> (Site, Gateway) {
    let site = Site::new();
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &gateway("tcp", 9000, "TCP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", rules)
        + &routes(
            "t",
            "istio-system/tcp",
            "'*'",
            "  tcp: [{route: [{destination: {host: echo.shop.internal}}]}]\n",
        )
        + &service("echo", protocol, port)
        + &policy("echo", traffic);
    site.config("all", &config);
    let gateway = site.start(&[80, 9000]);
    (site, gateway)
}

/// Sends a request that is never answered; it ends with the returned task.
async fn hang(gateway: &Gateway) -> JoinHandle<()> {
    let mut http = Http::plain2(gateway.port(80)).await;
    tokio::spawn(async move {
        let request = http.request("GET", "http://a.com/never", &[], "");
        let _ = http.try_send(request).await;
    })
}

fn overflows(gateway: &Gateway, limit: &str) -> bool {
    let labels = format!("cluster=\"outbound|80||echo.shop.internal\",limit=\"{limit}\"");
    gateway.metrics().contains(&format!("portcullis_upstream_overflows_total{{{labels}}}"))
}

async fn refused(gateway: &Gateway, limit: &str) {
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!((reply.status.as_u16(), reply.header("x-envoy-overloaded")), (503, "true"));
    assert!(reply.text().ends_with("reset reason: overflow"), "{}", reply.text());
    assert!(overflows(gateway, limit));
    gateway.wait("the log tells", || gateway.out().contains(" 503 UO "));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded() {
    let echo = Backend::http1().await;
    let (_site, gateway) = start("HTTP", echo.port, "http: {http2MaxRequests: 2}");
    let hanging = [hang(&gateway).await, hang(&gateway).await];
    gateway.wait("both are there", || echo.requests() == 2);
    refused(&gateway, "requests").await;
    hanging.iter().for_each(JoinHandle::abort);
    gateway.wait("there is room again", || gateway.metrics().contains("requests_active 0"));
    assert_eq!(Http::plain(gateway.port(80)).await.get("http://a.com/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_so_is_waiting_for_one() {
    let echo = Backend::http1().await;
    let pool = "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}";
    let site = Site::new();
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + &service("echo", "HTTP", echo.port)
        + &policy("echo", &format!("connectionPool: {{{pool}}}"));
    site.config("all", &config);
    // One worker: each opens one connection before it waits.
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    let hanging = hang(&gateway).await;
    gateway.wait("it is there", || echo.requests() == 1);
    let port = gateway.port(80);
    let waiting =
        tokio::spawn(async move { Http::plain(port).await.get("http://a.com/").await.status });
    gateway.wait("one waits", || overflows(&gateway, "connections"));
    refused(&gateway, "pending").await;
    hanging.abort();
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(echo.connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_one_that_may_be_used() {
    let echo = Backend::http1().await;
    let (port, told) = (echo.port, "connectionPool: {tcp: {maxConnections: 1}}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            // Takes the PROXY line off and passes the rest on.
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while stream.read_u8().await.is_ok_and(|byte| byte != b'\n') {}
                let mut backend = connect(port).await;
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
            });
        }
    });
    let site = Site::new();
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + &service("echo", "HTTP", front)
        + &policy("echo", &format!("{told}, proxyProtocol: {{version: V1}}"));
    site.config("all", &config);
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    let mut clients = [Http::plain(gateway.port(80)).await, Http::plain(gateway.port(80)).await];
    for client in &mut clients {
        assert_eq!(client.get("http://a.com/").await.status, 200);
    }
    assert_eq!(echo.connections(), 2);
}

#[tokio::test]
async fn a_connection_given_back_serves_who_waits() {
    let echo = Backend::http1().await;
    let site = Site::new();
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + &service("echo", "HTTP", echo.port)
        + &policy("echo", "connectionPool: {tcp: {maxConnections: 1}}");
    site.config("all", &config);
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    let port = gateway.port(80);
    let all: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move { Http::plain(port).await.get("http://a.com/").await.status })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!((echo.connections(), echo.requests()), (1, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_beyond_the_bound_are_refused() {
    let echo = Backend::http1().await;
    let (_site, gateway) = start("TCP", echo.port, "tcp: {maxConnections: 1}");
    let mut first = connect(gateway.port(9000)).await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut second = connect(gateway.port(9000)).await;
    assert_eq!(second.read(&mut start).await.unwrap_or(0), 0);
    gateway.wait("the log tells", || gateway.out().contains(" UO "));
    drop(first);
    gateway.wait("there is room again", || echo.connections() == 1);
}

#[tokio::test]
async fn tcp_connections_end_at_their_age() {
    let echo = Backend::http1().await;
    let (_site, gateway) = start("TCP", echo.port, "tcp: {maxConnectionDuration: 300ms}");
    let mut stream = connect(gateway.port(9000)).await;
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let end = timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap();
    assert_eq!(end.unwrap_or(0), 0);
}

#[tokio::test]
async fn connections_serve_as_many_requests_and_as_long_as_they_may() {
    let echo = Backend::http1().await;
    let (_site, gateway) = start("HTTP", echo.port, "http: {maxRequestsPerConnection: 2}");
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..6 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    assert_eq!(echo.connections(), 3);

    for pool in ["tcp: {maxConnectionDuration: 100ms}", "http: {idleTimeout: 100ms}"] {
        let echo = Backend::http1().await;
        let (_site, gateway) = start("HTTP", echo.port, pool);
        let mut http = Http::plain(gateway.port(80)).await;
        assert_eq!(http.get("http://a.com/").await.status, 200);
        let idle = "connections{cluster=\"outbound|80||echo.shop.internal\",state=\"idle\"} 0";
        gateway.wait("its time is over", || gateway.metrics().contains(idle));
        assert_eq!(http.get("http://a.com/").await.status, 200);
        assert_eq!(echo.connections(), 2, "{pool}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_on_one_connection_are_bounded() {
    let echo = Backend::http2().await;
    let (_site, gateway) = start("HTTP2", echo.port, "http: {maxConcurrentStreams: 1}");
    let mut http = Http::plain2(gateway.port(80)).await;
    let Http::Two(sender) = &http else { unreachable!() };
    let mut other = Http::Two(sender.clone());
    let hanging = tokio::spawn(async move {
        let request = other.request("GET", "http://a.com/never", &[], "");
        let _ = other.try_send(request).await;
    });
    gateway.wait("it is there", || echo.requests() == 1);
    for _ in 0..3 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    assert_eq!(echo.connections(), 2);
    hanging.abort();
}

#[tokio::test]
async fn the_clients_version_is_kept_where_the_policy_says_so() {
    let echo = Backend::http2().await;
    let (_site, gateway) = start("HTTP", echo.port, "http: {useClientProtocol: true}");
    let reply = Http::plain2(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.json()["version"], "HTTP/2.0");
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status.as_u16() / 100, 5, "HTTP/1.1 is not what this backend speaks");

    let echo = Backend::http1().await;
    let (_site, gateway) = start("HTTP2", echo.port, "http: {useClientProtocol: true}");
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.json()["version"], "HTTP/1.1");
}

#[tokio::test]
async fn an_upgrade_to_http2_is_made_where_the_policy_says_so() {
    let echo = Backend::http2().await;
    let (_site, gateway) = start("HTTP", echo.port, "http: {h2UpgradePolicy: UPGRADE}");
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.json()["version"], "HTTP/2.0");
}

#[tokio::test]
async fn retries_are_bounded() {
    let (_site, gateway) = start("HTTP", free_port(), "http: {maxRetries: 1}");
    let port = gateway.port(80);
    let mut rounds = 0;
    while !gateway.out().contains(" 503 UF,UO ") {
        rounds += 1;
        assert!(rounds < 50, "{}", gateway.out());
        let all: Vec<_> = (0..10)
            .map(|_| {
                tokio::spawn(async move { Http::plain(port).await.get("http://a.com/").await })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap().status, 503);
        }
    }
    assert!(overflows(&gateway, "retries"));
    assert_eq!(Http::plain(port).await.get("http://a.com/").await.status, 503);
    gateway.wait("one alone is tried again", || gateway.out().contains(" 503 UF,URX "));
}

/// Whether retries are ever too many when four requests at a time fail after some that did not.
async fn budget_is_exceeded(budget: &str) -> bool {
    let echo = Backend::http1().await;
    let rules = "  http: [{route: [{destination: {host: echo.shop.internal}}], retries: {attempts: 1, \
                 retryOn: 5xx, backoff: 100ms}}]\n";
    let traffic = format!("retryBudget: {{percent: 50, minRetryConcurrency: 1, {budget}}}");
    let (_site, gateway) = start_with("HTTP", echo.port, rules, &traffic);
    let port = gateway.port(80);
    for _ in 0..8 {
        assert_eq!(Http::plain(port).await.get("http://a.com/").await.status, 200);
    }
    for _ in 0..10 {
        let fail = || async move { Http::plain(port).await.get("http://a.com/status/503").await };
        let all = [fail(), fail(), fail(), fail()].map(tokio::spawn);
        for one in all {
            assert_eq!(one.await.unwrap().status, 503);
        }
    }
    overflows(&gateway, "retries")
}

#[tokio::test]
async fn a_budget_counts_the_requests_of_its_interval() {
    assert!(budget_is_exceeded("budgetInterval: 0s").await);
    assert!(!budget_is_exceeded("budgetInterval: 60s").await);
}

#[tokio::test]
async fn silent_peers_are_probed_by_the_system() {
    let echo = Backend::http1().await;
    let (_site, gateway) = start("HTTP", echo.port, "tcp: {tcpKeepalive: {time: 30s}}");
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    let probed = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let to = format!(":{:04X}", echo.port);
        fields.get(2).is_some_and(|remote| remote.ends_with(&to))
            && fields.get(5).is_some_and(|timer| timer.starts_with("02:"))
    };
    gateway.wait("the timer runs", || {
        fs::read_to_string("/proc/net/tcp").unwrap().lines().any(probed)
    });
}

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pinged = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == 6 {
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
        }
    });
    let pool = "http: {http2KeepAlive: {interval: 300ms, timeout: 300ms}}";
    let (_site, gateway) = start("HTTP2", port, pool);
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 503);
    timeout(PATIENCE, pinged).await.unwrap().unwrap();
}
