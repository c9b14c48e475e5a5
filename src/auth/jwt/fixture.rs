//! Issuers for tests: fresh keys of every algorithm, their key sets and tokens.

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The algorithms a gateway verifies.
pub(crate) const ALGORITHMS: [&str; 13] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
];

/// One key of every kind.
pub(crate) struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    secret: [u8; 32],
}

/// The issuer that rules in tests trust.
pub(crate) fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(Issuer::generate)
}

/// Another issuer, with other keys.
pub(crate) fn stranger() -> &'static Issuer {
    static STRANGER: OnceLock<Issuer> = OnceLock::new();
    STRANGER.get_or_init(Issuer::generate)
}

/// Base64url without padding.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    fn generate() -> Self {
        let ec = |algorithm| EcdsaKeyPair::generate(algorithm).unwrap();
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).unwrap();
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            p521: ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            ed25519: Ed25519KeyPair::generate().unwrap(),
            secret,
        }
    }

    /// The JWK of an algorithm's key, with neither `kid` nor `alg`.
    pub(crate) fn jwk(&self, algorithm: &str) -> Value {
        let ec = |pair: &EcdsaKeyPair, curve: &str| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        };
        match algorithm {
            "ES256" => ec(&self.p256, "P-256"),
            "ES384" => ec(&self.p384, "P-384"),
            "ES512" => ec(&self.p521, "P-521"),
            "EdDSA" => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(self.ed25519.public_key())})
            }
            "HS256" | "HS384" | "HS512" => json!({"kty": "oct", "k": encode(self.secret)}),
            _ => {
                let key = self.rsa.public_key();
                let modulus = key.modulus().big_endian_without_leading_zero().to_vec();
                let exponent = key.exponent().big_endian_without_leading_zero().to_vec();
                json!({"kty": "RSA", "n": encode(modulus), "e": encode(exponent)})
            }
        }
    }

    /// A key set with one key, which carries a `kid`.
    pub(crate) fn key_set(&self, algorithm: &str, key_id: &str) -> String {
        let mut jwk = self.jwk(algorithm);
        jwk["kid"] = key_id.into();
        json!({ "keys": [jwk] }).to_string()
    }

    /// A signed token.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |padding: &'static dyn signature::RsaEncoding| {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, message, &mut out).unwrap();
            out
        };
        let ec = |pair: &EcdsaKeyPair| pair.sign(&random, message).unwrap().as_ref().to_vec();
        let mac = |algorithm| {
            hmac::sign(&hmac::Key::new(algorithm, &self.secret), message).as_ref().to_vec()
        };
        match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "ES512" => ec(&self.p521),
            "EdDSA" => self.ed25519.sign(message).as_ref().to_vec(),
            "HS256" => mac(hmac::HMAC_SHA256),
            "HS384" => mac(hmac::HMAC_SHA384),
            "HS512" => mac(hmac::HMAC_SHA512),
            _ => b"unsigned".to_vec(),
        }
    }
}
