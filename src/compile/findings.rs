//! Collects what the passes find, each with its place.

use std::collections::HashSet;

use crate::diag::{self, Code, Diagnostic};
use crate::resources::Resource;

/// The findings of a compilation.
#[derive(Debug, Default)]
pub struct Findings(Vec<Diagnostic>);

impl Findings {
    /// Adds one.
    pub fn add(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds those of another pass.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Every finding once, sorted.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        diag::sort(&mut self.0);
        let mut seen = HashSet::new();
        self.0.retain(|d| {
            seen.insert((d.code.id, d.location.clone(), d.field.clone(), d.message.clone()))
        });
        self.0
    }
}

/// A finding about a field of a resource.
pub fn at<T>(
    resource: &Resource<T>,
    field: impl Into<String>,
    code: &'static Code,
    message: impl Into<String>,
) -> Diagnostic {
    let field = field.into();
    Diagnostic::new(code, message)
        .at(resource.location(&field))
        .resource(resource.id.clone())
        .field(field)
}
