//! Why a token was refused, and the answer each reason gets.
//!
//! **Invariant:** status, text and gRPC code are total functions of the reason; no text depends on
//! what the client sent.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode};

use crate::base::id::Origin;

/// What is wrong with a token, in the order in which it is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidToken {
    /// Not three non-empty segments, or longer than [`crate::base::limit::TOKEN_BYTES`].
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    /// The header segment is not base64url.
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderEncoding,
    /// The header is not a JSON object.
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    /// `alg` is missing or not a string.
    #[error("Jwt header [alg] field is required and must be a string")]
    AlgorithmMissing,
    /// `alg` is none of the supported ones; `none` is among the unsupported.
    #[error("Jwt header [alg] is not supported")]
    AlgorithmUnknown,
    /// `kid` is not a string.
    #[error("Jwt header [kid] field is not a string")]
    KeyIdType,
    /// The payload segment is not base64url.
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadEncoding,
    /// The payload is not a JSON object.
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    /// `iss` is not a string.
    #[error("Jwt payload [iss] field is not a string")]
    IssuerType,
    /// `sub` is not a string.
    #[error("Jwt payload [sub] field is not a string")]
    SubjectType,
    /// `iat` is not a number.
    #[error("Jwt payload [iat] field is not an integer")]
    IssuedAtType,
    /// `iat` is negative or too large.
    #[error("Jwt payload [iat] field is not a positive 64 bit integer")]
    IssuedAtRange,
    /// `nbf` is not a number.
    #[error("Jwt payload [nbf] field is not an integer")]
    NotBeforeType,
    /// `nbf` is negative or too large.
    #[error("Jwt payload [nbf] field is not a positive 64 bit integer")]
    NotBeforeRange,
    /// `exp` is not a number.
    #[error("Jwt payload [exp] field is not an integer")]
    ExpiryType,
    /// `exp` is negative or too large.
    #[error("Jwt payload [exp] field is not a positive 64 bit integer")]
    ExpiryRange,
    /// `jti` is not a string.
    #[error("Jwt payload [jti] field is not a string")]
    TokenIdType,
    /// `aud` is neither a string nor a list of strings.
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudienceType,
    /// The signature segment is not base64url.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureEncoding,
    /// `iss` is not the rule's issuer.
    #[error("Jwt issuer is not configured")]
    IssuerUnknown,
    /// `nbf` lies in the future.
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// `exp` lies in the past.
    #[error("Jwt is expired")]
    Expired,
    /// `aud` shares nothing with the rule's audiences.
    #[error("Audiences in Jwt are not allowed")]
    AudienceNotAllowed,
    /// The issuer's keys were never had.
    #[error("Jwt verification fails")]
    KeysMissing,
    /// The issuer's key set holds no key that can be used.
    #[error("Jwks doesn't have any valid public key")]
    KeysUnusable,
    /// No key has the token's `kid` and `alg`.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    KeyUnknown,
    /// No fitting key made this signature.
    #[error("Jwt verification fails")]
    Signature,
    /// More than [`crate::base::limit::REQUEST_TOKENS`] tokens in one request, or more than
    /// [`crate::base::limit::REQUEST_SIGNATURES`] signature checks for it.
    #[error("Jwt verification fails")]
    TooMany,
}

impl InvalidToken {
    /// Status of the answer: 403 for the audience, else 401.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Reason code for the access log and metrics: one for each thing that somebody has to do.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Form
            | Self::HeaderEncoding
            | Self::HeaderJson
            | Self::PayloadEncoding
            | Self::PayloadJson
            | Self::SignatureEncoding => "jwt_malformed",
            Self::AlgorithmMissing | Self::AlgorithmUnknown => "jwt_algorithm_unsupported",
            Self::KeyIdType
            | Self::IssuerType
            | Self::SubjectType
            | Self::IssuedAtType
            | Self::IssuedAtRange
            | Self::NotBeforeType
            | Self::NotBeforeRange
            | Self::ExpiryType
            | Self::ExpiryRange
            | Self::TokenIdType
            | Self::AudienceType => "jwt_field_invalid",
            Self::IssuerUnknown => "jwt_issuer_unknown",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::Expired => "jwt_expired",
            Self::AudienceNotAllowed => "jwt_audience_not_allowed",
            Self::KeysMissing => "jwt_keys_not_available",
            Self::KeysUnusable => "jwt_keys_unusable",
            Self::KeyUnknown => "jwt_key_unknown",
            Self::Signature => "jwt_signature_invalid",
            Self::TooMany => "jwt_too_many",
        }
    }

    /// gRPC status of the answer: 7 (permission denied) for the audience, else 16 (unauthenticated).
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::AudienceNotAllowed => 7,
            _ => 16,
        }
    }
}

