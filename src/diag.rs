//! What operators are told about their YAML: codes, places, rendering.
//!
//! **Invariant**: every diagnostic carries a code of the [`catalog`], says what is wrong and where,
//! and never holds a secret.

use crate::base::id::ResourceId;

pub mod catalog;
pub mod location;
pub mod render;

pub use catalog::Code;
pub use location::Location;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something named in the YAML is not done as written.
    Error,
    /// It works, and someone should look.
    Warning,
    /// Good to know.
    Info,
}

impl Severity {
    /// `error`, `warning` or `info`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What it is about; stable between releases.
    pub code: &'static Code,
    /// How bad it is here; the code's own severity unless raised or lowered.
    pub severity: Severity,
    /// Where it was written.
    pub location: Option<Location>,
    /// Field path, `spec.http[2].route[0].destination.subset`; empty when there is none.
    pub field: String,
    /// The resource it concerns.
    pub resource: Option<ResourceId>,
    /// What is wrong, with the offending value.
    pub message: String,
    /// What to do; never empty.
    pub help: String,
}

impl Diagnostic {
    /// A finding without a place yet.
    pub fn new(code: &'static Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity,
            location: None,
            field: String::new(),
            resource: None,
            message: message.into(),
            help: code.help.to_owned(),
        }
    }

    /// Sets where it was written.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Sets the field path.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field = path.into();
        self
    }

    /// Sets the resource.
    #[must_use]
    pub fn resource(mut self, id: ResourceId) -> Self {
        self.resource = Some(id);
        self
    }

    /// Sets what to do, closer than the code says it.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        debug_assert!(!text.is_empty(), "{} without help", self.code.id);
        self.help = text;
        self
    }

    /// The whole of it on one line, as far as it is known: what, of which resource, where, and what to do.
    pub fn brief(&self) -> String {
        let resource = self.resource.as_ref().map(|id| format!("; {id}"));
        let place = self.location.as_ref().map(|place| format!(" {place}"));
        let (resource, place) = (resource.unwrap_or_default(), place.unwrap_or_default());
        format!("{}{resource}{place}; {}", self.message, self.help)
    }

    /// Raises or lowers the severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

/// Orders findings by file, line, column, code and field; findings without a place come last.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| {
        let place = |d: &Diagnostic| d.location.is_none();
        let key = |d: &Diagnostic| (d.code.id, d.severity);
        (place(a), &a.location, key(a), &a.field).cmp(&(place(b), &b.location, key(b), &b.field))
    });
}

/// Number of errors and of warnings.
pub fn count(diagnostics: &[Diagnostic]) -> (usize, usize) {
    let of = |severity| diagnostics.iter().filter(|d| d.severity == severity).count();
    (of(Severity::Error), of(Severity::Warning))
}
