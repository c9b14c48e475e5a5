//! Files read again and again: one that the file system says is as it was is not opened, and one of
//! which nothing was told is not even looked at.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::touched::Changes;
use crate::base::file::FileBytes;

/// Younger files are read anew: a second write could leave the same times. Coarsest clock of a file
/// system in use (FAT: 2 s), and some more.
const SETTLED_SECONDS: i64 = 3;

/// What the file system says about a file or folder; equal stamps mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: Place,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            place: (meta.dev(), meta.ino()),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether another write would leave another stamp.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let latest = i64::try_from(now).unwrap_or(i64::MAX) - SETTLED_SECONDS;
        self.changed.0 < latest && self.modified.0 < latest
    }
}

/// Content of a file; nothing when it is larger than allowed.
type Content = Option<FileBytes>;

/// Device and inode of a file.
pub type Place = (u64, u64);

/// Reads files, and remembers those of one round for the next.
#[derive(Debug, Default)]
pub struct Reader {
    files: Remembered<Content>,
    folders: Remembered<Vec<&'static str>>,
}

impl Reader {
    /// Begins a round after `changes`; what was not asked for in the last one is forgotten.
    pub fn begin(&mut self, changes: &Changes) {
        self.files.begin(|path| changes.touch(path));
        self.folders.begin(|path| changes.touch_names(path));
    }

    /// A file's content, `most` bytes of it at most; nothing when it is larger.
    pub fn read(&mut self, path: &Path, most: u64) -> io::Result<Content> {
        self.read_placed(path, most).map(|(content, _)| content)
    }

    /// The same, and which file it is.
    pub fn read_placed(&mut self, path: &Path, most: u64) -> io::Result<(Content, Place)> {
        self.files.look(path, |meta| {
            if !meta.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(most)).unwrap_or(0));
            File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
            Ok((bytes.len() as u64 <= most).then(|| FileBytes::new(bytes)))
        })
    }

    /// Those of some names that a folder has, links that lead nowhere included.
    pub fn names(
        &mut self,
        folder: &Path,
        names: &[&'static str],
    ) -> io::Result<Vec<&'static str>> {
        let found = self.folders.look(folder, |_| {
            let there = |name: &&&str| folder.join(name).symlink_metadata().is_ok();
            Ok(names.iter().filter(there).copied().collect())
        });
        found.map(|(names, _)| names)
    }
}

/// Paths are the operator's: nobody chooses them to collide.
type Paths<T> = HashMap<PathBuf, T, foldhash::fast::RandomState>;

/// What paths held in this round and in the last.
#[derive(Debug)]
struct Remembered<T> {
    now: Paths<Entry<T>>,
    before: Paths<Entry<T>>,
    /// Folders of this round, and whether no link leads to them.
    direct: Paths<bool>,
}

#[derive(Debug)]
struct Entry<T> {
    stamp: Stamp,
    /// Whether an equal stamp means equal content.
    settled: bool,
    /// Whether changes are told under this very path; not known before the first look again.
    told: Option<bool>,
    /// Whether nothing was told since the last look.
    untouched: bool,
    content: T,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { now: Paths::default(), before: Paths::default(), direct: Paths::default() }
    }
}

impl<T: Clone> Remembered<T> {
    fn begin(&mut self, touched: impl Fn(&Path) -> bool) {
        self.before = std::mem::take(&mut self.now);
        for (path, entry) in &mut self.before {
            entry.untouched = entry.settled && entry.told == Some(true) && !touched(path);
        }
        self.now.reserve(self.before.len());
        self.direct = Paths::default();
    }

    fn look(
        &mut self,
        path: &Path,
        read: impl FnOnce(&Metadata) -> io::Result<T>,
    ) -> io::Result<(T, Place)> {
        let known = self.before.remove_entry(path);
        if self.before.is_empty() {
            self.before = Paths::default();
        }
        let (path, entry) = match known {
            Some((path, entry)) if entry.untouched => (path, entry),
            known => self.look_again(path, known, read)?,
        };
        let found = (entry.content.clone(), entry.stamp.place);
        self.now.insert(path, entry);
        Ok(found)
    }

