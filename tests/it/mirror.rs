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

#[tokio::test(flavor = "multi_thread")]
async fn percentages_hold() {
    let (echo, copies) = (Backend::http1().await, Backend::http1().await);
    let none = "mirror: {host: copy.shop.internal}, mirrorPercentage: {value: 0}";
    let (site, gateway) = start(none, &echo, copies.port);
    for _ in 0..20 {
        post(&gateway, "").await;
    }
    assert_eq!(copies.requests(), 0);
    drop((site, gateway));
    let half = "mirror: {host: copy.shop.internal}, mirrorPercentage: {value: 50}";
    let (_site, gateway) = start(half, &echo, copies.port);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..200 {
        http.get("http://a.com/").await;
    }
    gateway.wait("about half came", || (60..140).contains(&copies.requests()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_dead_or_silent_harms_nothing() {
    let echo = Backend::http1().await;
    let silent = Scripted::start(&[Step::Say("")]).await;
    let stalled = Scripted::start(&[Step::Stall]).await;
    // More than buffers on the way take.
    let large = "x".repeat(20_000_000);
    for copies in [None, Some(&silent), Some(&stalled)] {
        let port = copies.map_or_else(free_port, |copies| copies.port);
        let (_site, gateway) = start("mirror: {host: copy.shop.internal}", &echo, port);
        // Well before the copy's own time is over.
        let both = async {
            post(&gateway, "hello").await;
            gateway.wait("the copy came", || copies.is_none_or(|copies| copies.heads() > 0));
            post(&gateway, &large).await;
        };
        timeout(Duration::from_secs(10), both).await.expect("a copy delays nothing");
    }
    let (_site, gateway) = start("mirror: {host: nobody.shop.internal}", &echo, free_port());
    post(&gateway, "hello").await;
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
