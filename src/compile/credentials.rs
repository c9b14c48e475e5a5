//! Certificates, keys and CAs by the names that resources give them.
//!
//! A credential is a Secret of the gateway's namespace or a folder shaped like a mounted one; in
//! both, `cert`/`key`/`cacert` come before `tls.crt`/`tls.key`/`ca.crt`, as in Istio.

mod error;
mod mesh;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::base::file::FileBytes;
use crate::base::hash::{Fingerprint, Hasher};
use crate::resources::core::Secret;
use crate::resources::{Resource, ResourceSet};
use crate::tls::material::Material;
use crate::tls::revocation::Crls;
use crate::tls::roots::Roots;

use super::files::{FileStore, ReadError, credential_name, folders};
use super::revocation::ListInUse;
use super::settings::CompileSettings;
pub use error::CredentialError;
use mesh::Mesh;
pub use mesh::MeshIdentity;

/// Chains with their keys by the digest of both, so that what did not change is not proven again.
type Materials = HashMap<Fingerprint, Arc<Material>, RandomState>;

/// What the last compilation read.
#[derive(Default)]
pub struct KnownCredentials {
    materials: Materials,
    /// The last good mesh identity.
    identity: Option<MeshIdentity>,
}

/// Looks credentials up.
pub struct Credentials<'a> {
    previous: &'a KnownCredentials,
    read: RefCell<Materials>,
    mesh: OnceCell<Mesh>,
    lists: RefCell<Vec<ListInUse>>,
    secrets: HashMap<&'a str, &'a Resource<Secret>>,
    files: &'a FileStore,
    settings: &'a CompileSettings,
}

/// Where the parts of one credential are.
enum Parts<'a> {
    Secret(&'a Resource<Secret>),
    Folder(PathBuf, &'a [(&'static str, Result<FileBytes, ReadError>)]),
}

impl<'a> Parts<'a> {
    fn part(&self, key: &'static str) -> Result<Option<Content<'a>>, CredentialError> {
        let content = match self {
            Self::Secret(secret) => secret.spec.value(key).map(Content::new),
            Self::Folder(folder, contents) => {
                match contents.iter().find(|(name, _)| *name == key) {
                    None => None,
                    Some((_, Ok(file))) => Some(Content::of(file)),
                    Some((_, Err(error))) => {
                        let path = folder.join(key).display().to_string();
                        return Err(CredentialError::File { path, source: error.clone() });
                    }
                }
            }
        };
        Ok(content)
    }

    /// A part that counts as missing when it is empty, as Secrets have them.
    fn filled(&self, key: &'static str) -> Result<Option<Content<'a>>, CredentialError> {
        Ok(self.part(key)?.filter(|content| !content.bytes.is_empty()))
    }

    /// Where a part is written.
    fn place(&self, key: &str) -> String {
        match self {
            Self::Secret(secret) => format!("{key} of {}", secret.origin("")),
            Self::Folder(folder, _) => folder.join(key).display().to_string(),
        }
    }

    fn needed(&self, name: &str, key: &'static str) -> Result<Content<'a>, CredentialError> {
        self.filled(key)?.ok_or_else(|| CredentialError::Incomplete { name: name.to_owned(), key })
    }
}

/// A part of a credential, with its digest where that is known.
#[derive(Clone, Copy)]
struct Content<'a> {
    bytes: &'a [u8],
    digest: Option<Fingerprint>,
}

impl<'a> Content<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, digest: None }
    }

    fn of(file: &'a FileBytes) -> Self {
        Self { bytes: file.bytes(), digest: Some(file.fingerprint()) }
    }

    fn fingerprint(self) -> Fingerprint {
        self.digest.unwrap_or_else(|| Fingerprint::of(self.bytes))
    }
}

impl<'a> Credentials<'a> {
    /// The Secrets of the gateway's namespace, and the files that were read.
    pub fn new(
        set: &'a ResourceSet,
        files: &'a FileStore,
        settings: &'a CompileSettings,
        previous: &'a KnownCredentials,
    ) -> Self {
        let own = set.secrets.iter().filter(|s| *s.id.namespace == *settings.namespace);
        let secrets = own.map(|secret| (&*secret.id.name, &**secret)).collect();
        let read = Materials::with_capacity_and_hasher(previous.materials.len(), <_>::default());
        let (read, lists) = (RefCell::new(read), RefCell::default());
        Self { previous, read, mesh: OnceCell::new(), lists, secrets, files, settings }
    }

    /// What was read, for the next compilation.
    pub fn finish(self) -> KnownCredentials {
        let identity = self.last_good_identity();
        KnownCredentials { materials: self.read.into_inner(), identity }
    }

