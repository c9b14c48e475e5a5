//! A signing certificate with its key, proven good, and what it signs.
//!
//! **Invariant:** an [`Authority`] has issued a certificate that its own roots accept; what it signs
//! is never valid beyond it, and never a CA.

use aws_lc_rs::rand;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::ParsedExtension;

use super::workload::WorkloadId;
use crate::base::hash::{Fingerprint, Hasher};
use crate::base::secret::Secret;
use crate::base::{limit, pem};
use crate::tls::roots::{Roots, RootsError};

/// What an authority is read from, PEM, under Istio's names.
#[derive(Clone, Copy)]
pub struct AuthorityFiles<'a> {
    /// `ca-cert.pem`: the signing certificate.
    pub certificate: &'a [u8],
    /// `ca-key.pem`: its key.
    pub key: &'a Secret<Vec<u8>>,
    /// `root-cert.pem`: every root that peers shall trust, those to come and to go included.
    pub roots: &'a [u8],
    /// `cert-chain.pem`: certificates between the signing one and a root; may be empty.
    pub chain: &'a [u8],
}

/// Why files make no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// `ca-cert.pem` holds no certificate.
    #[error("ca-cert.pem has no certificate that can be read")]
    Certificate,
    /// `ca-cert.pem` is a leaf.
    #[error("the certificate in ca-cert.pem may not sign others: it is no CA")]
    NotAuthority,
    /// `ca-key.pem` holds no usable key.
    #[error("ca-key.pem has no private key that can be used; give PEM without a pass phrase")]
    Key,
    /// The key is another certificate's.
    #[error("the key in ca-key.pem does not belong to the certificate in ca-cert.pem")]
    Mismatch,
    /// `root-cert.pem` cannot be used.
    #[error("root-cert.pem: {0}")]
    Roots(#[from] RootsError),
    /// `cert-chain.pem` cannot be read.
    #[error("cert-chain.pem has a block that is no certificate")]
    Chain,
    /// What it signs is not accepted by its own roots.
    #[error(
        "certificates it issues would not be accepted: {0}; ca-cert.pem, cert-chain.pem and a root \
         in root-cert.pem must form a chain that is valid now"
    )]
    Unaccepted(String),
    /// Its own time is over.
    #[error("the certificate in ca-cert.pem has expired")]
    Expired,
    /// The library refuses.
    #[error("the certificate cannot be made")]
    Signing,
}

/// A certificate to be made.
pub struct Template<'a> {
    /// Whose it is.
    pub id: &'a WorkloadId,
    /// Further names; the CA's own server has some, workloads have none.
    pub names: Vec<SanType>,
    /// How long it is valid, as far as the authority is.
    pub life: std::time::Duration,
}

/// A certificate that was made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its serial number in lower-case hex.
    pub serial: String,
    /// First valid second, Unix time.
    pub not_before: i64,
    /// Last valid second, Unix time.
    pub not_after: i64,
}

/// A certificate that is not good any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: Vec<u8>,
    /// When, Unix time.
    pub at: i64,
}

/// An authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key_id: KeyIdMethod,
    /// What follows a leaf: the signing certificate first, no roots.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_after: i64,
    fingerprint: Fingerprint,
}

