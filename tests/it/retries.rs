//! Requests that are sent again, and those that must not be.

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, endpoints, free_port, gateway, policy, routes, service};
use crate::scripted::{Scripted, Step};

const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";

/// One rule to a service with endpoints on these ports.
fn start(rule: &str, ports: &[u16]) -> (Site, Gateway) {
    let rules =
        format!("  http: [{{route: [{{destination: {{host: echo.shop.internal}}}}]{rule}}}]\n");
    let endpoints: Vec<_> =
        ports.iter().map(|p| format!("{{address: 127.0.0.1, ports: {{p: {p}}}}}")).collect();
    let entry = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: echo, \
         namespace: shop}}\nspec: {{hosts: [echo.shop.internal], location: MESH_INTERNAL, \
         resolution: STATIC, ports: [{{number: 80, name: p, protocol: HTTP}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    );
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &entry),
    );
    let gateway = site.start(&[80]);
    (site, gateway)
}

/// Sends one request; how often the backend was asked, and the answer.
async fn check(
    (rule, script): (&str, &'static [Step]),
    (method, body): (&str, &str),
    (status, heads): (u16, usize),
) -> (Gateway, String) {
    let backend = Scripted::start(script).await;
    let (_site, gateway) = start(rule, &[backend.port]);
    let mut http = Http::plain(gateway.port(80)).await;
    let request = http.request(method, "http://a.com/", &[], body);
    let reply = http.send(request).await;
    assert_eq!((reply.status.as_u16(), backend.heads()), (status, heads), "{rule} {method}");
    let text = reply.text().to_owned();
    (gateway, text)
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_not_sent_again_unasked() {
    for method in ["POST", "GET"] {
        let (gateway, text) = check(("", &[Step::Leave]), (method, ""), (503, 1)).await;
        assert!(text.contains("reset reason: connection termination"), "{text}");
        gateway.wait("the log tells", || gateway.out().contains(" 503 UC "));
    }
    check(("", &[Step::Say(BUSY)]), ("GET", ""), (503, 1)).await;
}

#[tokio::test]
async fn a_policys_causes_are_followed_to_the_last_try() {
    let rule = ", retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}";
    let (gateway, text) = check((rule, &[Step::Say(BUSY)]), ("GET", ""), (503, 3)).await;
    assert_eq!(text, "busy");
    gateway.wait("the log tells", || gateway.out().contains(" 503 URX "));
    let (gateway, text) = check((rule, &[Step::Leave]), ("POST", ""), (503, 3)).await;
    assert!(text.contains("retried and the latest reset reason: connection termination"), "{text}");
    gateway.wait("the log tells", || gateway.out().contains(" 503 UC,URX "));
    for (words, heads) in [("503", 3), ("gateway-error", 3), ("502,retriable-4xx", 1), ("reset", 1)]
    {
        let rule = format!(", retries: {{attempts: 2, retryOn: '{words}', backoff: 1ms}}");
        check((&rule, &[Step::Say(BUSY)]), ("GET", ""), (503, heads)).await;
    }
}

#[tokio::test]
async fn a_small_body_is_sent_again_and_a_large_one_once() {
    let rule = ", retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}";
    check((rule, &[Step::Read(5, BUSY)]), ("POST", "hello"), (503, 2)).await;
    let large = "x".repeat(100_000);
    check((rule, &[Step::Read(100_000, BUSY)]), ("POST", &large), (503, 1)).await;
}

#[tokio::test]
async fn each_try_has_its_own_time() {
    let rule =
        ", retries: {attempts: 1, retryOn: gateway-error, perTryTimeout: 50ms, backoff: 1ms}";
    let (gateway, text) = check((rule, &[Step::Say("")]), ("GET", ""), (504, 2)).await;
    assert_eq!(text, "upstream request timeout");
    gateway.wait("the log tells", || gateway.out().contains("upstream_per_try_timeout"));
}

#[tokio::test]
async fn no_attempts_means_no_retry() {
    for (rule, again) in [(", retries: {attempts: 0}", false), ("", true)] {
        let (_site, gateway) = start(rule, &[free_port()]);
        let mut http = Http::plain(gateway.port(80)).await;
        let reply = http.get("http://a.com/").await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.text().contains("retried and the latest"), again, "{}", reply.text());
    }
}

#[tokio::test]
async fn another_endpoint_is_tried_after_one_that_failed() {
    let (busy, echo) = (Scripted::start(&[Step::Say(BUSY)]).await, Backend::http1().await);
    let rule = ", retries: {attempts: 1, retryOn: '503', backoff: 1ms}";
    let (_site, gateway) = start(rule, &[busy.port, echo.port]);
    let mut http = Http::plain(gateway.port(80)).await;
    let mut again = 0;
    for _ in 0..30 {
        let reply = http.get("http://a.com/").await;
        assert_eq!(reply.status, 200);
        again += usize::from(reply.json()["headers"]["x-envoy-attempt-count"] == "2");
    }
    assert_eq!((again, echo.requests()), (busy.heads(), 30));
    assert!(again > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_comes_back_is_reached_by_a_later_try() {
    let port = free_port();
    let rule = ", retries: {attempts: 100000, retryOn: connect-failure, backoff: 1ms}";
    let (_site, gateway) = start(rule, &[port]);
    let mut http = Http::plain(gateway.port(80)).await;
    let asked = tokio::spawn(async move { http.get("http://a.com/").await });
    let refused = || {
        let text = gateway.metrics();
        let count = text.lines().find_map(|line| line.split_once("outcome=\"refused\"} "));
        count.map_or(0, |(_, count)| count.parse::<u64>().unwrap())
    };
    gateway.wait("it was tried in vain", || refused() > 1);
    let _back = Backend::http1_at(port).await;
    let reply = asked.await.unwrap();
    assert_eq!(reply.status, 200);
    let tries = reply.json()["headers"]["x-envoy-attempt-count"].as_str().unwrap().parse::<u32>();
    assert!(tries.unwrap() > 2, "{}", reply.text());
}

/// Statuses of users whose home is busy or not, with a rule about previous hosts.
async fn of_users(previous: &str) -> Vec<u16> {
    let (busy, echo) = (Scripted::start(&[Step::Say(BUSY); 40]).await, Backend::http1().await);
    let rules = format!(
        "  http: [{{route: [{{destination: {{host: echo.shop.internal}}}}], retries: {{attempts: 1, \
         retryOn: '503', backoff: 1ms{previous}}}}}]\n"
    );
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &endpoints("echo", "HTTP", &[(busy.port, ""), (echo.port, "")])
            + &policy("echo", "loadBalancer: {consistentHash: {httpHeaderName: x-user}}")),
    );
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    let mut statuses = Vec::new();
    for user in 0..12 {
        let reply = http.ask("http://a.com/", &[("x-user", &user.to_string())]).await;
        statuses.push(reply.status.as_u16());
    }
    assert!(busy.heads() > 0 && echo.requests() > 0, "both are somebody's home");
    statuses
}

#[tokio::test]
async fn a_hash_is_left_for_another_endpoint_only_where_the_rule_says_so() {
    for kept in ["", ", retryIgnorePreviousHosts: false"] {
        let statuses = of_users(kept).await;
        assert!(statuses.contains(&503) && statuses.contains(&200), "{kept}: {statuses:?}");
    }
    let statuses = of_users(", retryIgnorePreviousHosts: true").await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

/// The status, and the tries at a near endpoint that is busy and at a far one that is not.
async fn tries_by_distance(retries: &str) -> (u16, usize, usize) {
    let (near, far) = (Scripted::start(&[Step::Say(BUSY)]).await, Backend::http1().await);
    let rules = format!(
        "  http: [{{route: [{{destination: {{host: echo.shop.internal}}}}], retries: {{retryOn: \
         '503', backoff: 1ms, {retries}}}}}]\n"
    );
    let list = [(near.port, ", locality: eu/a"), (far.port, ", locality: us/b")];
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &endpoints("echo", "HTTP", &list)
            + &policy("echo", "outlierDetection: {consecutive5xxErrors: 100}")),
    );
    let gateway = site.start_with(&[80], &["--locality", "eu/a"]);
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    (reply.status.as_u16(), near.heads(), far.requests())
}

