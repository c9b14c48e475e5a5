use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auth::jwt::fixture::{ALGORITHMS, encode, issuer, stranger};

fn verify(set: &str, token: &str) -> Result<(), InvalidToken> {
    let token = Token::parse(token.into()).unwrap();
    KeySet::parse(set.as_bytes()).unwrap().verify(&token, &mut 100)
}

fn check(set: &str, header: &Value, expected: Result<(), InvalidToken>) {
    let token = issuer().token(header, &json!({"iss": "i"}));
    assert_eq!(verify(set, &token), expected, "{header}");
}

#[test]
fn every_algorithm_verifies_with_its_own_key() {
    for algorithm in ALGORITHMS {
        let set = issuer().key_set(algorithm, "k");
        check(&set, &json!({"alg": algorithm}), Ok(()));
        check(&set, &json!({"alg": algorithm, "kid": "k"}), Ok(()));
        check(&set, &json!({"alg": algorithm, "kid": ""}), Ok(()));
        check(&set, &json!({"alg": algorithm, "kid": "x"}), Err(InvalidToken::KeyUnknown));
    }
}

#[test]
fn a_stranger_s_key_verifies_nothing() {
    for algorithm in ALGORITHMS {
        let set = stranger().key_set(algorithm, "k");
        check(&set, &json!({"alg": algorithm}), Err(InvalidToken::Signature));
    }
}

#[test]
fn a_key_of_another_type_verifies_nothing() {
    for key in ALGORITHMS {
        for algorithm in ALGORITHMS {
            let same = issuer().jwk(key) == issuer().jwk(algorithm);
            let expected = if same { Ok(()) } else { Err(InvalidToken::Signature) };
            check(&issuer().key_set(key, "k"), &json!({"alg": algorithm}), expected);
        }
    }
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let jwk = issuer().jwk("RS256");
    let set = json!({ "keys": [jwk] }).to_string();
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for secret in [modulus.as_slice(), set.as_bytes()] {
        let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode("{}"));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let mac = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        let token = format!("{signed}.{}", encode(mac));
        assert_eq!(verify(&set, &token), Err(InvalidToken::Signature));
    }
}

#[test]
fn a_key_s_own_alg_must_be_the_token_s() {
    let mut jwk = issuer().jwk("RS256");
    jwk["alg"] = "RS512".into();
    let set = json!({ "keys": [jwk] }).to_string();
    check(&set, &json!({"alg": "RS512"}), Ok(()));
    check(&set, &json!({"alg": "RS256"}), Err(InvalidToken::KeyUnknown));
}

#[test]
fn all_fitting_keys_are_tried() {
    let keys = [stranger().jwk("ES256"), issuer().jwk("RS256"), issuer().jwk("ES256")];
    check(&json!({ "keys": keys }).to_string(), &json!({"alg": "ES256"}), Ok(()));
}

#[test]
fn only_real_checks_are_counted_and_they_end() {
    let mut keys = vec![stranger().jwk("ES256"); 5];
    keys.insert(0, issuer().jwk("RS256"));
    keys.push(issuer().jwk("ES256"));
    let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    let token = issuer().token(&json!({"alg": "ES256"}), &json!({}));
    let token = Token::parse(token.into()).unwrap();
    for (allowed, expected) in [(6, Ok(())), (5, Err(InvalidToken::TooMany))] {
        let mut checks = allowed;
        assert_eq!((set.verify(&token, &mut checks), checks), (expected, 0));
    }
}

