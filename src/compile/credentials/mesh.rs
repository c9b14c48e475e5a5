//! The mesh identity with what its peers are judged by, and the last good one.
//!
//! **Invariant:** what cannot be used never takes the place of what could; an identity that has expired is
//! never served.

use std::sync::Arc;

use crate::base::file::FileBytes;
use crate::diag::{Diagnostic, catalog};
use crate::tls::material::Material;
use crate::tls::revocation::Crls;
use crate::tls::roots::Roots;

use super::{CredentialError, Credentials, shown};
use crate::compile::files::{IDENTITY_CHAIN, IDENTITY_KEY, IDENTITY_ROOT};
use crate::compile::findings::Findings;
use crate::compile::server_tls;

/// The mesh identity, and what its peers are judged by.
#[derive(Clone, Debug)]
pub struct MeshIdentity {
    /// Chain and key.
    pub material: Arc<Material>,
    /// Roots of its peers.
    pub roots: Roots,
    /// What their authorities revoked; empty without a list.
    pub crls: Crls,
}

/// What there is of it.
pub(super) struct Mesh {
    identity: Result<MeshIdentity, CredentialError>,
    /// Why some of it is the last good.
    kept: Option<CredentialError>,
}

impl Credentials<'_> {
    /// The mesh identity (`--identity`) if it is good at `now` (Unix seconds): it is never served
    /// expired. What of it cannot be used is the last good.
    pub fn identity(&self, now: i64) -> Result<MeshIdentity, CredentialError> {
        let identity = self.any_identity()?;
        if identity.material.leaf().not_after <= now {
            let place = self.settings.identity.display().to_string();
            return Err(CredentialError::IdentityExpired(place));
        }
        Ok(identity)
    }

    /// The mesh identity, though it may have expired.
    pub fn any_identity(&self) -> Result<MeshIdentity, CredentialError> {
        self.mesh().identity.clone()
    }

    /// Tells what goes on though its files are broken, and that nobody is listed as revoked.
    pub fn tell_mesh(&self, findings: &mut Findings) {
        if let Some(error) = &self.mesh().kept {
            let message = format!("the mesh identity cannot be renewed: {}", error.explain());
            let help = "until it is mended, what it had before goes on, no longer than it is valid";
            findings.add(Diagnostic::new(server_tls::code(error), message).help(help));
        }
        if let Some(lists) = &self.settings.identity_crl
            && self.files.file(lists).is_none_or(|file| file.as_ref().is_ok_and(blank))
        {
            let source = self.settings.identity.display();
            let message = format!(
                "\"{source}\" gives no revocation list, and \"{}\" has none",
                lists.display()
            );
            findings.add(Diagnostic::new(&catalog::REVOCATION_LIST_NONE, message));
        }
    }

    /// What the next compilation goes on with.
    pub(super) fn last_good_identity(&self) -> Option<MeshIdentity> {
        self.mesh().identity.as_ref().ok().cloned()
    }

    fn mesh(&self) -> &Mesh {
        self.mesh.get_or_init(|| self.with_last_good(self.read_pair(), self.read_lists()))
    }

    fn with_last_good(
        &self,
        pair: Result<(Arc<Material>, Roots), CredentialError>,
        lists: Result<Crls, CredentialError>,
    ) -> Mesh {
        let Some(last) = &self.previous.identity else {
            let identity = pair
                .and_then(|(material, roots)| Ok(MeshIdentity { material, roots, crls: lists? }));
            return Mesh { identity, kept: None };
        };
        let (crls, broken_lists) = match lists {
            Ok(crls) => (crls, None),
            Err(error) => {
                self.note_mesh(&last.crls);
                (last.crls.clone(), Some(error))
            }
        };
        match pair {
            Ok((material, roots)) => {
                Mesh { identity: Ok(MeshIdentity { material, roots, crls }), kept: broken_lists }
            }
            Err(error) => {
                Mesh { identity: Ok(MeshIdentity { crls, ..last.clone() }), kept: Some(error) }
            }
        }
    }

    fn read_pair(&self) -> Result<(Arc<Material>, Roots), CredentialError> {
        let folder = &self.settings.identity;
        if self.settings.identity_is_sent && self.files.file(&folder.join(IDENTITY_CHAIN)).is_none()
        {
            return Err(CredentialError::IdentityAwaited(folder.display().to_string()));
        }
        let roots = self.roots_at(&folder.join(IDENTITY_ROOT));
        let pair = self.pair(&folder.join(IDENTITY_CHAIN), &folder.join(IDENTITY_KEY));
        Ok((pair?, roots?))
    }

    /// Revocation lists of the mesh, which need not be there. A file of their own is empty until Istio is
    /// given a list.
    fn read_lists(&self) -> Result<Crls, CredentialError> {
        let path = self.settings.mesh_lists();
        match self.files.file(&path) {
            None => Ok(Crls::default()),
            Some(Ok(file)) if self.settings.identity_crl.is_some() && blank(file) => {
                Ok(Crls::default())
            }
            Some(_) => {
                let unusable = |why| CredentialError::Crl { place: shown(&path), why };
                let crls = Crls::parse(self.file(&path)?.bytes).map_err(unusable)?.incomplete();
                self.note_mesh(&crls);
                Ok(crls)
            }
        }
    }

    fn note_mesh(&self, crls: &Crls) {
        self.note(&self.settings.mesh_lists().display().to_string(), crls, Vec::new());
    }
}

