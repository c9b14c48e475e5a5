//! AuthorizationPolicies against the real binary: requests, identities, tokens, TCP, mistakes.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::client::{Http, proven, tls};
use crate::fixture::issuer;
use crate::gateway::{Gateway, Site, gateway, routes, service, to};
use crate::scripted::{Scripted, Step};

/// A policy of the gateway's namespace; `rest` is its spec in YAML's flow style.
fn access(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, \
         namespace: istio-system}}\nspec: {{{rest}}}\n"
    )
}

/// A plaintext server, one that asks for client certificates, and one that passes on bytes.
async fn start(policies: &str) -> (Site, [Backend; 1], Gateway) {
    let backend = Backend::http1().await;
    let greeter = Scripted::start(&[Step::Say("hello\n")]).await;
    let site = Site::new();
    site.certificate("m", &["m.com"]);
    site.write("certs/m/ca.crt", site.mesh.pem());
    let jwks = issuer().key_set("RS256", "k1");
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("m", 443, "HTTPS", "m.com", "mode: OPTIONAL_MUTUAL, credentialName: m")
            + &gateway("tcp", 9000, "TCP", "'*'", "")
            + &routes("r", "istio-system/plain, istio-system/m", "a.com, m.com", &to("echo"))
            + &routes(
                "t",
                "istio-system/tcp",
                "'*'",
                "  tcp: [{route: [{destination: {host: greeter.shop.internal}}]}]\n",
            )
            + &service("echo", "HTTP", backend.port)
            + &service("greeter", "TCP", greeter.port)
            + &format!(
                "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
                 t, namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: 'https://i', jwks: \
                 '{jwks}'}}]}}\n"
            )),
    );
    site.config("policies", policies);
    let gateway = site.start_with(&[80, 443, 9000], &["--access-log", "json"]);
    (site, [backend], gateway)
}

#[tokio::test]
async fn rules_allow_and_deny_by_path_method_and_address() {
    let policies = access(
        "no-admin",
        "action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]",
    ) + &access(
        "readers",
        "rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}], to: [{operation: {methods: [GET]}}]}]",
    );
    let (_site, _backend, gateway) = start(&policies).await;
    for mut http in [Http::plain(gateway.port(80)).await, Http::plain2(gateway.port(80)).await] {
        assert_eq!(http.get("http://a.com/x").await.status, 200);
        for path in [
            "/admin",
            "/x/../admin",
            "//admin",
            "/x%2F..%2Fadmin",
            "/%2Fadmin",
            "/x/..%2f..%2fadmin",
            "/..%5cadmin",
        ] {
            let reply = http.get(&format!("http://a.com{path}")).await;
            assert_eq!(
                (reply.status.as_u16(), reply.text()),
                (403, "RBAC: access denied"),
                "{path}"
            );
            assert_eq!(reply.header("content-type"), "text/plain");
        }
        let post = http.request("POST", "http://a.com/x", &[], "");
        assert_eq!(http.send(post).await.status, 403);
        let call =
            http.request("POST", "http://a.com/x", &[("content-type", "application/grpc")], "");
        let reply = http.send(call).await;
        assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "7"));
    }
    let told = "rbac_access_denied_matched_policy[ns[istio-system]-policy[no-admin]-rule[0]]";
    gateway.wait("the log names the rule", || gateway.out().contains(told));
    gateway.wait("the log names the place", || {
        gateway.out().contains("AuthorizationPolicy istio-system/readers config/policies.yaml:")
    });
    let explained = gateway.admin("/explain?url=http://a.com/admin");
    assert_eq!(explained["outcome"]["reason"], "authorization_denied");
    assert!(explained.to_string().contains("no-admin at config/policies.yaml:"), "{explained:#}");
    let explained = gateway.admin("/explain?url=http://a.com/x");
    assert!(explained.to_string().contains("readers at config/policies.yaml:"), "{explained:#}");
    let elsewhere = gateway.admin("/explain?url=http://a.com/x&source-ip=10.1.1.1");
    assert_eq!(elsewhere["outcome"]["status"], 403);
}