    fn parse(
        &self,
        chain: Content<'_>,
        key: Content<'_>,
    ) -> Result<Arc<Material>, CredentialError> {
        let mut hasher = Hasher::default();
        hasher.part(chain.fingerprint().as_bytes()).part(key.fingerprint().as_bytes());
        let fingerprint = hasher.finish();
        let known = self.read.borrow().get(&fingerprint).cloned();
        let material = match known.or_else(|| self.previous.materials.get(&fingerprint).cloned()) {
            Some(known) => known,
            None => Arc::new(Material::parse(chain.bytes, key.bytes)?),
        };
        self.read.borrow_mut().insert(fingerprint, material.clone());
        Ok(material)
    }

    /// Chain and key of a credential.
    pub fn material(&self, written: &str) -> Result<Arc<Material>, CredentialError> {
        let (name, parts) = self.find(written)?;
        let (cert, key) = match (parts.filled("cert")?, parts.filled("key")?) {
            (Some(cert), Some(key)) => (cert, key),
            _ => (parts.needed(name, "tls.crt")?, parts.needed(name, "tls.key")?),
        };
        self.parse(cert, key)
    }

    /// The CA that goes with a credential: of `NAME-cacert`, else of the credential itself.
    pub fn roots(&self, written: &str) -> Result<(Roots, Crls), CredentialError> {
        let own = credential_name(written, &self.settings.namespace).unwrap_or(written);
        let apart = format!("{own}-cacert");
        let (_, parts) = match self.find(&apart) {
            Ok(found) => found,
            Err(_) => self.find(written)?,
        };
        self.ca_of(own, &parts)
    }

    /// The CA of just this credential (`caCertCredentialName`).
    pub fn only_roots(&self, written: &str) -> Result<(Roots, Crls), CredentialError> {
        let (name, parts) = self.find(written)?;
        self.ca_of(name, &parts)
    }

    fn ca_of(&self, name: &str, parts: &Parts<'a>) -> Result<(Roots, Crls), CredentialError> {
        // An emptied list is no list that revokes nothing: reading it fails.
        let (ca, key) = match parts.filled("cacert")? {
            Some(ca) => (ca, "crl"),
            None => (parts.needed(name, "ca.crt")?, "ca.crl"),
        };
        let crl = parts.part(key)?;
        let roots = Roots::parse(ca.bytes)?;
        let crls = match crl {
            Some(crl) => self.crls(name, crl, &parts.place(key), &roots)?,
            None => Crls::default(),
        };
        Ok((roots, crls))
    }

    /// Chain and key from two files.
    pub fn material_files(&self, cert: &str, key: &str) -> Result<Arc<Material>, CredentialError> {
        self.parse(self.file(cert.as_ref())?, self.file(key.as_ref())?)
    }

    /// A CA from a file.
    pub fn roots_file(&self, path: &str) -> Result<Roots, CredentialError> {
        Ok(Roots::parse(self.file(path.as_ref())?.bytes)?)
    }

    /// Revocation lists of a CA from a file (`caCrl`); none without a path.
    pub fn crl_file(&self, path: &str, roots: &Roots) -> Result<Crls, CredentialError> {
        match path {
            "" => Ok(Crls::default()),
            path => self.crls(path, self.file(path.as_ref())?, path, roots),
        }
    }

    fn crls(
        &self,
        name: &str,
        content: Content<'_>,
        place: &str,
        roots: &Roots,
    ) -> Result<Crls, CredentialError> {
        let crls = parse_lists(content, place)?;
        let left_out = roots.left_out(&crls).map(ToOwned::to_owned).collect();
        self.note(name, &crls, left_out);
        Ok(crls)
    }

    fn note(&self, name: &str, crls: &Crls, left_out: Vec<String>) {
        let (name, next_update) = (name.to_owned(), crls.next_update());
        self.lists.borrow_mut().push(ListInUse { name, next_update, left_out });
    }

    /// The revocation lists that were read.
    pub fn revocation_lists(&self) -> Vec<ListInUse> {
        let mut lists = self.lists.take();
        lists.sort();
        lists.dedup();
        lists
    }

