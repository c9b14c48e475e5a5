//! Writing files so that each is there whole or not at all, and several of them together.
//!
//! **Invariant:** what [`install`] puts in place is all there once [`finish`] was called, and nothing that
//! came in between is written over.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::base::hash::Fingerprint;

/// Who may read a file.
#[derive(Clone, Copy)]
pub(super) enum Access {
    Everyone,
    Owner,
}

/// A file to be put in place.
#[derive(Clone, Copy)]
pub(super) struct NewFile<'a> {
    pub(super) name: &'static str,
    pub(super) text: &'a str,
    pub(super) access: Access,
}

/// Files of an earlier [`install`] that cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfinished {
    /// One of them was changed since.
    #[error(
        "a new CA was being put in place when the last process ended, and \"{}\" was changed since; \
         to go on with the files in the folder, remove \"{}\"", .changed.display(), .made.display()
    )]
    Changed { changed: PathBuf, made: PathBuf },
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Makes a folder that is its owner's alone, unless it is there.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file, or makes it.
pub(super) fn replace(path: &Path, text: &str, access: Access) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    write(&beside, text, access)?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn write(path: &Path, text: &str, access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Everyone => 0o644,
        Access::Owner => 0o600,
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Has a folder's entries written to disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Puts files in place together: they are written aside, and count from when their folder has its last
/// name. A crash before that leaves the former ones, and after it [`finish`] goes on.
pub(super) fn install(folder: &Path, files: &[NewFile<'_>]) -> Result<(), Unfinished> {
    let making = folder.join(MAKING);
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    make_folder(&making)?;
    let mut former = String::new();
    for file in files {
        write(&making.join(file.name), file.text, file.access)?;
        if let Some(digest) = digest(&folder.join(file.name))? {
            former.extend([file.name, " ", &digest, "\n"]);
        }
    }
    write(&making.join(FORMER), &former, Access::Owner)?;
    sync_folder(&making)?;
    fs::rename(&making, folder.join(MADE))?;
    sync_folder(folder)?;
    finish(folder)
}

/// Puts in place what an earlier [`install`] left.
pub(super) fn finish(folder: &Path) -> Result<(), Unfinished> {
    let made = folder.join(MADE);
    if !made.exists() {
        return Ok(());
    }
    let former = match fs::read_to_string(made.join(FORMER)) {
        Ok(former) => former,
        // Everything else was put in place before it went.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(&made)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| name != FORMER);
    for name in &names {
        let place = folder.join(name);
        let known = former.lines().filter_map(|line| line.split_once(' '));
        let known = known.filter(|(one, _)| name == one).map(|(_, digest)| digest).next();
        if digest(&place)?.as_deref() != known {
            return Err(Unfinished::Changed { changed: place, made });
        }
    }
    for name in &names {
        fs::rename(made.join(name), folder.join(name))?;
    }
    sync_folder(folder)?;
    fs::remove_dir_all(&made)?;
    sync_folder(folder)?;
    Ok(())
}

/// SHA-256 of a file in hex; nothing when it is not there.
fn digest(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(Fingerprint::of(&content).to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where files are written.
const MAKING: &str = ".making";
/// The same folder once they all are.
const MADE: &str = ".made";
/// Digests of the files that they replace.
const FORMER: &str = "former";

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: [NewFile<'_>; 2] = [
        NewFile { name: "key", text: "new key", access: Access::Owner },
        NewFile { name: "cert", text: "new cert", access: Access::Everyone },
    ];

    /// Files of a folder, hidden ones too, as they are once `finish` was called.
    fn check(before: &[(&str, &str)], expected: Option<&[(&str, &str)]>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in before {
            let path = dir.path().join(name);
            make_folder(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let finished = finish(dir.path());
        let Some(expected) = expected else {
            let error = finished.unwrap_err();
            assert!(matches!(error, Unfinished::Changed { .. }), "{error}");
            for (name, text) in before {
                assert_eq!(&fs::read_to_string(dir.path().join(name)).unwrap(), text, "{name}");
            }
            return;
        };
        finished.unwrap();
        let mut after: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != MAKING)
            .map(|name| (name.clone(), fs::read_to_string(dir.path().join(name)).unwrap()))
            .collect();
        after.sort();
        let after: Vec<_> = after.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(after, expected, "{before:?}");
    }

    fn former() -> String {
        format!("key {}\ncert {}\n", Fingerprint::of(b"old key"), Fingerprint::of(b"old cert"))
    }

    #[test]
    fn every_state_between_is_mended() {
        let (old, new) = (
            [("cert", "old cert"), ("key", "old key")],
            [("cert", "new cert"), ("key", "new key")],
        );
        let former = former();
        let made =
            [(".made/cert", "new cert"), (".made/key", "new key"), (".made/former", &*former)];
        check(&old, Some(&old));
        check(&[&old[..], &[(".making/key", "new")]].concat(), Some(&old));
        check(&[&old[..], &made].concat(), Some(&new));
        let half = [("cert", "old cert"), ("key", "new key"), made[0], made[2]];
        check(&half, Some(&new));
        check(&[&new[..], &made[2..]].concat(), Some(&new));
        // Made for an empty folder.
        let first = [made[0], made[1], (".made/former", "")];
        check(&first, Some(&new));
        check(&[&[("key", "new key")], &first[..1], &first[2..]].concat(), Some(&new));
    }

    #[test]
    fn what_came_in_between_is_not_written_over() {
        let former = former();
        let made = [(".made/cert", "new cert"), (".made/key", "new key")];
        check(&[&made[..], &[("key", "mine"), (".made/former", "")]].concat(), None);
        check(
            &[&made[..], &[("key", "mine"), ("cert", "old cert"), (".made/former", &former)]]
                .concat(),
            None,
        );
        check(&[&made[..], &[("cert", "old cert"), (".made/former", &former)]].concat(), None);
    }

    #[test]
    fn files_are_put_in_place_together() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(MAKING)).unwrap();
        fs::write(dir.path().join(MAKING).join("key"), "half").unwrap();
        fs::write(dir.path().join("key"), "old key").unwrap();
        install(dir.path(), &NEW).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("key")).unwrap(), "new key");
        assert_eq!(fs::read_to_string(dir.path().join("cert")).unwrap(), "new cert");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
