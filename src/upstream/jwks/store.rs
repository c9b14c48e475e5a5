//! Last good key sets on disk, so that tokens are checked from the first second after a restart.
//!
//! One file per key set, named by the SHA-256 of where it is fetched from, which may hold a secret.
//!
//! **Invariant:** a file counts only when nobody else could have written it; a file is replaced whole
//! or not at all; what is read back goes through the same parsing as what is fetched.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::auth::jwt::{InvalidKeySet, KeyLocation, KeySet};
use crate::base::hash::{Fingerprint, Hasher};
use crate::base::limit;

/// A folder of key sets. One process at a time uses it.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// What is fetched now; files of others are removed.
    wanted: Mutex<HashSet<Fingerprint>>,
}

/// A key set from before the restart.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) keys: KeySet,
    /// When it was fetched, in Unix seconds.
    pub(super) fetched_unix: u64,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it belongs to another user, or others may write it")]
    Foreign,
    #[error("it has more than {max} bytes", max = FILE_BYTES)]
    TooLarge,
    #[error("it is not what this program writes")]
    Form,
    #[error("it is {0} s old, or of a time to come")]
    Age(i128),
    #[error(transparent)]
    KeySet(#[from] InvalidKeySet),
}

/// What a file holds.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    /// Digest of where it was fetched from, as in the file's name.
    location: String,
    fetched_unix: u64,
    /// The answer, byte for byte.
    document: std::borrow::Cow<'a, str>,
}

impl Store {
    /// Key sets below a folder for state. Nothing is made before there is something to keep.
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join("jwks"), wanted: Mutex::default() }
    }

    /// The key set kept of a location; a file that cannot be used is told and left out.
    pub(super) fn load(&self, location: &KeyLocation, now_unix: u64) -> Option<Saved> {
        let digest = digest(location);
        let path = self.path(digest);
        match read(&path, digest, now_unix) {
            Ok(saved) => Some(saved),
            Err(Unusable::File(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    file = %path.display(), uri = %location, %error,
                    "a key set kept from before is not used; it is fetched anew"
                );
                None
            }
        }
    }

    /// Keeps a document that was fetched and parsed. Blocks.
    pub(super) fn save(&self, location: &KeyLocation, document: &[u8], now_unix: u64) {
        if let Err(error) = self.try_save(digest(location), document, now_unix) {
            tracing::warn!(
                folder = %self.folder.display(), uri = %location, %error,
                "a key set cannot be kept for the next start; name a folder that can be written \
                 with --state, or --state off"
            );
        }
    }

    fn try_save(&self, location: Fingerprint, document: &[u8], now_unix: u64) -> io::Result<()> {
        let Ok(document) = std::str::from_utf8(document) else { return Ok(()) };
        let written = Written {
            location: location.to_string(),
            fetched_unix: now_unix,
            document: document.into(),
        };
        let text = serde_json::to_vec(&written)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.path(location);
        let beside = path.with_extension(BESIDE);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        let wanted = self.wanted();
        if wanted.contains(&location) { fs::rename(beside, path) } else { fs::remove_file(beside) }
    }

    /// Keeps files of these locations alone from now on.
    pub(super) fn keep<'a>(&self, locations: impl Iterator<Item = &'a KeyLocation>) {
        let mut wanted = self.wanted();
        *wanted = locations.map(digest).collect();
        let Ok(files) = fs::read_dir(&self.folder) else { return };
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            let ours = path.extension().is_some_and(|end| end == ENDING || end == BESIDE);
            let digest = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
            if !ours || !is_digest || wanted.iter().any(|kept| kept.to_string() == digest) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                let file = path.display();
                tracing::warn!(%file, %error, "a key set that no rule uses cannot be removed");
            }
        }
    }

    fn path(&self, location: Fingerprint) -> PathBuf {
        self.folder.join(format!("{location}.{ENDING}"))
    }

    fn wanted(&self) -> MutexGuard<'_, HashSet<Fingerprint>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(location: &KeyLocation) -> Fingerprint {
    let mut hasher = Hasher::default();
    match location {
        KeyLocation::Uri(uri) => hasher.part(b"jwksUri").part(uri.as_bytes()),
        KeyLocation::Discovery { issuer } => hasher.part(b"issuer").part(issuer.as_bytes()),
    };
    hasher.finish()
}

fn read(path: &Path, location: Fingerprint, now_unix: u64) -> Result<Saved, Unusable> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    check_owner(&file)?;
    let mut text = Vec::new();
    file.take(FILE_BYTES as u64 + 1).read_to_end(&mut text)?;
    if text.len() > FILE_BYTES {
        return Err(Unusable::TooLarge);
    }
    let written: Written<'_> = serde_json::from_slice(&text).map_err(|_| Unusable::Form)?;
    if written.location != location.to_string() {
        return Err(Unusable::Form);
    }
    let age = i128::from(now_unix) - i128::from(written.fetched_unix);
    let oldest = i128::from(limit::JWKS_KEPT_TIME.as_secs());
    if !(-CLOCK_STEP_SECONDS..=oldest).contains(&age) {
        return Err(Unusable::Age(age));
    }
    let keys = KeySet::parse_published(written.document.as_bytes())?;
    Ok(Saved { keys, fetched_unix: written.fetched_unix })
}

fn check_owner(file: &File) -> Result<(), Unusable> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unusable::NotAFile);
    }
    let own = metadata.uid() == geteuid().as_raw();
    if own && metadata.mode() & OTHERS_WRITE == 0 { Ok(()) } else { Err(Unusable::Foreign) }
}

const ENDING: &str = "json";
const BESIDE: &str = "new";

/// Permission of a group or of everybody to write.
const OTHERS_WRITE: u32 = 0o022;

/// A clock that is set back by less makes no file useless.
const CLOCK_STEP_SECONDS: i128 = 3_600;

/// A document of [`limit::JWKS_BYTES`] in JSON, where a byte takes six at most.
const FILE_BYTES: usize = 6 * limit::JWKS_BYTES + 1_024;

#[cfg(test)]
mod tests;
