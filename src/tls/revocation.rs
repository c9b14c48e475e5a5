//! Revocation lists: reading them, and which of them speak of a certificate.
//!
//! A list speaks of the certificates of one key. Signing certificates that replace each other often keep
//! their name, so that lists are told apart by the key's identifier where both say it.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::base::hash::{Fingerprint, Hasher};
use crate::base::limit;

/// Why a revocation list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// More bytes than any list needs.
    #[error("the revocation list is larger than {} bytes", limit::CREDENTIAL_FILE_BYTES)]
    TooLarge,
    /// No list in it.
    #[error("there is no revocation list: neither a \"BEGIN X509 CRL\" block nor DER")]
    Empty,
    /// A list cannot be read; counted from 1.
    #[error("revocation list {position} cannot be read; give X.509 CRLs of version 2")]
    Unreadable {
        /// Place in the file, from 1.
        position: usize,
    },
}

/// When a revocation list will have been replaced (`nextUpdate`), Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextUpdate {
    /// The time that the list says.
    pub at: i64,
    /// When a tenth of the time between the two lists is left.
    pub soon_from: i64,
}

/// Revocation lists; empty by default.
///
/// Where there are any, an issuer of which they do not speak counts as one whose list is missing, and its
/// certificates are refused, as with Envoy and OpenSSL; unless the lists [may be incomplete](Self::incomplete).
#[derive(Clone, Debug)]
pub struct Crls {
    lists: Arc<[List]>,
    incomplete: bool,
    fingerprint: Fingerprint,
    revoked: Fingerprint,
    next_update: Option<NextUpdate>,
}

#[derive(Debug)]
struct List {
    list: CertRevocationList<'static>,
    signer: Signer,
}

/// Who signed a list or a certificate.
#[derive(Debug, PartialEq, Eq)]
struct Signer {
    /// DER.
    name: Box<[u8]>,
    /// Identifier of its key (RFC 5280, section 4.2.1.1).
    key: Option<Box<[u8]>>,
}

impl Signer {
    fn new(name: &[u8], extensions: &[X509Extension<'_>]) -> Self {
        let key = extensions.iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0),
            _ => None,
        });
        Self { name: name.into(), key: key.map(Into::into) }
    }

    /// Whether both may be the same.
    fn fits(&self, other: &Self) -> bool {
        let same_key = match (&self.key, &other.key) {
            (Some(own), Some(other)) => own == other,
            _ => true,
        };
        same_key && self.name == other.name
    }
}

impl Default for Crls {
    fn default() -> Self {
        let fingerprint = Fingerprint::of(b"");
        let (lists, revoked) = (Arc::default(), fingerprint);
        Self { lists, incomplete: false, fingerprint, revoked, next_update: None }
    }
}

impl Crls {
    /// Reads lists from PEM, or one list from DER.
    pub fn parse(bytes: &[u8]) -> Result<Self, CrlError> {
        if bytes.len() as u64 > limit::CREDENTIAL_FILE_BYTES {
            return Err(CrlError::TooLarge);
        }
        let (mut lists, mut next_update) = (Vec::new(), None);
        let mut revoked = Hasher::default();
        let mut add = |der: &[u8]| {
            let (list, next) = read(der, &mut revoked)?;
            next_update = next_update.into_iter().chain(next).min();
            Some(list)
        };
        if bytes.first() == Some(&DER_SEQUENCE) {
            lists.push(add(bytes).ok_or(CrlError::Unreadable { position: 1 })?);
        } else {
            for der in CertificateRevocationListDer::pem_slice_iter(bytes) {
                let position = lists.len() + 1;
                let list = der.ok().and_then(|der| add(&der));
                lists.push(list.ok_or(CrlError::Unreadable { position })?);
            }
        }
        if lists.is_empty() {
            return Err(CrlError::Empty);
        }
        let (lists, fingerprint) = (lists.into(), Fingerprint::of(bytes));
        let revoked = revoked.finish();
        Ok(Self { lists, incomplete: false, fingerprint, revoked, next_update })
    }

