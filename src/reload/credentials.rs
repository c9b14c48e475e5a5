//! Reads the files that compiling asks for.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::limit;
use crate::compile::files::{
    CREDENTIAL_KEYS, FileStore, IDENTITY_CHAIN, IDENTITY_KEY, IDENTITY_ROOT, ReadError, Wanted,
};
use crate::identity::Identity;
use crate::source::reader::Reader;

/// Reads what exists of a list.
pub(super) fn read(wanted: &[Wanted], reader: &mut Reader) -> FileStore {
    let mut store = FileStore::default();
    for wanted in wanted {
        match wanted {
            Wanted::File(path) => file(path.clone(), reader, &mut store),
            Wanted::Folder(folder) => {
                for key in reader.names(folder, &CREDENTIAL_KEYS).unwrap_or_default() {
                    file(folder.join(key), reader, &mut store);
                }
            }
        }
    }
    store
}

fn file(path: PathBuf, reader: &mut Reader, store: &mut FileStore) {
    let content = match reader.read(&path, limit::CREDENTIAL_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => Err(ReadError::Unreadable(error.to_string())),
        Ok(None) => Err(ReadError::TooLarge),
        Ok(Some(content)) => Ok(content),
    };
    store.insert(path, content);
}

/// Adds an identity that was sent, as if its files lay in `folder`.
pub(super) fn add(identity: &Identity, folder: &Path, store: &mut FileStore) {
    let files = [
        (IDENTITY_CHAIN, &identity.chain),
        (IDENTITY_KEY, &identity.key),
        (IDENTITY_ROOT, &identity.roots),
    ];
    for (name, content) in files {
        store.insert(folder.join(name), Ok(content.clone()));
    }
}
