//! Tokens that prove an identity, and those that do not.

use serde_json::json;

use super::*;
use crate::auth::jwt::fixture::{issuer, stranger};
use crate::resources::ConfigFile;

const NOW: i64 = 1_000_000;

fn callers() -> TokenCallers {
    let (keys, outcome) = IssuerKeys::inline(issuer().key_set("ES256", "k").as_bytes());
    outcome.unwrap();
    let audiences = ["istio-ca".to_owned()];
    let tokens = KubernetesTokens::new(Some("https://kubernetes"), &audiences, Arc::new(keys));
    TokenCallers { trust_domain: "td".to_owned(), kubernetes: Some(tokens) }
}

fn claims() -> Value {
    json!({
        "iss": "https://kubernetes",
        "aud": ["istio-ca"],
        "exp": NOW + 600,
        "sub": "system:serviceaccount:shop:cart",
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart", "uid": "1"}},
    })
}

fn with(name: &str, value: &Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
        value => claims[name] = value.clone(),
    }
    claims
}

fn token(claims: &Value) -> String {
    issuer().token(&json!({"alg": "ES256", "kid": "k"}), claims)
}

fn identify(callers: &TokenCallers, values: &[&str]) -> Result<String, RefusedCaller> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, value.parse().unwrap());
    }
    let digest = Fingerprint::of(b"join-token");
    let text = format!("tokens: [{{sha256: {digest}, namespace: edge, serviceAccount: gw}}]");
    let file = ConfigFile { path: "w".into(), bytes: text.as_bytes().into() };
    let workloads = Workloads::parse(&file, "td").unwrap();
    let found = callers.identify(&headers, &workloads, NOW);
    found.map(|(id, caller)| format!("{id} by {caller}"))
}

fn check(claims: &Value, said: &str) {
    let outcome = identify(&callers(), &[&format!("Bearer {}", token(claims))]);
    let shown = outcome.unwrap_or_else(|refused| refused.to_string());
    assert!(shown.contains(said), "{claims}: {shown}");
}

#[test]
fn a_service_account_is_who_its_token_says() {
    check(&claims(), "spiffe://td/ns/shop/sa/cart by service-account token");
    check(&with("kubernetes.io", &Value::Null), "spiffe://td/ns/shop/sa/cart");
}

#[test]
fn tokens_of_others_and_for_others_are_refused() {
    check(&with("iss", &json!("https://evil")), "not accepted");
    check(&with("aud", &json!(["kubernetes"])), "not accepted");
    check(&with("aud", &Value::Null), "not accepted");
    check(&with("exp", &json!(NOW - 61)), "not accepted");
    check(&with("nbf", &json!(NOW + 61)), "not accepted");
    check(&with("exp", &Value::Null), "never expires");
    check(&with("exp", &json!(0.5)), "never expires");
    check(&with("sub", &Value::Null), "\"sub\"");
    check(&with("sub", &json!("alice")), "\"sub\"");
    check(&with("sub", &json!("system:serviceaccount:shop")), "\"sub\"");
    check(&with("sub", &json!("system:serviceaccount:shop:a:b")), "differ");
    check(&with("sub", &json!("system:serviceaccount:other:cart")), "differ");
    check(&with("kubernetes.io", &json!({"serviceaccount": {"name": "admin"}})), "differ");
    let mut reaching = with("sub", &json!("system:serviceaccount:shop/sa/admin:x"));
    reaching.as_object_mut().unwrap().remove("kubernetes.io");
    check(&reaching, "no SPIFFE id");
    let forged = stranger().token(&json!({"alg": "ES256", "kid": "k"}), &claims());
    let outcome = identify(&callers(), &[&format!("Bearer {forged}")]);
    assert!(matches!(outcome, Err(RefusedCaller::Token(_))), "{outcome:?}");
}

#[test]
fn join_tokens_are_enough_by_themselves() {
    let none = TokenCallers { trust_domain: "td".to_owned(), kubernetes: None };
    for callers in [callers(), none] {
        let found = identify(&callers, &["Bearer join-token"]);
        assert_eq!(found.as_deref(), Ok("spiffe://td/ns/edge/sa/gw by join token"));
        assert!(matches!(identify(&callers, &["Bearer other"]), Err(RefusedCaller::Token(_))));
    }
}

#[test]
fn one_bearer_token_is_demanded_and_never_repeated() {
    let callers = callers();
    let no_token = Err(RefusedCaller::NoToken);
    assert_eq!(identify(&callers, &[]), no_token);
    assert_eq!(identify(&callers, &["Bearer "]), no_token);
    assert_eq!(identify(&callers, &["Basic join-token"]), no_token);
    assert_eq!(identify(&callers, &["Bearer join-token", "Bearer join-token"]), no_token);
    let long = format!("Bearer {}", "a".repeat(limit::TOKEN_BYTES + 1));
    assert_eq!(identify(&callers, &[&long]), no_token);
    let refused = identify(&callers, &["Bearer hunter2"]).unwrap_err();
    assert!(!refused.to_string().contains("hunter2"), "{refused}");
}
