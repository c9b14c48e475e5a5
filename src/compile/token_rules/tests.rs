use serde_json::json;

use super::*;
use crate::auth::jwt::fixture::issuer;
use crate::compile::fixture;

/// A rule in, the compiled one, its sources and the codes out.
fn compile(rule: &str) -> (JwtRule, Vec<JwksSource>, Vec<&'static str>) {
    let spec = format!("spec: {{jwtRules: [{rule}]}}");
    let set = fixture::set("RequestAuthentication", &["{name: a, namespace: edge}", &spec]);
    let policy = &set.request_authentications[0];
    let (mut findings, mut sources) = (Findings::default(), Vec::new());
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let field = "spec.jwtRules[0]".to_owned();
    let settings = fixture::settings();
    let services = Services::new(&set, &settings, &mut findings);
    let services = (&services, &*settings.namespace);
    let (sources_so_far, findings_so_far) = (&mut sources, &mut findings);
    let pass = RulePass {
        policy,
        field,
        keys: &keys,
        services,
        sources: sources_so_far,
        findings: findings_so_far,
    };
    let rule = pass.compile(&policy.spec.jwt_rules[0]);
    (rule, sources, fixture::codes(findings))
}

/// The state of a rule's keys and the codes.
fn check(rule: &str, state: &str, codes: &[&str]) {
    let (compiled, _, found) = compile(rule);
    let shown = match &**compiled.keys.current() {
        KeyState::Ready(keys) => format!("{} keys", keys.usable()),
        KeyState::NeverFetched => "to fetch".to_owned(),
        KeyState::Unusable => "unusable".to_owned(),
    };
    assert_eq!((&*shown, &*found), (state, codes), "{rule}");
    assert_eq!(compiled.issuer.as_deref(), Some("https://x"), "{rule}");
}

fn inline(jwks: &str) -> String {
    format!("{{issuer: \"https://x\", jwks: '{jwks}'}}")
}

#[test]
fn keys_are_inline_or_fetched_or_discovered() {
    check(&inline(&issuer().key_set("ES256", "k")), "1 keys", &[]);
    check("{issuer: \"https://x\", jwksUri: \"http://y/k\"}", "to fetch", &[]);
    check("{issuer: \"https://x\", jwksUri: \"HTTPS://y/k\"}", "to fetch", &[]);
    check("{issuer: \"https://x\"}", "to fetch", &[]);
    let (_, sources, _) = compile("{issuer: \"https://x\", timeout: 2s}");
    let location = KeyLocation::Discovery { issuer: "https://x".into() };
    let timeout = std::time::Duration::from_secs(2);
    let issuer = "https://x".into();
    assert_eq!(sources, [JwksSource { issuer, location, timeout, endpoints: None }]);
}

#[test]
fn addresses_that_nothing_can_be_fetched_from_are_told() {
    for uri in
        ["http://host:99999/k", "http://", "https://[::1/k", "https://h h/k", "https://u:p@h/k"]
    {
        let rule = format!("{{issuer: \"https://x\", jwksUri: \"{uri}\"}}");
        check(&rule, "unusable", &["PC050"]);
        assert_eq!(compile(&rule).1, []);
    }
    let (rule, sources, codes) = compile("{issuer: \"https://x:99999\"}");
    assert!(matches!(&**rule.keys.current(), KeyState::Unusable));
    assert_eq!((sources, codes), (Vec::new(), vec!["PC050"]));
}

/// A service at port 8443 and the address of a key set in; its declared places out.
fn check_declared(service: &str, uri: &str, expected: &[&str]) {
    let service = format!("spec: {{ports: [{{number: 8443, name: p, protocol: TLS}}], {service}}}");
    let policy = format!("spec: {{jwtRules: [{{issuer: x, jwksUri: \"{uri}\"}}]}}");
    let set = fixture::set_of(&[
        ("networking.istio.io/v1", "ServiceEntry", "{name: s, namespace: edge}", &service),
        ("security.istio.io/v1", "RequestAuthentication", "{name: a, namespace: edge}", &policy),
    ]);
    let settings = fixture::settings();
    let (mut findings, mut sources) = (Findings::default(), Vec::new());
    let services = Services::new(&set, &settings, &mut findings);
    let policy = &set.request_authentications[0];
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    RulePass {
        policy,
        field: "spec.jwtRules[0]".to_owned(),
        keys: &keys,
        services: (&services, &settings.namespace),
        sources: &mut sources,
        findings: &mut findings,
    }
    .compile(&policy.spec.jwt_rules[0]);
    let endpoints = sources[0].endpoints.as_ref();
    let places = endpoints.iter().flat_map(|declared| declared.places.iter());
    let places: Vec<_> = places.map(|(host, port)| format!("{host} {port}")).collect();
    assert_eq!(places, expected, "{service} {uri}");
}

