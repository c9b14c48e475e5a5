//! What a document that is not YAML seems to have been.
//!
//! A security resource with a slip in its syntax must not go missing: its kind, namespace and name
//! are looked for in the bare text.
//!
//! **Invariant**: time is linear in the text for each of the few words looked for.

use super::kind::Kind;
use crate::base::id::ResourceId;

/// A resource that the text seems to hold.
pub(super) struct Found {
    pub(super) id: ResourceId,
    /// Line within the text, from 1.
    pub(super) line: u32,
}

/// Looks for resources of known kinds.
pub(super) fn scan(text: &str) -> Vec<Found> {
    let mut kinds: Vec<(usize, Kind)> = values(text, "kind")
        .filter_map(|(offset, value)| Some((offset, Kind::find(value)?)))
        .collect();
    let starts_line = |offset: usize| {
        let before = text.get(..offset).unwrap_or_default();
        before.is_empty() || before.ends_with('\n')
    };
    if kinds.iter().any(|(offset, _)| starts_line(*offset)) {
        kinds.retain(|(offset, _)| starts_line(*offset));
    }
    let alone = kinds.len() == 1;
    let mut found = Vec::new();
    let (mut counted, mut line) = (0, 1_u32);
    for (index, (offset, kind)) in kinds.iter().enumerate() {
        let end = kinds.get(index + 1).map_or(text.len(), |(next, _)| *next);
        let own = if alone { Some(text) } else { text.get(*offset..end) }.unwrap_or_default();
        let below = own.find("metadata").and_then(|at| own.get(at..));
        let metadata = below.unwrap_or(own);
        let value = |word| values(metadata, word).next().map(|(_, value)| value);
        let unreadable = below.is_none() || metadata.contains("namespace");
        let id = ResourceId::new(
            kind.name(),
            value("namespace").unwrap_or(if unreadable { "" } else { "default" }),
            value("name").unwrap_or_default(),
        );
        let between = text.get(counted..*offset).unwrap_or_default();
        let newlines = between.bytes().filter(|byte| *byte == b'\n').count();
        line = line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
        counted = *offset;
        found.push(Found { id, line });
    }
    found
}

/// Whether a text says of what kind it is, one that is read or another.
pub(super) fn names_a_kind(text: &str) -> bool {
    values(text, "kind").next().is_some()
}

/// The places where a key seems to have a value: `key: value`, `"key": "value"`.
fn values<'t>(text: &'t str, key: &'static str) -> impl Iterator<Item = (usize, &'t str)> {
    text.match_indices(key).filter_map(move |(offset, _)| {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
        if text.get(..offset)?.ends_with(word) {
            return None;
        }
        let rest = text.get(offset + key.len()..)?.trim_start_matches(['"', '\'']);
        let rest = rest.trim_start_matches([' ', '\t']).strip_prefix(':')?;
        let rest = rest.trim_start_matches([' ', '\t', '"', '\'']);
        let end = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
        rest.get(..end).filter(|value| !value.is_empty()).map(|value| (offset, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, u32)]) {
        let found: Vec<_> = scan(text).iter().map(|f| (f.id.to_string(), f.line)).collect();
        let found: Vec<_> = found.iter().map(|(id, line)| (id.as_str(), *line)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn kind_name_and_namespace_are_found_in_broken_text() {
        check(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: deny\n  \
             namespace: istio-system\nspec: [}\n",
            &[("AuthorizationPolicy istio-system/deny", 2)],
        );
        check(
            "{\"kind\": \"Gateway\", \"metadata\": {\"name\": \"web\"",
            &[("Gateway default/web", 1)],
        );
    }

    #[test]
    fn each_item_of_a_broken_list_is_found() {
        check(
            "kindly: x\nitems:\n- kind: Gateway\n  metadata: {name: a}\n- kind: VirtualService\n  \
             metadata: {name: b}\n",
            &[("Gateway default/a", 3), ("VirtualService default/b", 5)],
        );
    }

    #[test]
    fn references_within_a_resource_are_not_resources() {
        check(
            "kind: AuthorizationPolicy\nspec:\n  targetRefs:\n  - kind: Gateway\n    name: x\n",
            &[("AuthorizationPolicy /x", 1)],
        );
    }

    #[test]
    fn other_kinds_are_not_found() {
        check("kind: Deployment\nmetadata: {name: a}\n", &[]);
    }
}
