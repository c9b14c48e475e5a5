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

proptest! {
    #[test]
    fn any_document_is_read_without_panic(text in ".{0,200}", field in "[a-z]{1,4}") {
        let _ = KeySet::parse(text.as_bytes());
        let mut jwk = issuer().jwk("RS256");
        jwk[&field] = text.into();
        let _ = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
    }
}
