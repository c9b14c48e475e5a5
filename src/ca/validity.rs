//! How long what a CA signs is accepted: until the first certificate of its chain ends, the root included.
//!
//! **Invariant:** a chain that is accepted here leads to a root that has not expired. Many TLS libraries
//! refuse an expired root; webpki does not look at a root's dates.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::authority::AuthorityError;
use crate::tls::certificate::CertFacts;

/// The certificate of a chain that ends first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its last valid second, Unix time.
    pub at: i64,
    /// Its subject as RFC 2253 text.
    pub subject: String,
}

/// What ends first of a chain from `leaf` to one of the roots, at `now` in Unix seconds; the leaf itself
/// does not count.
pub(super) fn first_end(
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    now: i64,
) -> Result<End, AuthorityError> {
    let ends = |certificates: &[CertificateDer<'static>]| -> Vec<_> {
        certificates.iter().filter_map(|der| Some((der.clone(), end(der)?))).collect()
    };
    let (chain_ends, root_ends) = (ends(chain), ends(roots));
    let (valid, expired): (Vec<_>, Vec<_>) =
        root_ends.into_iter().partition(|(_, end)| end.at >= now);
    let accepted = accepted_by(leaf, chain, &valid, now);
    accepted.map_err(|error| {
        let over = chain_ends.into_iter().map(|(_, end)| end).find(|end| end.at < now);
        match (over, accepted_by(leaf, chain, &expired, now)) {
            (Some(over), _) => AuthorityError::ChainExpired(over.subject),
            (None, Ok(root)) => AuthorityError::RootExpired(root.subject),
            (None, Err(_)) => AuthorityError::Unaccepted(error.to_string()),
        }
    })
}

type WithEnd = (CertificateDer<'static>, End);

fn end(der: &[u8]) -> Option<End> {
    let facts = CertFacts::parse(der).ok()?;
    Some(End { at: facts.not_after, subject: facts.subject })
}

fn accepted_by(
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'static>],
    roots: &[WithEnd],
    now: i64,
) -> Result<End, webpki::Error> {
    let anchors = roots.iter().map(|(der, _)| webpki::anchor_from_trusted_cert(der));
    let anchors = anchors.collect::<Result<Vec<_>, _>>()?;
    let seconds = Duration::from_secs(u64::try_from(now).unwrap_or_default());
    let leaf = EndEntityCert::try_from(leaf)?;
    let path = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        chain,
        UnixTime::since_unix_epoch(seconds),
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    // One key and name may have several roots; the last of them to end counts.
    let same = |anchor: &TrustAnchor<'_>| {
        let found = path.anchor();
        anchor.subject == found.subject
            && anchor.subject_public_key_info == found.subject_public_key_info
    };
    let roots = anchors.iter().zip(roots).filter(|(anchor, _)| same(anchor));
    let root = roots.map(|(_, (_, end))| end.clone()).max_by_key(|end| end.at);
    let between = path.intermediate_certificates().filter_map(|one| end(&one.der()));
    between.chain(root).min_by_key(|end| end.at).ok_or(webpki::Error::UnknownIssuer)
}
