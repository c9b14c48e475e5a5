//! A file of one document over time: a broken one changes nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::RootError;
use crate::base::hash::Fingerprint;
use crate::diag::Diagnostic;
use crate::resources::ConfigFile;
use crate::source::files::{self, FoundFile};
use crate::source::reader::Reader;

/// Reads a document; nothing when it cannot be, with the reason among the findings.
type Parse<T> = fn(&ConfigFile) -> (Option<T>, Vec<Diagnostic>);

/// The file that a flag names, and what it said when it last could be used.
pub(super) struct Followed<T> {
    path: Option<PathBuf>,
    flag: &'static str,
    parse: Parse<T>,
    read: Option<Fingerprint>,
    /// The last one that could be used.
    pub(super) value: T,
    /// Findings of the file as it is now.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl<T: Default> Followed<T> {
    /// Reads the file for the first time, when one is named; it must be usable.
    pub(super) fn new(
        path: Option<PathBuf>,
        (flag, parse): (&'static str, Parse<T>),
        reader: &mut Reader,
    ) -> Result<Self, RootError> {
        let (value, diagnostics) = (T::default(), Vec::new());
        let mut file = Self { path, flag, parse, read: None, value, diagnostics };
        if file.path.is_some() && !file.update(reader)? {
            let why = file.diagnostics.iter().find_map(|finding| {
                Some(format!("{}: {}", finding.location.as_ref()?, finding.message))
            });
            return Err(file.unreadable(why.unwrap_or_default()));
        }
        Ok(file)
    }

    /// Reads the file again; says whether there is a new value.
    pub(super) fn update(&mut self, reader: &mut Reader) -> Result<bool, RootError> {
        let Some(path) = &self.path else { return Ok(false) };
        let found = files::read(std::slice::from_ref(path), reader);
        let Some(FoundFile { file, fingerprint, .. }) = found.files.first() else {
            let why =
                found.diagnostics.first().map_or("it is not a file", |finding| &finding.message);
            return Err(self.unreadable(why));
        };
        if self.read == Some(*fingerprint) {
            return Ok(false);
        }
        let (value, diagnostics) = (self.parse)(file);
        self.read = Some(*fingerprint);
        self.diagnostics = diagnostics;
        let usable = value.is_some();
        if let Some(value) = value {
            self.value = value;
        }
        Ok(usable)
    }

    /// Digest of the file as it was read last.
    pub(super) fn fingerprint(&self) -> Option<&Fingerprint> {
        self.read.as_ref()
    }

    fn unreadable(&self, why: impl fmt::Display) -> RootError {
        RootError {
            path: self.path.clone().unwrap_or_default(),
            cause: io::Error::new(io::ErrorKind::InvalidData, why.to_string()),
            flag: self.flag,
        }
    }
}
