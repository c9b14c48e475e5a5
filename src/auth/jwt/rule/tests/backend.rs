//! What a backend sees of tokens and of what they say.

use super::*;

fn applied(one: JwtRule, headers: &mut HeaderMap, path: &str) -> Option<String> {
    let authenticator = Authenticator::new(vec![one]);
    let request = RequestTokens { headers, path_and_query: path };
    let verdict = authenticator.authenticate(request, NOW, &TokenCache::none()).unwrap();
    authenticator.apply(&verdict, headers, path)
}

#[test]
fn verified_tokens_are_removed_unless_forwarded() {
    let good = token(&json!({"iss": "i"}));
    let path = format!("/p?a=1&access_token={good}&b=2");
    let mut headers = bearer(&good);
    assert_eq!(applied(rule(None), &mut headers, &path).as_deref(), Some("/p?a=1&b=2"));
    assert!(headers.is_empty());

    let mut kept = rule(None);
    kept.forward = ForwardToken::Keep;
    let mut headers = bearer(&good);
    assert_eq!(applied(kept, &mut headers, &path), None);
    assert!(headers.contains_key("authorization"));
}

#[test]
fn cookies_are_never_removed_and_other_tokens_stay() {
    let good = token(&json!({"iss": "i"}));
    let mut own = rule(None);
    own.locations = Locations::new(
        vec![HeaderLocation { name: HeaderName::from_static("x-jwt"), prefix: "".into() }],
        [""; 0],
        ["jwt"],
    );
    let mut headers = bearer("opaque");
    headers.insert("cookie", format!("jwt={good}").parse().unwrap());
    headers.insert("x-jwt", good.parse().unwrap());
    assert_eq!(applied(own, &mut headers, "/?access_token=opaque"), None);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["authorization", "cookie"]);
}

fn with_outputs() -> JwtRule {
    let output = |header, claim| ClaimHeader {
        header: HeaderName::from_static(header),
        claim: ClaimPath::dotted(claim),
    };
    JwtRule {
        payload_header: Some(HeaderName::from_static("x-payload")),
        claim_headers: vec![output("x-sub", "sub"), output("x-team", "org.team")],
        ..rule(None)
    }
}

#[test]
fn headers_that_rules_fill_never_keep_a_client_s_value() {
    let mut headers = HeaderMap::new();
    for name in ["x-payload", "x-sub", "x_sub", "x-team", "X_Team", "x-other", "x_other"] {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(&name, "forged".parse().unwrap());
        headers.append(&name, "again".parse().unwrap());
    }
    applied(with_outputs(), &mut headers, "/");
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["x-other", "x_other"]);
}

#[test]
fn payload_and_claims_are_handed_to_the_backend() {
    let good = token(&json!({"sub": "s", "org": {"name": "x"}}));
    let mut headers = bearer(&good);
    headers.insert("x-team", "forged".parse().unwrap());
    applied(with_outputs(), &mut headers, "/");
    assert_eq!(headers["x-payload"], good.split('.').nth(1).unwrap());
    assert_eq!(headers["x-sub"], "s");
    assert!(!headers.contains_key("x-team") && !headers.contains_key("authorization"));
}
