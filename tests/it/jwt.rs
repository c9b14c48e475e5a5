//! Tokens through the gateway, with a key set that is fetched and one that is written down.

use serde_json::json;

use crate::backend::Backend;
use crate::client::Http;
use crate::fixture::{Issuer, issuer, stranger};
use crate::gateway::{Gateway, Site, free_port, gateway, routes, service, to};
use crate::keys::KeyServer;

const RULES: &str = "---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  jwtRules:
";

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn token(signer: &Issuer, issuer: &str, change: impl Fn(&mut serde_json::Value)) -> String {
    let mut claims =
        json!({"iss": issuer, "sub": "alice", "aud": "shop", "exp": now() + 600, "scope": "a b"});
    change(&mut claims);
    signer.token(&json!({"alg": "RS256", "kid": "k1"}), &claims)
}

async fn start(rules: &str) -> (Site, Backend, Gateway) {
    start_with(rules, &[]).await
}

async fn start_with(rules: &str, arguments: &[&str]) -> (Site, Backend, Gateway) {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("echo"))
            + &service("echo", "HTTP", backend.port)),
    );
    site.config("tokens", &format!("{RULES}{rules}"));
    let gateway = site.start_with(&[80], arguments);
    (site, backend, gateway)
}

#[tokio::test]
async fn good_tokens_pass_and_bad_ones_get_istios_answers() {
    let jwks = issuer().key_set("RS256", "k1");
    let (_site, _backend, gateway) = start(&format!(
        "    - {{issuer: 'https://i', audiences: [shop], jwks: '{jwks}', outputClaimToHeaders: \
         [{{header: x-user, claim: sub}}]}}\n"
    ))
    .await;
    let mut http = Http::plain(gateway.port(80)).await;
    let same = |_: &mut serde_json::Value| {};
    let good = token(issuer(), "https://i", same);
    let reply = http.ask("http://a.com/", &[("authorization", &format!("Bearer {good}"))]).await;
    let seen = reply.json();
    assert_eq!(seen["headers"]["x-user"], "alice");
    assert!(seen["headers"]["authorization"].is_null());
    let reply = http.ask("http://a.com/", &[("x-user", "forged")]).await;
    assert!(reply.json()["headers"]["x-user"].is_null());
    let none = {
        let mut parts = good.split('.');
        let (_, payload) = (parts.next(), parts.next().unwrap());
        format!("{}.{payload}.", crate::fixture::encode(br#"{"alg":"none"}"#))
    };
    for (bad, status, body) in [
        (token(stranger(), "https://i", same), 401, "Jwt verification fails"),
        (token(issuer(), "https://other", same), 401, "Jwt issuer is not configured"),
        (token(issuer(), "https://i", |c| c["exp"] = 1.into()), 401, "Jwt is expired"),
        (
            token(issuer(), "https://i", |c| c["nbf"] = (now() + 600).into()),
            401,
            "Jwt not yet valid",
        ),
        (
            token(issuer(), "https://i", |c| c["aud"] = "x".into()),
            403,
            "Audiences in Jwt are not allowed",
        ),
        // One that goes on is none, and hides no other.
        (
            format!("{good}, Bearer {good}"),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (format!("{good} x"), 401, "Jwt signature is an invalid Base64url encoded"),
        (good.replacen('.', "!.", 1), 401, "Jwt header is an invalid Base64url encoded"),
        (
            none,
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (
            "x".repeat(20_000),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
    ] {
        let reply =
            http.ask("http://a.com/p", &[("authorization", &format!("Bearer {bad}"))]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, body));
        assert_eq!(
            reply.header("www-authenticate"),
            "Bearer realm=\"http://a.com/p\", error=\"invalid_token\""
        );
    }
    let reply = http.get(&format!("http://a.com/?access_token={good}&x=1")).await;
    assert_eq!(reply.status, 200);
    gateway.wait("the log has the request", || gateway.out().contains("x=1"));
    assert!(!gateway.out().contains(&good) && !gateway.err().contains(&good));
}

/// The reason codes counted so far.
fn reasons(gateway: &Gateway) -> Vec<String> {
    let metrics = gateway.metrics();
    let codes = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("portcullis_rejections_total{reason=\"")?;
        Some(rest.split('"').next()?.to_owned())
    });
    codes.collect()
}

#[tokio::test]
async fn a_refused_token_is_told_by_realm_and_reason_and_never_echoed() {
    let jwks = issuer().key_set("RS256", "k1");
    let (_site, _backend, gateway) =
        start(&format!("    - {{issuer: 'https://i', jwks: '{jwks}'}}\n")).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let expired = token(issuer(), "https://i", |claims| claims["exp"] = 1.into());
    let reply = http.get(&format!("http://a.com/b%41?y=%20z&access_token={expired}&x=0")).await;
    let realm = "Bearer realm=\"http://a.com/bA?y=%20z&x=0\", error=\"invalid_token\"";
    assert_eq!((reply.status.as_u16(), reply.header("www-authenticate")), (401, realm));
    let forged = format!("Bearer {}", token(stranger(), "https://i", |_| {}));
    let call = [("authorization", &*forged), ("content-type", "application/grpc")];
    let reply = http.ask("http://a.com/s/m", &call).await;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "16"));
    let realm = "Bearer realm=\"http://a.com/s/m\", error=\"invalid_token\"";
    assert_eq!(reply.header("www-authenticate"), realm);
    gateway
        .wait("both are counted", || reasons(&gateway) == ["jwt_expired", "jwt_signature_invalid"]);
}

