//! Which files somebody is writing, as far as the system tells.
//!
//! **Invariant:** a file is unfinished from a write until it is closed, renamed or removed; for
//! [`limit::RELOAD_WRITE_TIME`] after the last write at most, and [`limit::RELOAD_WRITE_MOST_TIME`] in
//! all: a close may be missed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};
use tokio::time::Instant;

use crate::base::limit;

/// Files that are not finished, by [`place`], and how long each is waited for.
pub type Unfinished = HashMap<PathBuf, Duration>;

/// First and last write to each file that is not finished.
#[derive(Clone, Debug, Default)]
pub struct Writing(Arc<Mutex<HashMap<PathBuf, (Instant, Instant)>>>);

impl Writing {
    /// Takes an event in.
    pub(super) fn note(&self, event: &Event) {
        let written = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        let over = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_)
        );
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written {
            let now = Instant::now();
            for place in event.paths.iter().filter_map(|path| place(path)) {
                files.entry(place).or_insert((now, now)).1 = now;
            }
        } else if over && !files.is_empty() {
            for place in event.paths.iter().filter_map(|path| place(path)) {
                files.remove(&place);
            }
        }
    }

    /// The files that are not finished.
    pub fn unfinished(&self) -> Unfinished {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |(first, last): &(Instant, Instant)| {
            let quiet = limit::RELOAD_WRITE_TIME.saturating_sub(last.elapsed());
            quiet.min(limit::RELOAD_WRITE_MOST_TIME.saturating_sub(first.elapsed()))
        };
        files.retain(|_, times| !left(times).is_zero());
        files.iter().map(|(path, times)| (path.clone(), left(times))).collect()
    }
}

/// A file by its folder without links, and its name; nothing when there is no such folder.
pub fn place(path: &Path) -> Option<PathBuf> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
    Some(folder.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, RemoveKind, RenameMode};

    use super::*;

    /// Whether a file is unfinished after events on it.
    fn check(kinds: &[EventKind]) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let (writing, path) = (Writing::default(), dir.path().join("a.yaml"));
        for kind in kinds {
            writing.note(&Event::new(*kind).add_path(path.clone()));
        }
        let other = Event::new(EventKind::Remove(RemoveKind::File)).add_path(dir.path().join("b"));
        writing.note(&other);
        writing.unfinished().contains_key(&place(&path).unwrap())
    }

    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

    #[test]
    fn a_file_is_unfinished_from_a_write_until_it_is_closed_renamed_or_removed() {
        let close = |mode| EventKind::Access(AccessKind::Close(mode));
        let rename = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(check(&[WRITE]));
        assert!(check(&[WRITE, close(AccessMode::Read)]));
        assert!(check(&[close(AccessMode::Write), WRITE]));
        assert!(!check(&[]));
        assert!(!check(&[WRITE, WRITE, close(AccessMode::Write)]));
        assert!(!check(&[WRITE, rename]));
        assert!(!check(&[WRITE, EventKind::Remove(RemoveKind::File)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_that_is_missed_holds_for_a_bounded_time() {
        let dir = tempfile::tempdir().unwrap();
        let writing = Writing::default();
        let write = Event::new(WRITE).add_path(dir.path().join("a"));
        writing.note(&write);
        tokio::time::advance(limit::RELOAD_WRITE_TIME / 2).await;
        assert_eq!(writing.unfinished().len(), 1);
        tokio::time::advance(limit::RELOAD_WRITE_TIME / 2).await;
        assert_eq!(writing.unfinished().len(), 0);
        let started = Instant::now();
        while started.elapsed() < limit::RELOAD_WRITE_MOST_TIME {
            writing.note(&write);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(writing.unfinished().len(), 0, "one that is written for ever");
    }
}
