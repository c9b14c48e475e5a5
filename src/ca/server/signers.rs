//! Signing certificates that were replaced.
//!
//! What they signed may have to be revoked, and only they can sign the list that says so: each is kept
//! with its key until the last certificate that it signed has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{Access, make_folder, replace};
use super::folder::FolderError;
use crate::base::secret::Secret;
use crate::ca::Signer;
use crate::ca::authority::to_pem;

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
        if read(&path)?.is_some() {
            return Ok(());
        }
        make_folder(&self.folder)?;
        let mut text = String::from_utf8_lossy(key.expose()).trim_end().to_owned();
        text.push('\n');
        text.push_str(&to_pem([signer.certificate()]));
        replace(&path, &text, Access::Owner)
    }

    /// Those before the one in force, the ones `needed` by their name; others are removed. One that is
    /// needed and cannot be read is an error: without it what it signed could not be revoked.
    pub(super) fn before(
        &self,
        current: &str,
        needed: impl Fn(&str) -> bool,
    ) -> Result<Vec<Signer>, FolderError> {
        let names =
            self.names().map_err(|why| FolderError::File { path: self.folder.clone(), why })?;
        let mut signers = Vec::new();
        for name in names.into_iter().filter(|name| name != current) {
            let path = self.path(&name);
            if !needed(&name) {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "a former signing key cannot be removed");
                }
                continue;
            }
            match read(&path) {
                Ok(Some(signer)) => signers.push(signer),
                Ok(None) => return Err(FolderError::FormerSigner(path)),
                Err(why) => return Err(FolderError::File { path, why }),
            }
        }
        Ok(signers)
    }

    /// Names of all, in their order.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(ENDING));
            names.extend(name.filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{ENDING}"))
    }
}

/// Reads a key and the certificate after it; nothing when the file is missing or holds something else.
fn read(path: &Path) -> io::Result<Option<Signer>> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => content?,
    };
    let begin = memchr::memmem::find(&content, b"-----BEGIN CERTIFICATE");
    let parts = begin.and_then(|begin| content.split_at_checked(begin));
    Ok(parts
        .and_then(|(key, certificate)| Signer::read(certificate, &Secret::new(key.to_vec())).ok()))
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
        assert!(signers.before(&one.name(), |_| true).unwrap().is_empty());
        signers.keep(&one, &key).unwrap();
        signers.keep(&two, &other).unwrap();
        let path = signers.path(&one.name());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names = |current: &Signer, needed: bool| -> Vec<String> {
            let before = signers.before(&current.name(), |_| needed).unwrap();
            before.iter().map(Signer::name).collect()
        };
        assert_eq!(names(&two, true), [one.name()]);
        assert_eq!(names(&one, true), [two.name()]);
        assert!(names(&two, false).is_empty());
        assert!(!path.exists() && signers.path(&two.name()).exists());
    }

    #[test]
    fn one_that_is_needed_and_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let signers = Signers::new(dir.path());
        let ((one, key), (two, other)) = (signer(), signer());
        signers.keep(&two, &other).unwrap();
        let path = signers.path(&one.name());
        for content in ["broken", &to_pem([one.certificate()])] {
            fs::write(&path, content).unwrap();
            let error = signers.before(&two.name(), |_| true).unwrap_err();
            assert!(matches!(&error, FolderError::FormerSigner(told) if *told == path), "{error}");
            assert!(path.exists(), "what cannot be read may be mended");
        }
        // As the one in force it is written anew.
        signers.keep(&one, &key).unwrap();
        assert_eq!(signers.before(&two.name(), |_| true).unwrap().len(), 1);
        fs::remove_dir_all(&signers.folder).unwrap();
        fs::write(&signers.folder, "no folder").unwrap();
        let error = signers.before(&two.name(), |_| true).unwrap_err();
        assert!(matches!(error, FolderError::File { .. }), "{error}");
    }
}
