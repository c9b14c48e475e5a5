//! Where each field of a resource was written, in 12 bytes a field.
//!
//! **Invariant**: `entries` is sorted by path hash. Paths are kept as 32-bit hashes only; should two
//! ever collide within one resource, a place is wrong by some lines and nothing else is.

use std::sync::Arc;

use super::node::{Node, Value};
use crate::diag::Location;

/// The places of one resource's fields.
#[derive(Clone, Debug)]
pub(super) struct Places {
    file: Arc<str>,
    line: u32,
    column: u32,
    entries: Box<[Place]>,
}

/// One field's place.
#[derive(Clone, Copy, Debug)]
struct Place {
    path: u32,
    line: u32,
    column: u32,
}

/// Hash of a field path, grown segment by segment (FNV-1a).
#[derive(Clone, Copy, Debug)]
struct PathHash(u64);

impl PathHash {
    /// The resource itself.
    const ROOT: Self = Self(0xcbf2_9ce4_8422_2325);

    /// This path and more of its text.
    fn then(self, text: &str) -> Self {
        Self(
            text.bytes()
                .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)),
        )
    }

    fn folded(self) -> u32 {
        let high = u32::try_from(self.0 >> 32).unwrap_or_default();
        let low = u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or_default();
        high ^ low
    }
}

/// Collects places.
struct PlacesBuilder(Vec<Place>);

impl PlacesBuilder {
    /// An empty collection.
    fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one field.
    fn add(&mut self, path: PathHash, line: u32, column: u32) {
        self.0.push(Place { path: path.folded(), line, column });
    }

    /// The collection of a resource that begins at a place.
    fn finish(mut self, start: Location) -> Places {
        self.0.sort_unstable_by_key(|place| place.path);
        Places {
            file: start.file,
            line: start.line,
            column: start.column,
            entries: self.0.into_boxed_slice(),
        }
    }
}

/// The places of every field of a document that begins at a place.
pub(super) fn collect(root: &Node<'_>, start: Location) -> Places {
    let mut places = PlacesBuilder::new();
    collect_below(root, PathHash::ROOT, true, &mut places);
    places.finish(start)
}

/// Adds every field below a node; a field's place is its key's.
fn collect_below(node: &Node<'_>, path: PathHash, top: bool, places: &mut PlacesBuilder) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = path.then("[").then(&index.to_string()).then("]");
                places.add(path, item.position.line, item.position.column);
                collect_below(item, path, false, places);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries.iter() {
                let key: &str = &entry.key;
                if top && matches!(key, "status" | "data" | "stringData") {
                    continue;
                }
                let path = if top { path } else { path.then(".") }.then(key);
                places.add(path, entry.position.line, entry.position.column);
                if key != "managedFields" {
                    collect_below(&entry.value, path, false, places);
                }
            }
        }
    }
}

impl Places {
    /// Of a document without fields.
    pub(super) fn nowhere(start: Location) -> Self {
        PlacesBuilder::new().finish(start)
    }

    /// The place of a path, or of its nearest parent.
    pub(super) fn location(&self, path: &str) -> Location {
        let mut rest = path;
        while !rest.is_empty() {
            let hash = PathHash::ROOT.then(rest).folded();
            let found = self.entries.binary_search_by_key(&hash, |place| place.path);
            if let Some(place) = found.ok().and_then(|index| self.entries.get(index)) {
                return Location::new(self.file.clone(), place.line, place.column);
            }
            rest = rest.rfind(['.', '[']).and_then(|end| rest.get(..end)).unwrap_or_default();
        }
        Location::new(self.file.clone(), self.line, self.column)
    }
}