    fn look_again(
        &mut self,
        path: &Path,
        known: Option<(PathBuf, Entry<T>)>,
        read: impl FnOnce(&Metadata) -> io::Result<T>,
    ) -> io::Result<(PathBuf, Entry<T>)> {
        // Taken before the content: a write in between shows the next time.
        let meta = fs::metadata(path)?;
        let stamp = Stamp::of(&meta);
        match known {
            Some((path, entry)) if entry.settled && entry.stamp == stamp => {
                let told = Some(self.is_told(&path, stamp));
                Ok((path, Entry { told, ..entry }))
            }
            _ => {
                let settled = stamp.is_settled(SystemTime::now());
                let content = read(&meta)?;
                let entry = Entry { stamp, settled, told: None, untouched: false, content };
                Ok((path.to_owned(), entry))
            }
        }
    }

    /// Whether no link leads to a path: who changes what is there then does so under this name.
    fn is_told(&mut self, path: &Path, stamp: Stamp) -> bool {
        let Some(folder) = path.parent().filter(|_| path.is_absolute()) else { return false };
        let direct = self.direct.get(folder).copied().unwrap_or_else(|| {
            let direct = folder.canonicalize().is_ok_and(|real| real == folder);
            self.direct.insert(folder.to_owned(), direct);
            direct
        });
        direct && path.symlink_metadata().is_ok_and(|own| Stamp::of(&own) == stamp)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    /// Whether a look opens a file again, `age` after it was written.
    fn read_again(age: Duration, change: impl Fn(&Path)) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut known = Remembered::default();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let settled = stamp.is_settled(SystemTime::now() + age);
        let entry = Entry { stamp, settled, told: None, untouched: false, content: () };
        known.now.insert(path.clone(), entry);
        change(&path);
        known.begin(|_| true);
        let mut opened = false;
        let read = |_: &Metadata| {
            opened = true;
            Ok(())
        };
        known.look(&path, read).unwrap();
        opened
    }

    #[test]
    fn only_what_is_old_and_unchanged_is_not_opened() {
        let (old, young) = (Duration::from_mins(1), Duration::ZERO);
        assert!(!read_again(old, |_| {}));
        assert!(read_again(young, |_| {}));
        assert!(read_again(old, |path| fs::write(path, "two").unwrap()));
        assert!(read_again(old, |path| {
            let other = path.with_extension("new");
            fs::write(&other, "two").unwrap();
            fs::rename(&other, path).unwrap();
        }));
        assert!(read_again(old, |path| {
            let times = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, "two").unwrap();
            File::options().write(true).open(path).unwrap().set_modified(times).unwrap();
        }));
    }

    /// Whether a change of the file of which nothing is told goes unseen, when it is known under this name.
    fn trusted(name: &str, looks: usize) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let path = base.join(name);
        fs::create_dir(base.join("folder")).unwrap();
        fs::write(base.join("folder/file"), "one").unwrap();
        symlink("folder", base.join("link")).unwrap();
        symlink("file", base.join("folder/linked")).unwrap();
        let mut reader = Reader::default();
        for _ in 0..looks {
            reader.begin(&Changes::Anything);
            reader.read(&path, 10).unwrap();
            reader.files.now.values_mut().for_each(|entry| entry.settled = true);
        }
        fs::write(base.join("folder/file"), "two").unwrap();
        reader.begin(&Changes::Only(HashSet::from([base.join("other")])));
        let seen = reader.read(&path, 10).unwrap().unwrap();
        // A word of it, and it is read.
        reader.begin(&Changes::Only(HashSet::from([base.join("folder")])));
        assert_eq!(&**reader.read(&path, 10).unwrap().unwrap().bytes(), b"two");
        &**seen.bytes() == b"one"
    }

    #[test]
    fn only_what_is_reached_without_links_and_was_looked_at_twice_is_not_looked_at() {
        assert!(trusted("folder/file", 2));
        assert!(!trusted("folder/file", 1));
        assert!(!trusted("folder/linked", 2));
        assert!(!trusted("link/file", 2));
        assert!(!trusted("folder/../folder/file", 2));
    }

    #[test]
    fn content_is_bounded_and_what_is_gone_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "four").unwrap();
        let mut reader = Reader::default();
        assert_eq!(&**reader.read(&path, 4).unwrap().unwrap().bytes(), b"four");
        assert!(reader.read(&path, 3).unwrap().is_none());
        assert!(reader.read(dir.path(), 4).is_err());
        assert_eq!(reader.names(dir.path(), &["b", "a"]).unwrap(), ["a"]);
        fs::remove_file(&path).unwrap();
        assert_eq!(reader.read(&path, 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
