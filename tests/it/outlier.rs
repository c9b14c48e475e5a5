//! Outlier detection over backends that fail, stall, are gone, and come back.

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, endpoints, free_port, gateway, policy, routes, to};

const CLUSTER: &str = "outbound|80||echo.shop.internal";

/// A plaintext server whose routes for `a.com` lead to `echo` with endpoints and a policy.
fn start(list: &[(u16, &str)], rule: &str, arguments: &[&str]) -> (Site, Gateway) {
    start_with(list, rule, &to("echo"), arguments)
}

fn start_with(
    list: &[(u16, &str)],
    rule: &str,
    rules: &str,
    arguments: &[&str],
) -> (Site, Gateway) {
    let site = Site::new();
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", rules)
        + &endpoints("echo", "HTTP", list)
        + &policy("echo", rule);
    site.config("all", &config);
    let gateway = site.start_with(&[80], arguments);
    (site, gateway)
}

/// A metric's value; nothing when it is not there.
fn metric(gateway: &Gateway, name: &str, label: &str) -> Option<u64> {
    let text = gateway.metrics();
    let start = format!("{name}{{cluster=\"{CLUSTER}\"{label}}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

fn ejected(gateway: &Gateway) -> u64 {
    metric(gateway, "portcullis_outlier_ejected", "").unwrap_or(0)
}

fn ejections(gateway: &Gateway, outcome: &str) -> u64 {
    let label = format!(",outcome=\"{outcome}\"");
    metric(gateway, "portcullis_outlier_ejections_total", &label).unwrap_or(0)
}

async fn statuses(http: &mut Http, count: usize, path: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(http.get(&format!("http://a.com{path}")).await.status.as_u16());
    }
    all
}

const QUICK: &str = "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, \
                     interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 100";

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_until_it_is_back() {
    let (good, bad) = (Backend::http1().await, Backend::http1().await);
    let rule = format!("{QUICK}}}");
    let (_site, gateway) = start(&[(good.port, ""), (bad.port, "")], &rule, &[]);
    // Two connections, so that both workers take part: what is known is the process's.
    let mut clients = [Http::plain(gateway.port(80)).await, Http::plain(gateway.port(80)).await];
    bad.fail(true);
    for turn in 0..40 {
        if ejected(&gateway) == 1 {
            break;
        }
        clients[turn % 2].get("http://a.com/").await;
    }
    assert_eq!((ejected(&gateway), ejections(&gateway, "ejected")), (1, 1));
    let explained = || gateway.admin("/explain?url=http://a.com/").to_string();
    let now = format!("127.0.0.1:{} is ejected", bad.port);
    assert!(explained().contains(&now), "{}", explained());
    let seen = bad.requests();
    assert_eq!(seen, 3, "the third failure in a row ejects");
    for client in &mut clients {
        assert_eq!(statuses(client, 5, "/").await, [200; 5]);
    }
    assert_eq!(bad.requests(), seen);
    bad.fail(false);
    gateway.wait("it is back", || ejected(&gateway) == 0);
    assert!(!explained().contains(&now), "{}", explained());
    for client in &mut clients {
        assert_eq!(statuses(client, 4, "/").await, [200; 4]);
    }
    assert!(bad.requests() > seen);
}

#[tokio::test]
async fn when_all_are_ejected_there_is_none_unless_health_is_too_low_to_choose() {
    let backend = Backend::http1().await;
    let (_site, gateway) = start(&[(backend.port, "")], &format!("{QUICK}}}"), &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 3, "/status/500").await, [500; 3]);
    let reply = http.get("http://a.com/").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (503, "no healthy upstream"));
    gateway.wait("the log tells", || gateway.out().contains(" 503 UH "));

    let backend = Backend::http1().await;
    let rule = format!("{QUICK}, minHealthPercent: 50}}");
    let (_site, gateway) = start(&[(backend.port, "")], &rule, &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 3, "/status/500").await, [500; 3]);
    assert_eq!((ejected(&gateway), http.get("http://a.com/").await.status.as_u16()), (1, 200));
}

#[tokio::test]
async fn good_answers_in_between_and_small_clusters_save_an_endpoint() {
    let backend = Backend::http1().await;
    let (_site, gateway) = start(&[(backend.port, "")], &format!("{QUICK}}}"), &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..3 {
        assert_eq!(statuses(&mut http, 2, "/status/500").await, [500; 2]);
        assert_eq!(statuses(&mut http, 1, "/status/404").await, [404]);
    }
    assert_eq!((ejected(&gateway), ejections(&gateway, "spared")), (0, 0));

    let backend = Backend::http1().await;
    let (_site, gateway) = start(&[(backend.port, "")], "outlierDetection: {}", &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 10, "/status/500").await, [500; 10]);
    assert_eq!((ejected(&gateway), ejections(&gateway, "spared")), (0, 2));
}

