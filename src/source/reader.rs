//! Files read again and again: one that the file system says is as it was is not opened.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::file::FileBytes;

/// Younger files are read anew: a second write could leave the same times. Coarsest clock of a file
/// system in use (FAT: 2 s), and some more.
const SETTLED_SECONDS: i64 = 3;

/// What the file system says about a file or folder; equal stamps mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
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

    /// The stamp to compare with later, unless it is too young to tell.
    fn settled(self, now: SystemTime) -> Option<Self> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let latest = i64::try_from(now).unwrap_or(i64::MAX) - SETTLED_SECONDS;
        (self.changed.0 < latest && self.modified.0 < latest).then_some(self)
    }
}

/// Content of a file; nothing when it is larger than allowed.
type Content = Option<FileBytes>;

/// Reads files, and remembers those of one round for the next.
#[derive(Debug, Default)]
pub struct Reader {
    files: Remembered<Content>,
    folders: Remembered<Vec<&'static str>>,
}

impl Reader {
    /// Begins a round; what was not asked for in the last one is forgotten.
    pub fn begin(&mut self) {
        self.files.begin();
        self.folders.begin();
    }

    /// A file's content, `most` bytes of it at most; nothing when it is larger.
    pub fn read(&mut self, path: &Path, most: u64) -> io::Result<Content> {
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
        self.folders.look(folder, |_| {
            let there = |name: &&&str| folder.join(name).symlink_metadata().is_ok();
            Ok(names.iter().filter(there).copied().collect())
        })
    }
}

/// Paths are the operator's: nobody chooses them to collide.
type Paths<T> = HashMap<PathBuf, T, foldhash::fast::RandomState>;

/// What paths held in this round and in the last.
#[derive(Debug)]
struct Remembered<T> {
    now: Paths<(Option<Stamp>, T)>,
    before: Paths<(Option<Stamp>, T)>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { now: Paths::default(), before: Paths::default() }
    }
}

impl<T: Clone> Remembered<T> {
    fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
        self.now.reserve(self.before.len());
    }

    fn look(
        &mut self,
        path: &Path,
        read: impl FnOnce(&Metadata) -> io::Result<T>,
    ) -> io::Result<T> {
        // Taken before the content: a write in between shows the next time.
        let meta = fs::metadata(path)?;
        let stamp = Stamp::of(&meta);
        let same = self.before.remove_entry(path).filter(|(_, (known, _))| *known == Some(stamp));
        let (path, (stamp, content)) = match same {
            Some(entry) => entry,
            None => (path.to_owned(), (stamp.settled(SystemTime::now()), read(&meta)?)),
        };
        self.now.insert(path, (stamp, content.clone()));
        if self.before.is_empty() {
            self.before = Paths::default();
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether the second look opens the file again, `age` after it was written.
    fn read_again(age: Duration, change: impl Fn(&Path)) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut known = Remembered::default();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap()).settled(SystemTime::now() + age);
        known.now.insert(path.clone(), (stamp, ()));
        change(&path);
        known.begin();
        let mut opened = false;
        known
            .look(&path, |_| {
                opened = true;
                Ok(())
            })
            .unwrap();
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
