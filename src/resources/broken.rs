//! What is known of a document that could not be read.
//!
//! **Invariant**: what could not be read counts for more, never for less: a selector selects everything,
//! a host is every host.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Labels;
use super::authorization_policy::{DRY_RUN, dry_run};
use super::de;
use super::kind::Kind;
use super::node::{Entry, Node, Scalar, Value};
use super::request_authentication::JwtRule;
use super::served::{self, Served};
use crate::base::id::{Origin, ResourceId};
use crate::base::limit;
use crate::diag::Location;

/// A document that is there and could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What it said it was; a namespace or a name that could not be read is empty.
    pub id: ResourceId,
    /// Where it begins.
    pub location: Location,
    /// `spec.selector.matchLabels`, when it could be read; `None` when absent or unreadable, which
    /// selects everything in its namespace. A DestinationRule's is `spec.workloadSelector`, a Gateway's
    /// has its labels in itself.
    pub selector: Option<Labels>,
    /// `spec.exportTo`, when it could be read.
    pub export_to: Vec<String>,
    /// Whether it may be for workloads of its namespace alone, as far as could be read: a DestinationRule.
    pub perhaps_private: bool,
    /// Hosts whose connections it may have restricted.
    pub restricted: Restricted,
    /// What it was to serve.
    pub served: Arc<Served>,
    /// Query parameters that may hold a token because of a RequestAuthentication
    /// (`spec.jwtRules[].fromParams`); `None` when not all of its rules could be read.
    pub token_parameters: Option<Vec<String>>,
    /// Whether it was to be told of alone: an AuthorizationPolicy of action AUDIT, or a dry run.
    pub told_only: bool,
}

/// Hosts whose connections a broken document may have restricted: those of a DestinationRule, and those
/// of a ServiceEntry that names the identities of its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Restricted {
    /// None.
    #[default]
    Nothing,
    /// These, as written; of a text that is not YAML, every word.
    Hosts(Arc<[Box<str>]>),
    /// They could not be read.
    Anything,
}

/// Kind of what does not say which security resource it is.
const SOME_POLICY: &str = "security resource";

impl Broken {
    /// Of what was never read, so that nobody knows what it is.
    pub(super) fn unread(location: Location) -> Self {
        let id = ResourceId::new(SOME_POLICY, "", "");
        of_text(id, location, Claims::of(SOME_POLICY, ""))
    }

    /// Whether nothing is known of it.
    pub fn is_unknown(&self) -> bool {
        self.id.kind == SOME_POLICY && self.is_of_any_namespace() && self.id.name.is_empty()
    }

    /// Whether it may have been of a kind.
    pub fn may_be(&self, kind: &str) -> bool {
        self.id.kind == kind
            || (self.id.kind == SOME_POLICY && Kind::find(kind).is_some_and(Kind::is_security))
    }

    /// Whether its namespace could not be read: it may be of any.
    pub fn is_of_any_namespace(&self) -> bool {
        self.id.namespace.is_empty()
    }

    /// Where it stands.
    pub fn origin(&self) -> Origin {
        let Location { file, line, .. } = self.location.clone();
        Origin { resource: self.id.clone(), file, line }
    }
}

/// Of a document that is YAML.
pub(super) fn read(kind: Kind, root: &Node<'_>, location: Location) -> Broken {
    Broken {
        id: identify(kind, root),
        location,
        selector: selector(kind, root),
        export_to: spec(root, EXPORT_TO).and_then(texts).unwrap_or_default(),
        perhaps_private: kind == Kind::DestinationRule && hides_its_reach(root),
        restricted: restricted(kind, root),
        served: Arc::new(served::read(kind, root)),
        token_parameters: token_parameters(kind, root),
        told_only: false,
    }
}

/// Of a document that is YAML and does not say which security resource it is.
pub(super) fn some_policy(root: &Node<'_>, location: Location) -> Broken {
    let broken = read(Kind::RequestAuthentication, root, location);
    Broken { id: ResourceId { kind: SOME_POLICY, ..broken.id }, ..broken }
}

/// Of a document that Istio's webhook refuses: every value of it has the right type.
pub(super) fn refused(kind: Kind, root: &Node<'_>, location: Location) -> Broken {
    let told_only = kind == Kind::AuthorizationPolicy && is_told_only(root);
    Broken { told_only, ..read(kind, root, location) }
}

fn is_told_only(root: &Node<'_>) -> bool {
    let action = root.entry("spec").and_then(|spec| spec.value.text("action"));
    let annotations = root.entry("metadata").and_then(|meta| meta.value.entry("annotations"));
    let dry = annotations.and_then(|all| all.value.text(DRY_RUN)).and_then(dry_run);
    match action.unwrap_or("ALLOW") {
        "AUDIT" => true,
        "ALLOW" | "DENY" => dry == Some(true),
        _ => false,
    }
}

/// What a resource of a kind may have been about, by the text that seems to hold it.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    restricted: Restricted,
    perhaps_private: bool,
    served: Arc<Served>,
}

impl Claims {
    pub(super) fn of(kind: &str, text: &str) -> Self {
        let served = Arc::new(served::of_text(kind, text));
        let says = |field| text.contains(field);
        let perhaps_private = kind == Kind::DestinationRule.name()
            && (says(EXPORT_TO) || says(WORKLOAD_SELECTOR) || !is_plain(text));
        Self { restricted: restricted_by(kind, text), perhaps_private, served }
    }
}

