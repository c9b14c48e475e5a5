//! Changes while it serves: what is live, what stays, and what a mistake harms.

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::client::{Http, connect, proven, shake, tls};
use crate::gateway::{Gateway, Site, front, gateway, mounted, routes, service, to};

const ANSWER: &str = "  http: [{directResponse: {status: 200, body: {string: TEXT}}}]\n";

fn answers(text: &str) -> String {
    routes("r", "istio-system/plain, istio-system/secure", "a.com", &ANSWER.replace("TEXT", text))
}

/// A plaintext and a TLS server for `a.com` that answer `one`.
fn start() -> (Site, Gateway) {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.config(
        "gateway",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("secure", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")),
    );
    site.config("routes", &answers("one"));
    let gateway = site.start(&[80, 443, 81]);
    (site, gateway)
}

async fn said(http: &mut Http) -> String {
    http.get("http://a.com/").await.text().to_owned()
}

#[tokio::test]
async fn routes_change_under_an_open_connection() {
    let (site, gateway) = start();
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(said(&mut http).await, "one");
    gateway.reload(|| _ = site.config("routes", &answers("two")));
    assert_eq!(said(&mut http).await, "two");
    gateway.wait("it is counted", || gateway.metrics().contains("portcullis_config_generation 2"));
    gateway.tells("generation=2");
}

#[tokio::test]
async fn connections_to_backends_outlive_changes_of_other_routes_and_services() {
    let (echo, other) = (Backend::http1().await, Backend::http1().await);
    let (site, gateway) = front("HTTP", echo.port);
    let mut http = Http::plain(gateway.port(80)).await;
    for status in [201, 202, 203] {
        assert_eq!(http.get("http://a.com/").await.status, 200);
        let rules = format!("  http: [{{directResponse: {{status: {status}}}}}]\n");
        let more = routes("more", "istio-system/plain", "b.com", &rules)
            + &service("more", "HTTP", other.port + status % 2);
        gateway.reload(|| _ = site.config("more", &more));
        assert_eq!(http.get("http://b.com/").await.status.as_u16(), status);
    }
    assert_eq!((echo.connections(), echo.requests()), (1, 3));
    // Another endpoint is another connection.
    let all = fs::read_to_string(site.path("config/all.yaml")).unwrap();
    let moved = all.replace(&echo.port.to_string(), &other.port.to_string());
    gateway.reload(|| _ = site.config("all", &moved));
    assert_eq!(http.get("http://a.com/").await.status, 200);
    assert_eq!((echo.requests(), other.connections()), (3, 1));
}

#[tokio::test]
async fn equal_bytes_are_not_compiled_again() {
    let (site, gateway) = start();
    gateway.post("/logging?level=debug");
    for _ in 0..5 {
        site.config("routes", &answers("one"));
    }
    let seen = "the files hold what is live already";
    gateway.tells(seen);
    assert_eq!(gateway.generation(), 1);
    let metrics = gateway.metrics();
    let reloads: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("portcullis_reloads_total")).collect();
    assert_eq!(reloads, ["portcullis_reloads_total{result=\"published\"} 1"]);
}

#[tokio::test]
async fn a_broken_file_goes_on_as_it_was_and_the_rest_goes_live() {
    let (site, gateway) = start();
    let mut http = Http::plain(gateway.port(80)).await;
    gateway.reload(|| _ = site.config("routes", "apiVersion: networking.istio.io/v1\nkind: [\n"));
    assert_eq!(said(&mut http).await, "one");
    gateway.tells("config/routes.yaml:");
    let other = routes("o", "istio-system/plain", "b.com", &ANSWER.replace("TEXT", "other"));
    gateway.reload(|| _ = site.config("other", &other));
    assert_eq!(http.get("http://b.com/").await.text(), "other");
    assert_eq!(said(&mut http).await, "one");
    gateway.reload(|| _ = site.config("routes", &answers("three")));
    assert_eq!(said(&mut http).await, "three");
}

#[tokio::test]
async fn a_resource_that_breaks_by_type_goes_on_and_what_is_deleted_goes() {
    let (site, gateway) = start();
    let mut http = Http::plain(gateway.port(80)).await;
    let wrong = ANSWER.replace("directResponse", "timeout: banana, directResponse");
    let both = answers("two").replace("name: r", "name: other").replace("a.com", "b.com")
        + &routes("r", "istio-system/plain", "a.com", &wrong);
    gateway.reload(|| _ = site.config("routes", &both));
    assert_eq!(said(&mut http).await, "one", "the broken one goes on as it was");
    assert_eq!(http.get("http://b.com/").await.text(), "two", "the other one goes live");
    gateway.wait("it is told", || {
        let found = gateway.admin("/diagnostics").to_string();
        found.contains("PC011") && found.contains("goes on as it was in generation 1")
    });
    gateway.tells("goes on as it was in generation 1");

    let port = site.path("config/gateway.yaml");
    let text = fs::read_to_string(&port).unwrap().replace("number: 80", "number: abc");
    gateway.reload(|| _ = site.config("gateway", &text));
    assert_eq!(said(&mut http).await, "one");
    assert_eq!(Http::plain(gateway.port(80)).await.get("http://a.com/").await.text(), "one");

    gateway.reload(|| fs::remove_file(site.path("config/routes.yaml")).unwrap());
    assert_eq!(http.get("http://a.com/").await.status, 404);
    gateway.reload(|| fs::remove_file(&port).unwrap());
    gateway.wait("the port is closed", || {
        std::net::TcpStream::connect(("127.0.0.1", gateway.port(80))).is_err()
    });
}

