//! Key sets (RFC 7517): the keys an issuer signs with, read once and ready to verify.
//!
//! **Invariant:** a key verifies only algorithms of its own type and curve, so a public key is never
//! used as an HMAC secret; key material cannot be printed.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::failure::InvalidToken;
use super::token::{Token, TokenAlgorithm};
use crate::base::hash::Fingerprint;
use crate::base::limit;

/// A document that is not a usable key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    /// Longer than [`limit::JWKS_BYTES`].
    #[error("the key set has {0} bytes, more than {max} are refused", max = limit::JWKS_BYTES)]
    TooLarge(usize),
    /// Not JSON, or JSON that is no object.
    #[error("the key set is not a JSON object; write {{\"keys\": [...]}}")]
    Json,
    /// No `keys` list.
    #[error("the key set has no list \"keys\"; write {{\"keys\": [...]}}")]
    NoKeys,
    /// None of its keys can be used; holds why for each.
    #[error("the key set has no usable public key; {} skipped", .0.len())]
    NoUsableKey(Vec<SkippedKey>),
}

/// A key of a set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Place in the `keys` list, from 0.
    pub index: usize,
    /// Why it is not used.
    pub reason: UnusableKey,
}

/// Why a key is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableKey {
    /// The entry is not an object, or a field has the wrong type.
    #[error("a field is missing or has the wrong type")]
    Malformed,
    /// `kty` is none of RSA, EC, OKP, oct.
    #[error("the key type is not one of \"RSA\", \"EC\", \"OKP\", \"oct\"")]
    Type,
    /// `crv` is none of P-256, P-384, P-521, Ed25519.
    #[error("the curve is not one of \"P-256\", \"P-384\", \"P-521\", \"Ed25519\"")]
    Curve,
    /// `alg` names no algorithm that a key of this type and curve can verify.
    #[error("\"alg\" does not fit the key's type")]
    Algorithm,
    /// `use` is not `sig`.
    #[error("the key is not for signatures")]
    Use,
    /// RSA outside of 2048 to 8192 bits.
    #[error("RSA keys need 2048 to 8192 bits")]
    Size,
    /// Not a point of its curve, or an empty secret.
    #[error("the key's value is not valid")]
    Value,
    /// A secret in a document that is fetched.
    #[error("a published secret is no secret")]
    PublishedSecret,
    /// Past [`limit::JWKS_KEYS`].
    #[error("only the first {max} keys are used", max = limit::JWKS_KEYS)]
    TooMany,
}

/// The usable keys of an issuer, in the order of the document.
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
    holds_private_key: bool,
    fingerprint: Fingerprint,
}

struct Key {
    id: Option<Box<str>>,
    algorithm: Option<Box<str>>,
    material: Material,
}

enum Material {
    /// RSA, Ed25519 or a secret: any algorithm of its family.
    Family(DecodingKey),
    /// A curve that goes with exactly one algorithm.
    Curve(Algorithm, DecodingKey),
    P521(ParsedPublicKey),
}

impl KeySet {
    /// Reads a key set that is written down (`RequestAuthentication.spec.jwtRules[].jwks`).
    pub fn parse(json: &[u8]) -> Result<Self, InvalidKeySet> {
        Self::read(json, |_| true)
    }

    /// Reads a key set that was fetched: public keys alone.
    pub fn parse_published(json: &[u8]) -> Result<Self, InvalidKeySet> {
        Self::read(json, |key| !key.is_secret())
    }

