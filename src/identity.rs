//! The mesh identity from where it is issued: a SPIFFE Workload API, Envoy's SDS, or Istio's CA
//! service.
//!
//! [`follow`] keeps asking; what it gets goes into a [`Feed`], which a reload reads as it reads files.
//! **Invariant:** what cannot be used, or is over, never replaces what can.

mod created;
mod follow;
mod secrets;
mod source;
mod workload_api;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::base::file::FileBytes;
use crate::base::secret::Secret;
use crate::tls::material::{Material, MaterialError};
use crate::tls::revocation::{CrlError, Crls};
use crate::tls::roots::{Roots, RootsError};

pub use follow::follow;
pub use source::{CertificateService, IdentitySource, InvalidSource};

/// A certificate with its key and the roots of its peers, PEM. `Debug` shows digests only.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Leaf first.
    pub chain: FileBytes,
    /// Its key.
    pub key: FileBytes,
    /// Every root that peers may come from.
    pub roots: FileBytes,
    /// What their authorities revoked; empty without a list.
    pub lists: FileBytes,
}

/// An identity as it was sent, PEM.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Leaf first.
    pub chain: Vec<u8>,
    /// Its key.
    pub key: Secret<Vec<u8>>,
    /// Every root that peers may come from.
    pub roots: Vec<u8>,
    /// What their authorities revoked; empty without a list.
    pub lists: Vec<u8>,
}

/// An identity that is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableIdentity {
    /// Chain and key do not serve.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The roots do not serve.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The revocation lists do not serve.
    #[error(transparent)]
    Lists(#[from] CrlError),
    /// It is over.
    #[error("the certificate has expired; is the clock right?")]
    Expired,
}

impl Identity {
    /// Proves that what was sent serves at `now` (Unix seconds).
    pub fn new(sent: Sent, now: i64) -> Result<Self, UnusableIdentity> {
        let Sent { chain, key, roots, lists } = sent;
        let material = Material::parse(&chain, key.expose())?;
        Roots::parse(&roots)?;
        if !lists.is_empty() {
            Crls::parse(&lists)?;
        }
        if material.leaf().not_after <= now {
            return Err(UnusableIdentity::Expired);
        }
        Ok(Self {
            chain: FileBytes::new(chain),
            key: FileBytes::new(key.expose().as_slice()),
            roots: FileBytes::new(roots),
            lists: FileBytes::new(lists),
        })
    }
}

/// The identity as it is now; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Feed(Arc<ArcSwapOption<Identity>>);

impl Feed {
    /// The identity; nothing before the first came.
    pub fn current(&self) -> Option<Arc<Identity>> {
        self.0.load_full()
    }

    /// Replaces it.
    pub fn put(&self, identity: Identity) {
        self.0.store(Some(Arc::new(identity)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::Authority;

    #[test]
    fn only_what_serves_is_an_identity() {
        let mesh = Authority::new("mesh");
        let (leaf, other) = (mesh.leaf(&["spiffe://td/x"], 1), mesh.leaf(&["spiffe://td/y"], 2));
        let list = mesh.revoke(&[3]).0;
        let with = |chain: &str, key: &str, roots: &str, lists: &str, now| {
            let key = Secret::new(key.as_bytes().to_vec());
            let (chain, roots, lists) = (chain.into(), roots.into(), lists.into());
            Identity::new(Sent { chain, key, roots, lists }, now).map(drop)
        };
        let make = |chain: &str, key: &str, roots: &str, now| with(chain, key, roots, &list, now);
        assert_eq!(make(&leaf.chain, &leaf.key, mesh.pem(), 0), Ok(()));
        let mismatch = make(&leaf.chain, &other.key, mesh.pem(), 0);
        assert!(matches!(mismatch, Err(UnusableIdentity::Material(_))), "{mismatch:?}");
        let no_roots = make(&leaf.chain, &leaf.key, "", 0);
        assert_eq!(no_roots, Err(UnusableIdentity::Roots(RootsError::Empty)));
        let no_list = with(&leaf.chain, &leaf.key, mesh.pem(), "nonsense", 0);
        assert_eq!(no_list, Err(UnusableIdentity::Lists(CrlError::Empty)));
        assert_eq!(with(&leaf.chain, &leaf.key, mesh.pem(), "", 0), Ok(()));
        let expired = make(&leaf.chain, &leaf.key, mesh.pem(), i64::MAX);
        assert_eq!(expired, Err(UnusableIdentity::Expired));
    }
}
