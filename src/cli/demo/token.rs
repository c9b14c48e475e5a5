//! Tokens of the demo's issuer, by what a query asks for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::base::claim::Claims;
use crate::cli::issuer::Issuer;

/// The issuer that `gateways/shop/tokens.yaml` trusts.
const ISSUER: &str = "https://issuer.example.com";

/// A token at `now` (Unix seconds); claims are taken from the query, `seconds` is its life.
pub(super) fn token(issuer: &Issuer, query: &str, now: i64) -> anyhow::Result<String> {
    let mut asked: BTreeMap<&str, &str> =
        query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let life: Option<i64> = asked.remove("seconds").and_then(|text| text.parse().ok());
    let mut claims: Claims = [("iss", ISSUER), ("aud", "shop"), ("sub", "alice")]
        .into_iter()
        .chain(asked)
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    if let Some(life) = life {
        claims.insert("exp".to_owned(), now.saturating_add(life).into());
    }
    issuer.sign(&claims, now)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn claims_and_life_are_those_of_the_query() {
        let issuer = Issuer::new().unwrap();
        let check = |query: &str, claim: &str, expected: Value| {
            let token = token(&issuer, query, 1000).unwrap();
            let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
            let claims: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(claims[claim], expected, "{query}");
        };
        check("", "sub", "alice".into());
        check("sub=bob&seconds=60", "sub", "bob".into());
        check("sub=bob&seconds=60", "exp", 1060.into());
        check("seconds=-600", "exp", 400.into());
    }
}
