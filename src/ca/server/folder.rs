//! The CA's folders, under Istio's names.
//!
//! `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and `cert-chain.pem` are the authority, made here or
//! plugged in; `root-key.pem` is there only when it was made here. In the same folder, or in one of its
//! own, lies everything else: `workloads.yaml` says who gets what, `revoked.txt` names serials, one a
//! line with the time it happened; `ca-crl.pem`, `issued.jsonl` and `signers/` are written.
//!
//! **Invariant:** a key that others may read is refused; a file is replaced whole or not at all.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::files::{Access, NewFile, Unfinished, finish, install, make_folder, replace};
use crate::base::file::FileBytes;
use crate::base::limit;
use crate::base::secret::Secret;
use crate::ca::{AuthorityError, NewAuthority, Revoked, create_intermediate, create_root};
use crate::source::reader::Reader;
use crate::source::touched::Changes;

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Some of the authority is missing.
    #[error(
        "\"{}\" has no {missing}, but other parts of a CA: put it there, or name an empty folder to \
         have a CA made",
        .folder.display()
    )]
    Partial {
        /// The folder.
        folder: PathBuf,
        /// The missing file.
        missing: &'static str,
    },
    /// Others may read a key.
    #[error(
        "\"{}\" may be read by others (mode {mode:03o}); run: chmod 600 \"{}\", or for a mounted Secret \
         set defaultMode: 0400 on its volume", .path.display(), .path.display()
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The authority's files do not serve.
    #[error("the CA in \"{}\" cannot be used: {why}", .folder.display())]
    Authority {
        /// The folder.
        folder: PathBuf,
        /// Why.
        why: AuthorityError,
    },
    /// The list of workloads has mistakes.
    #[error("{}", .0.join("; "))]
    Workloads(Vec<String>),
    /// The list of revoked serials has a mistake.
    #[error("\"{}\", line {line}: write a serial in hexadecimal digits, and a time like 2027-01-01T00:00:00Z", .path.display())]
    Revoked {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// Another process uses the folder.
    #[error("\"{}\" is in use by another CA", .0.display())]
    InUse(PathBuf),
    /// The folder for what the CA writes cannot be written.
    #[error(
        "\"{}\" cannot be written: {why}; name a folder for the issuance log and revocation list \
         with --state", .folder.display()
    )]
    ReadOnly {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A former signing certificate that is needed still cannot be read.
    #[error(
        "\"{}\" does not hold a signing certificate's key and then the certificate, as PEM; without them \
         what it signed cannot be revoked: bring the file back, or remove it to give that up",
        .0.display()
    )]
    FormerSigner(PathBuf),
    /// The root's key cannot be read.
    #[error("\"{}\" has no private key that can be used; move it away when the root is not this CA's", .0.display())]
    RootKey(PathBuf),
    /// A new CA was left half in place.
    #[error("{0}")]
    Unfinished(String),
    /// A file cannot be read or written.
    #[error("\"{}\": {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
}

/// What the folder holds now.
pub(super) struct Contents {
    pub(super) certificate: FileBytes,
    pub(super) key: Secret<Vec<u8>>,
    pub(super) roots: FileBytes,
    pub(super) chain: FileBytes,
    pub(super) workloads: FileBytes,
    pub(super) revoked: Vec<Revoked>,
}

/// A CA's folders.
#[derive(Debug)]
pub struct Folder {
    /// The authority's.
    path: PathBuf,
    /// Keeps other CAs out of it.
    _lock: File,
    /// That of everything else.
    state: PathBuf,
}

