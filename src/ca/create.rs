//! A root and a signing certificate of one's own.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::authority::AuthorityError;
use crate::base::secret::Secret;

/// A CA certificate and its key, PEM; the key is ECDSA P-256.
#[derive(Debug)]
pub struct NewAuthority {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: Secret<String>,
}

/// Makes a root for a trust domain, good for ten years.
pub fn create_root(
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<NewAuthority, AuthorityError> {
    let params = params(trust_domain, ("portcullis root CA", 1), (now, ROOT_LIFE));
    let key = KeyPair::generate().map_err(|_| AuthorityError::Signing)?;
    let certificate = params.self_signed(&key).map_err(|_| AuthorityError::Signing)?;
    Ok(NewAuthority { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}

/// Makes a signing certificate below a root, good for a year; it can sign no other CA.
pub fn create_intermediate(
    root: &NewAuthority,
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<NewAuthority, AuthorityError> {
    let root_key = KeyPair::from_pem(root.key.expose()).map_err(|_| AuthorityError::Key)?;
    let root = Issuer::from_ca_cert_pem(&root.certificate, root_key)
        .map_err(|_| AuthorityError::Certificate)?;
    let mut params = params(trust_domain, ("portcullis CA", 0), (now, INTERMEDIATE_LIFE));
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(|_| AuthorityError::Signing)?;
    let certificate = params.signed_by(&key, &root).map_err(|_| AuthorityError::Signing)?;
    Ok(NewAuthority { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}

fn params(
    trust_domain: &str,
    (name, below): (&str, u8),
    (now, life): (OffsetDateTime, Duration),
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - SKEW;
    params.not_after = now + life;
    params
}

const SKEW: Duration = Duration::hours(1);
const ROOT_LIFE: Duration = Duration::days(3650);
const INTERMEDIATE_LIFE: Duration = Duration::days(365);