/// A refused request: the reason and the rule that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtFailure {
    /// What is wrong with the token.
    pub reason: InvalidToken,
    /// Place of the rule among the pooled rules.
    pub rule: usize,
    /// Where the rule is written (`RequestAuthentication.spec.jwtRules[]`).
    pub origin: Origin,
}

impl JwtFailure {
    /// Status of the answer.
    pub const fn status(&self) -> StatusCode {
        self.reason.status()
    }

    /// Body of the answer, `text/plain`.
    pub fn message(&self) -> String {
        self.reason.to_string()
    }

    /// Response code details of the access log: `jwt_authn_access_denied{Jwt_is_expired}`.
    pub fn details(&self) -> String {
        format!("jwt_authn_access_denied{{{}}}", self.message().replace(' ', "_"))
    }
}

/// Value of `www-authenticate` for a refused token (RFC 6750, section 3).
///
/// The realm is the address of the request, its path and query cut to 256 bytes, as Envoy has it. It
/// goes to the client and to whatever logs answers, so give it [`super::Authenticator::loggable`]'s
/// path. Bytes that are not legal in a quoted string are percent-encoded.
pub fn challenge(scheme: &str, authority: &str, path_and_query: &str) -> HeaderValue {
    let path = path_and_query.as_bytes();
    let path = path.get(..REALM_PATH_BYTES).unwrap_or(path);
    let authority = authority.as_bytes();
    let authority = authority.get(..REALM_PATH_BYTES).unwrap_or(authority);
    let value = format!(
        "Bearer realm=\"{scheme}://{}{}\", error=\"invalid_token\"",
        quotable(authority),
        quotable(path)
    );
    HeaderValue::try_from(value)
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"invalid_token\""))
}

fn quotable(bytes: &[u8]) -> Cow<'_, str> {
    percent_encoding::percent_encode(bytes, NOT_QUOTABLE).into()
}

/// Controls, the quote and the backslash; bytes above ASCII are always encoded.
const NOT_QUOTABLE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'"').add(b'\\');

/// Envoy's bound for the path in a realm.
const REALM_PATH_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_realm_is_cut_and_always_a_legal_quoted_string() {
        assert_eq!(
            challenge("https", "a.example.com", "/x?y=1"),
            "Bearer realm=\"https://a.example.com/x?y=1\", error=\"invalid_token\""
        );
        let long = challenge("http", "a", &"/é".repeat(300));
        let text = long.to_str().unwrap();
        assert!(text.ends_with("\", error=\"invalid_token\""), "{text}");
        assert!(text.len() < 1000);
        assert_eq!(
            challenge("http", "a", "/\"\\\r\nx"),
            "Bearer realm=\"http://a/%22%5C%0D%0Ax\", error=\"invalid_token\""
        );
    }

    #[test]
    fn causes_have_codes_of_their_own() {
        for (reason, code) in [
            (InvalidToken::Form, "jwt_malformed"),
            (InvalidToken::AlgorithmUnknown, "jwt_algorithm_unsupported"),
            (InvalidToken::ExpiryType, "jwt_field_invalid"),
            (InvalidToken::IssuerUnknown, "jwt_issuer_unknown"),
            (InvalidToken::NotYetValid, "jwt_not_yet_valid"),
            (InvalidToken::Expired, "jwt_expired"),
            (InvalidToken::AudienceNotAllowed, "jwt_audience_not_allowed"),
            (InvalidToken::KeysMissing, "jwt_keys_not_available"),
            (InvalidToken::KeysUnusable, "jwt_keys_unusable"),
            (InvalidToken::KeyUnknown, "jwt_key_unknown"),
            (InvalidToken::Signature, "jwt_signature_invalid"),
            (InvalidToken::TooMany, "jwt_too_many"),
        ] {
            assert_eq!(reason.code(), code);
        }
    }

    #[test]
    fn only_the_audience_is_forbidden() {
        assert_eq!(InvalidToken::AudienceNotAllowed.status(), 403);
        assert_eq!(InvalidToken::AudienceNotAllowed.grpc_status(), 7);
        assert_eq!(InvalidToken::Expired.status(), 401);
        assert_eq!(InvalidToken::Expired.grpc_status(), 16);
    }
}