fn blank(file: &FileBytes) -> bool {
    file.bytes().trim_ascii().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::credentials::KnownCredentials;
    use crate::compile::files::{FileStore, IDENTITY_CRL};
    use crate::compile::fixture::codes;
    use crate::compile::settings::CompileSettings;
    use crate::resources::parse;
    use crate::tls::pki::{Authority, Leaf};

    struct World {
        mesh: Authority,
        leaf: Leaf,
        list: String,
        settings: CompileSettings,
    }

    impl World {
        fn new() -> Self {
            let mesh = Authority::new("mesh");
            let leaf = mesh.leaf(&["spiffe://td/x"], 1);
            let list = mesh.revoke(&[7]).0;
            Self { mesh, leaf, list, settings: CompileSettings::default() }
        }

        /// Loads key and list as given after `before`; codes, and the digest of the lists in force if there is an
        /// identity.
        fn load(
            &self,
            (key, list): (&str, Option<&str>),
            before: &KnownCredentials,
        ) -> (KnownCredentials, Vec<&'static str>, Option<Crls>) {
            let mut store = FileStore::default();
            let mut put = |name: &str, text: &str| {
                let path = self.settings.identity.join(name);
                store.insert(path, Ok(FileBytes::new(text.as_bytes())));
            };
            put(IDENTITY_CHAIN, &self.leaf.chain);
            put(IDENTITY_KEY, key);
            put(IDENTITY_ROOT, self.mesh.pem());
            if let Some(list) = list {
                put(IDENTITY_CRL, list);
            }
            let set = parse(&[]).set;
            let credentials = Credentials::new(&set, &store, &self.settings, before);
            let mut findings = Findings::default();
            credentials.tell_mesh(&mut findings);
            let crls = credentials.identity(0).ok().map(|identity| identity.crls);
            (credentials.finish(), codes(findings), crls)
        }
    }

    #[test]
    fn what_cannot_be_read_is_the_last_good() {
        let world = World::new();
        let (key, list) = (world.leaf.key.as_str(), Some(world.list.as_str()));
        let none = KnownCredentials::default();
        let (before, told, crls) = world.load((key, list), &none);
        let crls = crls.unwrap();
        assert!(told.is_empty());
        let check = |key: &str, list: Option<&str>, code: &[&str], expected: &Crls| {
            let (_, told, found) = world.load((key, list), &before);
            let same = found.is_some_and(|found| found.revoked() == expected.revoked());
            assert!(same && told == code, "{told:?}");
            let (_, told, found) = world.load((key, list), &none);
            assert!(told.is_empty() && (found.is_none() || code.is_empty()));
        };
        check(key, Some("nonsense"), &["PC028"], &crls);
        check("nonsense", list, &["PC021"], &crls);
        check("nonsense", Some("nonsense"), &["PC021"], &crls);
        // A list that went away is no broken one.
        check(key, None, &[], &Crls::default());
        let other = world.mesh.revoke(&[8]).0;
        let newer = Crls::parse(other.as_bytes()).unwrap();
        check("nonsense", Some(&other), &["PC021"], &newer);
    }

    #[test]
    fn the_last_good_is_served_no_longer_than_it_is_valid() {
        let world = World::new();
        let (before, ..) = world.load((&world.leaf.key, None), &KnownCredentials::default());
        let (set, store) = (parse(&[]).set, FileStore::default());
        let credentials = Credentials::new(&set, &store, &world.settings, &before);
        let end = credentials.any_identity().unwrap().material.leaf().not_after;
        assert!(credentials.identity(end - 1).is_ok());
        let over = credentials.identity(end).unwrap_err();
        assert!(matches!(over, CredentialError::IdentityExpired(_)), "{over}");
    }
}
