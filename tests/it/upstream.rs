//! Backends: where they are, how they are secured, and connections that die.

use std::collections::HashSet;

use crate::backend::Backend;
use crate::client::{Http, Reply};
use crate::gateway::{Gateway, Site, free_port, gateway, policy, routes, service, to};
use crate::scripted::{Scripted, Step};

/// A plaintext server whose routes for `a.com` lead to `echo.shop.internal`.
fn start(resources: &str) -> (Site, Gateway) {
    start_with(Site::new(), resources)
}

fn start_with(site: Site, resources: &str) -> (Site, Gateway) {
    let front = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"));
    site.config("all", &(front + resources));
    let gateway = site.start(&[80]);
    (site, gateway)
}

fn entry(rest: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: echo, \
         namespace: shop}}\nspec: {{hosts: [echo.shop.internal], location: MESH_INTERNAL, ports: \
         [{{number: 80, name: p, protocol: HTTP}}], {rest}}}\n"
    )
}

#[tokio::test]
async fn names_are_resolved_before_the_first_request_needs_them() {
    let echo = Backend::http1().await;
    let endpoints = |name: &str| {
        entry(&format!(
            "resolution: DNS, endpoints: [{{address: {name}, ports: {{p: {}}}}}]",
            echo.port
        ))
    };
    let (site, gateway) = start(&endpoints("localhost"));
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    let explained = || gateway.admin("/explain?url=http://a.com/").to_string();
    assert!(explained().contains("localhost is "), "{}", explained());
    let config = gateway_and(&endpoints("nowhere.invalid"));
    gateway.reload(|| _ = site.config("all", &config));
    let reply = http.get("http://a.com/").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (503, "no healthy upstream"));
    gateway.wait("the log tells", || gateway.out().contains(" 503 UH "));
    assert!(explained().contains("nowhere.invalid has no address"), "{}", explained());
}

fn gateway_and(resources: &str) -> String {
    gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + resources
}

#[tokio::test]
async fn an_entry_without_resolution_leads_nowhere_unless_workloads_are_selected() {
    let echo = Backend::http1().await;
    let (site, gateway) = start(&entry("resolution: NONE"));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = http.get("http://a.com/").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (503, "no healthy upstream"));
    gateway.wait("the log tells", || gateway.out().contains(" 503 UH "));
    let told = gateway.admin("/diagnostics").to_string();
    assert!(told.contains("PC042"), "{told}");

    let workload = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w, namespace: \
         shop}}\nspec: {{address: 127.0.0.1, ports: {{p: {}}}, labels: {{app: echo}}}}\n",
        echo.port
    );
    let selected = entry("resolution: NONE, workloadSelector: {labels: {app: echo}}") + &workload;
    gateway.reload(|| _ = site.config("all", &gateway_and(&selected)));
    assert_eq!(http.get("http://a.com/").await.status, 200);
    assert_eq!(echo.requests(), 1);
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint() {
    let site = Site::new();
    let path = site.path("backend.sock");
    let _echo = Backend::unix(&path);
    let address = format!("unix://{}", path.display());
    let resource = entry(&format!("resolution: STATIC, endpoints: [{{address: '{address}'}}]"));
    let (_site, gateway) = start_with(site, &resource);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..3 {
        assert_eq!(http.get("http://a.com/x").await.json()["path"], "/x");
    }
}

#[tokio::test]
async fn subsets_choose_endpoints_and_turns_are_taken() {
    let (one, two) = (Backend::http1().await, Backend::http1().await);
    let endpoint = |port: u16, version: &str| {
        format!("{{address: 127.0.0.1, ports: {{p: {port}}}, labels: {{version: {version}}}}}")
    };
    let both = entry(&format!(
        "resolution: STATIC, endpoints: [{}, {}]",
        endpoint(one.port, "v1"),
        endpoint(two.port, "v2")
    ));
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: \
                echo, namespace: shop}\nspec: {host: echo.shop.internal, trafficPolicy: \
                {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v2, labels: {version: v2}}, \
                {name: v3, labels: {version: v3}}]}\n";
    let subset = |host: &str, name: &str| {
        let rules = format!(
            "  http: [{{route: [{{destination: {{host: echo.shop.internal, subset: {name}}}}}]}}]\n"
        );
        routes(name, "istio-system/plain", host, &rules)
    };
    let (_site, gateway) =
        start(&(both + rule + &subset("two.com", "v2") + &subset("three.com", "v3")));
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..6 {
        assert_eq!(http.get("http://two.com/").await.status, 200);
    }
    assert_eq!((one.requests(), two.requests()), (0, 6));
    assert_eq!(http.get("http://three.com/").await.text(), "no healthy upstream");
    for _ in 0..10 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    assert_eq!((one.requests(), two.requests()), (5, 11));
}