#[test]
fn an_issuer_is_where_a_service_entry_says() {
    let listed = "hosts: [I.internal], resolution: STATIC, endpoints: [{address: 10.0.0.1, \
                  ports: {p: 1}}, {address: \"fd00::1\"}]";
    check_declared(listed, "https://i.internal:8443/k", &["10.0.0.1 1", "fd00::1 8443"]);
    check_declared(listed, "https://i.internal/k", &[]);
    check_declared(listed, "https://j.internal:8443/k", &[]);
    let named = "hosts: [i.internal], resolution: DNS, endpoints: [{address: real.example}]";
    check_declared(named, "https://i.internal:8443/k", &["real.example 8443"]);
    let none = "hosts: [i.internal], resolution: STATIC";
    check_declared(none, "https://i.internal:8443/k", &[]);
}

#[test]
fn inline_keys_win_over_an_address() {
    let jwks = issuer().key_set("ES256", "k");
    let rule = format!("{{issuer: \"https://x\", jwksUri: \"https://y\", jwks: '{jwks}'}}");
    let (_, sources, _) = compile(&rule);
    assert!(sources.is_empty());
    check(&rule, "1 keys", &[]);
}

#[test]
fn keys_that_cannot_be_used_fail_closed() {
    check(&inline("nonsense"), "unusable", &["PC050"]);
    check(&inline("{\"keys\": []}"), "unusable", &["PC050"]);
    check(&inline("{\"keys\": [{\"kty\": \"RSA\"}]}"), "unusable", &["PC050"]);
    let (rule, _, codes) = compile("{issuer: someone}");
    assert!(matches!(**rule.keys.current(), KeyState::Unusable));
    assert_eq!(codes, ["PC050"]);
}

#[test]
fn a_key_that_is_left_out_beside_a_usable_one_is_told() {
    let keys = json!({"keys": [{"kty": "x"}, issuer().jwk("ES256")]}).to_string();
    check(&inline(&keys), "1 keys", &["PC050"]);
}

#[test]
fn a_rule_with_a_part_that_cannot_be_used_has_no_key() {
    for part in [
        "audience: [a]",
        "fromHeaders: [{name: a, prefx: x}]",
        "outputPayloadToHeader: \"a b\"",
        "outputPayloadToHeader: Transfer-Encoding",
        "outputClaimToHeaders: [{header: host, claim: a}]",
    ] {
        check(&format!("{{issuer: \"https://x\", {part}}}"), "unusable", &["PC051"]);
    }
}

#[test]
fn every_field_is_carried_over() {
    let (rule, _, codes) = compile(
        "{issuer: \"https://x\", audiences: [a], fromHeaders: [{name: X-T, prefix: \"T \"}], \
         fromParams: [p], fromCookies: [c], forwardOriginalToken: true, outputPayloadToHeader: \
         x-p, outputClaimToHeaders: [{header: x-s, claim: a.b}], spaceDelimitedClaims: [s]}",
    );
    let headers =
        vec![HeaderLocation { name: HeaderName::from_static("x-t"), prefix: "T ".into() }];
    assert_eq!(rule.locations, Locations::new(headers, ["p"], ["c"]));
    assert_eq!(rule.audiences, Audiences::new(["a"]));
    assert_eq!(rule.forward, ForwardToken::Keep);
    assert_eq!(rule.payload_header, Some(HeaderName::from_static("x-p")));
    assert_eq!(rule.claim_headers[0].claim, ClaimPath::dotted("a.b"));
    assert_eq!(&*rule.space_delimited, ["s".into()]);
    assert_eq!(codes, [] as [&str; 0]);
    assert_eq!(rule.origin.line, 4);
}
