//! Collects what the passes find, each with its place.

use std::collections::HashSet;

use crate::diag::{self, Code, Diagnostic};
use crate::resources::Resource;

/// The findings of a compilation.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<Diagnostic>,
    change: Option<i64>,
}

impl Findings {
    /// Adds one.
    pub fn add(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Adds those of another pass.
    pub fn extend(&mut self, other: Self) {
        self.found.extend(other.found);
        self.change_at(other.change);
    }

    /// Says when some of them will be others though nothing is written anew, Unix seconds.
    pub fn change_at(&mut self, time: Option<i64>) {
        self.change = self.change.into_iter().chain(time).min();
    }

    /// When some of them will be others, Unix seconds.
    pub fn change(&self) -> Option<i64> {
        self.change
    }

    /// Every finding once, sorted.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        diag::sort(&mut self.found);
        let mut seen = HashSet::new();
        self.found.retain(|d| {
            seen.insert((d.code.id, d.location.clone(), d.field.clone(), d.message.clone()))
        });
        self.found
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
