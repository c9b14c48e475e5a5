//! A token taken apart: segments, header and registered claims, checked in Envoy's order.
//!
//! **Invariant:** parsing is bounded by [`limit::TOKEN_BYTES`] and proves nothing about the
//! signature; only [`super::keys::KeySet::verify`] does.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::failure::InvalidToken;
use super::json;
use crate::base::claim::Claims;
use crate::base::limit;

/// The signature algorithms of RFC 7518 that tokens may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenAlgorithm {
    /// One that `jsonwebtoken` verifies.
    Known(jsonwebtoken::Algorithm),
    /// ECDSA on P-521 with SHA-512.
    Es512,
}

impl TokenAlgorithm {
    pub(super) fn is_hmac(self) -> bool {
        use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
        matches!(self, Self::Known(HS256 | HS384 | HS512))
    }

    fn parse(name: &str) -> Option<Self> {
        use jsonwebtoken::Algorithm;
        Some(Self::Known(match name {
            "RS256" => Algorithm::RS256,
            "RS384" => Algorithm::RS384,
            "RS512" => Algorithm::RS512,
            "PS256" => Algorithm::PS256,
            "PS384" => Algorithm::PS384,
            "PS512" => Algorithm::PS512,
            "ES256" => Algorithm::ES256,
            "ES384" => Algorithm::ES384,
            "ES512" => return Some(Self::Es512),
            "EdDSA" => Algorithm::EdDSA,
            "HS256" => Algorithm::HS256,
            "HS384" => Algorithm::HS384,
            "HS512" => Algorithm::HS512,
            _ => return None,
        }))
    }
}

/// A well-formed token whose signature has not been looked at. It cannot be printed.
pub(super) struct Token<'a> {
    text: Cow<'a, str>,
    signature_start: usize,
    pub(super) algorithm: TokenAlgorithm,
    /// `alg` as written.
    pub(super) algorithm_name: Box<str>,
    /// `kid`; an empty one counts as none.
    pub(super) key_id: Option<Box<str>>,
    pub(super) content: Content,
}

/// What a token says. Cloning it copies no text.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) claims: Arc<Claims>,
    /// `iss/sub`, when it has both.
    pub(super) principal: Option<Arc<str>>,
    /// Payload segment, base64url without padding.
    pub(super) payload: Arc<str>,
    /// `nbf` in Unix seconds; 0 when absent.
    not_before: u64,
    /// `exp` in Unix seconds; 0 when absent.
    expires: u64,
}

impl<'a> Token<'a> {
    /// Takes a token apart and checks the types of its fields.
    pub(super) fn parse(text: Cow<'a, str>) -> Result<Self, InvalidToken> {
        let (payload_start, signature_start) = segments(&text).ok_or(InvalidToken::Form)?;
        let segment = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        let header = object(
            segment(0, payload_start - 1),
            InvalidToken::HeaderEncoding,
            InvalidToken::HeaderJson,
        )?;
        let algorithm_name =
            header.get("alg").and_then(Value::as_str).ok_or(InvalidToken::AlgorithmMissing)?;
        let algorithm =
            TokenAlgorithm::parse(algorithm_name).ok_or(InvalidToken::AlgorithmUnknown)?;
        let key_id = optional_text(&header, "kid", InvalidToken::KeyIdType)?;
        let content = Content::parse(segment(payload_start, signature_start - 1))?;
        URL_SAFE_NO_PAD
            .decode(segment(signature_start, text.len()))
            .map_err(|_| InvalidToken::SignatureEncoding)?;
        Ok(Self {
            signature_start,
            algorithm,
            algorithm_name: algorithm_name.into(),
            key_id: key_id.filter(|id| !id.is_empty()).map(Into::into),
            content,
            text,
        })
    }

    /// The bytes that are signed: header and payload with the dot between.
    pub(super) fn signed(&self) -> &[u8] {
        self.text.as_bytes().get(..self.signature_start - 1).unwrap_or_default()
    }

    /// Signature segment, base64url without padding.
    pub(super) fn signature(&self) -> &str {
        self.text.get(self.signature_start..).unwrap_or_default()
    }
}

impl Content {
    fn parse(payload: &str) -> Result<Self, InvalidToken> {
        let claims = object(payload, InvalidToken::PayloadEncoding, InvalidToken::PayloadJson)?;
        let issuer = optional_text(&claims, "iss", InvalidToken::IssuerType)?;
        let subject = optional_text(&claims, "sub", InvalidToken::SubjectType)?;
        seconds(&claims, "iat", InvalidToken::IssuedAtType, InvalidToken::IssuedAtRange)?;
        let not_before =
            seconds(&claims, "nbf", InvalidToken::NotBeforeType, InvalidToken::NotBeforeRange)?;
        let expires = seconds(&claims, "exp", InvalidToken::ExpiryType, InvalidToken::ExpiryRange)?;
        optional_text(&claims, "jti", InvalidToken::TokenIdType)?;
        audiences(&claims)?;
        let both = issuer.zip(subject).filter(|(iss, sub)| !iss.is_empty() && !sub.is_empty());
        let principal = both.map(|(issuer, subject)| format!("{issuer}/{subject}").into());
        let payload = payload.into();
        Ok(Self { principal, payload, not_before, expires, claims: Arc::new(claims) })
    }