    fn find<'n>(&self, written: &'n str) -> Result<(&'n str, Parts<'a>), CredentialError> {
        let name = credential_name(written, &self.settings.namespace)
            .ok_or_else(|| CredentialError::Foreign(written.to_owned()))?;
        if let Some(secret) = self.secrets.get(name) {
            return Ok((name, Parts::Secret(secret)));
        }
        let places = folders(self.settings, name);
        for folder in &places {
            if let Some(contents) = self.files.folder(folder) {
                return Ok((name, Parts::Folder(folder.clone(), contents)));
            }
        }
        let places = places.map(|p| format!("\"{}\"", p.display())).join(" and ");
        Err(CredentialError::Missing { name: name.to_owned(), places })
    }

    fn file(&self, path: &Path) -> Result<Content<'a>, CredentialError> {
        let shown = || path.display().to_string();
        match self.files.file(path) {
            Some(Ok(file)) => Ok(Content::of(file)),
            Some(Err(error)) => Err(CredentialError::File { path: shown(), source: error.clone() }),
            None => {
                Err(CredentialError::Incomplete { name: shown(), key: "content: no such file" })
            }
        }
    }
}

fn parse_lists(content: Content<'_>, place: &str) -> Result<Crls, CredentialError> {
    let unusable = |source| CredentialError::Crl { place: place.to_owned(), source };
    Crls::parse(content.bytes).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::files::CREDENTIAL_KEYS;
    use crate::resources::{ConfigFile, parse};
    use crate::tls::pki::Authority;

    fn check<T>(
        files: &[(&str, &str)],
        yaml: &str,
        look: impl Fn(&Credentials<'_>) -> Result<T, CredentialError>,
    ) -> Result<(), String> {
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let mut store = FileStore::default();
        for (path, text) in files {
            let (folder, key) = path.rsplit_once('/').unwrap();
            let content = Ok(FileBytes::new(text.as_bytes()));
            match CREDENTIAL_KEYS.iter().find(|known| **known == key) {
                None => store.insert(path.into(), content),
                Some(key) => {
                    let mut contents = store.folder(folder.as_ref()).unwrap_or_default().to_vec();
                    contents.push((key, content));
                    store.insert_folder(folder.into(), contents);
                }
            }
        }
        let settings = CompileSettings::default();
        look(&Credentials::new(&parsed.set, &store, &settings, &KnownCredentials::default()))
            .map(drop)
            .map_err(|error| error.explain())
    }

    #[test]
    fn folders_of_the_namespace_come_first_and_secrets_before_them() {
        let edge = Authority::new("edge");
        let leaf = edge.leaf(&["a.com"], 1);
        let good = |folder: &str| {
            [
                (format!("{folder}/tls.crt"), leaf.chain.clone()),
                (format!("{folder}/tls.key"), leaf.key.clone()),
            ]
        };
        let web = |c: &Credentials<'_>| c.material("web");
        for folder in ["certs/web", "certs/istio-system/web"] {
            let files = good(folder);
            let files: Vec<_> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
            assert_eq!(check(&files, "", web), Ok(()));
        }
        let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: web, namespace: istio-system}\n\
                     stringData: {tls.crt: broken, tls.key: broken}\n";
        let files = good("certs/web");
        let files: Vec<_> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        assert!(check(&files, other, web).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = check(&[], "", |c| c.material("web")).unwrap_err();
        assert!(error.contains("\"certs/web\""), "{error}");
        let error = check(&[("certs/web/tls.crt", "x")], "", |c| c.material("web")).unwrap_err();
        assert!(error.contains("tls.key"), "{error}");
        let error = check(&[], "", |c| c.material("../web")).unwrap_err();
        assert!(error.contains("not one this gateway can read"), "{error}");
    }

    #[test]
    fn a_list_that_cannot_be_used_is_told_with_its_place() {
        let edge = Authority::new("edge");
        let roots = |c: &Credentials<'_>| c.roots("web");
        let files = [("certs/web/ca.crt", edge.pem()), ("certs/web/ca.crl", "x")];
        let error = check(&files, "", roots).unwrap_err();
        assert!(error.starts_with("\"certs/web/ca.crl\" cannot be used: "), "{error}");
        let secret = format!(
            "\n\napiVersion: v1\nkind: Secret\nmetadata: {{name: web, namespace: \
             istio-system}}\nstringData: {{cacert: {:?}, crl: x}}\n",
            edge.pem()
        );
        let error = check(&[], &secret, roots).unwrap_err();
        let place = "\"crl of Secret istio-system/web a.yaml:3\" cannot be used: ";
        assert!(error.starts_with(place), "{error}");
    }

    #[test]
    fn a_ca_of_its_own_comes_before_the_credentials() {
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let files = [("certs/web/ca.crt", one.pem()), ("certs/web-cacert/cacert", two.pem())];
        check(&files, "", |c| {
            let (roots, _) = c.roots("web")?;
            assert_eq!(roots.facts()[0].subject, "CN=two");
            Ok(())
        })
        .unwrap();
        assert_eq!(check(&files[..1], "", |c| c.roots("web")), Ok(()));
    }
}
