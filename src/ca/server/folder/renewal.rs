//! Replacing a signing certificate below a root that was made here.
//!
//! **Invariant:** files take the place of others only once they are proven to be an authority.

use std::fs;

use rcgen::{KeyPair, PublicKeyData as _};
use time::OffsetDateTime;
use x509_parser::time::ASN1Time;

use super::{Folder, FolderError, ROOT, ROOT_KEY, read_key, signing_files};
use crate::base::secret::Secret;
use crate::ca::authority::{certificates, to_pem};
use crate::ca::{
    Authority, AuthorityError, AuthorityFiles, NewAuthority, WorkloadId, create_intermediate,
};
use crate::tls::roots::RootsError;

impl Folder {
    /// Replaces the signing certificate by a new one below the root whose key is here; says whether there
    /// is such a root. What is made is tried by issuing for `own` first.
    pub(in crate::ca::server) fn renew(
        &self,
        own: &WorkloadId,
        trust_domain: &str,
        now: OffsetDateTime,
    ) -> Result<bool, FolderError> {
        let path = self.path.join(ROOT);
        let roots = fs::read(&path).map_err(|why| FolderError::File { path, why })?;
        let Some(root) = self.root(&roots, now)? else { return Ok(false) };
        let unusable = |why| self.unusable(why);
        let signing = create_intermediate(&root, trust_domain, now).map_err(unusable)?;
        let key = Secret::new(signing.key.expose().clone().into_bytes());
        let certificate = signing.certificate.as_bytes();
        let files = AuthorityFiles { certificate, key: &key, roots: &roots, chain: certificate };
        Authority::load(files, own, now).map_err(unusable)?;
        self.install(&signing_files(&signing))?;
        Ok(true)
    }

    /// The root that the key here belongs to, when it is valid.
    fn root(&self, roots: &[u8], now: OffsetDateTime) -> Result<Option<NewAuthority>, FolderError> {
        let path = self.path.join(ROOT_KEY);
        if !path.exists() {
            return Ok(None);
        }
        let unusable = || FolderError::RootKey(path.clone());
        let pem = String::from_utf8(read_key(&path)?.expose().clone()).map_err(|_| unusable())?;
        let public = KeyPair::from_pem(&pem).map_err(|_| unusable())?.subject_public_key_info();
        let roots = certificates(roots)
            .ok_or_else(|| self.unusable(AuthorityError::Roots(RootsError::Empty)))?;
        let at = ASN1Time::from_timestamp(now.unix_timestamp()).map_err(|_| unusable())?;
        let root = roots.iter().find(|der| {
            x509_parser::parse_x509_certificate(der).is_ok_and(|(_, root)| {
                root.public_key().raw == public && root.validity().is_valid_at(at)
            })
        });
        if root.is_none() {
            tracing::warn!(
                key = %path.display(),
                "the signing certificate is not renewed: no valid root in {ROOT} has this key; move it away"
            );
        }
        let key = Secret::new(pem);
        Ok(root.map(|root| NewAuthority { certificate: to_pem([root]), key }))
    }
}
