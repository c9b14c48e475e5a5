//! A token issuer to try things with: one key made at the start, and whatever claims are asked for.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::json;

use crate::base::claim::Claims;

const KEY_ID: &str = "trial";
/// How long a token is good for, in seconds, unless its claims say otherwise.
const LIFE: i64 = 3600;

/// Signs tokens.
pub(super) struct Issuer {
    key: EncodingKey,
    key_set: String,
}

impl Issuer {
    /// An issuer with a new P-256 key.
    pub(super) fn new() -> anyhow::Result<Self> {
        let pair = KeyPair::generate().context("no key for the token issuer")?;
        // The point as SEC 1 writes it: 4, x, y (section 2.3.3).
        let (x, y) = pair
            .der_bytes()
            .split_first()
            .and_then(|(_, point)| point.split_at_checked(point.len() / 2))
            .context("no public key for the token issuer")?;
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": encode(x), "y": encode(y),
        });
        Ok(Self {
            key: EncodingKey::from_ec_der(pair.serialized_der()),
            key_set: json!({ "keys": [jwk] }).to_string(),
        })
    }

    /// The key set (RFC 7517, section 5).
    pub(super) fn key_set(&self) -> &str {
        &self.key_set
    }

    /// A token with these claims at `now` (Unix seconds); `iat` and `exp` are added where absent.
    pub(super) fn sign(&self, claims: &Claims, now: i64) -> anyhow::Result<String> {
        let mut claims = claims.clone();
        claims.entry("iat").or_insert_with(|| now.into());
        claims.entry("exp").or_insert_with(|| now.saturating_add(LIFE).into());
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::*;

    #[test]
    fn tokens_verify_with_the_key_set_and_hold_what_was_asked_for() {
        let issuer = Issuer::new().unwrap();
        let keys: JwkSet = serde_json::from_str(issuer.key_set()).unwrap();
        let key = DecodingKey::from_jwk(keys.find(KEY_ID).unwrap()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["shop"]);
        rules.set_issuer(&["https://a.com"]);
        let now = crate::app::unix_seconds();
        let check = |claims: Value| {
            let token = issuer.sign(claims.as_object().unwrap(), now).unwrap();
            jsonwebtoken::decode::<Value>(&token, &key, &rules).map(|read| read.claims)
        };
        let claims = check(json!({"iss": "https://a.com", "aud": "shop", "sub": "bob"})).unwrap();
        assert_eq!((&claims["sub"], &claims["exp"]), (&"bob".into(), &(now + LIFE).into()));
        let old = json!({"iss": "https://a.com", "aud": "shop", "exp": now - 600});
        assert!(check(old).is_err());
    }
}
