//! Reads the files that compiling asks for.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::base::limit;
use crate::compile::files::{CREDENTIAL_KEYS, FileBytes, FileStore, ReadError, Wanted};

/// Reads what exists of a list.
pub(super) fn read(wanted: &[Wanted]) -> FileStore {
    let mut store = FileStore::default();
    for wanted in wanted {
        match wanted {
            Wanted::File(path) => file(path, &mut store),
            Wanted::Folder(folder) if folder.is_dir() => {
                for key in CREDENTIAL_KEYS {
                    file(&folder.join(key), &mut store);
                }
            }
            Wanted::Folder(_) => {}
        }
    }
    store
}

fn file(path: &Path, store: &mut FileStore) {
    let content = match content(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => Err(ReadError::Unreadable(error.to_string())),
        Ok(None) => Err(ReadError::TooLarge),
        Ok(Some(bytes)) => Ok(FileBytes::new(bytes)),
    };
    store.insert(path.to_owned(), content);
}

fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0).min(64 << 10));
    fs::File::open(path)?.take(limit::CREDENTIAL_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit::CREDENTIAL_FILE_BYTES).then_some(bytes))
}