    /// `iss`; empty when absent.
    pub(super) fn issuer(&self) -> &str {
        self.claims.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// `aud`, a single one or each of a list.
    pub(super) fn audiences(&self) -> impl Iterator<Item = &str> {
        audience_values(&self.claims).iter().filter_map(Value::as_str)
    }

    /// Checks `nbf` and `exp` against the clock (`now` in Unix seconds).
    pub(super) fn check_time(&self, now: i64) -> Result<(), InvalidToken> {
        let now = u64::try_from(now).unwrap_or_default();
        if self.not_before > now.saturating_add(CLOCK_SKEW_SECONDS) {
            Err(InvalidToken::NotYetValid)
        } else if self.expires != 0 && now > self.expires.saturating_add(CLOCK_SKEW_SECONDS) {
            Err(InvalidToken::Expired)
        } else {
            Ok(())
        }
    }
}

/// Starts of the second and third segment, when there are three and none is empty.
fn segments(text: &str) -> Option<(usize, usize)> {
    if text.len() > limit::TOKEN_BYTES {
        return None;
    }
    let mut dots = memchr::memchr_iter(b'.', text.as_bytes());
    let (first, second) = (dots.next()?, dots.next()?);
    let whole = first > 0 && second > first + 1 && second + 1 < text.len();
    (dots.next().is_none() && whole).then_some((first + 1, second + 1))
}

fn object(
    segment: &str,
    encoding: InvalidToken,
    not_json: InvalidToken,
) -> Result<Claims, InvalidToken> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).map_err(|_| encoding)?;
    json::object(&bytes).ok_or(not_json)
}

fn optional_text<'a>(
    object: &'a Claims,
    name: &str,
    wrong: InvalidToken,
) -> Result<Option<&'a str>, InvalidToken> {
    object.get(name).map(|value| value.as_str().ok_or(wrong)).transpose()
}

