//! Says when files may have changed.
//!
//! **Invariant:** a change is told within [`limit::RELOAD_MAX_WAIT`] of being seen; what the system
//! does not tell (a network mount, a lost event) is looked for every [`limit::RELOAD_SCAN_TIME`].

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use tokio::time::Instant;

use super::touched::Touched;
use super::writing::Writing;
use crate::base::limit;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something may have changed; when it was first seen.
    Changed(Instant),
    /// It is time to look again.
    Scan,
    /// There will be no more reloads.
    Stopped,
}

enum Signal {
    Seen,
    Stop,
}

/// Watches files and folders.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    roots: Vec<PathBuf>,
    /// What is watched, and which folder or file it was then.
    watched: HashMap<PathBuf, Identity>,
    concern: Concern,
    writing: Writing,
    touched: Touched,
    signals: Receiver<Signal>,
    sender: Sender<Signal>,
}

/// Device and inode.
type Identity = Option<(u64, u64)>;

fn identity(path: &Path) -> Identity {
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Which paths events are heeded of: of a folder that only holds a root, those of the root.
#[derive(Clone, Debug, Default)]
struct Concern(Arc<Mutex<(HashSet<PathBuf>, HashSet<PathBuf>)>>);

impl Concern {
    fn add(&self, path: &Path, below: bool) {
        let Ok(path) = std::path::absolute(path) else { return };
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if below {
            sets.1.insert(path)
        } else {
            sets.0.insert(path)
        };
    }

    fn has(&self, event: &Event) -> bool {
        let sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (alone, below) = &*sets;
        let has = |path: &PathBuf| {
            alone.contains(path) || path.ancestors().any(|folder| below.contains(folder))
        };
        event.paths.is_empty() || event.paths.iter().any(has)
    }
}

/// Tells a [`Watch`] of a change that the system does not tell.
#[derive(Clone, Debug)]
pub struct Teller(Sender<Signal>, Touched);

impl Teller {
    /// Something changed, in files or elsewhere.
    pub fn tell(&self) {
        self.1.anything();
        let _ = self.0.send(Signal::Seen);
    }
}

/// Ends a [`Watch`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Signal>);

impl Stopper {
    /// Makes the watch's owner stop.
    pub fn stop(&self) {
        let _ = self.0.send(Signal::Stop);
    }
}

impl Watch {
    /// Watches roots, which need not exist yet. Without the system's help they are only scanned.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        let (sender, signals) = channel();
        let (seen, concern, writing) = (sender.clone(), Concern::default(), Writing::default());
        let touched = Touched::watched();
        let (heeded, written, noted) = (concern.clone(), writing.clone(), touched.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let told = event.as_ref().map_or(true, |event| {
                let told = matters(event.kind) && heeded.has(event);
                if told {
                    written.note(event);
                }
                told
            });
            if told {
                noted.note(&event);
                let _ = seen.send(Signal::Seen);
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                touched.blind();
                tracing::warn!(%error, "file changes are not told by the system; they are looked for");
            })
            .ok();
        let mut watch = Self {
            watcher,
            roots,
            watched: HashMap::new(),
            concern,
            writing,
            touched,
            signals,
            sender,
        };
        watch.renew();
        watch
    }

    /// The files that somebody is writing.
    pub fn writing(&self) -> Writing {
        self.writing.clone()
    }

    /// What changed since somebody looked.
    pub fn touched(&self) -> Touched {
        self.touched.clone()
    }

    /// A handle to tell it of changes.
    pub fn teller(&self) -> Teller {
        Teller(self.sender.clone(), self.touched.clone())
    }

    /// A handle to end it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Also watches the folders of some files; says whether one of them was not watched before.
    pub fn include<'a>(&mut self, files: impl Iterator<Item = &'a Path>) -> bool {
        let before = self.watched.len();
        let whole: Vec<PathBuf> =
            self.roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
        for file in files {
            let inside = self.roots.iter().chain(&whole).any(|root| file.starts_with(root));
            if let Some(folder) = file.parent().filter(|_| !inside) {
                self.concern.add(folder, true);
                self.watch(folder, RecursiveMode::NonRecursive);
            }
        }
        self.watched.len() > before
    }

    /// Watches roots, and the folders that hold them: a root may be replaced by another of its name.
    /// What was replaced since is watched anew.
    fn renew(&mut self) {
        let gone = self.watched.extract_if(|path, known| *known != identity(path));
        for (path, _) in gone {
            if let Some(watcher) = &mut self.watcher {
                let _ = watcher.unwatch(&path);
            }
        }
        let mut holders = Vec::new();
        for root in self.roots.clone() {
            self.concern.add(&root, true);
            self.watch(&root, RecursiveMode::Recursive);
            for root in [root.canonicalize().ok(), Some(root)].into_iter().flatten() {
                let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
                holders.push(parent.unwrap_or(Path::new(".")).to_owned());
                self.concern.add(&root, true);
            }
        }
        for holder in holders {
            self.concern.add(&holder, false);
            self.watch(&holder, RecursiveMode::NonRecursive);
        }
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) {
        let Some(watcher) = &mut self.watcher else { return };
        let now = identity(path);
        if now.is_none() || self.watched.contains_key(path) {
            return;
        }
        match watcher.watch(path, mode) {
            Ok(()) => {
                // It may have changed before.
                self.touched.anything();
                self.watched.insert(path.to_owned(), now);
            }
            Err(error) => {
                self.touched.blind();
                tracing::warn!(?path, %error, "changes are looked for instead of told");
            }
        }
    }

    /// Waits for a change and then for quiet, `most` at longest.
    pub fn wait(&mut self, most: Duration) -> Wake {
        match self.signals.recv_timeout(most.min(limit::RELOAD_SCAN_TIME)) {
            Err(RecvTimeoutError::Timeout) => {
                // Watched once more, with folders of which nothing was told.
                self.watched.clear();
                self.renew();
                self.touched.anything();
                return Wake::Scan;
            }
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stopped,
            Ok(Signal::Seen) => {}
        }
        let first = Instant::now();
        while first.elapsed() < limit::RELOAD_MAX_WAIT {
            match self.signals.recv_timeout(limit::RELOAD_QUIET_TIME) {
                Ok(Signal::Seen) => {}
                Ok(Signal::Stop) => return Wake::Stopped,
                Err(_) => break,
            }
        }
        self.renew();
        Wake::Changed(first)
    }
}

