//! Which files a configuration needs, and their bytes.
//!
//! [`wanted`] lists them; whoever reads files fills a [`FileStore`]; the passes look bytes up there.
//!
//! **Invariant:** nothing here touches a file; a path that is not in the store does not exist.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;

use crate::base::file::FileBytes;
use crate::resources::ResourceSet;
use crate::resources::destination_rule::{ClientTls, ClientTlsMode, TrafficPolicy};
use crate::resources::gateway::{ServerTls, TlsMode};

use super::settings::CompileSettings;

/// File names in a credential's folder, as in a mounted Kubernetes Secret.
pub const CREDENTIAL_KEYS: [&str; 8] =
    ["tls.crt", "tls.key", "ca.crt", "ca.crl", "cert", "key", "cacert", "crl"];

/// Name of the identity's chain in `--identity`.
pub const IDENTITY_CHAIN: &str = "cert-chain.pem";
/// Name of the identity's key in `--identity`.
pub const IDENTITY_KEY: &str = "key.pem";
/// Name of the mesh root in `--identity`.
pub const IDENTITY_ROOT: &str = "root-cert.pem";

/// Name of what the mesh's authorities revoked in `--identity`; need not be there.
pub const IDENTITY_CRL: &str = "ca-crl.pem";

/// Something to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// One file.
    File(PathBuf),
    /// Those of [`CREDENTIAL_KEYS`] that are in a folder, which need not exist.
    Folder(PathBuf),
}

/// Why a file that is there has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not allowed, or the device failed; holds the system's words.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// More bytes than any credential needs.
    #[error("it is larger than {max} bytes", max = crate::base::limit::CREDENTIAL_FILE_BYTES)]
    TooLarge,
}

/// What was read of a file.
type Content = Result<FileBytes, ReadError>;

/// The files that were read, as [`wanted`] named them; a path that is not in it does not exist.
#[derive(Clone, Debug, Default)]
pub struct FileStore {
    files: HashMap<OsString, Content, RandomState>,
    /// Those of [`CREDENTIAL_KEYS`] that a folder has.
    folders: HashMap<OsString, Vec<(&'static str, Content)>, RandomState>,
}

impl FileStore {
    /// Adds a file that exists.
    pub fn insert(&mut self, path: PathBuf, content: Content) {
        self.files.insert(path.into_os_string(), content);
    }

    /// Adds what a folder has, unless that is nothing.
    pub fn insert_folder(&mut self, folder: PathBuf, contents: Vec<(&'static str, Content)>) {
        if !contents.is_empty() {
            self.folders.insert(folder.into_os_string(), contents);
        }
    }

    /// A file; nothing when it does not exist.
    pub fn file(&self, path: &Path) -> Option<&Content> {
        self.files.get(path.as_os_str())
    }

    /// What a credential's folder has, by key; nothing when that is nothing.
    pub fn folder(&self, folder: &Path) -> Option<&[(&'static str, Content)]> {
        self.folders.get(folder.as_os_str()).map(Vec::as_slice)
    }

    /// Every file, and its key where it was named by its folder; in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &str, &Content)> {
        let files = self.files.iter().map(|(path, content)| (path.as_os_str(), "", content));
        let folders = self.folders.iter().flat_map(|(folder, contents)| {
            contents.iter().map(|(key, content)| (folder.as_os_str(), *key, content))
        });
        files.chain(folders)
    }
}

/// Folders in which a credential's files may be, best first.
pub fn folders(settings: &CompileSettings, name: &str) -> [PathBuf; 2] {
    [settings.certs.join(&settings.namespace).join(name), settings.certs.join(name)]
}

/// A credential's plain name; nothing when this gateway may not read it or does not know its form.
pub fn credential_name<'a>(written: &'a str, namespace: &str) -> Option<&'a str> {
    let name = match written.split_once("://") {
        None => written,
        Some(("kubernetes", rest)) => match rest.split_once('/') {
            Some((own, name)) if own == namespace => name,
            Some(_) => return None,
            None => rest,
        },
        Some(_) => return None,
    };
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    plain.then_some(name)
}

