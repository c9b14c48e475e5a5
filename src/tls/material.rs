//! A certificate chain with its private key, proven to belong together.
//!
//! **Invariant:** a [`Material`] can sign for its own leaf. Private keys never reach an error, a log
//! or `Debug`.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::base::hash::{Fingerprint, Hasher};
use crate::base::host::HostPattern;
use crate::base::limit;

use super::certificate::CertFacts;
use super::roots::Roots;

/// Why a chain and key cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// More bytes than any credential needs.
    #[error("the credential is larger than {} bytes", limit::CREDENTIAL_FILE_BYTES)]
    TooLarge,
    /// The chain has no `CERTIFICATE` block.
    #[error("there is no \"BEGIN CERTIFICATE\" block; give the chain as PEM, leaf first")]
    NoCertificate,
    /// A block of the chain cannot be read; counted from 1.
    #[error("certificate {position} of the chain cannot be read as PEM with X.509 inside")]
    UnreadableCertificate {
        /// Place in the chain, from 1.
        position: usize,
    },
    /// The key has no private key block.
    #[error("there is no private key block; give the key as PEM in PKCS#8, PKCS#1 or SEC1")]
    NoKey,
    /// The key block cannot be used.
    #[error(
        "the private key cannot be read; use RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, \
         or Ed25519"
    )]
    UnreadableKey,
    /// The key needs a pass phrase.
    #[error("the private key is encrypted; store it without a pass phrase")]
    EncryptedKey,
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate \"{subject}\"")]
    Mismatch {
        /// Subject of the first certificate.
        subject: String,
    },
    /// The key belongs to a certificate that does not come first.
    #[error("the key belongs to certificate {position} of the chain; put that one first")]
    LeafNotFirst {
        /// Place in the chain, from 1.
        position: usize,
    },
}

impl MaterialError {
    /// Whether it is the key's fault rather than the chain's.
    pub fn is_of_key(&self) -> bool {
        match self {
            Self::NoKey | Self::UnreadableKey | Self::EncryptedKey | Self::Mismatch { .. } => true,
            Self::TooLarge
            | Self::NoCertificate
            | Self::UnreadableCertificate { .. }
            | Self::LeafNotFirst { .. } => false,
        }
    }
}

/// Something an operator should know about material that is nonetheless served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Its time is over.
    #[error("the certificate \"{subject}\" has expired")]
    Expired {
        /// Subject of the certificate.
        subject: String,
        /// Last valid second, Unix time.
        not_after: i64,
    },
    /// Its time has not begun.
    #[error("the certificate \"{subject}\" is not valid yet")]
    NotYetValid {
        /// Subject of the certificate.
        subject: String,
        /// First valid second, Unix time.
        not_before: i64,
    },
    /// Its time ends soon.
    #[error("the certificate \"{subject}\" expires in {days} days")]
    ExpiresSoon {
        /// Subject of the certificate.
        subject: String,
        /// Whole days left.
        days: i64,
    },
    /// A certificate of the chain was not issued by the next one.
    #[error(
        "certificate {position} of the chain is not issued by the one after it; order the chain \
         leaf first, each followed by its issuer"
    )]
    ChainBroken {
        /// Place in the chain, from 1.
        position: usize,
    },
    /// The chain ends before an issuer that clients would know.
    #[error("the chain lacks the intermediate \"{issuer}\"; append it, or most clients will fail")]
    ChainIncomplete {
        /// Issuer of the last certificate.
        issuer: String,
    },
    /// The chain ends before an issuer that is no root of this system; clients may have it as one.
    #[error(
        "the chain ends before \"{issuer}\", which is no root of this system; append its certificate unless every client has it as a root"
    )]
    ChainEndsBefore {
        /// Issuer of the last certificate.
        issuer: String,
    },
    /// No name of the certificate covers a host it is served for.
    #[error("the certificate has no name for the host \"{host}\"")]
    HostNotCovered {
        /// The host as written.
        host: String,
    },
}

/// A chain and its private key.
pub struct Material {
    key: Arc<CertifiedKey>,
    leaf: CertFacts,
    issuers: Box<[CertFacts]>,
    fingerprint: Fingerprint,
}

