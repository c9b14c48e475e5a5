//! Lines of configuration files, for showing.
//!
//! **Invariant**: a line is shown only when its document mentions neither the word `Secret` nor keys of
//! tokens that are written in it; that is more than is needed, and never less.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{escape, is_unsafe};
use crate::diag::Location;

/// Gives the bytes of a file by its path.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<Arc<[u8]>>;

/// Files by path, each looked up and indexed once.
pub(super) struct Sources<'a> {
    look_up: Lookup<'a>,
    files: HashMap<Arc<str>, Option<Source>>,
}

struct Source {
    bytes: Arc<[u8]>,
    lines: Vec<Range<usize>>,
    /// Lines of documents that may be Secrets, counted from 0.
    hidden: Vec<Range<usize>>,
}

/// A line ready to print.
pub(super) struct Excerpt {
    pub(super) line: String,
    /// Characters before the caret.
    pub(super) caret: usize,
}

impl<'a> Sources<'a> {
    pub(super) fn new(look_up: Lookup<'a>) -> Self {
        Self { look_up, files: HashMap::new() }
    }

    /// The line of a location, or `None` when it is not there or must not be shown.
    pub(super) fn excerpt(&mut self, location: &Location) -> Option<Excerpt> {
        let look_up = self.look_up;
        let source = self
            .files
            .entry(Arc::clone(&location.file))
            .or_insert_with(|| look_up(&location.file).map(Source::new));
        source.as_ref()?.excerpt(location)
    }
}

impl Source {
    fn new(bytes: Arc<[u8]>) -> Self {
        let mut lines = Vec::new();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &bytes).chain([bytes.len()]) {
            lines.push(start..end);
            start = end + 1;
        }
        let hidden = hidden(&bytes, &lines);
        Self { bytes, lines, hidden }
    }

    fn excerpt(&self, location: &Location) -> Option<Excerpt> {
        let index = usize::try_from(location.line).ok()?.checked_sub(1)?;
        if self.hidden.iter().any(|range| range.contains(&index)) {
            return None;
        }
        let line = String::from_utf8_lossy(self.bytes.get(self.lines.get(index)?.clone())?);
        let column = usize::try_from(location.column).ok()?.saturating_sub(1);
        Some(cut(line.trim_end_matches('\r'), column))
    }
}

/// The lines of documents that may be Secrets.
fn hidden(bytes: &[u8], lines: &[Range<usize>]) -> Vec<Range<usize>> {
    if !may_hold_secret(bytes) {
        return Vec::new();
    }
    let line = |index: usize| lines.get(index).and_then(|range| bytes.get(range.clone()));
    let marker = |index: &usize| {
        let rest = line(*index).and_then(|line| line.strip_prefix(b"---"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b' ' | b'\t' | b'\r')))
    };
    let mut starts: Vec<usize> = (0..lines.len()).filter(marker).collect();
    starts.insert(0, 0);
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| *start..end)
        .filter(|range| {
            let from = lines.get(range.start).map_or(0, |line| line.start);
            let to = lines.get(range.end).map_or(bytes.len(), |line| line.start);
            may_hold_secret(bytes.get(from..to).unwrap_or_default())
        })
        .collect()
}

const KEYS: &[u8] = b"jwks";

/// A Secret, or a key set (`jwtRules[].jwks`, RFC 7517), which may hold private and symmetric keys.
fn may_hold_secret(text: &[u8]) -> bool {
    let word = |word: &[u8]| memchr::memmem::find(text, word).is_some();
    let mut sets =
        memchr::memmem::find_iter(text, KEYS).filter_map(|at| text.get(at + KEYS.len()..));
    let is_key = |after: &[u8]| {
        let next = after.iter().find(|byte| !matches!(byte, b'"' | b'\'' | b' ' | b'\t'));
        next == Some(&b':')
    };
    word(b"Secret") || word(b"kty") || sets.any(is_key)
}

/// At most [`WIDTH`] characters of a line, those around a column, escaped.
fn cut(line: &str, column: usize) -> Excerpt {
    let first = column.saturating_sub(WIDTH / 2);
    let first = if first < WIDTH / 2 { 0 } else { first };
    let mut shown = String::new();
    let mut caret = None;
    for (index, c) in line.chars().enumerate().skip(first).take(WIDTH) {
        if index == column {
            caret = Some(shown.chars().count());
        }
        match c {
            '\t' => shown.push(' '),
            _ if is_unsafe(c) => escape(c.encode_utf8(&mut [0; 4]), &mut shown),
            _ => shown.push(c),
        }
    }
    let caret = caret.unwrap_or_else(|| shown.chars().count());
    Excerpt { line: shown, caret }
}

/// Characters of a line that are shown.
const WIDTH: usize = 160;
