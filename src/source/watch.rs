//! Says when files may have changed.
//!
//! **Invariant:** a change is told within [`limit::RELOAD_MAX_WAIT`] of being seen; what the system
//! does not tell (a network mount, a lost event) is looked for every [`limit::RELOAD_SCAN_TIME`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use tokio::time::Instant;

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
    watched: BTreeSet<PathBuf>,
    signals: Receiver<Signal>,
    sender: Sender<Signal>,
}

/// Tells a [`Watch`] of a change that is in no file.
#[derive(Clone, Debug)]
pub struct Teller(Sender<Signal>);

impl Teller {
    /// Something changed.
    pub fn tell(&self) {
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
        let seen = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                let _ = seen.send(Signal::Seen);
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "file changes are not told by the system; they are looked for");
            })
            .ok();
        let mut watch = Self { watcher, roots, watched: BTreeSet::new(), signals, sender };
        watch.renew();
        watch
    }

    /// A handle to tell it of changes.
    pub fn teller(&self) -> Teller {
        Teller(self.sender.clone())
    }

    /// A handle to end it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Also watches the folders of some files.
    pub fn include<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        for file in files {
            let inside = self.roots.iter().any(|root| file.starts_with(root));
            if let Some(folder) = file.parent().filter(|_| !inside) {
                self.watch(folder, RecursiveMode::NonRecursive);
            }
        }
    }

    /// Watches roots anew: one may have been replaced by another of the same name.
    fn renew(&mut self) {
        self.watched.clear();
        for root in self.roots.clone() {
            self.watch(&root, RecursiveMode::Recursive);
            let link = root.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
            if link || !root.is_dir() {
                let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
                self.watch(parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive);
            }
        }
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) {
        let Some(watcher) = &mut self.watcher else { return };
        if !path.exists() || self.watched.contains(path) {
            return;
        }
        match watcher.watch(path, mode) {
            Ok(()) => {
                self.watched.insert(path.to_owned());
            }
            Err(error) => tracing::warn!(?path, %error, "changes are looked for instead of told"),
        }
    }

    /// Waits for a change and then for quiet, `most` at longest.
    pub fn wait(&mut self, most: Duration) -> Wake {
        match self.signals.recv_timeout(most.min(limit::RELOAD_SCAN_TIME)) {
            Err(RecvTimeoutError::Timeout) => {
                self.renew();
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
        if self.roots.iter().any(|root| !self.watched.contains(root)) {
            self.renew();
        }
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
