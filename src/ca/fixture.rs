//! Authorities for tests.

use time::OffsetDateTime;

use super::*;
use crate::base::secret::Secret;

/// The time at which everything is made: 2026-01-02 03:04:05 UTC.
pub(super) const NOW: OffsetDateTime = time::macros::datetime!(2026-01-02 03:04:05 UTC);

/// A workload of the trust domain `td`.
pub(super) fn workload(name: &str) -> WorkloadId {
    WorkloadId::new("td", "shop", name).unwrap()
}

/// The files of an authority, to be changed.
pub(super) struct Files {
    pub(super) certificate: String,
    pub(super) key: Secret<Vec<u8>>,
    pub(super) roots: String,
    pub(super) chain: String,
}

impl Files {
    /// A root and an intermediate, as they are made for an empty folder.
    pub(super) fn new() -> Self {
        let root = create_root("td", NOW).unwrap();
        let signing = create_intermediate(&root, "td", NOW).unwrap();
        Self {
            certificate: signing.certificate.clone(),
            key: Secret::new(signing.key.expose().clone().into_bytes()),
            roots: root.certificate,
            chain: signing.certificate,
        }
    }

    pub(super) fn load(&self, now: OffsetDateTime) -> Result<Authority, AuthorityError> {
        let files = AuthorityFiles {
            certificate: self.certificate.as_bytes(),
            key: &self.key,
            roots: self.roots.as_bytes(),
            chain: self.chain.as_bytes(),
        };
        Authority::load(files, &workload("ca"), now)
    }
}