impl Authority {
    /// Reads an authority and proves it by issuing a certificate for `own` that its roots accept at
    /// `now`.
    pub fn load(
        files: AuthorityFiles<'_>,
        own: &WorkloadId,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let signing = certificates(files.certificate).ok_or(AuthorityError::Certificate)?;
        let signing = signing.into_iter().next().ok_or(AuthorityError::Certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&signing)
            .map_err(|_| AuthorityError::Certificate)?;
        let may_sign = parsed.is_ca()
            && !matches!(parsed.key_usage(), Ok(Some(usage)) if !usage.value.key_cert_sign());
        if !may_sign {
            return Err(AuthorityError::NotAuthority);
        }
        let key = std::str::from_utf8(files.key.expose()).map_err(|_| AuthorityError::Key)?;
        let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::Key)?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(AuthorityError::Mismatch);
        }
        let not_after = parsed.validity().not_after.timestamp();
        let key_id = key_identifier(&parsed);
        Roots::parse(files.roots)?;
        let roots = certificates(files.roots).ok_or(RootsError::Empty)?;
        let mut chain = vec![signing.clone()];
        chain.extend(certificates(files.chain).ok_or(AuthorityError::Chain)?);
        chain.dedup();
        chain.retain(|certificate| !roots.contains(certificate));
        let issuer =
            Issuer::from_ca_cert_der(&signing, key).map_err(|_| AuthorityError::Signing)?;
        let mut hasher = Hasher::default();
        chain.iter().chain(&roots).chain([&signing]).for_each(|der| _ = hasher.part(der));
        let fingerprint = hasher.finish();
        let authority = Self { issuer, key_id, chain, roots, not_after, fingerprint };
        authority.prove(own, now)?;
        Ok(authority)
    }

    fn prove(&self, own: &WorkloadId, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let key = KeyPair::generate().map_err(|_| AuthorityError::Signing)?;
        let template = Template { id: own, names: Vec::new(), life: PROOF_LIFE };
        let leaf = self.issue(&key, template, now)?.certificate;
        let unaccepted = |error: webpki::Error| AuthorityError::Unaccepted(error.to_string());
        let roots: Result<Vec<_>, _> =
            self.roots.iter().map(webpki::anchor_from_trusted_cert).collect();
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        EndEntityCert::try_from(&leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    &roots?,
                    &self.chain,
                    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
                    KeyUsage::server_auth(),
                    None,
                    None,
                )
                .map(drop)
            })
            .map_err(unaccepted)
    }

    /// Signs a certificate for a key.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        template: Template<'_>,
        now: OffsetDateTime,
    ) -> Result<Issued, AuthorityError> {
        let now = now.replace_nanosecond(0).map_err(|_| AuthorityError::Signing)?;
        let left = Duration::seconds(self.not_after.saturating_sub(now.unix_timestamp()));
        if left <= Duration::ZERO {
            return Err(AuthorityError::Expired);
        }
        let life =
            Duration::try_from(template.life).map_err(|_| AuthorityError::Signing)?.min(left);
        let uri = template.id.as_str().try_into().map_err(|_| AuthorityError::Signing)?;
        let serial = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = template.names;
        params.subject_alt_names.push(SanType::URI(uri));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = now - SKEW;
        params.not_after = now + life;
        let (not_before, not_after) =
            (params.not_before.unix_timestamp(), params.not_after.unix_timestamp());
        let certificate =
            params.signed_by(key, &self.issuer).map_err(|_| AuthorityError::Signing)?;
        let certificate = certificate.der().clone();
        Ok(Issued { certificate, serial: hex(&serial), not_before, not_after })
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

    /// A leaf with what follows it, leaf first.
    pub fn chain_of<'a>(
        &'a self,
        leaf: &'a CertificateDer<'static>,
    ) -> impl Iterator<Item = &'a CertificateDer<'static>> {
        std::iter::once(leaf).chain(&self.chain)
    }

    /// The certificates after a leaf.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Every root.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Last valid second of the signing certificate, Unix time.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Digest of certificates and roots.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// PEM of certificates, one after the other.
pub(super) fn to_pem<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    let mut out = String::new();
    for certificate in certificates {
        pem::push(&mut out, pem::CERTIFICATE, certificate);
    }
    out
}

/// Every certificate of a PEM text; nothing when a block cannot be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()
}

fn key_identifier(certificate: &x509_parser::certificate::X509Certificate<'_>) -> KeyIdMethod {
    let own =
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    own.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

/// 128 bits, random but for the first two: the number is positive and has its full length.
fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| AuthorityError::Signing)?;
    let [first, ..] = &mut serial;
    *first = *first & 0x7f | 0x40;
    Ok(serial)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Certificates are valid from a little before they are made, for clocks that run late (Istio's).
const SKEW: Duration = Duration::minutes(2);
const PROOF_LIFE: std::time::Duration = std::time::Duration::from_mins(1);

#[cfg(test)]
mod tests;
