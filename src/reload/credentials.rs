//! Reads the files that compiling asks for.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::base::file::FileBytes;
use crate::base::limit;
use crate::compile::files::{
    CREDENTIAL_KEYS, FileStore, IDENTITY_CHAIN, IDENTITY_CRL, IDENTITY_KEY, IDENTITY_ROOT,
    ReadError, Wanted,
};
use crate::identity::Identity;
use crate::source::reader::Reader;

/// Reads what exists of a list.
pub(super) fn read(wanted: &[Wanted], reader: &mut Reader) -> FileStore {
    let mut store = FileStore::default();
    // Folders of namespaces, most of which are rarely there.
    let mut holders = HashMap::new();
    for wanted in wanted {
        match wanted {
            Wanted::File(path) => {
                if let Some(content) = file(path, reader) {
                    store.insert(path.clone(), content);
                }
            }
            Wanted::Folder(folder) => {
                let holder = folder.parent().unwrap_or(folder);
                if !*holders.entry(holder).or_insert_with(|| holder.is_dir()) {
                    continue;
                }
                let keys = reader.names(folder, &CREDENTIAL_KEYS).unwrap_or_default();
                let content = |key| file(&folder.join(key), reader).map(|content| (key, content));
                store.insert_folder(folder.clone(), keys.into_iter().filter_map(content).collect());
            }
        }
    }
    store
}

fn file(path: &Path, reader: &mut Reader) -> Option<Result<FileBytes, ReadError>> {
    match reader.read(path, limit::CREDENTIAL_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(ReadError::Unreadable(told(&error)))),
        Ok(None) => Some(Err(ReadError::TooLarge)),
        Ok(Some(content)) => Some(Ok(content)),
    }
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}; let the user that portcullis runs as read it")
        }
        _ => error.to_string(),
    }
}

/// Adds an identity that was sent, as if its files lay in `folder`.
pub(super) fn add(identity: &Identity, folder: &Path, store: &mut FileStore) {
    let files = [
        (IDENTITY_CHAIN, &identity.chain),
        (IDENTITY_KEY, &identity.key),
        (IDENTITY_ROOT, &identity.roots),
        (IDENTITY_CRL, &identity.lists),
    ];
    for (name, content) in files.into_iter().filter(|(_, content)| !content.bytes().is_empty()) {
        store.insert(folder.join(name), Ok(content.clone()));
    }
}