    fn read(json: &[u8], allows: impl Fn(&Key) -> bool) -> Result<Self, InvalidKeySet> {
        if json.len() > limit::JWKS_BYTES {
            return Err(InvalidKeySet::TooLarge(json.len()));
        }
        let document: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_| InvalidKeySet::Json)?;
        let list = document.get("keys").and_then(Value::as_array).ok_or(InvalidKeySet::NoKeys)?;
        let mut set = Self {
            keys: Vec::new(),
            skipped: Vec::new(),
            holds_private_key: false,
            fingerprint: Fingerprint::of(json),
        };
        for (index, entry) in list.iter().enumerate() {
            if index >= limit::JWKS_KEYS {
                set.skipped.push(SkippedKey { index, reason: UnusableKey::TooMany });
                break;
            }
            set.holds_private_key |= entry.get("d").is_some();
            match Key::parse(entry) {
                Ok(key) if allows(&key) => set.keys.push(key),
                Ok(_) => {
                    set.skipped.push(SkippedKey { index, reason: UnusableKey::PublishedSecret });
                }
                Err(reason) => set.skipped.push(SkippedKey { index, reason }),
            }
        }
        if set.keys.is_empty() {
            return Err(InvalidKeySet::NoUsableKey(set.skipped));
        }
        Ok(set)
    }

    /// Number of usable keys; at least one.
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// Keys that are not used, and why.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Whether a key has a private part: it should never have been published.
    pub fn holds_private_key(&self) -> bool {
        self.holds_private_key
    }

    /// SHA-256 of the document: two sets with the same one verify the same tokens.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether no key has the token's `kid`, so that a newer set may hold it. A published set holds no
    /// secrets, so it is not looked for with an HMAC.
    pub(super) fn lacks(&self, token: &Token<'_>) -> bool {
        let has = |id| self.keys.iter().any(|key| key.id.as_ref() == Some(id));
        !token.algorithm.is_hmac() && token.key_id.as_ref().is_some_and(|id| !has(id))
    }

    /// Tries every key that fits the token's `kid` and `alg`; takes each try from `checks`.
    pub(super) fn verify(&self, token: &Token<'_>, checks: &mut usize) -> Result<(), InvalidToken> {
        let mut failure = InvalidToken::KeyUnknown;
        for key in self.keys.iter().filter(|key| key.is_meant_for(token)) {
            failure = InvalidToken::Signature;
            if !key.material.fits(token.algorithm) {
                continue;
            }
            *checks = checks.checked_sub(1).ok_or(InvalidToken::TooMany)?;
            if key.material.verify(token) {
                return Ok(());
            }
        }
        Err(failure)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|key| key.id.as_deref()).collect();
        f.debug_struct("KeySet")
            .field("ids", &ids)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl Key {
    fn parse(entry: &Value) -> Result<Self, UnusableKey> {
        let fields = entry.as_object().ok_or(UnusableKey::Malformed)?;
        let id = text(fields, "kid")?;
        let algorithm = text(fields, "alg")?;
        if text(fields, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Err(UnusableKey::Use);
        }
        let (material, algorithms): (_, &[&str]) = match text(fields, "kty")? {
            Some("RSA") => (rsa(fields)?, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
            Some("EC") => match text(fields, "crv")? {
                Some("P-256") => (p256(fields)?, &["ES256"]),
                Some("P-384") => (p384(fields)?, &["ES384"]),
                Some("P-521") => (p521(fields)?, &["ES512"]),
                _ => return Err(UnusableKey::Curve),
            },
            Some("OKP") => match text(fields, "crv")? {
                Some("Ed25519") => (ed25519(fields)?, &["EdDSA"]),
                _ => return Err(UnusableKey::Curve),
            },
            Some("oct") => (secret(fields)?, &["HS256", "HS384", "HS512"]),
            _ => return Err(UnusableKey::Type),
        };
        if algorithm.is_some_and(|name| !algorithms.contains(&name)) {
            return Err(UnusableKey::Algorithm);
        }
        Ok(Self { id: id.map(Into::into), algorithm: algorithm.map(Into::into), material })
    }

    fn is_secret(&self) -> bool {
        self.material.fits(TokenAlgorithm::Known(Algorithm::HS256))
    }

    fn is_meant_for(&self, token: &Token<'_>) -> bool {
        let id_fits = match (&self.id, &token.key_id) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        id_fits && self.algorithm.as_ref().is_none_or(|own| *own == token.algorithm_name)
    }
}

impl Material {
    fn fits(&self, algorithm: TokenAlgorithm) -> bool {
        match (self, algorithm) {
            (Self::Family(key), TokenAlgorithm::Known(algorithm)) => {
                key.family().algorithms().contains(&algorithm)
            }
            (Self::Curve(own, _), TokenAlgorithm::Known(algorithm)) => *own == algorithm,
            (Self::P521(_), TokenAlgorithm::Es512) => true,
            (Self::P521(_), TokenAlgorithm::Known(_))
            | (Self::Family(_) | Self::Curve(..), TokenAlgorithm::Es512) => false,
        }
    }

    /// Checks a signature of an algorithm that fits.
    fn verify(&self, token: &Token<'_>) -> bool {
        match (self, token.algorithm) {
            (Self::Family(key) | Self::Curve(_, key), TokenAlgorithm::Known(algorithm)) => {
                is_signed_with(token, key, algorithm)
            }
            (Self::P521(key), TokenAlgorithm::Es512) => URL_SAFE_NO_PAD
                .decode(token.signature())
                .is_ok_and(|signature| key.verify_sig(token.signed(), &signature).is_ok()),
            (Self::P521(_), TokenAlgorithm::Known(_))
            | (Self::Family(_) | Self::Curve(..), TokenAlgorithm::Es512) => false,
        }
    }
}

fn is_signed_with(token: &Token<'_>, key: &DecodingKey, algorithm: Algorithm) -> bool {
    jsonwebtoken::crypto::verify(token.signature(), token.signed(), key, algorithm).unwrap_or(false)
}

/// A text field; an empty one counts as none.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, UnusableKey> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(UnusableKey::Malformed),
    }
}