#[tokio::test]
async fn a_service_has_the_ready_endpoints_of_its_slices() {
    let (ready, not_ready) = (Backend::http1().await, Backend::http1().await);
    let slice = |name: &str, port: u16, ready: bool| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, \
             namespace: shop, labels: {{kubernetes.io/service-name: echo}}}}\naddressType: \
             IPv4\nports: [{{name: http, port: {port}, protocol: TCP}}]\nendpoints: [{{addresses: \
             [127.0.0.1], conditions: {{ready: {ready}}}}}]\n"
        )
    };
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: \
                   shop}\nspec: {selector: {app: echo}, ports: [{name: http, port: 80, targetPort: \
                   8080}]}\n";
    let to = "  http: [{route: [{destination: {host: echo}}]}]\n";
    let (_site, gateway) = start(
        &(service.to_owned()
            + &slice("one", ready.port, true)
            + &slice("two", not_ready.port, false)
            + &routes("kube", "istio-system/plain", "kube.com", to)),
    );
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..4 {
        assert_eq!(http.get("http://kube.com/").await.status, 200);
    }
    assert_eq!((ready.requests(), not_ready.requests()), (4, 0));
}

#[tokio::test]
async fn origination_verifies_the_server_and_shows_what_it_is_told() {
    let site = Site::new();
    let simple = Backend::tls(&site.edge.leaf(&["inner.com"], 1)).await;
    let mutual = Backend::mutual(&site.edge.leaf(&["inner.com"], 2), &site.clients).await;
    site.write("certs/edge.pem", site.edge.pem());
    let own = site.clients.leaf(&["gateway"], 3);
    site.write("certs/own.pem", &own.chain);
    site.write("certs/own.key", &own.key);
    let path = |name: &str| site.path(name).display().to_string();
    let roots = format!("caCertificates: '{}'", path("certs/edge.pem"));
    let keys = format!(
        "clientCertificate: '{}', privateKey: '{}'",
        path("certs/own.pem"),
        path("certs/own.key")
    );
    let mut resources = String::new();
    for (name, port, tls) in [
        ("good", simple.port, format!("mode: SIMPLE, sni: inner.com, {roots}")),
        ("unsaid", simple.port, format!("mode: SIMPLE, {roots}")),
        ("stranger", simple.port, format!("mode: SIMPLE, subjectAltNames: [other.com], {roots}")),
        ("names", simple.port, format!("mode: SIMPLE, subjectAltNames: [inner.com], {roots}")),
        ("system", simple.port, "mode: SIMPLE, sni: inner.com".to_owned()),
        ("shown", mutual.port, format!("mode: MUTUAL, sni: inner.com, {roots}, {keys}")),
        ("hidden", mutual.port, format!("mode: SIMPLE, sni: inner.com, {roots}")),
    ] {
        resources += &service(name, "HTTP", port);
        resources += &policy(name, &format!("tls: {{{tls}}}"));
        resources += &routes(name, "istio-system/plain", &format!("{name}.com"), &to(name));
    }
    let (_site, gateway) = start_with(site, &resources);
    let mut http = Http::plain(gateway.port(80)).await;
    for name in ["good", "names", "shown"] {
        let reply = http.get(&format!("http://{name}.com/")).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    for name in ["unsaid", "stranger", "system", "hidden"] {
        let reply = http.get(&format!("http://{name}.com/")).await;
        assert_eq!(reply.status, 503, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_never_shakes_hands_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let limited = "connectionPool: {tcp: {connectTimeout: 100ms}}, tls: {mode: SIMPLE}";
    let (_site, gateway) = start(&(service("echo", "HTTP", port) + &policy("echo", limited)));
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 503);
    let reason = "retried and the latest reset reason: connection timeout";
    assert!(reply.text().contains(reason), "{}", reply.text());
    gateway.wait("the log tells", || gateway.out().contains(" 503 UF,URX "));
}

const OK: Step = Step::Say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

#[tokio::test]
async fn a_misspelt_demand_on_a_backends_tls_ends_its_connections() {
    let echo = Backend::http1().await;
    let entry = service("echo", "HTTP", echo.port);
    let rule = |own: &str| entry.clone() + &policy("echo", own);
    let (site, gateway) = start(&rule("tls: {mode: DISABLE}"));
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    let names = gateway_and(&entry.replace("resolution:", "subjectAltName: [a], resolution:"));
    gateway.reload(|| _ = site.config("all", &names));
    assert_eq!(http.get("http://a.com/").await.status, 503);
    gateway.tells("PC052");
    let mended = gateway_and(&entry);
    gateway.reload(|| _ = site.config("all", &mended));
    assert_eq!(http.get("http://a.com/").await.status, 200);
    for own in [
        "tls: {mode: DISABLE, subjectAltNamez: [a]}",
        "portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, insecureSkipVerify: true, \
         subjectAltNamez: [a]}}]",
    ] {
        let config = gateway_and(&rule(own));
        gateway.reload(|| _ = site.config("all", &config));
        assert_eq!(http.get("http://a.com/").await.status, 503, "{own}");
        gateway.tells("PC052");
    }
}

#[tokio::test]
async fn what_an_idle_connection_lost_is_repeated_only_when_it_may_be() {
    let backend = Scripted::start(&[OK, Step::Leave]).await;
    let (_site, gateway) = start(&service("echo", "HTTP", backend.port));
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    // Read on the connection that stays behind, which then ends: repeated on a fresh one.
    let seen = backend.heads();
    assert_eq!(http.get("http://a.com/").await.status, 200);
    assert!(backend.heads() - seen <= 2);
    let mut statuses = HashSet::new();
    for _ in 0..4 {
        let request = http.request("POST", "http://a.com/", &[], "");
        statuses.insert(http.send(request).await.status.as_u16());
    }
    assert!(statuses.contains(&503), "a POST may have been acted on: {statuses:?}");
}

#[tokio::test]
async fn a_request_that_ends_fresh_connections_is_not_repeated() {
    let backend = Scripted::start(&[Step::Leave]).await;
    let (_site, gateway) = start(&service("echo", "HTTP", backend.port));
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 503);
    assert_eq!(backend.heads(), 1);
}

/// The answers over HTTP/1.1 and HTTP/2 when a backend follows this script.
async fn answers(script: &'static [Step]) -> [Reply; 2] {
    let backend = Scripted::start(script).await;
    let (_site, gateway) = start(&service("echo", "HTTP", backend.port));
    let port = gateway.port(80);
    let first = Http::plain(port).await.get("http://a.com/").await;
    [first, Http::plain2(port).await.get("http://a.com/").await]
}

#[tokio::test]
async fn answers_without_one_clear_end_are_a_bad_gateway() {
    for script in [
        &[Step::Say("SSH-2.0-OpenSSH\r\n\r\n")],
        &[Step::Say(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )],
        &[Step::Say(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        )],
    ] {
        for reply in answers(script).await {
            assert_eq!(reply.status, 502);
            assert!(reply.text().ends_with("protocol error"), "{}", reply.text());
        }
    }
}

#[tokio::test]
async fn an_answer_that_can_have_no_body_has_no_length() {
    const EMPTY: Step = Step::Say("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n");
    for reply in answers(&[EMPTY, EMPTY]).await {
        assert_eq!((reply.status.as_u16(), reply.headers.get("content-length")), (204, None));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_left_for_one_that_is_there() {
    let echo = Backend::http1().await;
    let dead = free_port();
    let both = entry(&format!(
        "resolution: STATIC, endpoints: [{{address: 127.0.0.2, ports: {{p: {dead}}}}}, {{address: \
         127.0.0.1, ports: {{p: {}}}}}]",
        echo.port
    ));
    let (_site, gateway) = start(&both);
    let mut attempts = HashSet::new();
    for _ in 0..30 {
        let mut http = Http::plain(gateway.port(80)).await;
        let seen = http.get("http://a.com/").await.json();
        let attempt = seen["headers"]["x-envoy-attempt-count"].as_str().unwrap().to_owned();
        attempts.insert(attempt);
    }
    assert_eq!(attempts, HashSet::from(["1".to_owned(), "2".to_owned()]));
}

#[tokio::test]
async fn a_rule_that_is_broken_from_the_start_never_lets_anything_go_in_clear() {
    let (echo, open) = (Scripted::start(&[]).await, Backend::http1().await);
    let rule = |text: &str| {
        let tls = policy("echo", "tls: {mode: SIMPLE, insecureSkipVerify: true}");
        tls.replace("{mode: SIMPLE", text)
    };
    let front = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + &routes("open", "istio-system/plain", "open.com", &to("open"))
        + &service("echo", "HTTP", echo.port)
        + &service("open", "HTTP", open.port);
    let named = "DestinationRule shop/echo";
    for (broken, reason) in
        [("{mode: SIMPEL", named), ("[}", named), ("{mod: SIMPLE", "a field that does not exist")]
    {
        let site = Site::new();
        site.config("all", &front).config("rule", &rule(broken));
        let gateway = site.start(&[80]);
        let mut http = Http::plain(gateway.port(80)).await;
        assert_eq!(http.get("http://a.com/").await.status, 503, "{broken}");
        assert_eq!(http.get("http://open.com/").await.status, 200, "{broken}");
        assert_eq!(echo.heads(), 0, "{broken}");
        gateway.wait("the log tells why", || gateway.out().contains(reason));
    }
}
