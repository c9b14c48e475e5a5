//! Files that hold one document of one type and no resources: MeshConfig, a CA's workloads.

use serde::de::DeserializeOwned;

use super::de::{self, UnknownField};
use super::node::{self, Node, Position};
use super::place::{Places, collect};
use super::{ConfigFile, nearest};
use crate::diag::{Diagnostic, Location, catalog};

/// A document and the places of its fields.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// What it says.
    pub value: T,
    places: Places,
}

impl<T> Placed<T> {
    /// Where a field was written; the nearest parent that is there when the field is not.
    pub fn location(&self, path: &str) -> Location {
        self.places.location(path)
    }
}

/// Reads a file in which every field must be known; nothing when it cannot be used, with the reasons.
/// `what` names the type for people.
pub fn parse_single<T: DeserializeOwned + Default>(
    file: &ConfigFile,
    what: &'static str,
) -> Result<T, Vec<Diagnostic>> {
    parse_placed(file, what).map(|placed| placed.value)
}

/// As [`parse_single`], with the places of fields.
pub fn parse_placed<T: DeserializeOwned + Default>(
    file: &ConfigFile,
    what: &'static str,
) -> Result<Placed<T>, Vec<Diagnostic>> {
    let (value, mut diagnostics, unread) = read(file, what);
    for field in unread {
        let help = match nearest::nearest(&field.name, field.known) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("write one of {}", field.known.join(", ")),
        };
        let message = format!("{what} has no field \"{}\"", field.name);
        let diagnostic = Diagnostic::new(&catalog::UNKNOWN_FIELD, message);
        diagnostics.push(diagnostic.at(place(file, field.position)).field(field.path).help(help));
    }
    value.filter(|_| diagnostics.is_empty()).ok_or(diagnostics)
}

/// Reads the one document; fields that the type does not have are given back.
pub(super) fn read<T: DeserializeOwned + Default>(
    file: &ConfigFile,
    what: &str,
) -> (Option<Placed<T>>, Vec<Diagnostic>, Vec<UnknownField>) {
    let mut unread = Vec::new();
    let (value, diagnostics) = match document(file, what, &mut unread) {
        Ok(value) => (Some(value), Vec::new()),
        Err(diagnostics) => (None, diagnostics),
    };
    (value, diagnostics, unread)
}

/// A place in the file.
pub(super) fn place(file: &ConfigFile, at: Position) -> Location {
    Location::new(file.path.clone(), at.line, at.column)
}

fn document<T: DeserializeOwned + Default>(
    file: &ConfigFile,
    what: &str,
    unread: &mut Vec<UnknownField>,
) -> Result<Placed<T>, Vec<Diagnostic>> {
    let start = Position { line: 1, column: 1 };
    let text = std::str::from_utf8(&file.bytes).map_err(|_| {
        let diagnostic = Diagnostic::new(&catalog::NOT_UTF8, "the file is not UTF-8");
        vec![diagnostic.at(place(file, start))]
    })?;
    let mut roots: Vec<Node<'_>> = Vec::new();
    let mut budget = node::Budget::default();
    for chunk in node::chunks(text) {
        let found = node::read(chunk, &mut budget).map_err(|(at, error)| {
            let diagnostic = Diagnostic::new(&catalog::YAML_SYNTAX, error.to_string());
            vec![diagnostic.at(place(file, at)).help("correct the YAML")]
        })?;
        roots.extend(found.into_iter().filter(|root| !root.is_null()));
    }
    let Some((root, more)) = roots.split_first() else {
        let places = Places::nowhere(place(file, start));
        return Ok(Placed { value: T::default(), places });
    };
    if let Some(second) = more.first() {
        let message = format!("a {what} is one document, and this is another");
        let diagnostic = Diagnostic::new(&catalog::WRONG_TYPE, message);
        let diagnostic = diagnostic.at(place(file, second.position));
        return Err(vec![diagnostic.help("keep one of them")]);
    }
    let told = |error: de::Error| {
        let (path, at) = error.place.unwrap_or((String::new(), root.position));
        let diagnostic = Diagnostic::new(&catalog::WRONG_TYPE, error.message);
        diagnostic.at(place(file, at)).field(path).help("the file is not used until then")
    };
    let value = de::read(root, "", unread)
        .map_err(|errors| errors.into_iter().map(told).collect::<Vec<_>>());
    value.map(|value| Placed { value, places: collect(root, place(file, root.position)) })
}