    /// These lists, of which some may be missing: what an issuer without one signed is accepted.
    #[must_use]
    pub fn incomplete(self) -> Self {
        let mut hasher = Hasher::default();
        hasher.part(self.fingerprint.as_bytes()).part(b"incomplete");
        Self { incomplete: true, fingerprint: hasher.finish(), ..self }
    }

    /// Whether what an issuer without a list signed is refused.
    pub(super) fn must_cover(&self) -> bool {
        !self.lists.is_empty() && !self.incomplete
    }

    /// Whether what a CA signs is refused because no list here is its own. `is_name` tells its name (DER).
    pub(super) fn leave_out(&self, is_name: impl Fn(&[u8]) -> bool) -> bool {
        self.must_cover() && !self.lists.iter().any(|list| is_name(&list.signer.name))
    }

    /// That of the list which will be replaced first.
    pub fn next_update(&self) -> Option<NextUpdate> {
        self.next_update
    }

    /// Digest of the lists, and of whether some may be missing.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Digest of what they revoke: a list that is only signed anew has the same.
    pub fn revoked(&self) -> Fingerprint {
        self.revoked
    }

    /// Whether any of them revokes a certificate of a chain that was verified before; one that cannot be
    /// read counts as revoked. Signatures of lists are not looked at.
    pub fn revoke<'a>(&self, chain: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> bool {
        if self.lists.is_empty() {
            return false;
        }
        chain.into_iter().any(|der| {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { return true };
            let issuer = Signer::new(certificate.issuer().as_raw(), certificate.extensions());
            let mut own = self.lists.iter().filter(|list| list.signer.fits(&issuer));
            let serial = certificate.raw_serial();
            own.any(|list| !matches!(list.list.find_serial(serial), Ok(None)))
        })
    }

    /// The lists that may speak of a certificate of a chain: all, when one of it cannot be read.
    pub(super) fn of<'a>(
        &'a self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
    ) -> Vec<&'a CertRevocationList<'static>> {
        if self.lists.is_empty() {
            return Vec::new();
        }
        let issuers: Option<Vec<_>> = chain
            .map(|der| X509Certificate::from_der(der).ok())
            .map(|read| read.map(|(_, one)| Signer::new(one.issuer().as_raw(), one.extensions())))
            .collect();
        let fits = |list: &&List| match &issuers {
            Some(issuers) => issuers.iter().any(|issuer| list.signer.fits(issuer)),
            None => true,
        };
        self.lists.iter().filter(fits).map(|list| &list.list).collect()
    }
}

fn read(der: &[u8], revoked: &mut Hasher) -> Option<(List, Option<NextUpdate>)> {
    let list = OwnedCertRevocationList::from_der(der).ok().map(CertRevocationList::from)?;
    let (_, parsed) = CertificateRevocationList::from_der(der).ok()?;
    let signer = Signer::new(parsed.issuer().as_raw(), parsed.extensions());
    revoked.part(&signer.name).part(signer.key.as_deref().unwrap_or_default());
    for one in parsed.iter_revoked_certificates() {
        revoked.part(one.raw_serial());
    }
    let next = parsed.next_update().map(|next| {
        let at = next.timestamp();
        let life = at.saturating_sub(parsed.last_update().timestamp()).max(0);
        NextUpdate { at, soon_from: at.saturating_sub(life / 10) }
    });
    Some((List { list, signer }, next))
}

