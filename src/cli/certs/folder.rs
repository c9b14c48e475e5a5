//! Folders of PEM files that are written whole or left alone.
//!
//! **Invariant:** no file that exists is ever opened for writing; a key is never readable by others,
//! not even while it is being written.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A folder that cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error(
        "\"{}\" holds \"{present}\" but not \"{missing}\": put it back, or remove the folder to \
         have all of it made anew",
        .folder.display()
    )]
    Partial { folder: PathBuf, present: &'static str, missing: &'static str },
    #[error("cannot write \"{}\"", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read \"{}\"", .path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// A file to write: its name, what it holds, and who may read it.
pub(super) struct File<'a> {
    pub(super) name: &'static str,
    pub(super) text: &'a str,
    pub(super) access: Access,
}

/// Who may read a file.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// Everyone: certificates.
    Public,
    /// The owner: keys.
    Owner,
}

/// Whether the folder holds all of `names`. Some of them is an error.
pub(super) fn holds(folder: &Path, names: &[&'static str]) -> Result<bool, FolderError> {
    let present = |name: &&&'static str| folder.join(name).exists();
    match (names.iter().find(present), names.iter().find(|name| !present(name))) {
        (Some(present), Some(missing)) => {
            Err(FolderError::Partial { folder: folder.to_owned(), present, missing })
        }
        (found, _) => Ok(found.is_some()),
    }
}

/// Reads one file.
pub(super) fn read(folder: &Path, name: &str) -> Result<String, FolderError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(|source| FolderError::Read { path, source })
}

/// Makes the folder and its files. A file that exists is an error.
pub(super) fn write(folder: &Path, files: &[File<'_>]) -> Result<(), FolderError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Write { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    for file in files {
        let path = folder.join(file.name);
        let mode = match file.access {
            Access::Public => 0o644,
            Access::Owner => 0o600,
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let written = options.open(&path).and_then(|mut out| out.write_all(file.text.as_bytes()));
        written.map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAMES: [&str; 2] = ["tls.crt", "tls.key"];

    fn files<'a>(certificate: &'a str, key: &'a str) -> [File<'a>; 2] {
        [
            File { name: "tls.crt", text: certificate, access: Access::Public },
            File { name: "tls.key", text: key, access: Access::Owner },
        ]
    }

    #[test]
    fn keys_and_folders_are_for_their_owner() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a/b");
        assert!(!holds(&folder, &NAMES).unwrap());
        write(&folder, &files("c", "k")).unwrap();
        assert!(holds(&folder, &NAMES).unwrap());
        assert_eq!(read(&folder, "tls.key").unwrap(), "k");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("tls.key")), 0o600);
    }

    #[test]
    fn files_that_exist_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("tls.key"), "mine").unwrap();
        let error = holds(scratch.path(), &NAMES).unwrap_err();
        assert!(matches!(error, FolderError::Partial { missing: "tls.crt", .. }), "{error}");
        assert!(matches!(write(scratch.path(), &files("c", "k")), Err(FolderError::Write { .. })));
        assert_eq!(read(scratch.path(), "tls.key").unwrap(), "mine");
        assert!(matches!(read(scratch.path(), "none"), Err(FolderError::Read { .. })));
    }
}
