//! A CA certificate with its key: what signs certificates and lists.

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, PublicKeyData as _,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::{KeyUsage, ParsedExtension};

use super::authority::{AuthorityError, SKEW, certificates};
use crate::base::hash::Fingerprint;
use crate::base::limit;
use crate::base::secret::Secret;

/// A certificate that is not good any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: Vec<u8>,
    /// When, Unix time.
    pub at: i64,
}

/// A CA certificate and the key that belongs to it.
pub struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key_id: KeyIdMethod,
    not_after: i64,
    may_list: bool,
}

impl Signer {
    /// Reads both from PEM; the first certificate counts.
    pub fn read(certificate: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, AuthorityError> {
        let signing = certificates(certificate).ok_or(AuthorityError::Certificate)?;
        let signing = signing.into_iter().next().ok_or(AuthorityError::Certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&signing)
            .map_err(|_| AuthorityError::Certificate)?;
        // Without the extension a key may be used for everything (RFC 5280, section 4.2.1.3).
        let usage = parsed.key_usage().ok().flatten().map(|usage| usage.value);
        if !parsed.is_ca() || !usage.is_none_or(KeyUsage::key_cert_sign) {
            return Err(AuthorityError::NotAuthority);
        }
        let key = std::str::from_utf8(key.expose()).map_err(|_| AuthorityError::Key)?;
        let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::Key)?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(AuthorityError::Mismatch);
        }
        let not_after = parsed.validity().not_after.timestamp();
        let may_list = usage.is_none_or(KeyUsage::crl_sign);
        let key_id = key_identifier(&parsed);
        let issuer =
            Issuer::from_ca_cert_der(&signing, key).map_err(|_| AuthorityError::Signing)?;
        Ok(Self { issuer, certificate: signing, key_id, not_after, may_list })
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Names it in the issuance log: the beginning of its certificate's SHA-256 in hex.
    pub fn name(&self) -> String {
        let mut name = Fingerprint::of(&self.certificate).to_string();
        name.truncate(NAME_CHARS);
        name
    }

    /// Last valid second of the certificate, Unix time.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether its certificate lets it sign revocation lists: `keyUsage` has `cRLSign`, or is missing.
    pub fn may_list(&self) -> bool {
        self.may_list
    }

    /// Signs the list of what was revoked, DER; it is good for [`limit::CA_CRL_TIME`].
    pub fn revocation_list(
        &self,
        revoked: &[Revoked],
        now: OffsetDateTime,
    ) -> Result<Vec<u8>, AuthorityError> {
        let number = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let revoked_certs = revoked.iter().map(|revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: OffsetDateTime::from_unix_timestamp(revoked.at).unwrap_or(now),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - SKEW,
            next_update: now + limit::CA_CRL_TIME,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: self.key_id.clone(),
        };
        let list = params.signed_by(&self.issuer).map_err(|_| AuthorityError::Signing)?;
        Ok(list.der().to_vec())
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn key_identifier(certificate: &x509_parser::certificate::X509Certificate<'_>) -> KeyIdMethod {
    let own =
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    own.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

const NAME_CHARS: usize = 16;
