//! Copies of requests: they arrive, and never harm the request they copy.

use std::time::Duration;

use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, free_port, gateway, policy, routes, service};
use crate::scripted::{Scripted, Step};

fn start(rule: &str, echo: &Backend, copies: u16) -> (Site, Gateway) {
    let rules =
        format!("  http: [{{route: [{{destination: {{host: echo.shop.internal}}}}], {rule}}}]\n");
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &service("echo", "HTTP", echo.port)
            + &service("copy", "HTTP", copies)),
    );
    let gateway = site.start(&[80]);
    (site, gateway)
}

async fn post(gateway: &Gateway, body: &str) {
    let mut http = Http::plain(gateway.port(80)).await;
    let request = http.request("POST", "http://a.com/x", &[], body);
    let reply = http.send(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["body_bytes"], body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_with_its_body_reaches_every_mirror() {
    let echo = Backend::http1().await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let copies = Scripted::start(Box::leak(Box::new([
        Step::Read(5, answer),
        Step::Read(5, answer),
        Step::Read(5, answer),
        Step::Read(5, answer),
    ])))
    .await;
    let mirror = "{destination: {host: copy.shop.internal}}";
    let (_site, gateway) = start(&format!("mirrors: [{mirror}, {mirror}]"), &echo, copies.port);
    post(&gateway, "hello").await;
    gateway.wait("both copies came", || copies.heads() == 2);
    post(&gateway, "again").await;
    gateway.wait("both copies came", || copies.heads() == 4);
    assert_eq!(echo.requests(), 2);
}

/// How many of so many requests are copied where a percentage shall be.
///
/// Each copy has a connection of its own, and each request a second copy that began after it: once those
/// are all there, and another connection is served, no copy is on its way.
async fn copied(percent: u8, requests: usize) -> usize {
    let [echo, copies, all] =
        [Backend::http1().await, Backend::http1().await, Backend::http1().await];
    let mirror = |name: &str, percent: u8| {
        format!("{{destination: {{host: {name}.shop.internal}}, percentage: {{value: {percent}}}}}")
    };
    let rules = format!(
        "  http: [{{route: [{{destination: {{host: echo.shop.internal}}}}], mirrors: [{}, {}]}}]\n",
        mirror("copy", percent),
        mirror("all", 100)
    );
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &service("echo", "HTTP", echo.port)
            + &service("copy", "HTTP", copies.port)
            + &service("all", "HTTP", all.port)
            + &policy("copy", "connectionPool: {http: {maxRequestsPerConnection: 1}}")),
    );
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..requests {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    gateway.wait("every request was copied to the second", || all.requests() == requests);
    Http::plain(copies.port).await.get("http://a.com/").await;
    copies.connections() - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn percentages_hold() {
    assert_eq!(copied(0, 20).await, 0);
    assert_eq!(copied(100, 20).await, 20);
    let half = copied(50, 200).await;
    assert!((60..140).contains(&half), "{half}");
}

#[tokio::test(flavor = "multi_thread")]
async fn older_forms_of_percentages_say_the_same() {
    let echo = Backend::http1().await;
    for (form, told) in [("mirrorPercentage: {value: 0.5}", "0.5 %"), ("mirrorPercent: 13", "13 %")]
    {
        let rule = format!("mirror: {{host: copy.shop.internal}}, {form}");
        let (_site, gateway) = start(&rule, &echo, free_port());
        let explained = gateway.admin("/explain?url=http://a.com/").to_string();
        let told = format!("{told} are mirrored to outbound|80||copy.shop.internal");
        assert!(explained.contains(&told), "{explained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_dead_silent_or_fails_harms_nothing() {
    const BUSY: Step = Step::Say("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
    let echo = Backend::http1().await;
    let scripts: [&'static [Step]; 5] =
        [&[Step::Say("")], &[Step::Stall], &[BUSY], &[Step::Leave], &[Step::Reset]];
    // More than buffers on the way take.
    let large = "x".repeat(20_000_000);
    let check = async |copies: Option<&Scripted>| {
        let port = copies.map_or_else(free_port, |copies| copies.port);
        let (_site, gateway) = start("mirror: {host: copy.shop.internal}", &echo, port);
        // Well before the copy's own time is over.
        let both = async {
            post(&gateway, "hello").await;
            gateway.wait("the copy came", || copies.is_none_or(|copies| copies.heads() > 0));
            post(&gateway, &large).await;
        };
        timeout(Duration::from_secs(10), both).await.expect("a copy delays nothing");
    };
    check(None).await;
    for script in scripts {
        check(Some(&Scripted::start(script).await)).await;
    }
    let (_site, gateway) = start("mirror: {host: nobody.shop.internal}", &echo, free_port());
    post(&gateway, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_comes_back_gets_copies_again() {
    let (echo, port) = (Backend::http1().await, free_port());
    let (_site, gateway) = start("mirror: {host: copy.shop.internal}", &echo, port);
    post(&gateway, "hello").await;
    let refused = "{cluster=\"outbound|80||copy.shop.internal\",outcome=\"refused\"} 1";
    gateway.wait("the first copy found nobody", || gateway.metrics().contains(refused));
    let copies = Backend::http1_at(port).await;
    post(&gateway, "hello").await;
    gateway.wait("the second one came", || copies.requests() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_over_tls_asks_for_the_host_that_it_names() {
    let echo = Backend::http1().await;
    let site = Site::new();
    let copies = Backend::tls(&site.edge.leaf(&["up.example"], 1)).await;
    site.write("roots.pem", site.edge.pem());
    let roots = site.path("roots.pem");
    let rules = "  http: [{rewrite: {authority: 'up.example:8443'}, mirror: {host: \
                 copy.shop.internal}, route: [{destination: {host: echo.shop.internal}}]}]\n";
    let tls = format!("tls: {{mode: SIMPLE, caCertificates: '{}'}}", roots.display());
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", rules)
            + &service("echo", "HTTP", echo.port)
            + &service("copy", "HTTP", copies.port)
            + &policy("copy", &tls)),
    );
    let gateway = site.start(&[80]);
    post(&gateway, "hello").await;
    gateway.wait("the copy came", || copies.requests() == 1);
    assert_eq!(copies.failed_handshakes(), 0);
}