/// A time in whole seconds; fractions are cut, as Envoy does.
fn seconds(
    claims: &Claims,
    name: &str,
    wrong_type: InvalidToken,
    out_of_range: InvalidToken,
) -> Result<u64, InvalidToken> {
    let Some(value) = claims.get(name) else {
        return Ok(0);
    };
    let number = value.as_number().ok_or(wrong_type)?;
    if let Some(whole) = number.as_u64() {
        return Ok(whole);
    }
    let fraction = number.as_f64().ok_or(out_of_range)?;
    if !(0.0..TWO_TO_64).contains(&fraction) {
        return Err(out_of_range);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    Ok(fraction as u64)
}

fn audiences(claims: &Claims) -> Result<(), InvalidToken> {
    let list = match claims.get("aud") {
        None => return Ok(()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(single) => std::slice::from_ref(single),
    };
    if list.iter().all(Value::is_string) { Ok(()) } else { Err(InvalidToken::AudienceType) }
}

fn audience_values(claims: &Claims) -> &[Value] {
    match claims.get("aud") {
        None => &[],
        Some(Value::Array(list)) => list,
        Some(single) => std::slice::from_ref(single),
    }
}

/// Envoy's tolerance for clocks, both ways.
const CLOCK_SKEW_SECONDS: u64 = 60;

/// 2 to the power of 64.
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn check(header: &str, payload: &str, expected: Result<(), InvalidToken>) {
        let text = format!("{}.{}.c2ln", encode(header), encode(payload));
        assert_eq!(Token::parse(text.into()).map(drop), expected, "{header} {payload}");
    }

    fn check_text(text: &str, expected: InvalidToken) {
        assert_eq!(Token::parse(text.into()).map(drop), Err(expected), "{text}");
    }

    #[test]
    fn three_non_empty_segments_are_demanded() {
        let many = ".".repeat(limit::TOKEN_BYTES);
        for text in ["", ".", "..", "a", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "a.b.c.", &many]
        {
            check_text(text, InvalidToken::Form);
        }
        let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode("{}"));
        check_text(&unsigned, InvalidToken::Form);
        check_text(&format!("a.{}.c", "b".repeat(limit::TOKEN_BYTES)), InvalidToken::Form);
    }

    #[test]
    fn segments_must_be_base64url_without_padding() {
        let header = encode(r#"{"alg":"RS256"}"#);
        let payload = encode("{}");
        check_text(&format!("+.{payload}.c2ln"), InvalidToken::HeaderEncoding);
        check_text(&format!("{header}=.{payload}.c2ln"), InvalidToken::HeaderEncoding);
        check_text(&format!("{header}.é.c2ln"), InvalidToken::PayloadEncoding);
        check_text(&format!("{header}.{payload}.c"), InvalidToken::SignatureEncoding);
    }

    #[test]
    fn header_fields_are_checked_in_order() {
        check("[]", "{}", Err(InvalidToken::HeaderJson));
        check("{", "{}", Err(InvalidToken::HeaderJson));
        check("\u{0}", "{}", Err(InvalidToken::HeaderJson));
        check(r#"{"alg":"ES512","alg":"ES512"}"#, "{}", Err(InvalidToken::HeaderJson));
        check(r#"{"alg":"ES512"}"#, r#"{"iss":"a","iss":"b"}"#, Err(InvalidToken::PayloadJson));
        check("{}", "{", Err(InvalidToken::AlgorithmMissing));
        check(r#"{"alg":1}"#, "{}", Err(InvalidToken::AlgorithmMissing));
        for name in ["none", "None", "rs256", "", "ES256K", "HS1"] {
            let header = format!(r#"{{"alg":"{name}","kid":1}}"#);
            check(&header, "{", Err(InvalidToken::AlgorithmUnknown));
        }
        check(r#"{"alg":"ES512","kid":1}"#, "{", Err(InvalidToken::KeyIdType));
        check(r#"{"alg":"ES512","kid":null}"#, "{", Err(InvalidToken::KeyIdType));
        check(r#"{"alg":"ES512","kid":""}"#, "{}", Ok(()));
    }

    #[test]
    fn claims_of_the_wrong_type_are_named() {
        let head = r#"{"alg":"RS256"}"#;
        check(head, "1", Err(InvalidToken::PayloadJson));
        check(head, &"[".repeat(5000), Err(InvalidToken::PayloadJson));
        for (claim, reason) in [
            (r#""iss":1"#, InvalidToken::IssuerType),
            (r#""sub":{}"#, InvalidToken::SubjectType),
            (r#""iat":"1""#, InvalidToken::IssuedAtType),
            (r#""iat":-1"#, InvalidToken::IssuedAtRange),
            (r#""nbf":null"#, InvalidToken::NotBeforeType),
            (r#""nbf":-0.5"#, InvalidToken::NotBeforeRange),
            (r#""exp":[]"#, InvalidToken::ExpiryType),
            (r#""exp":1e300"#, InvalidToken::ExpiryRange),
            (r#""jti":1"#, InvalidToken::TokenIdType),
            (r#""aud":1"#, InvalidToken::AudienceType),
            (r#""aud":["a",1]"#, InvalidToken::AudienceType),
        ] {
            check(head, &format!("{{{claim}}}"), Err(reason));
        }
        check(head, r#"{"exp":1.5,"iat":0,"nbf":18446744073709551615,"aud":["a"]}"#, Ok(()));
    }

    fn check_time(payload: &str, now: i64, expected: Result<(), InvalidToken>) {
        let text = format!("{}.{}.c2ln", encode(r#"{"alg":"RS256"}"#), encode(payload));
        let token = Token::parse(text.into()).unwrap();
        assert_eq!(token.content.check_time(now), expected, "{payload} {now}");
    }

    #[test]
    fn clocks_may_differ_by_a_minute() {
        check_time(r#"{"exp":1000}"#, 1060, Ok(()));
        check_time(r#"{"exp":1000}"#, 1061, Err(InvalidToken::Expired));
        check_time(r#"{"nbf":1000}"#, 940, Ok(()));
        check_time(r#"{"nbf":1000}"#, 939, Err(InvalidToken::NotYetValid));
        check_time(r#"{"exp":0,"nbf":0}"#, i64::MAX, Ok(()));
        check_time("{}", i64::MIN, Ok(()));
        check_time(r#"{"exp":18446744073709551615}"#, i64::MAX, Ok(()));
        check_time(
            r#"{"nbf":18446744073709551615,"exp":1}"#,
            i64::MAX,
            Err(InvalidToken::NotYetValid),
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in ".{0,200}") {
            let _ = Token::parse(text.into());
        }

        #[test]
        fn any_json_is_parsed_without_panic(header in ".{0,60}", payload in ".{0,60}") {
            let text = format!(
                "{}.{}.c2ln",
                encode(&format!(r#"{{"alg":"RS256",{header}}}"#)),
                encode(&format!(r#"{{"exp":{payload}}}"#))
            );
            let _ = Token::parse(text.into());
        }
    }
}
