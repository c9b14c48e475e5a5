use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::jwt::fixture::{encode, issuer, stranger};
use crate::auth::jwt::{HeaderLocation, KeyState};
use crate::base::id::ResourceId;

const NOW: i64 = 1_800_000_000;

fn rule(issuer_name: Option<&str>) -> JwtRule {
    let (keys, outcome) = IssuerKeys::inline(issuer().key_set("ES256", "k").as_bytes());
    outcome.unwrap();
    JwtRule {
        issuer: issuer_name.map(Into::into),
        audiences: Audiences::default(),
        locations: Locations::default(),
        forward: ForwardToken::Remove,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: Arc::new([]),
        keys: Arc::new(keys),
        fetched: false,
        origin: Origin {
            resource: ResourceId::new("RequestAuthentication", "istio-system", "jwt"),
            file: "jwt.yaml".into(),
            line: 7,
        },
    }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers
}

fn judge(rules: Vec<JwtRule>, headers: &HeaderMap, path: &str) -> Result<Verdict, InvalidToken> {
    Authenticator::new(rules)
        .authenticate(RequestTokens { headers, path_and_query: path }, NOW, &TokenCache::none())
        .map_err(|failure| failure.reason)
}

fn token(claims: &Value) -> String {
    issuer().token(&json!({"alg": "ES256", "kid": "k"}), claims)
}

/// Status and body for one token and one rule of issuer `i` and audience `a`.
fn check(token: &str, status: u16, body: &str) {
    let mut one = rule(Some("i"));
    one.audiences = Audiences::new(["a"]);
    check_with(one, token, status, body);
}

fn check_with(one: JwtRule, token: &str, status: u16, body: &str) {
    let headers = bearer(token);
    let request = RequestTokens { headers: &headers, path_and_query: "/" };
    let failure =
        Authenticator::new(vec![one]).authenticate(request, NOW, &TokenCache::none()).unwrap_err();
    assert_eq!((failure.status().as_u16(), failure.message().as_str()), (status, body), "{token}");
    assert_eq!(failure.origin.line, 7);
    let details = format!("jwt_authn_access_denied{{{}}}", body.replace(' ', "_"));
    assert_eq!(failure.details(), details);
}