#[tokio::test]
async fn a_route_is_chosen_by_what_the_token_says_and_never_by_a_forged_header() {
    let jwks = issuer().key_set("RS256", "k1");
    let (site, _backend, gateway) = start(&format!(
        "    - {{issuer: 'https://i', jwks: '{jwks}', outputClaimToHeaders: [{{header: x-group, claim: \
         group}}]}}\n"
    ))
    .await;
    let rules = "  http:\n  - match: [{headers: {x-group: {exact: admin}}}]\n    directResponse: {status: \
                 299}\n  - directResponse: {status: 298}\n";
    gateway.reload(|| {
        site.config("group", &routes("g", "istio-system/plain", "g.com", rules));
    });
    let mut http = Http::plain(gateway.port(80)).await;
    let bearer = |group: &str| {
        let token = token(issuer(), "https://i", |claims| claims["group"] = group.into());
        format!("Bearer {token}")
    };
    let forged = ("x-group", "admin");
    assert_eq!(http.ask("http://g.com/", &[forged]).await.status, 298);
    let user = bearer("user");
    assert_eq!(http.ask("http://g.com/", &[forged, ("authorization", &user)]).await.status, 298);
    let admin = bearer("admin");
    assert_eq!(http.ask("http://g.com/", &[("authorization", &admin)]).await.status, 299);
}

#[tokio::test]
async fn a_down_issuer_harms_only_its_own_tokens_and_never_the_start() {
    let keys = KeyServer::start(issuer().key_set("RS256", "k1")).await;
    let dead = free_port();
    let (_site, _backend, gateway) = start(&format!(
        "    - {{issuer: 'https://up', jwksUri: 'http://127.0.0.1:{}/jwks'}}\n    - {{issuer: \
         'https://down', jwksUri: 'http://127.0.0.1:{dead}/jwks'}}\n",
        keys.port
    ))
    .await;
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);
    gateway.wait("keys are fetched", || {
        let ready = "portcullis_jwks_ready{issuer=\"https://up\"";
        gateway.metrics().lines().any(|line| line.starts_with(ready) && line.ends_with(" 1"))
    });
    let bearer = |issuer_name: &str| format!("Bearer {}", token(issuer(), issuer_name, |_| {}));
    let up = http.ask("http://a.com/", &[("authorization", &bearer("https://up"))]).await;
    assert_eq!(up.status, 200, "{}", up.text());
    let down = http.ask("http://a.com/", &[("authorization", &bearer("https://down"))]).await;
    assert_eq!(down.status, 401);
}

