//! Signing certificates that were replaced.
//!
//! What they signed may have to be revoked, and only they can sign the list that says so: each is kept
//! with its key until the last certificate that it signed has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{Access, make_folder, replace};
use crate::base::secret::Secret;
use crate::ca::authority::to_pem;
use crate::ca::{AuthorityError, Signer};

/// The folder they are kept in.
pub(super) struct Signers {
    folder: PathBuf,
}

impl Signers {
    /// Those of a CA that writes to `state`.
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join(FOLDER) }
    }

    /// Keeps the one in force, before it signs anything.
    pub(super) fn keep(&self, signer: &Signer, key: &Secret<Vec<u8>>) -> io::Result<()> {
        let path = self.path(&signer.name());
        if path.exists() {
            return Ok(());
        }
        make_folder(&self.folder)?;
        let mut text = String::from_utf8_lossy(key.expose()).trim_end().to_owned();
        text.push('\n');
        text.push_str(&to_pem([signer.certificate()]));
        replace(&path, &text, Access::Owner)
    }

    /// Those before the one in force, the ones `needed` by their name; others are removed.
    pub(super) fn before(&self, current: &str, needed: impl Fn(&str) -> bool) -> Vec<Signer> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(ENDING)?.to_owned()))
            .filter(|name| name != current && !name.starts_with('.'))
            .collect();
        names.sort();
        let mut signers = Vec::new();
        for name in names {
            let path = self.path(&name);
            if !needed(&name) {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "a former signing key cannot be removed");
                }
                continue;
            }
            match read(&path) {
                Ok(signer) => signers.push(signer),
                Err(error) => tracing::error!(
                    path = %path.display(),
                    error,
                    "a former signing certificate cannot be used: what it signed is in no revocation list"
                ),
            }
        }
        signers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{ENDING}"))
    }
}

fn read(path: &Path) -> Result<Signer, String> {
    let content = fs::read(path).map_err(|error| error.to_string())?;
    let begin = memchr::memmem::find(&content, b"-----BEGIN CERTIFICATE");
    let parts = begin.and_then(|begin| content.split_at_checked(begin));
    let (key, certificate) = parts.ok_or_else(|| AuthorityError::Certificate.to_string())?;
    Signer::read(certificate, &Secret::new(key.to_vec())).map_err(|error| error.to_string())
}

const FOLDER: &str = "signers";
const ENDING: &str = ".pem";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::ca::fixture::Files;

    fn signer() -> (Signer, Secret<Vec<u8>>) {
        let files = Files::new();
        (Signer::read(files.certificate.as_bytes(), &files.key).unwrap(), files.key)
    }

    #[test]
    fn former_ones_are_kept_while_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let signers = Signers::new(dir.path());
        let ((one, key), (two, other)) = (signer(), signer());
        assert!(signers.before(&one.name(), |_| true).is_empty());
        signers.keep(&one, &key).unwrap();
        signers.keep(&two, &other).unwrap();
        let path = signers.path(&one.name());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names = |current: &Signer, needed: bool| -> Vec<String> {
            signers.before(&current.name(), |_| needed).iter().map(Signer::name).collect()
        };
        assert_eq!(names(&two, true), [one.name()]);
        assert_eq!(names(&one, true), [two.name()]);
        assert!(names(&two, false).is_empty());
        assert!(!path.exists() && signers.path(&two.name()).exists());
        fs::write(&path, "broken").unwrap();
        assert!(names(&two, true).is_empty());
        assert!(path.exists(), "what cannot be read may be mended");
    }
}