#[tokio::test]
async fn workloads_are_known_by_their_certificates() {
    let principal = "cluster.local/ns/shop/sa/cart";
    let rule = format!("rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]");
    let (site, _backend, gateway) = start(&access("cart", &rule)).await;
    let cart = site.workload("shop", "cart", 1);
    let other = site.workload("shop", "other", 2);
    for alpn in ["h2", "http/1.1"] {
        for (leaf, status) in [(Some(&cart), 200), (Some(&other), 403), (None, 403)] {
            let config = tls(&site.edge, leaf, &[alpn]);
            let mut http = Http::secure(&config, gateway.port(443), "m.com").await;
            assert_eq!(http.get("https://m.com/").await.status, status, "{alpn}");
        }
    }
    assert_eq!(Http::plain(gateway.port(80)).await.get("http://a.com/").await.status, 403);
}

/// As in Istio: a server's own client CA says who its clients are, whatever trust domain they name.
#[tokio::test]
async fn any_uri_that_a_servers_client_ca_signs_is_a_principal() {
    let principal = "cluster.local/ns/shop/sa/cart";
    let rule = format!("rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]");
    let (site, _backend, gateway) = start(&access("cart", &rule)).await;
    gateway.reload(|| site.write("certs/m/ca.crt", site.clients.pem()));
    let id = format!("spiffe://{principal}");
    let several = [&*id, "https://a.example/x", "spiffe://other/ns/a/sa/b"];
    for (names, status) in [(&several[..1], 200), (&several, 200), (&several[1..], 403)] {
        let config = tls(&site.edge, Some(&site.clients.leaf(names, 1)), &["http/1.1"]);
        let mut http = Http::secure(&config, gateway.port(443), "m.com").await;
        assert_eq!(http.get("https://m.com/").await.status, status, "{names:?}");
    }
    // The same names from the mesh's CA are refused: it is not this server's.
    let config = tls(&site.edge, Some(&site.workload("shop", "cart", 1)), &["http/1.1"]);
    assert!(proven(&config, gateway.port(443), "m.com").await.is_err());
}

#[tokio::test]
async fn users_are_known_by_their_tokens() {
    let rule = "rules: [{from: [{source: {requestPrincipals: ['https://i/*']}}], when: [{key: \
                'request.auth.claims[groups]', values: [ops]}]}]";
    let (_site, _backend, gateway) = start(&access("ops", rule)).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let bearer = |groups: &[&str]| {
        let claims = json!({"iss": "https://i", "sub": "alice", "groups": groups});
        format!("Bearer {}", issuer().token(&json!({"alg": "RS256", "kid": "k1"}), &claims))
    };
    assert_eq!(http.get("http://a.com/").await.status, 403);
    let ops = bearer(&["dev", "ops"]);
    assert_eq!(http.ask("http://a.com/", &[("authorization", &ops)]).await.status, 200);
    let dev = bearer(&["dev"]);
    assert_eq!(http.ask("http://a.com/", &[("authorization", &dev)]).await.status, 403);
    assert_eq!(http.ask("http://a.com/", &[("authorization", "Bearer x")]).await.status, 401);
}

/// What the server of bytes says to a client that asks.
async fn greeting(gateway: &Gateway) -> Vec<u8> {
    let mut stream = crate::client::connect(gateway.port(9000)).await;
    let _ = stream.write_all(b"\r\n\r\n").await;
    let mut answer = vec![0; 6];
    match stream.read_exact(&mut answer).await {
        Ok(_) => answer,
        Err(_) => Vec::new(),
    }
}

#[tokio::test]
async fn connections_without_http_are_judged_by_what_they_have() {
    let deny_port = |port: u16| {
        access(
            "d",
            &format!("action: DENY, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]"),
        )
    };
    let (site, _backend, gateway) = start(&deny_port(1)).await;
    assert_eq!(greeting(&gateway).await, b"hello\n");
    gateway.reload(|| _ = site.config("policies", &deny_port(gateway.port(9000))));
    assert_eq!(greeting(&gateway).await, b"");
    // A rule about HTTP allows no bytes, and does not hold a denial back.
    let get = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    gateway.reload(|| _ = site.config("policies", &access("a", get)));
    assert_eq!(greeting(&gateway).await, b"");
    let denied = format!("action: DENY, {get}");
    gateway.reload(|| _ = site.config("policies", &access("a", &denied)));
    assert_eq!(greeting(&gateway).await, b"");
    gateway.reload(|| _ = site.config("policies", &access("a", "rules: [{}]")));
    assert_eq!(greeting(&gateway).await, b"hello\n");
}