fn bytes(fields: &Map<String, Value>, name: &str) -> Result<Vec<u8>, UnusableKey> {
    let encoded = text(fields, name)?.ok_or(UnusableKey::Malformed)?;
    let engine = if encoded.ends_with('=') { &URL_SAFE } else { &URL_SAFE_NO_PAD };
    engine.decode(encoded).map_err(|_| UnusableKey::Malformed)
}

fn rsa(fields: &Map<String, Value>) -> Result<Material, UnusableKey> {
    let (modulus, exponent) = (bytes(fields, "n")?, bytes(fields, "e")?);
    let modulus = without_leading_zeros(&modulus);
    let exponent = without_leading_zeros(&exponent);
    let unused_bits = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&(modulus.len() * 8 - unused_bits)) {
        return Err(UnusableKey::Size);
    }
    if exponent.is_empty() || exponent == [1] || exponent.len() > 8 {
        return Err(UnusableKey::Value);
    }
    Ok(Material::Family(DecodingKey::from_rsa_raw_components(modulus, exponent)))
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

fn p256(fields: &Map<String, Value>) -> Result<Material, UnusableKey> {
    let (point, _) = point(fields, &ECDSA_P256_SHA256_FIXED, 32)?;
    Ok(Material::Curve(Algorithm::ES256, DecodingKey::from_ec_der(&point)))
}

fn p384(fields: &Map<String, Value>) -> Result<Material, UnusableKey> {
    let (point, _) = point(fields, &ECDSA_P384_SHA384_FIXED, 48)?;
    Ok(Material::Curve(Algorithm::ES384, DecodingKey::from_ec_der(&point)))
}

fn p521(fields: &Map<String, Value>) -> Result<Material, UnusableKey> {
    let (_, key) = point(fields, &ECDSA_P521_SHA512_FIXED, 66)?;
    Ok(Material::P521(key))
}

/// The uncompressed point, proven to lie on the curve.
fn point(
    fields: &Map<String, Value>,
    curve: &'static EcdsaVerificationAlgorithm,
    coordinate_bytes: usize,
) -> Result<(Vec<u8>, ParsedPublicKey), UnusableKey> {
    let mut point = vec![UNCOMPRESSED_POINT];
    for name in ["x", "y"] {
        let coordinate = bytes(fields, name)?;
        let missing = coordinate_bytes.checked_sub(coordinate.len()).ok_or(UnusableKey::Value)?;
        point.resize(point.len() + missing, 0);
        point.extend(coordinate);
    }
    let key = ParsedPublicKey::new(curve, &point).map_err(|_| UnusableKey::Value)?;
    Ok((point, key))
}

fn ed25519(fields: &Map<String, Value>) -> Result<Material, UnusableKey> {
    let x = bytes(fields, "x")?;
    if x.len() != 32 {
        return Err(UnusableKey::Value);
    }
    Ok(Material::Family(DecodingKey::from_ed_der(&x)))
}

fn secret(fields: &Map<String, Value>) -> Result<Material, UnusableKey> {
    Ok(Material::Family(DecodingKey::from_secret(&bytes(fields, "k")?)))
}

/// First byte of a point with both coordinates (SEC 1, section 2.3.3).
const UNCOMPRESSED_POINT: u8 = 4;

#[cfg(test)]
mod tests;