#[test]
fn a_changed_byte_breaks_the_signature() {
    let token = issuer().token(&json!({"alg": "ES256"}), &json!({"sub": "a"}));
    let forged = token.replace(&encode(r#"{"sub":"a"}"#), &encode(r#"{"sub":"b"}"#));
    assert_ne!(token, forged);
    assert_eq!(verify(&issuer().key_set("ES256", "k"), &forged), Err(InvalidToken::Signature));
}

fn check_skipped(change: impl Fn(&mut Value), algorithm: &str, reason: UnusableKey) {
    let mut jwk = issuer().jwk(algorithm);
    change(&mut jwk);
    let alone = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
    let skipped = vec![SkippedKey { index: 0, reason }];
    assert_eq!(alone.unwrap_err(), InvalidKeySet::NoUsableKey(skipped), "{jwk}");
    let among = json!({"keys": [issuer().jwk("ES256"), jwk]}).to_string();
    let set = KeySet::parse(among.as_bytes()).unwrap();
    assert_eq!((set.usable(), set.skipped()), (1, &[SkippedKey { index: 1, reason }][..]));
}

#[test]
fn unusable_keys_are_skipped_with_a_reason() {
    check_skipped(|key| *key = json!(1), "RS256", UnusableKey::Malformed);
    check_skipped(|key| key["kid"] = json!(1), "RS256", UnusableKey::Malformed);
    check_skipped(|key| key["n"] = json!("+"), "RS256", UnusableKey::Malformed);
    check_skipped(|key| key["n"] = json!(encode([255; 128])), "RS256", UnusableKey::Size);
    check_skipped(|key| key["n"] = json!(encode([255; 1025])), "RS256", UnusableKey::Size);
    check_skipped(|key| key["e"] = json!(encode([1])), "RS256", UnusableKey::Value);
    check_skipped(|key| key["kty"] = json!("DH"), "RS256", UnusableKey::Type);
    check_skipped(|key| key["use"] = json!("enc"), "RS256", UnusableKey::Use);
    check_skipped(|key| key["alg"] = json!("ES256"), "RS256", UnusableKey::Algorithm);
    check_skipped(|key| key["alg"] = json!("HS256"), "RS256", UnusableKey::Algorithm);
    check_skipped(|key| key["crv"] = json!("secp256k1"), "ES256", UnusableKey::Curve);
    check_skipped(|key| key["x"] = json!(encode([1; 32])), "ES256", UnusableKey::Value);
    check_skipped(|key| key["x"] = json!(encode([1; 33])), "ES256", UnusableKey::Value);
    check_skipped(|key| key["crv"] = json!("X25519"), "EdDSA", UnusableKey::Curve);
    check_skipped(|key| key["x"] = json!(encode([1; 31])), "EdDSA", UnusableKey::Value);
    check_skipped(|key| key["k"] = json!(""), "HS256", UnusableKey::Malformed);
}

#[test]
fn a_published_secret_is_not_used() {
    let secret = issuer().key_set("HS256", "k");
    assert!(KeySet::parse(secret.as_bytes()).is_ok());
    let skipped = SkippedKey { index: 0, reason: UnusableKey::PublishedSecret };
    let refused = KeySet::parse_published(secret.as_bytes()).unwrap_err();
    assert_eq!(refused, InvalidKeySet::NoUsableKey(vec![skipped]));
    for algorithm in ALGORITHMS.iter().filter(|name| !name.starts_with("HS")) {
        let set = issuer().key_set(algorithm, "k");
        assert!(KeySet::parse_published(set.as_bytes()).is_ok(), "{algorithm}");
    }
}

#[test]
fn documents_that_are_no_key_sets_are_told_apart() {
    let refused = |json: &str| KeySet::parse(json.as_bytes()).unwrap_err();
    assert_eq!(refused("{"), InvalidKeySet::Json);
    assert_eq!(refused("[]"), InvalidKeySet::Json);
    assert_eq!(refused("<html>"), InvalidKeySet::Json);
    assert_eq!(refused("{}"), InvalidKeySet::NoKeys);
    assert_eq!(refused(r#"{"keys":{}}"#), InvalidKeySet::NoKeys);
    assert_eq!(refused(r#"{"keys":[]}"#), InvalidKeySet::NoUsableKey(Vec::new()));
    let large = " ".repeat(limit::JWKS_BYTES + 1);
    assert_eq!(refused(&large), InvalidKeySet::TooLarge(limit::JWKS_BYTES + 1));
}

#[test]
fn keys_past_the_limit_are_left_out() {
    let keys = vec![issuer().jwk("EdDSA"); limit::JWKS_KEYS + 5];
    let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    assert_eq!(set.usable(), limit::JWKS_KEYS);
    assert_eq!(set.skipped()[0].reason, UnusableKey::TooMany);
}

#[test]
fn private_keys_are_noticed() {
    let mut jwk = issuer().jwk("ES256");
    let holds = |jwk: &Value| {
        let set = json!({ "keys": [jwk] }).to_string();
        KeySet::parse(set.as_bytes()).unwrap().holds_private_key()
    };
    assert!(!holds(&jwk));
    jwk["d"] = "AA".into();
    assert!(holds(&jwk));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[A-Za-z0-9_-]{0,90}".prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-z]{1,3}", inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn any_jwk() -> impl Strategy<Value = Value> {
    let known = |names: &'static [&'static str]| {
        proptest::option::of(proptest::sample::select(names).prop_map(Value::from))
    };
    let kind =
        (known(&["RSA", "EC", "OKP", "oct"]), known(&["P-256", "P-384", "P-521", "Ed25519"]));
    let names = &["kty", "crv", "alg", "use", "kid", "n", "e", "x", "y", "k", "d"][..];
    let fields = proptest::collection::hash_map(proptest::sample::select(names), any_json(), 0..9);
    (kind, fields).prop_map(|((kty, crv), fields)| {
        let mut jwk: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        jwk.extend(kty.map(|kty| ("kty".to_owned(), kty)));
        jwk.extend(crv.map(|crv| ("crv".to_owned(), crv)));
        jwk.into()
    })
}

proptest! {
    #[test]
    fn any_key_is_read_without_panic_and_verifies_nobody(
        keys in proptest::collection::vec(any_jwk(), 0..4), at in 0..ALGORITHMS.len()
    ) {
        static TOKENS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
        let tokens = TOKENS.get_or_init(|| {
            let token = |name: &&str| issuer().token(&json!({"alg": name}), &json!({}));
            ALGORITHMS.iter().map(token).collect()
        });
        let document = json!({ "keys": keys }).to_string();
        for set in [KeySet::parse(document.as_bytes()), KeySet::parse_published(document.as_bytes())] {
            let Ok(set) = set else { continue };
            prop_assert!(set.usable() + set.skipped().len() == keys.len());
            let token = Token::parse(tokens[at].as_str().into()).unwrap();
            prop_assert!(set.verify(&token, &mut 100).is_err());
        }
    }

    #[test]
    fn any_changed_token_is_refused(
        at in 0..ALGORITHMS.len(), place in any::<proptest::sample::Index>(), to in 0x21_u8..0x7f
    ) {
        static TOKENS: std::sync::OnceLock<Vec<(KeySet, String)>> = std::sync::OnceLock::new();
        let tokens = TOKENS.get_or_init(|| {
            let one = |name: &&str| {
                let set = KeySet::parse(issuer().key_set(name, "k").as_bytes()).unwrap();
                (set, issuer().token(&json!({"alg": name, "kid": "k"}), &json!({"sub": "alice"})))
            };
            ALGORITHMS.iter().map(one).collect()
        });
        let (set, token) = &tokens[at];
        let mut changed = token.clone().into_bytes();
        changed[place.index(token.len())] = to;
        let changed = String::from_utf8(changed).unwrap();
        let verdict = Token::parse(changed.as_str().into()).and_then(|t| set.verify(&t, &mut 100));
        prop_assert_eq!(verdict.is_ok(), changed == *token, "{}", changed);
    }

    #[test]
    fn any_document_is_read_without_panic(text in ".{0,200}", field in "[a-z]{1,4}") {
        let _ = KeySet::parse(text.as_bytes());
        let mut jwk = issuer().jwk("RS256");
        jwk[&field] = text.into();
        let _ = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
    }
}
