//! `MeshConfig.pathNormalization`: what routes, policies and backends see of a path.

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Site, gateway, routes, service};

const DENY: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: d, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}
";

/// Paths as sent, and what a backend sees: nothing where the request is refused with this status.
async fn check(normalization: &str, expected: &[(&str, Result<&str, u16>)]) {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.write("mesh.yaml", format!("pathNormalization: {{normalization: {normalization}}}\n"));
    let rules = "  http: [{match: [{uri: {prefix: /a/}}, {uri: {prefix: /admin}}], route: \
                 [{destination: {host: echo.shop.internal}}]}]\n";
    let text = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", rules)
        + &service("echo", "HTTP", backend.port);
    site.config("all", &(text + DENY));
    let gateway = site.start_with(&[80], &["--mesh-config", "mesh.yaml"]);
    let mut http = Http::plain(gateway.port(80)).await;
    for (path, seen) in expected {
        let reply = http.get(&format!("http://a.com{path}")).await;
        match seen {
            Ok(seen) => assert_eq!(reply.json()["path"], *seen, "{normalization} {path}"),
            Err(status) => assert_eq!(reply.status, *status, "{normalization} {path}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_slashes_are_merged_after_dots_are_resolved() {
    check(
        "MERGE_SLASHES",
        &[
            ("/a//b///c?x=//", Ok("/a/b/c?x=//")),
            ("/a//../b", Ok("/a/b")),
            ("/a/%2e%2e//a/b", Ok("/a/b")),
            ("/a%2Fb", Err(404)),
            ("/a/%2Fb", Ok("/a/%2Fb")),
            ("/../a/b", Err(400)),
            ("//admin//x", Err(403)),
            ("/a/..//admin", Err(403)),
            ("/a//../admin", Ok("/a/admin")),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn escaped_slashes_are_decoded_first_where_it_is_asked_for() {
    check(
        "DECODE_AND_MERGE_SLASHES",
        &[
            ("/a%2Fb", Ok("/a/b")),
            ("/a%5cb%2f%2Fc", Ok("/a/b/c")),
            ("/a%2f%2f..%2fb", Ok("/a/b")),
            ("/..%2fa/b", Err(400)),
            ("/%2fadmin", Err(403)),
            ("/a%2f..%2fadmin", Err(403)),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_normalization_paths_stay_and_policies_judge_every_reading() {
    check(
        "NONE",
        &[
            ("/a/./b//c", Ok("/a/./b//c")),
            ("/a/x/../b", Ok("/a/x/../b")),
            ("/a%2Fb", Err(404)),
            ("/a/../admin", Err(403)),
            ("/a/..%2fadmin", Err(403)),
            ("/a//../../admin", Err(403)),
        ],
    )
    .await;
}

/// A Gateway with one host on port 80, and what it says of paths.
fn reading(name: &str, host: &str, says: &str) -> String {
    let annotated =
        format!("istio-system, annotations: {{portcullis.dev/path-normalization: '{says}'}}}}");
    let plain = gateway(name, 80, "HTTP", host, "");
    if says.is_empty() { plain } else { plain.replacen("istio-system}", &annotated, 1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_its_paths_read_as_its_gateway_says() {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.write("mesh.yaml", "pathNormalization: {normalization: MERGE_SLASHES}\n");
    let gateways = "istio-system/git, istio-system/shop, istio-system/one, istio-system/two";
    let to = "  http: [{route: [{destination: {host: echo.shop.internal}}]}]\n";
    let text = reading("git", "git.com", "other=BASE, git=NONE, *=BASE")
        + &reading("shop", "'*.com'", "")
        + &reading("one", "both.com", "NONE")
        + &reading("two", "both.com", "BASE")
        + &routes("r", gateways, "'*'", to)
        + &service("echo", "HTTP", backend.port);
    site.config("all", &(text + DENY));
    let gateway = site.start_with(&[80], &["--mesh-config", "mesh.yaml"]);
    gateway.tells("\"other\" is the port name of no server here");
    gateway.tells("another Gateway has \"both.com\" on this port too");
    for mut http in [Http::plain(gateway.port(80)).await, Http::plain2(gateway.port(80)).await] {
        for (host, path, seen) in [
            ("git.com", "/a//b/../c%2Fd", "/a//b/../c%2Fd"),
            ("a.com", "/a//b/../c%2Fd", "/a/c%2Fd"),
            // What two Gateways say otherwise is what the mesh says.
            ("both.com", "/a//b/../c%2Fd", "/a/c%2Fd"),
        ] {
            let reply = http.get(&format!("http://{host}{path}")).await;
            assert_eq!(reply.json()["path"], seen, "{host}");
        }
        for host in ["git.com", "a.com", "both.com"] {
            for path in ["/admin", "//admin", "/x/../admin"] {
                let reply = http.get(&format!("http://{host}{path}")).await;
                assert_eq!(reply.status, 403, "{host}{path}");
            }
        }
    }
    let explained = gateway.admin("/explain?url=http://git.com/a//b").to_string();
    assert!(explained.contains("http://git.com/a//b"), "{explained}");
    assert!(explained.contains("paths of git.com are read by NONE"), "{explained}");
    let dump = gateway.admin("/config_dump").to_string();
    assert!(dump.contains("path_normalization_by_host"), "{dump}");
}