#[tokio::test]
async fn a_policy_that_breaks_denies_what_it_denied() {
    const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, \
                        namespace: istio-system}\nspec: {action: DENY, rules: [{to: [{operation: {paths: \
                        [/private]}}]}]}\n";
    let (site, gateway) = start();
    gateway.reload(|| _ = site.config("policy", DENY));
    let mut http = Http::plain(gateway.port(80)).await;
    for (from, to) in
        [("DENY", "DENNY"), ("istio.io/v1", "istio.io/v3"), ("rules: [", "rules: [}"), ("[/", "{/")]
    {
        gateway.reload(|| _ = site.config("policy", &DENY.replace(from, to)));
        assert_eq!(http.get("http://a.com/private").await.status, 403, "{to}");
        assert_eq!(said(&mut http).await, "one", "{to}");
    }
    gateway.reload(|| fs::remove_file(site.path("config/policy.yaml")).unwrap());
    assert_eq!(http.get("http://a.com/private").await.text(), "one");
}

#[tokio::test]
async fn a_file_that_is_being_written_is_read_once_it_is_closed() {
    use std::io::Write as _;

    let (site, gateway) = start();
    let mut http = Http::plain(gateway.port(80)).await;
    let whole =
        answers("two").replace("  http: [", "  http: [{match: [{uri: {prefix: /}}], name: x, ");
    let whole = whole.replace("name: x, {", "name: x, ");
    // Cut here it is a VirtualService without routes, and valid.
    let (first, second) = whole.split_at(whole.find("  http:").unwrap());
    let mut file = fs::File::create(site.path("config/routes.yaml")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    gateway.tells("the file is being written");
    // A change beside it goes live meanwhile, and does not take the cut file along.
    let other = routes("o", "istio-system/plain", "b.com", &ANSWER.replace("TEXT", "other"));
    gateway.reload(|| _ = site.config("other", &other));
    assert_eq!(said(&mut http).await, "one");
    file.write_all(second.as_bytes()).unwrap();
    gateway.reload(|| drop(file));
    assert_eq!(said(&mut http).await, "two");
}

#[tokio::test]
async fn a_root_and_a_link_out_of_it_are_followed_when_they_are_replaced() {
    let (site, gateway) = start();
    let mut http = Http::plain(gateway.port(80)).await;
    let before = tokio::time::Instant::now();
    site.write("next/gateway.yaml", fs::read(site.path("config/gateway.yaml")).unwrap());
    site.write("far/routes.yaml", answers("two"));
    std::os::unix::fs::symlink("../far/routes.yaml", site.path("next/routes.yaml")).unwrap();
    gateway.reload(|| {
        fs::rename(site.path("config"), site.path("old")).unwrap();
        fs::rename(site.path("next"), site.path("config")).unwrap();
    });
    assert_eq!(said(&mut http).await, "two");
    gateway.reload(|| site.write("far/routes.yaml", answers("three")));
    assert_eq!(said(&mut http).await, "three");
    // Without being told, it is found after 30 s.
    assert!(before.elapsed() < std::time::Duration::from_secs(20));
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_place_until_it_is_free() {
    let (site, gateway) = start();
    let taken = std::net::TcpListener::bind(("127.0.0.1", gateway.port(81))).unwrap();
    gateway.reload(|| _ = site.config("extra", &gateway_and_routes()));
    let found = || gateway.admin("/diagnostics").to_string();
    gateway.wait("it is told", || {
        found().contains("PC036") && found().contains("\"file\":\"config/extra.yaml\",\"help\"")
    });
    drop(taken);
    // Any change makes it try again, one that changes nothing too.
    site.config("extra", &gateway_and_routes());
    gateway.wait("it is no finding any more", || !found().contains("PC036"));
    assert_eq!(Http::plain(gateway.port(81)).await.get("http://c.com/").await.status, 503);
}

#[tokio::test]
async fn a_missing_folder_changes_nothing() {
    let (site, gateway) = start();
    let mut http = Http::plain(gateway.port(80)).await;
    fs::rename(site.path("config"), site.path("away")).unwrap();
    gateway.wait("it is told", || gateway.metrics().contains("result=\"failed\""));
    assert_eq!(said(&mut http).await, "one");
    fs::rename(site.path("away"), site.path("config")).unwrap();
    gateway.reload(|| _ = site.config("routes", &answers("back")));
    assert_eq!(said(&mut http).await, "back");
}

#[tokio::test]
async fn a_mounted_secret_is_swapped_whole_and_a_mismatch_keeps_the_last() {
    let site = Site::new();
    let (first, second) = (site.edge.leaf(&["a.com"], 11), site.edge.leaf(&["a.com"], 22));
    let folder = site.path("certs/a");
    fs::create_dir_all(&folder).unwrap();
    let put = |version: &str, chain: &str, key: &str| {
        mounted(&folder, version, &[("tls.crt", chain), ("tls.key", key)]);
    };
    put("v1", &first.chain, &first.key);
    site.config(
        "all",
        &(gateway("secure", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
            + &routes("r", "istio-system/secure", "a.com", &ANSWER.replace("TEXT", "x"))),
    );
    let gateway = site.start(&[443]);
    let config = tls(&site.edge, None, &[]);
    let shown = async || {
        let stream = shake(&config, gateway.port(443), "a.com").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    gateway.reload(|| put("v2", &second.chain, &first.key));
    assert_eq!(shown().await, before);
    gateway.tells("PC022");
    gateway.reload(|| put("v3", &second.chain, &second.key));
    assert_ne!(shown().await, before);
}

#[tokio::test]
async fn listeners_come_and_go_and_streams_of_both_stay() {
    let echo = Backend::http1().await;
    let (site, gateway) = start();
    gateway.reload(|| _ = site.config("echo", &service("echo", "HTTP", echo.port)));
    let extra = gateway_and_routes();
    gateway.reload(|| _ = site.config("extra", &extra));
    let mut kept = Http::plain(gateway.port(81)).await;
    assert_eq!(kept.get("http://c.com/").await.status, 200);
    // A request that is under way while its listener goes.
    let mut slow = connect(gateway.port(81)).await;
    slow.write_all(b"POST / HTTP/1.1\r\nhost: c.com\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    let opened = || echo.connections() >= 1;
    gateway.wait("the backend has a connection", opened);
    gateway.reload(|| fs::remove_file(site.path("config/extra.yaml")).unwrap());
    slow.write_all(b"cd").await.unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    gateway.wait("the port is closed", || {
        std::net::TcpStream::connect(("127.0.0.1", gateway.port(81))).is_err()
    });
    assert!(proven(&tls(&site.edge, None, &[]), gateway.port(443), "a.com").await.is_ok());
}

fn gateway_and_routes() -> String {
    gateway("extra", 81, "HTTP", "'*'", "")
        + &routes("x", "istio-system/extra", "c.com", &to("echo"))
}

#[tokio::test]
async fn the_mesh_identity_rotates_for_new_handshakes() {
    let site = Site::new();
    let cart = Backend::mutual(&site.workload("shop", "cart", 1), &site.mesh).await;
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("cart"))
            + &service("cart", "HTTP", cart.port)
            + &crate::gateway::policy("cart", "tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/cart']}")),
    );
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    let before = http.get("http://a.com/").await.json();
    gateway.reload(|| site.identity("gateway", 2));
    let kept = http.get("http://a.com/").await.json();
    assert_eq!(
        kept["tls"]["client_leaf"], before["tls"]["client_leaf"],
        "an open connection stays"
    );
    assert_eq!(http.get("http://a.com/abort").await.status, 503);
    let fresh = http.get("http://a.com/").await.json();
    assert_ne!(fresh["tls"]["client_leaf"], before["tls"]["client_leaf"]);
    let metrics = gateway.metrics();
    let expiry = "portcullis_certificate_expiry_timestamp_seconds{kind=\"identity\"";
    assert!(metrics.contains(expiry), "{metrics}");
}

#[tokio::test]
async fn a_policy_that_is_written_in_place_never_opens_the_gateway() {
    const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, \
                        namespace: istio-system}\nspec: {action: DENY, rules: [{}]}\n";
    let (site, gateway) = start();
    gateway.reload(|| _ = site.config("policy", DENY));
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 403);
    let path = site.path("config/policy.yaml");
    let emptied = tokio::time::Instant::now();
    fs::write(&path, "").unwrap();
    while emptied.elapsed() < std::time::Duration::from_millis(300) {
        assert_eq!(http.get("http://a.com/").await.status, 403);
    }
    fs::write(&path, DENY).unwrap();
    while emptied.elapsed() < std::time::Duration::from_millis(1500) {
        assert_eq!(http.get("http://a.com/").await.status, 403);
    }
    gateway.reload(|| fs::write(&path, "").unwrap());
    assert_ne!(http.get("http://a.com/").await.status, 403);
}