#[tokio::test]
async fn later_tries_go_to_other_localities_where_the_rule_says_so() {
    assert_eq!(tries_by_distance("attempts: 4").await, (503, 5, 0));
    let remote = "retryRemoteLocalities: true";
    assert_eq!(tries_by_distance(&format!("attempts: 4, {remote}")).await, (200, 2, 1));
    assert_eq!(tries_by_distance(&format!("attempts: 1, {remote}")).await, (503, 2, 0));
}

#[tokio::test]
async fn the_mesh_may_set_the_policy_of_rules_without_one() {
    let backend = Scripted::start(&[Step::Say(BUSY)]).await;
    let site = Site::new();
    site.write("mesh.yaml", "defaultHttpRetryPolicy: {attempts: 1, retryOn: '503'}\n");
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &crate::gateway::to("echo"))
            + &service("echo", "HTTP", backend.port)),
    );
    let gateway = site.start_with(&[80], &["--mesh-config", "mesh.yaml"]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 503);
    assert_eq!(backend.heads(), 2);
}

/// What becomes of a request when the HTTP/2 backend ends its connections without having looked at it.
async fn unprocessed(retries: &str, refusal: fn(u32) -> Vec<u8>) -> u16 {
    use crate::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, fields, frame};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for first in [true, false] {
            let (stream, _) = listener.accept().await.unwrap();
            let mut raw = Raw::server(stream, &[]).await;
            let stream = raw.wait(HEADERS).await.unwrap().stream;
            if first {
                raw.send(&refusal(stream)).await;
                continue;
            }
            let head = fields(&[(":status", "200")]);
            raw.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
            raw.send(&frame(DATA, END_STREAM, stream, b"ok")).await;
            raw.ended().await;
        }
    });
    let rules =
        format!("  http: [{{route: [{{destination: {{host: echo.shop.internal}}}}]{retries}}}]\n");
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)
            + &service("echo", "HTTP2", port)),
    );
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    let mut http = Http::plain(gateway.port(80)).await;
    let request = http.request("POST", "http://a.com/", &[], "body");
    http.send(request).await.status.as_u16()
}

#[tokio::test]
async fn what_was_not_processed_is_sent_again_unless_the_rule_forbids_any_retry() {
    use crate::frames::{GOAWAY, RST_STREAM, frame};

    let refused: fn(u32) -> Vec<u8> = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 7]);
    let ended: fn(u32) -> Vec<u8> = |_| frame(GOAWAY, 0, 0, &[0; 8]);
    for refusal in [refused, ended] {
        assert_eq!(unprocessed("", refusal).await, 200);
        // As Envoy without a retry policy.
        assert_eq!(unprocessed(", retries: {attempts: 0}", refusal).await, 503);
    }
}