/// Whether an event may change what is read; opening and reading does not.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn changed(watch: &mut Watch) -> bool {
        matches!(watch.wait(Duration::MAX), Wake::Changed(_))
    }

    #[test]
    fn what_is_in_no_file_is_told_and_a_wait_has_its_end() {
        let mut watch = Watch::new(Vec::new());
        assert_eq!(watch.wait(Duration::ZERO), Wake::Scan);
        let teller = watch.teller();
        std::thread::spawn(move || teller.tell());
        assert!(changed(&mut watch));
    }

    #[test]
    fn writes_renames_and_links_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("config");
        fs::create_dir_all(root.join("..one")).unwrap();
        let mut watch = Watch::new(vec![root.clone()]);
        fs::write(root.join("a.yaml"), "a").unwrap();
        assert!(changed(&mut watch));
        fs::rename(root.join("a.yaml"), root.join("b.yaml")).unwrap();
        assert!(changed(&mut watch));
        symlink("..one", root.join("..data")).unwrap();
        assert!(changed(&mut watch));
    }

    #[test]
    fn a_root_that_comes_later_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("config");
        let mut watch = Watch::new(vec![root.clone()]);
        fs::create_dir(&root).unwrap();
        assert!(changed(&mut watch));
        fs::write(root.join("a.yaml"), "a").unwrap();
        assert!(changed(&mut watch));
    }

    #[test]
    fn a_root_that_is_replaced_is_watched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["config/sub", "next/sub", "linked"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        symlink("linked", path("link")).unwrap();
        let mut watch = Watch::new(vec![path("config"), path("link")]);
        fs::rename(path("config"), path("old")).unwrap();
        assert!(changed(&mut watch));
        fs::rename(path("next"), path("config")).unwrap();
        assert!(changed(&mut watch));
        fs::write(path("config/sub/a.yaml"), "a").unwrap();
        assert!(changed(&mut watch));
        // What the link leads to.
        fs::rename(path("linked"), path("away")).unwrap();
        assert!(changed(&mut watch));
        fs::create_dir(path("linked")).unwrap();
        assert!(changed(&mut watch));
        fs::write(path("linked/a.yaml"), "a").unwrap();
        assert!(changed(&mut watch));
    }

    #[test]
    fn neighbours_of_a_root_are_no_concern() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("config");
        fs::create_dir(&root).unwrap();
        let watch = Watch::new(vec![root.clone()]);
        fs::write(dir.path().join("other"), "a").unwrap();
        fs::write(root.join("a.yaml"), "a").unwrap();
        // Events come in order.
        while watch.signals.recv_timeout(Duration::from_secs(10)).is_err() {}
        let event = |path: PathBuf| Event::new(EventKind::Any).add_path(path);
        assert!(!watch.concern.has(&event(dir.path().join("other"))));
        assert!(watch.concern.has(&event(root.join("sub/a.yaml"))));
        assert!(watch.concern.has(&event(dir.path().to_owned())));
    }

    #[test]
    fn a_file_is_written_until_it_is_closed() {
        use std::io::Write as _;

        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(vec![dir.path().to_owned()]);
        let mut file = fs::File::create(dir.path().join("a.yaml")).unwrap();
        file.write_all(b"a").unwrap();
        assert!(changed(&mut watch));
        let unfinished = || watch.writing().unfinished().len();
        while unfinished() == 0 {
            std::thread::yield_now();
        }
        drop(file);
        while unfinished() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_can_be_stopped() {
        let mut watch = Watch::new(Vec::new());
        watch.stopper().stop();
        assert_eq!(watch.wait(Duration::MAX), Wake::Stopped);
    }

    #[test]
    fn reading_is_no_change() {
        assert!(!matters(EventKind::Access(AccessKind::Read)));
        assert!(!matters(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(matters(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(matters(EventKind::Any));
    }
}