/// First byte of any DER list; PEM is text.
const DER_SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::{Authority, Leaf};
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_from_pem_and_der() {
        let (pem, der) = Authority::new("one").revoke(&[7]);
        assert_eq!(Crls::parse(pem.as_bytes()).unwrap().lists.len(), 1);
        assert_eq!(Crls::parse(&der).unwrap().lists.len(), 1);
        // From 2020 to 2096.
        let next = NextUpdate { at: 3_976_214_400, soon_from: 3_736_376_640 };
        assert_eq!(Crls::parse(&der).unwrap().next_update(), Some(next));
        let both = Crls::parse(format!("{pem}{pem}").as_bytes()).unwrap();
        assert_eq!((both.lists.len(), both.next_update()), (2, Some(next)));
        assert_eq!(Crls::parse(b"no list").unwrap_err(), CrlError::Empty);
        assert_eq!(Crls::parse(b"0\x03abc").unwrap_err(), CrlError::Unreadable { position: 1 });
    }

    #[test]
    fn a_file_of_lists_is_bounded() {
        let (mut pem, _) = Authority::new("one").revoke(&[7]);
        let most = usize::try_from(limit::CREDENTIAL_FILE_BYTES).unwrap();
        pem.push_str(&"\n".repeat(most - pem.len()));
        assert_eq!(Crls::parse(pem.as_bytes()).unwrap().lists.len(), 1);
        pem.push('\n');
        assert_eq!(Crls::parse(pem.as_bytes()).unwrap_err(), CrlError::TooLarge);
    }

    #[test]
    fn what_is_signed_anew_revokes_the_same() {
        let ca = Authority::new("one");
        let lists = [&[7][..], &[7], &[8], &[]].map(|serials| ca.revoke(serials).1);
        let [one, again, other, none] = lists.map(|der| Crls::parse(&der).unwrap());
        assert_ne!(one.fingerprint(), again.fingerprint());
        assert_eq!(one.revoked(), again.revoked());
        assert_ne!(one.revoked(), other.revoked());
        assert_ne!(one.revoked(), none.revoked());
        // What was built for lists that may be incomplete is not what others need.
        assert_ne!(one.clone().incomplete().fingerprint(), one.fingerprint());
    }

    fn chain(leaf: &Leaf) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).map(Result::unwrap).collect()
    }

    #[test]
    fn a_list_speaks_of_its_own_signers_certificates() {
        let (old, new, other) = (Authority::new("ca"), Authority::new("ca"), Authority::new("x"));
        let revoked = Crls::parse(old.revoke(&[7]).0.as_bytes()).unwrap();
        let check = |ca: &Authority, serial, expected| {
            let chain = chain(&ca.leaf(&["a.com"], serial));
            assert_eq!(revoked.revoke(&chain), expected, "{serial}");
        };
        check(&old, 7, true);
        check(&old, 8, false);
        check(&new, 7, false);
        check(&other, 7, false);
        assert!(!Crls::default().revoke(&chain(&old.leaf(&["a.com"], 7))));
        assert!(!revoked.revoke(&[]));
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_revoked_and_all_lists_speak_of_it() {
        let ca = Authority::new("ca");
        let lists = Crls::parse(ca.revoke(&[7]).0.as_bytes()).unwrap();
        let mut chain = chain(&ca.leaf(&["a.com"], 8));
        assert!(!lists.revoke(&chain));
        chain.push(CertificateDer::from(vec![DER_SEQUENCE, 3, 1]));
        assert!(lists.revoke(&chain));
        assert_eq!(lists.of(chain[1..].iter()).len(), 1);
        assert!(!Crls::default().revoke(&chain));
    }

    #[test]
    fn lists_of_signers_of_one_name_are_told_apart() {
        let (old, new) = (Authority::new("ca"), Authority::new("ca"));
        let both = format!("{}{}", new.revoke(&[1]).0, old.revoke(&[7]).0);
        let both = Crls::parse(both.as_bytes()).unwrap();
        for (ca, serial, fit) in [(&old, 1, 1), (&new, 1, 1)] {
            let chain = chain(&ca.leaf(&["a.com"], serial));
            assert_eq!(both.of(chain.iter()).len(), fit);
        }
        let other = chain(&Authority::new("x").leaf(&["a.com"], 1));
        assert!(both.of(other.iter()).is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Crls::parse(&bytes);
            let mut der = vec![DER_SEQUENCE];
            der.extend(bytes);
            let _ = Crls::parse(&der);
        }
    }
}