#[tokio::test]
async fn what_cannot_be_enforced_refuses_until_it_is_mended() {
    let fine = access("a", "rules: [{}]");
    let (site, _backend, gateway) = start(&fine).await;
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    for (broken, code) in [
        (access("b", "rules: [{form: [{source: {ipBlocks: [1.1.1.1]}}]}]"), "PC052"),
        (access("b", "rules: [{from: [{source: {ipBlocks: [none]}}]}]"), "PC052"),
        (access("b", "action: CUSTOM, provider: {name: x}, rules: [{}]"), "PC052"),
    ] {
        gateway.reload(|| _ = site.config("policies", &(fine.clone() + &broken)));
        let reply = http.get("http://a.com/").await;
        assert_eq!((reply.status.as_u16(), reply.text()), (403, "RBAC: access denied"), "{broken}");
        gateway.tells(code);
    }
    gateway.reload(|| _ = site.config("policies", &fine));
    assert_eq!(http.get("http://a.com/").await.status, 200);
}

/// A policy with the annotation of dry runs.
fn dry_run(name: &str, rest: &str) -> String {
    let annotated = "istio-system, annotations: {istio.io/dry-run: 'true'}}";
    access(name, rest).replace("istio-system}", annotated)
}

#[tokio::test]
async fn dry_runs_and_audits_refuse_nothing_and_are_told() {
    let policies = dry_run("d", "action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]")
        + &dry_run("a", "rules: [{to: [{operation: {methods: [PUT]}}]}]")
        + &access("u", "action: AUDIT, rules: [{to: [{operation: {paths: ['/x*']}}]}]");
    let (_site, _backend, gateway) = start(&policies).await;
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/x").await.status, 200);
    assert_eq!(http.get("http://a.com/y").await.status, 200);
    assert_eq!(greeting(&gateway).await, b"hello\n");
    let shadow = |action: &str, result: &str, count: u32| {
        let labels = format!("{{action=\"{action}\",result=\"{result}\"}}");
        let line = format!("portcullis_authorization_shadow_total{labels} {count}\n");
        gateway.wait(&line, || gateway.metrics().contains(&line));
    };
    // Paths are HTTP's alone: the stream of bytes is audited and would be denied by both.
    shadow("audit", "matched", 2);
    shadow("deny", "denied", 2);
    shadow("deny", "allowed", 1);
    shadow("allow", "denied", 3);
    let at = |name: &str| format!("AuthorizationPolicy istio-system/{name} config/policies.yaml:");
    gateway.wait("the log tells what would be", || {
        gateway.out().lines().any(|line| {
            let told = ["\"path\":\"/x\"", "audit matched", "deny denied", "allow denied"];
            told.into_iter().all(|told| line.contains(told))
                && ["u", "d", "a"].into_iter().all(|name| line.contains(&at(name)))
        })
    });
    let explained = gateway.admin("/explain?url=http://a.com/x").to_string();
    for told in ["an AUDIT policy matches", "dry run of DENY: denied", "dry run of ALLOW: denied"] {
        assert!(explained.contains(told), "{explained}");
    }
}

#[tokio::test]
async fn a_broken_dry_run_is_told_and_what_is_enforced_stays_so() {
    let broken = dry_run("d", "action: DENY, rules: [{from: [{source: {ipBlocks: [none]}}]}]");
    let policies =
        broken + &access("e", "action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]");
    let (_site, _backend, gateway) = start(&policies).await;
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/y").await.status, 200);
    assert_eq!(http.get("http://a.com/x").await.status, 403);
    gateway.tells("IST0106");
}
