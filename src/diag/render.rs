//! Findings as text, JSON and SARIF.
//!
//! **Invariant**: what was read from YAML is printed with its control characters escaped, and no
//! line of a document that may be a Secret, or holds keys of tokens, is ever printed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Code, Diagnostic, Location, Severity, count};
use source::Sources;

mod source;

pub use source::Lookup;

/// For people: each finding with the line it is about, then a summary. `sources` gives the bytes of
/// a file by the path that locations carry.
pub fn text(diagnostics: &[Diagnostic], sources: Lookup<'_>) -> String {
    let mut sources = Sources::new(sources);
    let mut out = String::new();
    for diagnostic in diagnostics {
        write_one(diagnostic, &mut sources, &mut out);
    }
    out.push_str(&summary(diagnostics));
    out.push('\n');
    out
}

/// `2 errors, 1 warning`.
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let (errors, warnings) = count(diagnostics);
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    format!("{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings))
}

fn write_one(diagnostic: &Diagnostic, sources: &mut Sources<'_>, out: &mut String) {
    let mut head = format!("{}[{}]", diagnostic.severity.as_str(), diagnostic.code.id);
    let place = diagnostic.location.as_ref().map(Location::to_string).unwrap_or_default();
    let resource = diagnostic.resource.as_ref().map(ToString::to_string).unwrap_or_default();
    for part in [&place, &resource, &diagnostic.field] {
        if !part.is_empty() {
            head.push(' ');
            escape(part, &mut head);
        }
    }
    head.push_str(": ");
    escape(&diagnostic.message, &mut head);
    out.push_str(&head);
    out.push('\n');
    let is_secret = diagnostic.resource.as_ref().is_some_and(|id| id.kind == "Secret");
    if let Some(location) = diagnostic.location.as_ref().filter(|_| !is_secret)
        && let Some(excerpt) = sources.excerpt(location)
    {
        let number = location.line.to_string();
        let margin = " ".repeat(number.len());
        let caret = " ".repeat(excerpt.caret);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {number} | {}\n  {margin} | {caret}^", excerpt.line);
    }
    out.push_str("  = help: ");
    escape(&diagnostic.help, out);
    out.push('\n');
}

/// Appends text with control and direction-changing characters escaped.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
}

/// Whether a character could move the cursor, colour the terminal or reorder the line.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// For programs: the contract of `check -o json`. What a finding lacks (place, resource) is `null`.
pub fn json(diagnostics: &[Diagnostic]) -> String {
    value(diagnostics).to_string()
}

/// The same as [`json()`], not yet text.
pub fn value(diagnostics: &[Diagnostic]) -> Value {
    let (errors, warnings) = count(diagnostics);
    let list: Vec<Value> = diagnostics.iter().map(json_one).collect();
    json!({ "diagnostics": list, "errors": errors, "warnings": warnings })
}

fn json_one(diagnostic: &Diagnostic) -> Value {
    let location = diagnostic.location.as_ref();
    let resource = diagnostic.resource.as_ref();
    json!({
        "code": diagnostic.code.id,
        "severity": diagnostic.severity.as_str(),
        "file": location.map(|l| l.file.as_ref()),
        "line": location.map(|l| l.line),
        "column": location.map(|l| l.column),
        "field": diagnostic.field,
        "resource": resource.map(|id| json!({
            "kind": id.kind,
            "namespace": id.namespace.as_ref(),
            "name": id.name.as_ref(),
        })),
        "message": diagnostic.message,
        "help": diagnostic.help,
    })
}

/// For code hosts: a SARIF 2.1.0 log with one run.
pub fn sarif(diagnostics: &[Diagnostic]) -> String {
    let mut rules: Vec<&'static Code> = diagnostics.iter().map(|d| d.code).collect();
    rules.sort_unstable_by_key(|code| code.id);
    rules.dedup();
    let results: Vec<Value> = diagnostics.iter().map(|d| sarif_result(d, &rules)).collect();
    let rules: Vec<Value> = rules
        .iter()
        .map(|code| {
            json!({
                "id": code.id,
                "shortDescription": { "text": code.summary },
                "defaultConfiguration": { "level": sarif_level(code.severity) },
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "portcullis",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
    .to_string()
}

fn sarif_result(diagnostic: &Diagnostic, rules: &[&'static Code]) -> Value {
    let mut message = diagnostic.message.clone();
    message.push_str(": ");
    message.push_str(&diagnostic.help);
    let mut location = serde_json::Map::new();
    if let Some(place) = &diagnostic.location {
        let region = json!({ "startLine": place.line.max(1), "startColumn": place.column.max(1) });
        let artifact = json!({ "uri": uri(&place.file) });
        location.insert(
            "physicalLocation".to_owned(),
            json!({ "artifactLocation": artifact, "region": region }),
        );
    }
    if let Some(id) = &diagnostic.resource {
        let name = format!("{id} {}", diagnostic.field);
        let logical = json!([{ "fullyQualifiedName": name.trim_end(), "kind": "resource" }]);
        location.insert("logicalLocations".to_owned(), logical);
    }
    let mut result = json!({
        "ruleId": diagnostic.code.id,
        "level": sarif_level(diagnostic.severity),
        "message": { "text": message },
        "locations": if location.is_empty() { json!([]) } else { json!([location]) },
    });
    if let (Some(index), Some(object)) =
        (rules.iter().position(|rule| *rule == diagnostic.code), result.as_object_mut())
    {
        object.insert("ruleIndex".to_owned(), json!(index));
    }
    result
}

fn sarif_level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

/// A path as a URI reference (RFC 3986 section 4.1).
fn uri(path: &str) -> String {
    let encoded = percent_encoding::utf8_percent_encode(path, PATH);
    if path.starts_with('/') { format!("file://{encoded}") } else { encoded.to_string() }
}

/// What may not stand in a path as it is; a colon is among them, lest it end a scheme.
const PATH: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[cfg(test)]
mod tests;