/// Everything that compiling will look up, each once.
pub fn wanted(set: &ResourceSet, settings: &CompileSettings) -> Vec<Wanted> {
    let mut list =
        List { settings, secrets: HashSet::new(), wanted: Vec::new(), listed: HashSet::default() };
    list.secrets = set
        .secrets
        .iter()
        .filter(|secret| *secret.meta.namespace == *settings.namespace)
        .map(|secret| &*secret.meta.name)
        .collect();
    for name in [IDENTITY_CHAIN, IDENTITY_KEY, IDENTITY_ROOT] {
        list.add(settings.identity.join(name), Wanted::File);
    }
    list.add(settings.mesh_lists(), Wanted::File);
    for gateway in &set.gateways {
        for tls in gateway.spec.servers.iter().filter_map(|server| server.tls.as_ref()) {
            list.server(tls);
        }
    }
    for rule in &set.destination_rules {
        let subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
        for policy in rule.spec.traffic_policy.iter().chain(subsets) {
            list.policy(policy);
        }
    }
    list.wanted
}

struct List<'a> {
    settings: &'a CompileSettings,
    secrets: HashSet<&'a str>,
    wanted: Vec<Wanted>,
    /// Paths that are wanted already, as they are written: comparing part by part costs more than
    /// reading one twice.
    listed: HashSet<OsString, RandomState>,
}

impl List<'_> {
    fn server(&mut self, tls: &ServerTls) {
        if matches!(tls.mode, TlsMode::Passthrough | TlsMode::AutoPassthrough) {
            return;
        }
        let mutual = matches!(tls.mode, TlsMode::Mutual | TlsMode::OptionalMutual);
        let names = tls.credential_names.iter().chain([&tls.credential_name]);
        for name in names.filter(|name| !name.is_empty()) {
            self.credential(name, mutual);
        }
        if !tls.ca_cert_credential_name.is_empty() {
            self.credential(&tls.ca_cert_credential_name, false);
        }
        for path in [&tls.server_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl] {
            self.file(path);
        }
        for pair in &tls.tls_certificates {
            self.file(&pair.server_certificate);
            self.file(&pair.private_key);
        }
    }

    fn policy(&mut self, policy: &TrafficPolicy) {
        let ports = policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref());
        for tls in policy.tls.iter().chain(ports) {
            self.client(tls);
        }
    }

    fn client(&mut self, tls: &ClientTls) {
        if !matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
            return;
        }
        if !tls.credential_name.is_empty() {
            self.credential(&tls.credential_name, true);
        }
        for path in [&tls.client_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl] {
            self.file(path);
        }
    }

    fn credential(&mut self, written: &str, with_ca: bool) {
        let Some(name) = credential_name(written, &self.settings.namespace) else { return };
        let ca = with_ca.then(|| format!("{name}-cacert"));
        for name in [Some(name.to_owned()), ca].into_iter().flatten() {
            if !self.secrets.contains(name.as_str()) {
                for folder in folders(self.settings, &name) {
                    self.add(folder, Wanted::Folder);
                }
            }
        }
    }

    fn add(&mut self, path: PathBuf, kind: fn(PathBuf) -> Wanted) {
        if self.listed.insert(path.clone().into_os_string()) {
            self.wanted.push(kind(path));
        }
    }

    fn file(&mut self, path: &str) {
        if !path.is_empty() {
            self.add(path.into(), Wanted::File);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_names_stay_within_their_namespace_and_folder() {
        let check = |written: &str, expected: Option<&str>| {
            assert_eq!(credential_name(written, "edge"), expected, "{written}");
        };
        check("web", Some("web"));
        check("kubernetes://web", Some("web"));
        check("kubernetes://edge/web", Some("web"));
        check("kubernetes://other/web", None);
        check("sds://web", None);
        check("../web", None);
        check("a/b", None);
        check("", None);
    }
}