/// How many whole files the gateway keeps in its folder for state.
fn kept(site: &Site) -> usize {
    let Ok(files) = std::fs::read_dir(site.path("state/jwks")) else { return 0 };
    files.filter(|file| file.as_ref().unwrap().path().extension().unwrap() == "json").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_earlier_run_verify_tokens_while_the_issuer_is_down() {
    let keys = KeyServer::start(issuer().key_set("RS256", "k1")).await;
    let uri = format!("http://127.0.0.1:{}/jwks?secret=s3cret", keys.port);
    let rules = format!("    - {{issuer: 'https://i', jwksUri: '{uri}'}}\n");
    let (site, _backend, gateway) = start_with(&rules, &["--state", "state"]).await;
    gateway.wait("the keys are kept", || kept(&site) == 1);
    drop(gateway);
    keys.stop().await;

    let gateway = site.start_with(&[80], &["--state", "state"]);
    let ready = "portcullis_jwks_ready{issuer=\"https://i\"";
    let metrics = gateway.metrics();
    assert!(
        metrics.lines().any(|line| line.starts_with(ready) && line.ends_with(" 1")),
        "{metrics}"
    );
    let mut http = Http::plain(gateway.port(80)).await;
    let bearer = |signer| format!("Bearer {}", token(signer, "https://i", |_| {}));
    let good = http.ask("http://a.com/", &[("authorization", &bearer(issuer()))]).await;
    assert_eq!(good.status, 200, "{}", good.text());
    let bad = http.ask("http://a.com/", &[("authorization", &bearer(stranger()))]).await;
    assert_eq!((bad.status.as_u16(), bad.text()), (401, "Jwt verification fails"));
    assert!(!gateway.err().contains("s3cret"), "{}", gateway.err());

    gateway.reload(|| {
        site.config(
            "tokens",
            &format!("{RULES}    - {{issuer: 'https://i', jwksUri: '{uri}2'}}\n"),
        );
    });
    gateway.wait("keys that no rule uses are removed", || kept(&site) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_file_that_others_changed_verifies_nothing() {
    let keys = KeyServer::start(issuer().key_set("RS256", "k1")).await;
    let rules =
        format!("    - {{issuer: 'https://i', jwksUri: 'http://127.0.0.1:{}/'}}\n", keys.port);
    let (site, _backend, gateway) = start_with(&rules, &["--state", "state"]).await;
    gateway.wait("the keys are kept", || kept(&site) == 1);
    drop(gateway);
    keys.stop().await;
    let file = std::fs::read_dir(site.path("state/jwks")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{\"keys\": []}").unwrap();

    let gateway = site.start_with(&[80], &["--state", "state"]);
    gateway.tells("kept from before is not used");
    let mut http = Http::plain(gateway.port(80)).await;
    let bearer = format!("Bearer {}", token(issuer(), "https://i", |_| {}));
    let reply = http.ask("http://a.com/", &[("authorization", &bearer)]).await;
    assert_eq!(reply.status, 401);
    assert_eq!(http.get("http://a.com/").await.status, 200);
}

/// What the token's step of an explanation says, and of the rule with an issuer.
fn explained(site: &Site, issuer: &str, token: &str, arguments: &[&str]) -> (String, String) {
    let asked = ["explain", "http://a.com/", "-o", "json", "--token", token];
    let output = site.command(&[&asked, arguments].concat());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = told["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["step"] == "token").unwrap();
    let rules = step["considered"].as_array().unwrap().iter().map(|rule| rule.as_str().unwrap());
    let rule = rules.filter(|rule| rule.starts_with(issuer)).collect();
    (step["decision"].as_str().unwrap().to_owned(), rule)
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_takes_kept_keys_and_says_which_it_had() {
    let keys = KeyServer::start(issuer().key_set("RS256", "k1")).await;
    let rules = format!(
        "    - {{issuer: 'https://i', jwksUri: 'http://127.0.0.1:{}/jwks'}}\n    - {{issuer: \
         'https://inline', jwks: '{}'}}\n    - {{issuer: 'https://none', jwks: '{{\"keys\": []}}'}}\n",
        keys.port,
        issuer().key_set("RS256", "k1")
    );
    let (site, _backend, gateway) = start_with(&rules, &["--state", "state"]).await;
    gateway.wait("the keys are kept", || kept(&site) == 1);
    keys.stop().await;
    let good = token(issuer(), "https://i", |_| {});
    let live =
        gateway.admin(&format!("/explain?url=http://a.com/&header=authorization:Bearer%20{good}"));
    assert!(live.to_string().contains("1 key fetched"), "{live}");
    drop(gateway);

    let (decision, rule) = explained(&site, "https://i:", &good, &["--state", "state"]);
    assert_eq!(decision, "verified: https://i/alice");
    assert!(rule.contains("1 key kept in --state"), "{rule}");
    let forged = token(stranger(), "https://i", |_| {});
    let (decision, _) = explained(&site, "https://i:", &forged, &["--state", "state"]);
    assert_eq!(decision, "refused: Jwt verification fails");
    for arguments in [&[][..], &["--state", "off"]] {
        let (decision, rule) = explained(&site, "https://i:", &good, arguments);
        assert!(decision.starts_with("refused: "), "{decision}");
        assert!(rule.contains("not fetched here: name --state"), "{rule}");
    }
    let (_, rule) = explained(&site, "https://i:", &good, &["--state", "elsewhere"]);
    assert!(rule.contains("no keys are kept in --state"), "{rule}");
    let (_, rule) = explained(&site, "https://inline:", &good, &[]);
    assert!(rule.contains("1 key inline"), "{rule}");
    let (_, rule) = explained(&site, "https://none:", &good, &[]);
    assert!(rule.contains("no usable key"), "{rule}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_that_cannot_be_fetched_is_told_when_that_changes() {
    let port = free_port();
    let rules = format!("    - {{issuer: 'https://i', jwksUri: 'http://127.0.0.1:{port}/jwks'}}\n");
    let (_site, _backend, gateway) = start(&rules).await;
    let failures = || {
        let metrics = gateway.metrics();
        let line = metrics.lines().find(|line| line.starts_with("portcullis_jwks_failures_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    gateway.tells("a key set cannot be fetched");
    gateway.wait("it fails on", || failures() > 3);
    let told = |text: &str| gateway.err().matches(text).count();
    assert_eq!(told("a key set cannot be fetched"), 1, "{}", gateway.err());
    assert!(gateway.err().contains("no connection to"), "{}", gateway.err());
    assert_eq!(told("can be fetched again"), 0);
    let keys = KeyServer::start_at(port, issuer().key_set("RS256", "k1")).await;
    gateway.tells("a key set can be fetched again");
    let bearer = format!("Bearer {}", token(issuer(), "https://i", |_| {}));
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.ask("http://a.com/", &[("authorization", &bearer)]).await.status, 200);
    assert_eq!((keys.fetches(), told("can be fetched again")), (1, 1));
}
