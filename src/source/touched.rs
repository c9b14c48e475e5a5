//! Which paths may hold something else since the last look, as far as the system tells.
//!
//! **Invariant:** when the system may have left something out, anything may have changed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::Event;

/// Most paths that are told apart; a change of more is looked for everywhere.
const MOST_PATHS: usize = 16;

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Anything: it has to be looked for.
    Anything,
    /// Some files, and what lies in some folders.
    Only(HashSet<PathBuf>),
}

impl Changes {
    /// Whether a file, or all that leads to it, may be another now.
    pub fn touch(&self, file: &Path) -> bool {
        match self {
            Self::Anything => true,
            Self::Only(paths) => paths.iter().any(|path| file.starts_with(path)),
        }
    }

    /// Whether a folder may be another now, or hold other names.
    pub fn touch_names(&self, folder: &Path) -> bool {
        match self {
            Self::Anything => true,
            Self::Only(paths) => {
                paths.iter().any(|path| folder.starts_with(path) || path.parent() == Some(folder))
            }
        }
    }
}

/// Collects what may have changed until somebody looks. Where nobody watches, anything may have.
#[derive(Clone, Debug)]
pub struct Touched(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    changes: Changes,
    /// Whether some changes are not told.
    blind: bool,
}

impl Default for Touched {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { changes: Changes::Anything, blind: true })))
    }
}

impl Touched {
    /// From now on changes are told; those before may have been missed.
    pub(super) fn watched() -> Self {
        Self(Arc::new(Mutex::new(State { changes: Changes::Anything, blind: false })))
    }

    /// Takes an event in.
    pub(super) fn note(&self, event: &notify::Result<Event>) {
        let mut state = self.state();
        match event {
            Ok(event) if event.need_rescan() || event.paths.is_empty() => {
                state.changes = Changes::Anything;
            }
            Ok(event) => {
                if let Changes::Only(paths) = &mut state.changes {
                    paths.extend(event.paths.iter().cloned());
                    if paths.len() > MOST_PATHS {
                        state.changes = Changes::Anything;
                    }
                }
            }
            Err(_) => state.blind = true,
        }
    }

    /// Anything may have changed.
    pub(super) fn anything(&self) {
        self.state().changes = Changes::Anything;
    }

    /// Some changes will not be told.
    pub(super) fn blind(&self) {
        self.state().blind = true;
    }

    /// What may have changed since the last call.
    pub fn take(&self) -> Changes {
        let mut state = self.state();
        let changes = std::mem::replace(&mut state.changes, Changes::Only(HashSet::new()));
        if state.blind { Changes::Anything } else { changes }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{EventKind, Flag};

    use super::*;

    fn event(paths: &[&str]) -> Event {
        paths.iter().fold(Event::new(EventKind::Any), |event, path| event.add_path(path.into()))
    }

    /// Which of `/a/b`, and the names of `/a` and of `/a/b`, events touch.
    fn check(events: &[Event], expected: [bool; 3]) {
        let touched = Touched::watched();
        assert_eq!(touched.take(), Changes::Anything);
        for event in events {
            touched.note(&Ok(event.clone()));
        }
        let changes = touched.take();
        let names = |folder| changes.touch_names(Path::new(folder));
        assert_eq!([changes.touch(Path::new("/a/b")), names("/a"), names("/a/b")], expected);
    }

    #[test]
    fn files_folders_and_all_that_lies_in_them_are_touched() {
        check(&[], [false; 3]);
        check(&[event(&["/a/c"])], [false, true, false]);
        check(&[event(&["/a/bc"]), event(&["/c"])], [false, true, false]);
        check(&[event(&["/c", "/a/b"])], [true, true, true]);
        check(&[event(&["/a/b/c"])], [false, false, true]);
        check(&[event(&["/a"])], [true, true, true]);
    }

    #[test]
    fn what_is_not_told_may_be_anything() {
        check(&[event(&[])], [true; 3]);
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan).add_path("/c".into());
        check(&[lost], [true; 3]);
        let paths: Vec<_> = (0..=MOST_PATHS).map(|number| format!("/c/{number}")).collect();
        check(&[event(&paths.iter().map(String::as_str).collect::<Vec<_>>())], [true; 3]);
    }

    #[test]
    fn who_does_not_watch_knows_nothing() {
        let touched = Touched::default();
        for _ in 0..2 {
            assert_eq!(touched.take(), Changes::Anything);
        }
        let touched = Touched::watched();
        touched.take();
        assert_ne!(touched.take(), Changes::Anything);
        touched.note(&Err(notify::Error::generic("too many watches")));
        for _ in 0..2 {
            assert_eq!(touched.take(), Changes::Anything);
        }
    }
}