/// Of a text that seems to hold a resource.
pub(super) fn of_text(id: ResourceId, location: Location, claims: Claims) -> Broken {
    let Claims { restricted, perhaps_private, served } = claims;
    Broken {
        id,
        location,
        selector: None,
        export_to: Vec::new(),
        perhaps_private,
        restricted,
        served,
        token_parameters: None,
        told_only: false,
    }
}

fn restricted_by(kind: &str, text: &str) -> Restricted {
    let restricts = match kind {
        "DestinationRule" => true,
        "ServiceEntry" => text.contains(IDENTITIES),
        _ => false,
    };
    match restricts {
        false => Restricted::Nothing,
        true if text.len() > limit::BROKEN_TEXT_BYTES || !is_plain(text) => Restricted::Anything,
        true => {
            let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*');
            let words: BTreeSet<&str> = text.split(|c| !host(c)).collect();
            Restricted::Hosts(words.into_iter().map(Box::from).collect())
        }
    }
}

/// Whether a text's hosts stand in it as they are: not as what an alias, an escape or a template means.
pub(super) fn is_plain(text: &str) -> bool {
    !["&", "\\", "{{", "${", "$(", "<%"].iter().any(|sign| text.contains(sign))
}

const EXPORT_TO: &str = "exportTo";
const WORKLOAD_SELECTOR: &str = "workloadSelector";
const IDENTITIES: &str = "subjectAltNames";

/// Whether a DestinationRule says to whom it is shown, or whom it selects, and it cannot be read.
fn hides_its_reach(root: &Node<'_>) -> bool {
    let said = |field| spec(root, field).is_some_and(|node| !node.is_null());
    let export_to = || spec(root, EXPORT_TO).and_then(texts);
    let is_read =
        root.entry("spec").is_some_and(|spec| matches!(spec.value.value, Value::Mapping(_)));
    !is_read
        || (said(EXPORT_TO) && export_to().is_none())
        || (said(WORKLOAD_SELECTOR) && selector(Kind::DestinationRule, root).is_none())
}

fn restricted(kind: Kind, root: &Node<'_>) -> Restricted {
    let hosts = match kind {
        Kind::DestinationRule => spec(root, "host"),
        Kind::ServiceEntry if spec(root, IDENTITIES).is_some() => spec(root, "hosts"),
        _ => return Restricted::Nothing,
    };
    match hosts.and_then(texts) {
        Some(hosts) if !hosts.is_empty() => {
            Restricted::Hosts(hosts.into_iter().map(String::into_boxed_str).collect())
        }
        _ => Restricted::Anything,
    }
}

fn token_parameters(kind: Kind, root: &Node<'_>) -> Option<Vec<String>> {
    if kind != Kind::RequestAuthentication {
        return Some(Vec::new());
    }
    let Value::Sequence(rules) = &spec(root, "jwtRules")?.value else { return None };
    let mut names = Vec::new();
    for rule in rules.iter() {
        let mut unknown = Vec::new();
        let rule: JwtRule = de::read(rule, "", &mut unknown).ok()?;
        if !unknown.is_empty() {
            return None;
        }
        names.extend(rule.from_params);
    }
    Some(names)
}

fn spec<'n, 'i>(root: &'n Node<'i>, field: &str) -> Option<&'n Node<'i>> {
    Some(&root.entry("spec")?.value.entry(field)?.value)
}

/// A text, or each of a list; nothing when any is something else.
fn texts(node: &Node<'_>) -> Option<Vec<String>> {
    let text = |node: &Node<'_>| match node.scalar() {
        Some(Scalar::Text(text)) if !text.is_empty() => Some(text.to_owned()),
        _ => None,
    };
    match &node.value {
        Value::Sequence(items) => items.iter().map(text).collect(),
        _ => text(node).map(|text| vec![text]),
    }
}

/// What a document says it is.
pub(super) fn identify(kind: Kind, root: &Node<'_>) -> ResourceId {
    let metadata = root.entry("metadata").map(|entry| &entry.value);
    let text = |key| metadata.and_then(|node| node.text(key)).filter(|text| !text.is_empty());
    let readable = metadata.filter(|node| matches!(node.value, Value::Mapping(_)));
    let absent = readable.is_some_and(|node| {
        node.entry("namespace").is_none_or(|entry| {
            entry.value.is_null() || matches!(entry.value.scalar(), Some(Scalar::Text("")))
        })
    });
    let unwritten = if absent { "default" } else { "" };
    ResourceId::new(
        kind.name(),
        text("namespace").unwrap_or(unwritten),
        text("name").unwrap_or_default(),
    )
}

/// `matchLabels` of the selector; `None` when any part of it is not as it should be.
fn selector(kind: Kind, root: &Node<'_>) -> Option<Labels> {
    let name = if kind == Kind::DestinationRule { WORKLOAD_SELECTOR } else { "selector" };
    let selector = &root.entry("spec")?.value.entry(name)?.value;
    let labels = match kind {
        Kind::Gateway => selector,
        _ => &selector.entry("matchLabels")?.value,
    };
    if !matches!(labels.value, Value::Mapping(_)) {
        return None;
    }
    let label = |entry: &Entry<'_>| match entry.value.scalar() {
        Some(Scalar::Text(text)) => Some((entry.key.clone().into_owned(), text.to_owned())),
        _ => None,
    };
    labels.entries().iter().map(label).collect()
}

#[cfg(test)]
mod tests;
