//! Key sets as an issuer publishes them: none makes a token good that everybody can sign.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use portcullis::auth::jwt::{KeySet, TokenCache};
use serde_json::{Value, json};

use super::fixture::{encode, issuer};
use super::jwt::{authenticator, verifies};

pub fn seeds() -> Vec<Vec<u8>> {
    let kinds = ["RS256", "ES256", "ES384", "ES512", "EdDSA", "HS256"];
    let one = kinds.map(|kind| issuer().key_set(kind, "k"));
    let all = json!({"keys": kinds.map(|kind| issuer().jwk(kind))}).to_string();
    let odd = [
        r#"{"keys":[{"kty":"oct","k":""}]}"#,
        r#"{"keys":[{"kty":"oct","k":"AAAA","alg":"HS256"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#,
        r#"{"keys":[]}"#,
        "[]",
    ];
    one.into_iter().chain([all]).map(String::into_bytes).chain(odd.map(Into::into)).collect()
}

pub fn run(data: &[u8]) {
    let Some(authenticator) = authenticator(data) else { return };
    let published = KeySet::parse_published(data).unwrap();
    let written = KeySet::parse(data).unwrap();
    assert!(published.usable() <= written.usable());
    assert_eq!(
        published.usable() + published.skipped().len(),
        written.usable() + written.skipped().len()
    );
    let mut secrets = vec![data.to_vec(), Vec::new()];
    if let Ok(document) = serde_json::from_slice(data) {
        collect(&document, &mut secrets);
    }
    for secret in secrets.iter().take(24) {
        let verified = verifies(&authenticator, signed(secret).as_bytes(), &TokenCache::none());
        assert!(!verified, "{}", String::from_utf8_lossy(data));
    }
}

/// Every text of the document, as it stands and decoded.
fn collect(value: &Value, out: &mut Vec<Vec<u8>>) {
    match value {
        Value::String(text) => {
            out.push(text.as_bytes().to_vec());
            let decoded = [&URL_SAFE, &URL_SAFE_NO_PAD].map(|engine| engine.decode(text));
            out.extend(decoded.into_iter().flatten());
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, out)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, out)),
        _ => {}
    }
}

fn signed(secret: &[u8]) -> String {
    let claims = json!({"iss": "https://issuer", "sub": "mallory", "exp": 4_000_000_000_u64});
    let head = encode(json!({"alg": "HS256"}).to_string());
    let signed = format!("{head}.{}", encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(tag))
}
