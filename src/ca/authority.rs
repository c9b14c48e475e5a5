//! A signing certificate with its key, proven good, and what it signs.
//!
//! **Invariant:** an [`Authority`] has issued a certificate that its own roots accept; what it signs
//! is never valid beyond it, and never a CA.

use aws_lc_rs::rand;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};

use super::signer::Signer;
use super::validity::{End, first_end};
use super::workload::WorkloadId;
use crate::base::hash::{Fingerprint, Hasher};
use crate::base::pem;
use crate::base::secret::Secret;
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
    #[error("the certificate in ca-cert.pem, or one that it leads to, has expired")]
    Expired,
    /// The time of a certificate above it is over.
    #[error("the certificate \"{0}\" in cert-chain.pem has expired; have it renewed")]
    ChainExpired(String),
    /// The time of its root is over.
    #[error(
        "the root \"{0}\" in root-cert.pem has expired, and ca-cert.pem leads to no other; roll the root: \
         docs/ca.md says how"
    )]
    RootExpired(String),
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

/// An authority that can sign.
pub struct Authority {
    signer: Signer,
    /// What follows a leaf: the signing certificate first, no roots.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    fingerprint: Fingerprint,
    end: End,
}

impl Authority {
    /// Reads an authority and proves it by issuing a certificate for `own` that its roots accept at
    /// `now`, none of them expired.
    pub fn load(
        files: AuthorityFiles<'_>,
        own: &WorkloadId,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let signer = Signer::read(files.certificate, files.key)?;
        Roots::parse(files.roots)?;
        let roots = certificates(files.roots).ok_or(RootsError::Empty)?;
        let mut chain = vec![signer.certificate().clone()];
        chain.extend(certificates(files.chain).ok_or(AuthorityError::Chain)?);
        chain.dedup();
        chain.retain(|certificate| !roots.contains(certificate));
        let mut hasher = Hasher::default();
        chain
            .iter()
            .chain(&roots)
            .chain([signer.certificate()])
            .for_each(|der| _ = hasher.part(der));
        let fingerprint = hasher.finish();
        // Until its chain is known.
        let end = End { at: signer.not_after(), subject: String::new() };
        let mut authority = Self { signer, chain, roots, fingerprint, end };
        authority.prove(own, now)?;
        Ok(authority)
    }

    fn prove(&mut self, own: &WorkloadId, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let key = KeyPair::generate().map_err(|_| AuthorityError::Signing)?;
        let template = Template { id: own, names: Vec::new(), life: PROOF_LIFE };
        let leaf = self.issue(&key, template, now)?.certificate;
        self.end = first_end(&leaf, &self.chain, &self.roots, now.unix_timestamp())?;
        Ok(())
    }

    /// Signs a certificate for a key.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        template: Template<'_>,
        now: OffsetDateTime,
    ) -> Result<Issued, AuthorityError> {
        let now = now.replace_nanosecond(0).map_err(|_| AuthorityError::Signing)?;
        let left = Duration::seconds(self.end.at.saturating_sub(now.unix_timestamp()));
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
            params.signed_by(key, &self.signer.issuer).map_err(|_| AuthorityError::Signing)?;
        let certificate = certificate.der().clone();
        Ok(Issued { certificate, serial: hex(&serial), not_before, not_after })
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

    /// The signing certificate.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What ends first of the signing certificate, what is above it and its root: nothing is issued from
    /// then on.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// Digest of certificates and roots.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("signer", &self.signer).finish_non_exhaustive()
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
pub(super) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()
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
pub(super) const SKEW: Duration = Duration::minutes(2);
const PROOF_LIFE: std::time::Duration = std::time::Duration::from_mins(1);

#[cfg(test)]
mod tests;
