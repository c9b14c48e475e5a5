//! Content of files.

use std::fmt;
use std::sync::Arc;

use super::hash::Fingerprint;

/// Bytes of a file with their digest. `Debug` shows the digest only.
#[derive(Clone)]
pub struct FileBytes {
    bytes: Arc<[u8]>,
    fingerprint: Fingerprint,
}

impl FileBytes {
    /// Takes bytes and works out their digest.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { fingerprint: Fingerprint::of(&bytes), bytes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBytes({})", self.fingerprint)
    }
}
