//! Names of resources and of the things compiled from them.

use std::fmt;
use std::sync::Arc;

/// A resource by kind, namespace and name; prints as `VirtualService shop/cart`, and by its kind alone when
/// no more is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// Kind as written in YAML, `VirtualService` for example.
    pub kind: &'static str,
    /// `metadata.namespace`, defaulted.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ResourceId {
    /// Builds an id from its three parts.
    pub fn new(kind: &'static str, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.namespace, &*self.name) {
            ("", "") => f.write_str(self.kind),
            (namespace, name) => write!(f, "{} {namespace}/{name}", self.kind),
        }
    }
}

/// Where a compiled thing was written: carried into decisions, logs and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The resource it comes from.
    pub resource: ResourceId,
    /// File path as given to `--config`.
    pub file: Arc<str>,
    /// Line, from 1; 0 when the thing has no place of its own.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.resource, self.file, self.line)
    }
}

/// Number of a published snapshot; starts at 1 and grows by 1 with each publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