impl Folder {
    /// Opens the folder of an authority; an empty or missing one gets a root and a signing certificate.
    /// `state` must be there.
    pub fn open(
        path: PathBuf,
        state: PathBuf,
        trust_domain: &str,
        now: OffsetDateTime,
    ) -> Result<Self, FolderError> {
        let lock = make_folder(&path).and_then(|()| File::open(&path));
        let lock = match lock {
            Ok(lock) => lock,
            Err(why) => return Err(FolderError::File { path, why }),
        };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path)),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(folder = %path.display(), %error, "the CA's folder cannot be locked; let no other CA use it");
            }
            Ok(()) => {}
        }
        let folder = Self { path, _lock: lock, state };
        finish(&folder.path).map_err(|error| folder.unfinished(error))?;
        let there = |name: &&&'static str| folder.path.join(name).exists();
        let mut parts = NEEDED.iter().chain(&[ROOT_KEY, CHAIN]);
        match (parts.find(there), NEEDED.iter().find(|name| !there(name))) {
            (Some(_), Some(missing)) => {
                return Err(FolderError::Partial { folder: folder.path, missing });
            }
            (None, _) => folder.create(trust_domain, now)?,
            (Some(_), None) => {}
        }
        let root_key = folder.path.join(ROOT_KEY);
        if root_key.exists() {
            open_key(&root_key)?;
        }
        Ok(folder)
    }

    fn create(&self, trust_domain: &str, now: OffsetDateTime) -> Result<(), FolderError> {
        let root = create_root(trust_domain, now).map_err(|why| self.unusable(why))?;
        let signing =
            create_intermediate(&root, trust_domain, now).map_err(|why| self.unusable(why))?;
        let root = [
            NewFile { name: ROOT_KEY, text: root.key.expose(), access: Access::Owner },
            NewFile { name: ROOT, text: &root.certificate, access: Access::Everyone },
        ];
        self.install(&[&root[..], &signing_files(&signing)].concat())?;
        tracing::info!(folder = %self.path.display(), trust_domain, "a root and a CA below it were made");
        Ok(())
    }

    fn install(&self, files: &[NewFile<'_>]) -> Result<(), FolderError> {
        install(&self.path, files).map_err(|error| self.unfinished(error))
    }

    /// Reads everything.
    pub(super) fn read(&self, reader: &mut Reader) -> Result<Contents, FolderError> {
        reader.begin(&Changes::Anything);
        let mut read = |name| read_file(self.path.join(name), reader);
        let missing = |missing| FolderError::Partial { folder: self.path.clone(), missing };
        let certificate = read(CERTIFICATE)?.ok_or(missing(CERTIFICATE))?;
        let roots = read(ROOT)?.ok_or(missing(ROOT))?;
        let chain = read(CHAIN)?.unwrap_or_else(|| FileBytes::new(Vec::new()));
        let mut read = |name| read_file(self.state.join(name), reader);
        let workloads = read(WORKLOADS)?.unwrap_or_else(|| FileBytes::new(Vec::new()));
        let revoked = read(REVOKED)?.unwrap_or_else(|| FileBytes::new(Vec::new()));
        Ok(Contents {
            certificate,
            key: read_key(&self.path.join(KEY))?,
            roots,
            chain,
            workloads,
            revoked: self.revoked(revoked.bytes())?,
        })
    }

    fn revoked(&self, text: &[u8]) -> Result<Vec<Revoked>, FolderError> {
        let text = String::from_utf8_lossy(text);
        let mut revoked = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default();
            if content.trim().is_empty() {
                continue;
            }
            let path = || self.state.join(REVOKED);
            let one = revoked_line(content)
                .ok_or_else(|| FolderError::Revoked { path: path(), line: index + 1 })?;
            revoked.push(one);
        }
        Ok(revoked)
    }

    /// Writes the revocation list.
    pub(super) fn write_list(&self, pem: &str) -> Result<(), FolderError> {
        let path = self.state.join(LIST);
        replace(&path, pem, Access::Everyone).map_err(|why| FolderError::File { path, why })
    }

    /// The path of the list of workloads.
    pub(super) fn workloads_path(&self) -> PathBuf {
        self.state.join(WORKLOADS)
    }

    pub(super) fn unusable(&self, why: AuthorityError) -> FolderError {
        FolderError::Authority { folder: self.path.clone(), why }
    }

    fn failed(&self, why: io::Error) -> FolderError {
        FolderError::File { path: self.path.clone(), why }
    }

    fn unfinished(&self, error: Unfinished) -> FolderError {
        match error {
            Unfinished::Io(why) => self.failed(why),
            changed @ Unfinished::Changed { .. } => FolderError::Unfinished(changed.to_string()),
        }
    }
}

fn signing_files(signing: &NewAuthority) -> [NewFile<'_>; 3] {
    let (key, certificate) = (signing.key.expose().as_str(), signing.certificate.as_str());
    [
        NewFile { name: KEY, text: key, access: Access::Owner },
        NewFile { name: CHAIN, text: certificate, access: Access::Everyone },
        NewFile { name: CERTIFICATE, text: certificate, access: Access::Everyone },
    ]
}

fn read_file(path: PathBuf, reader: &mut Reader) -> Result<Option<FileBytes>, FolderError> {
    match reader.read(&path, limit::CREDENTIAL_FILE_BYTES) {
        Ok(Some(content)) => Ok(Some(content)),
        Ok(None) => Err(FolderError::File { path, why: io::Error::other("it is too large") }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(FolderError::File { path, why }),
    }
}

/// Whether a key's mode lets others have it than the process with user `own`. A Secret that Kubernetes
/// mounts is the superuser's, and who is somebody else reads it through its group (`fsGroup`).
fn exposed(mode: u32, owner: u32, own: u32) -> bool {
    let through_group = owner == 0 && own != 0;
    let allowed = if through_group { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

/// Opens a key that nobody else may read.
fn open_key(path: &Path) -> Result<File, FolderError> {
    let failed = |why| FolderError::File { path: path.to_owned(), why };
    let file = File::open(path).map_err(failed)?;
    let of = file.metadata().map_err(failed)?;
    let mode = of.permissions().mode() & 0o777;
    if exposed(mode, of.uid(), rustix::process::geteuid().as_raw()) {
        return Err(FolderError::Exposed { path: path.to_owned(), mode });
    }
    Ok(file)
}

fn read_key(path: &Path) -> Result<Secret<Vec<u8>>, FolderError> {
    use std::io::Read as _;

    let mut key = Vec::new();
    open_key(path)?
        .take(limit::CREDENTIAL_FILE_BYTES)
        .read_to_end(&mut key)
        .map_err(|why| FolderError::File { path: path.to_owned(), why })?;
    Ok(Secret::new(key))
}

fn revoked_line(line: &str) -> Option<Revoked> {
    let mut words = line.split_whitespace();
    let (serial, at) = (words.next()?, words.next()?);
    let digits = serial.len() <= SERIAL_CHARS && serial.len() % 2 == 0;
    let serial = (0..serial.len())
        .step_by(2)
        .map(|at| serial.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok()));
    let serial = serial.collect::<Option<Vec<_>>>().filter(|_| digits && words.next().is_none())?;
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?.unix_timestamp();
    Some(Revoked { serial, at })
}

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOT: &str = "root-cert.pem";
const ROOT_KEY: &str = "root-key.pem";
const CHAIN: &str = "cert-chain.pem";
const WORKLOADS: &str = "workloads.yaml";
const REVOKED: &str = "revoked.txt";
const LIST: &str = "ca-crl.pem";
const NEEDED: [&str; 3] = [CERTIFICATE, KEY, ROOT];
/// Serials have 20 bytes at most (RFC 5280, section 4.1.2.2).
const SERIAL_CHARS: usize = 40;

mod renewal;
#[cfg(test)]
mod tests;
