//! CA bundles, and the chain check that both directions share.
//!
//! **Invariant:** `verify_chain` is the only place where a peer's chain is judged.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError, RootCertStore};
use webpki::{
    EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::base::hash::{Fingerprint, Hasher};
use crate::base::limit;

use super::certificate::CertFacts;
use super::revocation::Crls;

/// Why a CA bundle cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// More bytes than any bundle needs.
    #[error("the CA bundle is larger than {} bytes", limit::CREDENTIAL_FILE_BYTES)]
    TooLarge,
    /// No `CERTIFICATE` block.
    #[error("the CA bundle has no \"BEGIN CERTIFICATE\" block")]
    Empty,
    /// A block cannot be read; counted from 1.
    #[error("certificate {position} of the CA bundle cannot be read as PEM with X.509 inside")]
    Unreadable {
        /// Place in the bundle, from 1.
        position: usize,
    },
}

/// Trust anchors.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    facts: Arc<[CertFacts]>,
    fingerprint: Fingerprint,
}

impl Roots {
    /// Reads a bundle of CA certificates from PEM. One unreadable certificate refuses the bundle.
    pub fn parse(pem: &[u8]) -> Result<Self, RootsError> {
        if pem.len() as u64 > limit::CREDENTIAL_FILE_BYTES {
            return Err(RootsError::TooLarge);
        }
        let mut store = RootCertStore::empty();
        let mut facts = Vec::new();
        let mut hasher = Hasher::default();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let unreadable = || RootsError::Unreadable { position: facts.len() + 1 };
            let certificate = certificate.map_err(|_| unreadable())?;
            let fact = CertFacts::parse(&certificate).map_err(|_| unreadable())?;
            hasher.part(&certificate);
            store.add(certificate).map_err(|_| unreadable())?;
            facts.push(fact);
        }
        if facts.is_empty() {
            return Err(RootsError::Empty);
        }
        Ok(Self { store: store.into(), facts: facts.into(), fingerprint: hasher.finish() })
    }

    /// Wraps anchors that were read elsewhere, the operating system's for example.
    pub fn from_store(store: Arc<RootCertStore>) -> Self {
        let mut hasher = Hasher::default();
        for anchor in &store.roots {
            hasher.part(&anchor.subject).part(&anchor.subject_public_key_info);
        }
        Self { store, facts: Arc::default(), fingerprint: hasher.finish() }
    }

    /// The anchors for rustls.
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// Facts of each certificate; empty for wrapped stores.
    pub fn facts(&self) -> &[CertFacts] {
        &self.facts
    }

    /// Whether an anchor has the name of a certificate's issuer.
    pub fn have_issuer(&self, facts: &CertFacts) -> bool {
        self.store.roots.iter().any(|anchor| is_named(anchor, &facts.issuer_der))
    }

    /// Subjects of the certificates of which revocation lists should speak and do not.
    pub fn left_out<'a>(&'a self, crls: &'a Crls) -> impl Iterator<Item = &'a str> {
        let anchors = self.store.roots.iter().zip(self.facts());
        let left_out = anchors.filter(|(anchor, _)| crls.leave_out(|name| is_named(anchor, name)));
        left_out.map(|(_, facts)| facts.subject.as_str())
    }

    /// Digest of the bundle.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// Whether an anchor has a name (DER).
fn is_named(anchor: &TrustAnchor<'_>, name: &[u8]) -> bool {
    // An anchor's name is without the tag and the length of its sequence.
    const HEADER_BYTES: usize = 4;
    let rest = name.strip_suffix(anchor.subject.as_ref());
    !anchor.subject.is_empty() && rest.is_some_and(|head| head.len() <= HEADER_BYTES)
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} anchors)", self.store.len())
    }
}

/// What the peer acts as in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerRole {
    Client,
    Server,
}

/// Judges a chain: signatures up to an anchor, dates, usage, revocation. Where there are lists, each issuer
/// of the chain needs one, unless they may be incomplete; what any list revokes is refused.
pub(super) fn verify_chain(
    chain: Chain<'_>,
    now: UnixTime,
    role: PeerRole,
    trust: &Trust,
) -> Result<(), rustls::Error> {
    let leaf = EndEntityCert::try_from(chain.leaf).map_err(|_| CertificateError::BadEncoding)?;
    let certificates = || [chain.leaf].into_iter().chain(chain.intermediates);
    let lists = trust.crls.of(certificates());
    let must_cover = trust.crls.must_cover();
    if must_cover && lists.is_empty() {
        return Err(CertificateError::UnknownRevocationStatus.into());
    }
    let unknown = if must_cover { UnknownStatusPolicy::Deny } else { UnknownStatusPolicy::Allow };
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options.with_depth(RevocationCheckDepth::Chain).with_status_policy(unknown).build()
    });
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    leaf.verify_for_usage(
        trust.algorithms.all,
        &trust.roots.store.roots,
        chain.intermediates,
        now,
        usage,
        revocation,
        None,
    )
    .map_err(certificate_error)?;
    // Of several lists of one issuer the verification above asks the first alone.
    if trust.crls.revoke(certificates()) {
        return Err(CertificateError::Revoked.into());
    }
    Ok(())
}

/// A chain as the peer sent it.
#[derive(Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
}

/// What a chain is held against.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) roots: Roots,
    pub(super) crls: Crls,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// The alert that the peer sees depends on this mapping.
fn certificate_error(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::InvalidCertValidity => CertificateError::Expired,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::Authority;
    use proptest::prelude::*;

    #[test]
    fn a_bundle_gives_anchors_and_facts() {
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let roots = Roots::parse(format!("{}{}", one.pem(), two.pem()).as_bytes()).unwrap();
        assert_eq!(roots.store().len(), 2);
        assert_eq!(roots.facts()[1].subject, "CN=two");
        assert_ne!(roots.fingerprint(), Roots::parse(one.pem().as_bytes()).unwrap().fingerprint());
    }

    #[test]
    fn broken_bundles_say_which_certificate() {
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let pem = format!("{}{bad}", Authority::new("one").pem());
        assert_eq!(
            Roots::parse(pem.as_bytes()).unwrap_err(),
            RootsError::Unreadable { position: 2 }
        );
        assert_eq!(Roots::parse(b"").unwrap_err(), RootsError::Empty);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Roots::parse(&bytes);
        }
    }
}