impl Material {
    /// Reads a chain (leaf first) and its key from PEM and proves that they match.
    pub fn parse(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, MaterialError> {
        for pem in [chain_pem, key_pem] {
            if pem.len() as u64 > limit::CREDENTIAL_FILE_BYTES {
                return Err(MaterialError::TooLarge);
            }
        }
        let certificates = read_chain(chain_pem)?;
        let mut facts = facts_of(&certificates)?.into_iter();
        let leaf = facts.next().ok_or(MaterialError::NoCertificate)?;
        let issuers: Box<[CertFacts]> = facts.collect();
        let key = read_key(key_pem)?;
        let key = any_supported_type(&key).map_err(|_| MaterialError::UnreadableKey)?;
        let public = key.public_key().ok_or(MaterialError::UnreadableKey)?;
        let spki = Fingerprint::of(&public);
        if leaf.spki != spki {
            return Err(match issuers.iter().position(|facts| facts.spki == spki) {
                Some(at) => MaterialError::LeafNotFirst { position: at + 2 },
                None => MaterialError::Mismatch { subject: leaf.subject },
            });
        }
        let mut hasher = Hasher::default();
        for certificate in &certificates {
            hasher.part(certificate);
        }
        let key = Arc::new(CertifiedKey::new(certificates, key));
        Ok(Self { key, leaf, issuers, fingerprint: hasher.finish() })
    }

    /// Facts of the leaf.
    pub fn leaf(&self) -> &CertFacts {
        &self.leaf
    }

    /// Facts of the whole chain, leaf first.
    fn chain(&self) -> impl Iterator<Item = &CertFacts> {
        std::iter::once(&self.leaf).chain(&self.issuers)
    }

    /// Digest of the chain; the key is settled by its leaf.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Chain and key for rustls.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Whether the leaf is right for every name under a host.
    pub fn covers(&self, host: &HostPattern) -> bool {
        self.leaf.names.covers(host)
    }

    /// What to tell about dates and the chain. `now` is Unix time in seconds; certificates with less
    /// than `warn_days` left are reported.
    pub fn findings(&self, now: i64, warn_days: u32) -> Vec<Finding> {
        let mut findings: Vec<_> =
            self.chain().filter_map(|facts| date_finding(facts, now, warn_days)).collect();
        let links = self.chain().zip(&self.issuers).enumerate();
        findings.extend(
            links
                .filter(|(_, (subject, issuer))| subject.issuer != issuer.subject)
                .map(|(at, _)| Finding::ChainBroken { position: at + 1 }),
        );
        findings
    }

    /// What to tell about the end of the chain. `known` are roots that clients may have too. A certificate
    /// that does not say where its issuer's is found, as those of private CAs, is taken to be issued
    /// by a root of its clients.
    pub fn chain_end(&self, known: Option<&Roots>) -> Option<Finding> {
        let last = self.issuers.last().unwrap_or(&self.leaf);
        let complete = last.is_self_signed
            || !last.names_issuer_location
            || known.is_some_and(|roots| roots.have_issuer(last));
        let issuer = last.issuer.clone();
        match self.issuers.len() {
            _ if complete => None,
            0 => Some(Finding::ChainIncomplete { issuer }),
            _ => known.is_some().then_some(Finding::ChainEndsBefore { issuer }),
        }
    }

    /// When the findings about dates will be others, Unix seconds.
    pub fn findings_change(&self, now: i64, warn_days: u32) -> Option<i64> {
        self.chain().filter_map(|facts| date_change(facts, now, warn_days)).min()
    }

    /// One finding for each host that the leaf does not cover.
    pub fn uncovered<'a>(
        &'a self,
        hosts: impl IntoIterator<Item = &'a HostPattern>,
    ) -> impl Iterator<Item = Finding> {
        hosts
            .into_iter()
            .filter(|host| !self.covers(host))
            .map(|host| Finding::HostNotCovered { host: host.to_string() })
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// Judges a certificate's dates; `now` is Unix time in seconds.
pub fn date_finding(facts: &CertFacts, now: i64, warn_days: u32) -> Option<Finding> {
    let subject = || match (&*facts.subject, facts.names.dns.first().or(facts.names.uris.first())) {
        ("", Some(name)) => name.clone(),
        (subject, _) => subject.to_owned(),
    };
    let left = facts.not_after.saturating_sub(now);
    if left < 0 {
        Some(Finding::Expired { subject: subject(), not_after: facts.not_after })
    } else if now < facts.not_before {
        Some(Finding::NotYetValid { subject: subject(), not_before: facts.not_before })
    } else if left < i64::from(warn_days) * DAY_SECONDS {
        Some(Finding::ExpiresSoon { subject: subject(), days: left / DAY_SECONDS })
    } else {
        None
    }
}

/// When [`date_finding`] will say something else, Unix seconds; never once it has expired.
fn date_change(facts: &CertFacts, now: i64, warn_days: u32) -> Option<i64> {
    let left = facts.not_after.saturating_sub(now);
    let days = (left / DAY_SECONDS).min(i64::from(warn_days));
    let fewer = facts.not_after.saturating_sub(days * DAY_SECONDS).saturating_add(1);
    let begins = Some(facts.not_before).filter(|begin| *begin > now);
    let ends = (left >= 0).then_some(fewer);
    begins.into_iter().chain(ends).min()
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let position = chain.len() + 1;
        if position > CHAIN_CERTIFICATES {
            return Err(MaterialError::TooLarge);
        }
        chain.push(certificate.map_err(|_| MaterialError::UnreadableCertificate { position })?);
    }
    if chain.is_empty() { Err(MaterialError::NoCertificate) } else { Ok(chain) }
}

fn facts_of(chain: &[CertificateDer<'_>]) -> Result<Vec<CertFacts>, MaterialError> {
    let facts = chain.iter().enumerate().map(|(at, der)| {
        CertFacts::parse(der).map_err(|_| MaterialError::UnreadableCertificate { position: at + 1 })
    });
    facts.collect()
}

fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, MaterialError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(_) if contains(pem, b"Proc-Type: 4,ENCRYPTED") => Err(MaterialError::EncryptedKey),
        Ok(key) => Ok(key),
        Err(_) if contains(pem, b"ENCRYPTED") => Err(MaterialError::EncryptedKey),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(MaterialError::NoKey),
        Err(_) => Err(MaterialError::UnreadableKey),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// More certificates than any chain has; rustls clients stop far earlier.
const CHAIN_CERTIFICATES: usize = 32;
const DAY_SECONDS: i64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::Authority;

    #[test]
    fn the_end_of_a_chain_is_judged_by_what_is_known() {
        let (ca, other) = (Authority::new("ca"), Authority::new("other"));
        let roots = [&ca, &other].map(|ca| Roots::parse(ca.pem().as_bytes()).unwrap());
        let [own, others] = roots;
        let leaf = ca.leaf(&["a.com"], 1);
        let mut material = Material::parse(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap();
        assert!(material.issuers.is_empty());
        assert_eq!(
            material.chain_end(Some(&others)),
            None,
            "a private CA may be the clients' root"
        );
        material.leaf.names_issuer_location = true;
        let issuer = material.leaf.issuer.clone();
        let lacks = Some(Finding::ChainIncomplete { issuer: issuer.clone() });
        assert_eq!(material.chain_end(None), lacks);
        assert_eq!(material.chain_end(Some(&others)), lacks);
        assert_eq!(material.chain_end(Some(&own)), None);

        material.issuers = [material.leaf.clone()].into();
        assert_eq!(material.chain_end(None), None);
        assert_eq!(material.chain_end(Some(&own)), None);
        assert_eq!(material.chain_end(Some(&others)), Some(Finding::ChainEndsBefore { issuer }));
        material.issuers[0].is_self_signed = true;
        assert_eq!(material.chain_end(Some(&others)), None);
    }

    #[test]
    fn findings_change_when_they_say_they_do() {
        let leaf = Authority::new("ca").leaf_until(&["a.com"], 1, 2030);
        let material = Material::parse(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap();
        let (first, end) = (material.leaf().not_before, material.leaf().not_after);
        let (mut now, mut changes) = (first - 5, Vec::new());
        while let Some(next) = material.findings_change(now, 3) {
            assert_eq!(material.findings(now, 3), material.findings(next - 1, 3), "at {now}");
            assert_ne!(material.findings(now, 3), material.findings(next, 3), "at {next}");
            changes.push(next);
            now = next;
        }
        let days = [3, 2, 1, 0].map(|days| end - days * DAY_SECONDS + 1);
        assert_eq!(changes, [&[first][..], &days].concat());
    }
}
