//! Configuration files over time: what each shows, and which are not believed yet.
//!
//! **Invariant:** a file that is not changed is not parsed again; one that cannot be opened, or is left
//! out because there are too many, goes on as it was.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::hash::{Fingerprint, Hasher};
use crate::base::limit;
use crate::diag::{Diagnostic, Severity, catalog};
use crate::resources::{self, ParsedFile};
use crate::source::files::FoundFile;
use crate::source::reader::Place;
use crate::source::writing::Unfinished;

/// Every file of a configuration.
#[derive(Default)]
pub(super) struct KnownFiles {
    files: HashMap<Arc<str>, Known>,
    /// Places that are there and were never read.
    unread: Vec<ParsedFile>,
    /// Changed files that are not taken in yet: somebody is writing them.
    held: HashMap<Arc<str>, Instant>,
}

/// One file.
struct Known {
    /// Digest of what is shown.
    fingerprint: Fingerprint,
    shown: ParsedFile,
    /// Which file it was when it was read.
    place: Place,
    /// Content with fewer documents, written in place, and when it was first seen: the writer may
    /// not be done.
    doubted: Option<(Fingerprint, Instant)>,
}

impl KnownFiles {
    /// Takes in what was read, and what could not be read though it is there; the rest is forgotten.
    pub(super) fn update(
        &mut self,
        files: &[FoundFile],
        diagnostics: &[Diagnostic],
        unfinished: &Unfinished,
        hasher: &mut Hasher,
    ) {
        self.unread.clear();
        let mut known = HashMap::with_capacity(files.len());
        let mut held = HashMap::new();
        for found @ FoundFile { file, fingerprint, .. } in files {
            let before = self.files.remove(&file.path);
            let changed = before.as_ref().is_none_or(|before| before.fingerprint != *fingerprint);
            let seen = match wait_for(&file.path, unfinished).filter(|_| changed) {
                Some(left) => {
                    self.tell_held(&file.path);
                    held.insert(file.path.clone(), Instant::now() + left);
                    let Some(before) = before else { continue };
                    before
                }
                None => look(found, before),
            };
            hasher.part(file.path.as_bytes()).part(seen.fingerprint.as_bytes());
            known.insert(file.path.clone(), seen);
        }
        for diagnostic in diagnostics {
            let Some(location) = &diagnostic.location else { continue };
            hasher.part(location.file.as_bytes()).part(diagnostic.message.as_bytes());
            if diagnostic.severity != Severity::Error {
                continue;
            }
            let left_out = *diagnostic.code == catalog::FILES_LEFT_OUT;
            let here = |path: &Path| {
                if left_out { path.exists() } else { path.starts_with(&*location.file) }
            };
            let kept = self.files.extract_if(|path, _| here(Path::new(&**path)));
            let mut kept: Vec<_> = kept.collect();
            kept.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (path, seen) in &kept {
                hasher.part(path.as_bytes()).part(seen.fingerprint.as_bytes());
            }
            if left_out || kept.is_empty() {
                self.unread.push(ParsedFile::unread(location.clone()));
            }
            known.extend(kept);
        }
        self.files = known;
        self.held = held;
    }

    /// What the files hold.
    pub(super) fn shown(&self) -> impl Iterator<Item = &ParsedFile> {
        self.files.values().map(|known| &known.shown).chain(&self.unread)
    }

    fn tell_held(&self, path: &Arc<str>) {
        if !self.held.contains_key(path) {
            tracing::info!(%path, "the file is being written: it is read once it is closed");
        }
    }

    /// When a file that was doubted or held is to be looked at again.
    pub(super) fn look_again(&self) -> Option<Duration> {
        let doubted = self.files.values().filter_map(|known| known.doubted);
        let doubted = doubted.map(|(_, since)| since + limit::RELOAD_SETTLE_TIME);
        let first = doubted.chain(self.held.values().copied()).min();
        first.map(|time| time.saturating_duration_since(Instant::now()))
    }
}

/// How long a file is waited for because somebody is writing it.
fn wait_for(path: &str, unfinished: &Unfinished) -> Option<Duration> {
    if unfinished.is_empty() {
        return None;
    }
    let place = Path::new(path).canonicalize().ok()?;
    unfinished.get(&place).copied()
}

fn look(found: &FoundFile, before: Option<Known>) -> Known {
    let FoundFile { file, fingerprint, place } = found;
    let (fingerprint, place) = (*fingerprint, *place);
    let before = match before {
        Some(before) if before.fingerprint == fingerprint => {
            return Known { place, doubted: None, ..before };
        }
        before => before,
    };
    let shown = resources::parse_file(file);
    if let Some(before) = before.filter(|before| before.place == place && before.loses(&shown)) {
        let first = before.doubted.filter(|(content, _)| *content == fingerprint);
        let since = first.map_or_else(Instant::now, |(_, since)| since);
        if since.elapsed() < limit::RELOAD_SETTLE_TIME {
            return Known { doubted: Some((fingerprint, since)), ..before };
        }
    }
    Known { fingerprint, shown, place, doubted: None }
}

impl Known {
    /// Whether `now` has fewer documents than what is shown.
    fn loses(&self, now: &ParsedFile) -> bool {
        let documents = |file: &ParsedFile| file.resources.len() + file.broken.len();
        now.unclear.is_none() && documents(now) < documents(&self.shown)
    }
}
