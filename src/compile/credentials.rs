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
use crate::tls::material::{Material, MaterialError};
use crate::tls::revocation::{CrlError, Crls};
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

    /// Where a part stands, for who is to mend it.
    fn place(&self, key: &str) -> String {
        match self {
            Self::Secret(secret) => {
                format!("{key} of {} {}", secret.id, secret.location(""))
            }
            Self::Folder(folder, _) => shown(&folder.join(key)),
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

    fn parse(&self, chain: Content<'_>, key: Content<'_>) -> Result<Arc<Material>, MaterialError> {
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
        let both = parts.filled("cert")?.zip(parts.filled("key")?);
        let (cert, key, [of_cert, of_key]) = if let Some((cert, key)) = both {
            (cert, key, ["cert", "key"])
        } else {
            let names = ["tls.crt", "tls.key"];
            let [cert, key] = names.map(|key| parts.needed(name, key));
            (cert?, key?, names)
        };
        self.parse(cert, key).map_err(|why| {
            let place = parts.place(if why.is_of_key() { of_key } else { of_cert });
            CredentialError::Material { place, why }
        })
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
        let (ca, [of_ca, of_crl]) = match parts.filled("cacert")? {
            Some(ca) => (ca, ["cacert", "crl"]),
            None => (parts.needed(name, "ca.crt")?, ["ca.crt", "ca.crl"]),
        };
        let unusable = |why| CredentialError::Roots { place: parts.place(of_ca), why };
        let roots = Roots::parse(ca.bytes).map_err(unusable)?;
        let crls = match parts.part(of_crl)? {
            Some(crl) => {
                let unusable = |why| CredentialError::Crl { place: parts.place(of_crl), why };
                self.crls(name, crl, &roots).map_err(unusable)?
            }
            None => Crls::default(),
        };
        Ok((roots, crls))
    }

    /// Chain and key from two files.
    pub fn material_files(&self, cert: &str, key: &str) -> Result<Arc<Material>, CredentialError> {
        let (cert, key): (&Path, &Path) = (cert.as_ref(), key.as_ref());
        self.pair(cert, key)
    }

    fn pair(&self, cert: &Path, key: &Path) -> Result<Arc<Material>, CredentialError> {
        self.parse(self.file(cert)?, self.file(key)?).map_err(|why| {
            let place = shown(if why.is_of_key() { key } else { cert });
            CredentialError::Material { place, why }
        })
    }

    /// A CA from a file.
    pub fn roots_file(&self, path: &str) -> Result<Roots, CredentialError> {
        self.roots_at(path.as_ref())
    }

    fn roots_at(&self, path: &Path) -> Result<Roots, CredentialError> {
        let unusable = |why| CredentialError::Roots { place: shown(path), why };
        Roots::parse(self.file(path)?.bytes).map_err(unusable)
    }

    /// Revocation lists of a CA from a file (`caCrl`); none without a path.
    pub fn crl_file(&self, path: &str, roots: &Roots) -> Result<Crls, CredentialError> {
        match path {
            "" => Ok(Crls::default()),
            path => {
                let unusable = |why| CredentialError::Crl { place: shown(path.as_ref()), why };
                self.crls(path, self.file(path.as_ref())?, roots).map_err(unusable)
            }
        }
    }

    fn crls(&self, name: &str, content: Content<'_>, roots: &Roots) -> Result<Crls, CrlError> {
        let crls = Crls::parse(content.bytes)?;
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
        let display = || path.display().to_string();
        match self.files.file(path) {
            Some(Ok(file)) => Ok(Content::of(file)),
            Some(Err(error)) => {
                Err(CredentialError::File { path: display(), source: error.clone() })
            }
            None => {
                Err(CredentialError::Incomplete { name: display(), key: "content: no such file" })
            }
        }
    }
}

fn shown(path: &Path) -> String {
    format!("\"{}\"", path.display())
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
    fn what_cannot_be_read_is_named_with_its_place() {
        let authority = Authority::new("edge");
        let (leaf, other) = (authority.leaf(&["a.com"], 1), authority.leaf(&["a.com"], 2));
        let web = |c: &Credentials<'_>| c.material("web");
        for (chain, key, place) in [
            ("x", leaf.key.as_str(), "\"certs/web/tls.crt\": "),
            (leaf.chain.as_str(), "x", "\"certs/web/tls.key\": there is no private key block"),
            (&leaf.chain, &other.key, "\"certs/web/tls.key\": the private key does not belong"),
        ] {
            let files = [("certs/web/tls.crt", chain), ("certs/web/tls.key", key)];
            let error = check(&files, "", web).unwrap_err();
            assert!(error.starts_with(place), "{error}");
        }
        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: web, namespace: \
                      istio-system}\nstringData: {cert: x, key: x, cacert: x}\n";
        let error = check(&[], secret, web).unwrap_err();
        let place = "cert of Secret istio-system/web a.yaml:2:1: there is no ";
        assert!(error.starts_with(place), "{error}");
        let error = check(&[], secret, |c| c.roots("web")).unwrap_err();
        assert!(error.starts_with("cacert of Secret istio-system/web a.yaml:2:1: "), "{error}");
        let files = [("f/ca.pem", authority.pem()), ("f/crl.pem", "x")];
        let error = check(&files, "", |c| c.crl_file("f/crl.pem", &c.roots_file("f/ca.pem")?));
        assert!(error.as_ref().is_err_and(|e| e.starts_with("\"f/crl.pem\": ")), "{error:?}");
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