#[test]
fn each_failure_has_istio_s_status_and_body() {
    let form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    check("a.b", 401, form);
    check(&format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode("{}")), 401, form);
    check(
        &format!("{}.{}.x", encode(r#"{"alg":"none"}"#), encode("{}")),
        401,
        "Jwt header [alg] is not supported",
    );
    check("a.b.c", 401, "Jwt header is an invalid Base64url encoded");
    check("YQ.b.c", 401, "Jwt header is an invalid JSON");
    let mut early = json!({"iss": "x", "aud": "x", "nbf": NOW + 61, "exp": NOW - 61});
    check(&token(&early), 401, "Jwt issuer is not configured");
    early["iss"] = "i".into();
    check(&token(&early), 401, "Jwt not yet valid");
    early["nbf"] = (NOW + 60).into();
    check(&token(&early), 401, "Jwt is expired");
    early["exp"] = (NOW - 60).into();
    check(&token(&early), 403, "Audiences in Jwt are not allowed");
    check(&token(&json!({"iss": "i"})), 403, "Audiences in Jwt are not allowed");
    check(&token(&json!({"aud": "a"})), 401, "Jwt issuer is not configured");
    let claims = json!({"iss": "i", "aud": ["b", "a"]});
    let unknown = issuer().token(&json!({"alg": "ES256", "kid": "other"}), &claims);
    check(&unknown, 401, "Jwks doesn't have key to match kid or alg from Jwt");
    let header = json!({"alg": "ES256", "kid": "k"});
    check(&stranger().token(&header, &claims), 401, "Jwt verification fails");
    let confused = issuer().token(&json!({"alg": "HS256", "kid": "k"}), &claims);
    check(&confused, 401, "Jwt verification fails");
}

#[test]
fn missing_and_unusable_keys_refuse_tokens_only() {
    for (state, body) in [
        (KeyState::NeverFetched, "Jwt verification fails"),
        (KeyState::Unusable, "Jwks doesn't have any valid public key"),
    ] {
        let mut one = rule(Some("i"));
        one.keys = Arc::new(IssuerKeys::new(state));
        assert!(matches!(judge(vec![one.clone()], &HeaderMap::new(), "/"), Ok(Verdict::Anonymous)));
        check_with(one, &token(&json!({"iss": "i"})), 401, body);
    }
}

#[test]
fn a_missing_token_passes() {
    let none = judge(vec![rule(Some("i")), rule(None)], &HeaderMap::new(), "/?x=1");
    assert!(matches!(none, Ok(Verdict::Anonymous)));
    assert!(matches!(judge(Vec::new(), &bearer("junk"), "/"), Ok(Verdict::Anonymous)));
}

#[test]
fn a_good_token_gives_its_principal_and_claims() {
    let text = token(&json!({"iss": "https://i/", "sub": "s", "exp": NOW}));
    let Ok(Verdict::Verified(verified)) = judge(vec![rule(None)], &bearer(&text), "/") else {
        panic!("refused")
    };
    assert_eq!((verified.issuer(), verified.subject()), ("https://i/", "s"));
    assert_eq!(verified.principal.as_deref(), Some("https://i//s"));
    assert_eq!(&*verified.payload, text.split('.').nth(1).unwrap());
    let Ok(Verdict::Verified(verified)) =
        judge(vec![rule(None)], &bearer(&token(&json!({"iss": "i"}))), "/")
    else {
        panic!("refused")
    };
    assert_eq!(verified.principal, None);
}

/// Many different tokens in one request, and what one rule says.
fn check_many(count: usize, expected: Result<(), InvalidToken>) {
    let mut headers = HeaderMap::new();
    for number in 0..count {
        let text = format!("Bearer {}", token(&json!({"iss": "i", "jti": number.to_string()})));
        headers.append("authorization", text.parse().unwrap());
        headers.append("authorization", text.parse().unwrap());
    }
    assert_eq!(judge(vec![rule(Some("i"))], &headers, "/").map(drop), expected, "{count}");
}

#[test]
fn tokens_and_signature_checks_of_one_request_are_bounded() {
    check_many(limit::REQUEST_TOKENS, Ok(()));
    check_many(limit::REQUEST_TOKENS + 1, Err(InvalidToken::TooMany));
    let with = |keys: Vec<Value>| {
        let set = json!({ "keys": keys }).to_string();
        JwtRule { keys: Arc::new(IssuerKeys::inline(set.as_bytes()).0), ..rule(None) }
    };
    let mine = || with(vec![issuer().jwk("ES256")]);
    let others = |count| with(vec![stranger().jwk("ES256"); count]);
    let text = bearer(&token(&json!({"iss": "i"})));
    let few = vec![others(40), others(40), mine()];
    assert!(judge(few, &text, "/").is_ok());
    let many = vec![others(limit::REQUEST_SIGNATURES), mine()];
    assert_eq!(judge(many, &text, "/").unwrap_err(), InvalidToken::Signature);
}

type Told = Result<Option<(usize, String)>, InvalidToken>;

fn told(authenticator: &Authenticator, headers: &HeaderMap, now: i64, cache: &TokenCache) -> Told {
    let request = RequestTokens { headers, path_and_query: "/" };
    match authenticator.authenticate(request, now, cache) {
        Ok(Verdict::Anonymous) => Ok(None),
        Ok(Verdict::Verified(token)) => Ok(Some((token.rule, format!("{token:?}")))),
        Err(failure) => Err(failure.reason),
    }
}

#[test]
fn a_token_that_comes_again_costs_no_signature_check() {
    let (one, text) = (rule(Some("i")), token(&json!({"iss": "i"})));
    let judged = |cache: &TokenCache, mut checks: usize| {
        let mut seen = Seen { tokens: SmallVec::new(), checks };
        let seen = seen.token(text.as_str().into()).unwrap();
        one.accept(seen, NOW, cache, &mut checks).map(|_| checks)
    };
    let cache = TokenCache::default();
    assert_eq!(judged(&cache, 0), Err(InvalidToken::TooMany));
    assert_eq!(judged(&cache, 1), Ok(0));
    assert_eq!(judged(&cache, 0), Ok(0));
    assert_eq!(judged(&TokenCache::none(), 0), Err(InvalidToken::TooMany));
}

#[test]
fn a_cached_token_is_judged_anew_in_all_but_its_signature() {
    let mut narrow = rule(Some("i"));
    narrow.audiences = Audiences::new(["a"]);
    let wide = rule(Some("i"));
    let text = bearer(&token(&json!({"iss": "i", "sub": "s", "aud": "b", "exp": NOW})));
    let cache = TokenCache::default();
    let wide = Authenticator::new(vec![wide.clone()]);
    for _ in 0..2 {
        assert!(told(&wide, &text, NOW, &cache).is_ok());
    }
    assert_eq!(told(&wide, &text, NOW + 61, &cache), Err(InvalidToken::Expired));
    let narrow = Authenticator::new(vec![narrow]);
    assert_eq!(told(&narrow, &text, NOW, &cache), Err(InvalidToken::AudienceNotAllowed));
    let other = Authenticator::new(vec![rule(Some("j"))]);
    assert_eq!(told(&other, &text, NOW, &cache), Err(InvalidToken::IssuerUnknown));
}

#[test]
fn a_cached_token_is_refused_once_its_key_is_gone() {
    let one = rule(Some("i"));
    let keys = Arc::clone(&one.keys);
    let authenticator = Authenticator::new(vec![one]);
    let (text, cache) = (bearer(&token(&json!({"iss": "i"}))), TokenCache::default());
    assert!(told(&authenticator, &text, NOW, &cache).is_ok());
    let set = |from: &crate::auth::jwt::fixture::Issuer| {
        crate::auth::jwt::KeySet::parse(from.key_set("ES256", "k").as_bytes()).unwrap()
    };
    keys.publish(KeyState::Ready(set(stranger())));
    assert_eq!(told(&authenticator, &text, NOW, &cache), Err(InvalidToken::Signature));
    keys.publish(KeyState::Unusable);
    assert_eq!(told(&authenticator, &text, NOW, &cache), Err(InvalidToken::KeysUnusable));
    keys.publish(KeyState::Ready(set(issuer())));
    assert!(told(&authenticator, &text, NOW, &cache).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_are_a_proof(
        value in proptest::collection::vec(any::<u8>(), 0..200), path in "[ -~]{0,80}"
    ) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", &*value].concat()) {
            headers.append("authorization", value);
        }
        let verdict = judge(vec![rule(None), rule(Some("i"))], &headers, &format!("/?access_token={path}"));
        prop_assert!(!matches!(verdict, Ok(Verdict::Verified(_))));
    }

    #[test]
    fn a_cache_changes_no_verdict(
        asked in proptest::collection::vec((0..6_usize, 0..6_usize, 0..200_i64), 1..30)
    ) {
        static TOKENS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
        let tokens = TOKENS.get_or_init(|| {
            let claims = json!({"iss": "i", "sub": "s", "aud": "a", "exp": NOW});
            let header = json!({"alg": "ES256", "kid": "k"});
            let unknown = json!({"alg": "ES256", "kid": "x"});
            vec![
                issuer().token(&header, &claims),
                issuer().token(&header, &json!({"iss": "j", "aud": ["b"], "nbf": NOW + 100})),
                stranger().token(&header, &claims),
                issuer().token(&unknown, &claims),
                issuer().token(&json!({"alg": "HS256", "kid": "k"}), &claims),
                "x.y.z".to_owned(),
            ]
        });
        let mut narrow = rule(Some("i"));
        narrow.audiences = Audiences::new(["a"]);
        let authenticator = Authenticator::new(vec![narrow, rule(Some("j")), rule(None)]);
        let cache = TokenCache::default();
        for (first, second, later) in asked {
            let mut headers = bearer(&tokens[first]);
            if first != second {
                let value = format!("Bearer {}", tokens[second]);
                headers.append("authorization", value.parse().unwrap());
            }
            let now = NOW - 50 + later;
            let alone = told(&authenticator, &headers, now, &TokenCache::none());
            prop_assert_eq!(told(&authenticator, &headers, now, &cache), alone);
        }
    }
}