#[tokio::test]
async fn endpoints_that_are_gone_or_break_off_are_ejected() {
    let echo = Backend::http1().await;
    let list = [(echo.port, ""), (free_port(), "")];
    let (_site, gateway) = start(&list, &format!("{QUICK}}}"), &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..40 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
        if ejected(&gateway) == 1 {
            break;
        }
    }
    assert_eq!(ejected(&gateway), 1);

    let backend = Backend::http1().await;
    let (_site, gateway) = start(&[(backend.port, "")], &format!("{QUICK}}}"), &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 4, "/abort").await, [503; 4]);
    assert_eq!(ejected(&gateway), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_counts() {
    let backend = Backend::http1().await;
    let rule = "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, \
                maxEjectionPercent: 100}";
    let rules = "  http: [{timeout: 100ms, route: [{destination: {host: echo.shop.internal}}]}]\n";
    let (_site, gateway) = start_with(&[(backend.port, "")], rule, rules, &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 2, "/status/500").await, [500; 2]);
    assert_eq!(ejected(&gateway), 0, "500 is no gateway's error");
    assert_eq!(statuses(&mut http, 3, "/never").await, [504, 504, 503]);
    assert_eq!(ejected(&gateway), 1);
}

#[tokio::test]
async fn failures_of_the_network_can_count_by_themselves() {
    let backend = Backend::http1().await;
    let rule = "outlierDetection: {consecutive5xxErrors: 0, splitExternalLocalOriginErrors: true, \
                consecutiveLocalOriginFailures: 2, maxEjectionPercent: 100}";
    let (_site, gateway) = start(&[(backend.port, "")], rule, &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 6, "/status/503").await, [503; 6]);
    assert_eq!(ejected(&gateway), 0);
    assert_eq!(statuses(&mut http, 2, "/abort").await, [503; 2]);
    assert_eq!(ejected(&gateway), 1);
}

#[tokio::test]
async fn near_endpoints_come_first_while_they_are_well() {
    let (near, far) = (Backend::http1().await, Backend::http1().await);
    let list = [(near.port, ", locality: eu/a"), (far.port, ", locality: us/b")];
    let (_site, gateway) = start(&list, &format!("{QUICK}}}"), &["--locality", "eu/a"]);
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(statuses(&mut http, 10, "/").await, [200; 10]);
    assert_eq!((near.requests(), far.requests()), (10, 0));
    near.fail(true);
    assert_eq!(statuses(&mut http, 6, "/").await, [503, 503, 503, 200, 200, 200]);
    assert_eq!(far.requests(), 3);
    near.fail(false);
    gateway.wait("the near one is back", || ejected(&gateway) == 0);
    let seen = near.requests();
    assert_eq!(statuses(&mut http, 5, "/").await, [200; 5]);
    assert_eq!((near.requests(), far.requests()), (seen + 5, 3));
}

#[tokio::test]
async fn the_own_region_comes_first_whatever_the_zone() {
    let backends = [Backend::http1().await, Backend::http1().await, Backend::http1().await];
    let [near, beside, far] = &backends;
    let list = [
        (near.port, ", locality: eu/a"),
        (beside.port, ", locality: eu/b"),
        (far.port, ", locality: us/b"),
    ];
    let seen = || backends.each_ref().map(Backend::requests);
    let check = async |zones: &str, expected: [usize; 3]| {
        let before = seen();
        let rule =
            format!("loadBalancer: {{simple: ROUND_ROBIN, zoneAwareLbSetting: {{{zones}}}}}");
        let (_site, gateway) = start(&list, &rule, &["--workers", "1", "--locality", "eu/a"]);
        let mut http = Http::plain(gateway.port(80)).await;
        assert_eq!(statuses(&mut http, 12, "/").await, [200; 12]);
        let more: Vec<_> = seen().iter().zip(before).map(|(now, then)| now - then).collect();
        assert_eq!(more, expected, "{zones}");
    };
    check("enabled: true", [6, 6, 0]).await;
    check("enabled: false", [4, 4, 4]).await;
}

#[tokio::test]
async fn a_reload_lets_nobody_back() {
    let (good, bad) = (Backend::http1().await, Backend::http1().await);
    let config = |weight: u32| {
        let weight = format!(", weight: {weight}");
        gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("echo"))
            + &endpoints("echo", "HTTP", &[(good.port, &weight), (bad.port, "")])
            + &policy(
                "echo",
                "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 1, \
                 maxEjectionPercent: 50}",
            )
    };
    let site = Site::new();
    site.config("all", &config(1));
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    bad.fail(true);
    let all = statuses(&mut http, 6, "/").await;
    assert_eq!((all.iter().filter(|code| **code == 503).count(), bad.requests()), (1, 1));
    gateway.reload(|| _ = site.config("all", &config(3)));
    assert_eq!(statuses(&mut http, 6, "/").await, [200; 6]);
    assert_eq!((bad.requests(), good.connections(), ejected(&gateway)), (1, 1, 1));
}