#[test]
fn audiences_are_compared_without_scheme_and_slash() {
    let allows = |own: &str, sent: Value| {
        let mut one = rule(None);
        one.audiences = Audiences::new([own]);
        judge(vec![one], &bearer(&token(&json!({"aud": sent}))), "/").is_ok()
    };
    assert!(allows("https://a.example/", json!("a.example")));
    assert!(allows("a.example", json!(["x", "http://a.example/"])));
    assert!(!allows("a.example", json!("a.example//")));
    assert!(!allows("a.example", json!("ftp://a.example")));
    assert!(!allows("a.example", json!([])));
    assert!(!allows("a.example", json!("A.example")));
}

#[test]
fn any_rule_may_accept() {
    let text = bearer(&token(&json!({"iss": "b", "sub": "s"})));
    let Ok(Verdict::Verified(verified)) = judge(vec![rule(Some("a")), rule(Some("b"))], &text, "/")
    else {
        panic!("refused")
    };
    assert_eq!(verified.rule, 1);
}

#[test]
fn an_unknown_issuer_is_the_least_telling_failure() {
    let expired = bearer(&token(&json!({"iss": "b", "exp": 1})));
    let rules = || vec![rule(Some("a")), rule(Some("b")), rule(Some("c"))];
    assert_eq!(judge(rules(), &expired, "/").unwrap_err(), InvalidToken::Expired);
    let unknown = bearer(&token(&json!({"iss": "x"})));
    assert_eq!(judge(rules(), &unknown, "/").unwrap_err(), InvalidToken::IssuerUnknown);
}

#[test]
fn one_bad_token_among_several_refuses() {
    let good = token(&json!({"iss": "i"}));
    let both = format!("/?access_token={good}");
    assert!(judge(vec![rule(Some("i"))], &bearer(&good), &both).is_ok());
    assert_eq!(
        judge(vec![rule(Some("i"))], &bearer(&good), "/?access_token=x").unwrap_err(),
        InvalidToken::Form
    );
    let mut twice = bearer(&good);
    twice.append("authorization", "Bearer x".parse().unwrap());
    assert_eq!(judge(vec![rule(Some("i"))], &twice, "/").unwrap_err(), InvalidToken::Form);
}

#[test]
fn tokens_are_cut_from_logged_paths() {
    let authenticator = Authenticator::new(vec![rule(None)]);
    assert_eq!(authenticator.loggable("/a?access_token=x&b=1"), "/a?b=1");
    assert_eq!(authenticator.loggable("/a?b=1"), "/a?b=1");
}

#[test]
fn only_whole_preflights_need_no_token() {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, HeaderValue::from_static("https://a"));
    assert!(!is_preflight(&Method::OPTIONS, &headers));
    headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
    assert!(is_preflight(&Method::OPTIONS, &headers));
    assert!(!is_preflight(&Method::GET, &headers));
}

mod backend;
