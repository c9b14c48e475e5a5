//! The rules of a VirtualService with those of its delegates in their places.

use std::borrow::Cow;
use std::sync::Arc;

use crate::base::limit;
use crate::diag::catalog;
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::{HttpMatch, HttpRoute, VirtualService};
use crate::resources::{Resource, ResourceSet};

use super::findings::{Findings, at};
use super::names::{exported, reference};

/// A rule and where it is written.
#[derive(Debug)]
pub struct PlacedRule<'a> {
    /// The VirtualService that holds its route: short names are seen from there.
    pub resource: &'a Arc<Resource<VirtualService>>,
    /// `spec.http[0]`.
    pub field: String,
    /// The rule; one that still has a delegate has nowhere to go, for this one cannot be used.
    pub rule: Cow<'a, HttpRoute>,
}

/// What a rule delegates to.
enum Delegate<'a> {
    Found(&'a Arc<Resource<VirtualService>>),
    /// It is there and cannot be used.
    Broken,
    Absent,
}

/// The http rules of a VirtualService, in order.
pub fn rules<'a>(
    root: &'a Arc<Resource<VirtualService>>,
    set: &'a ResourceSet,
    findings: &mut Findings,
) -> Vec<PlacedRule<'a>> {
    let mut out = Vec::new();
    let mut left = limit::DELEGATED_MATCHES;
    for (index, rule) in root.spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        if rule.delegate.is_none() {
            out.push(PlacedRule { resource: root, field, rule: Cow::Borrowed(rule) });
            continue;
        }
        let delegate = match delegate(root, rule, &field, set, findings) {
            Delegate::Found(delegate) => delegate,
            Delegate::Broken => {
                out.push(PlacedRule { resource: root, field, rule: Cow::Borrowed(rule) });
                continue;
            }
            Delegate::Absent => continue,
        };
        let Some(rest) = left.checked_sub(pairs(rule, &delegate.spec.http)) else {
            too_many(root, &field, findings);
            out.push(PlacedRule { resource: root, field, rule: Cow::Borrowed(rule) });
            continue;
        };
        left = rest;
        for (index, own) in delegate.spec.http.iter().enumerate() {
            let field = format!("spec.http[{index}]");
            if let Some(rule) = merged((root, rule), (delegate, own)) {
                out.push(PlacedRule { resource: delegate, field, rule: Cow::Owned(rule) });
            } else {
                let message = format!("no match of {}'s rule lets a match of this one in", root.id);
                broken(delegate, format!("{field}.match"), &message, findings);
            }
        }
    }
    out
}

/// How many pairs of matches there are of a rule and those that it delegates to.
fn pairs(outer: &HttpRoute, inner: &[HttpRoute]) -> usize {
    let each = inner.iter().map(|rule| rule.r#match.len().max(1));
    each.sum::<usize>().saturating_mul(outer.r#match.len().max(1))
}

fn too_many(root: &Resource<VirtualService>, field: &str, findings: &mut Findings) {
    let most = limit::DELEGATED_MATCHES;
    let message = format!(
        "the matches of this VirtualService and of its delegates make more than {most} pairs, and what \
         this rule takes is refused"
    );
    let finding = at(root, format!("{field}.delegate"), &catalog::ROUTE_BROKEN, message);
    findings.add(finding.help("give this rule or its delegate fewer matches"));
}

fn broken(
    resource: &Resource<VirtualService>,
    field: String,
    message: &str,
    findings: &mut Findings,
) {
    let finding = at(resource, field, &catalog::ROUTE_BROKEN, message);
    findings.add(finding.help("the rule is left out; the other rules are served"));
}

fn delegate<'a>(
    root: &Resource<VirtualService>,
    rule: &HttpRoute,
    field: &str,
    set: &'a ResourceSet,
    findings: &mut Findings,
) -> Delegate<'a> {
    let Some(written) = &rule.delegate else { return Delegate::Absent };
    let own = &*root.id.namespace;
    let namespace = if written.namespace.is_empty() { own } else { written.namespace.as_str() };
    let found = set.virtual_services.iter().find(|other| {
        *other.id.namespace == *namespace
            && *other.id.name == *written.name
            && other.spec.hosts.is_empty()
            && exported(&other.spec.export_to, namespace, own)
    });
    if let Some(found) = found {
        return Delegate::Found(found);
    }
    let broken = set.broken.iter().any(|other| {
        other.id.kind == "VirtualService"
            && (other.is_of_any_namespace() || *other.id.namespace == *namespace)
            && *other.id.name == *written.name
            && exported(&other.export_to, namespace, own)
    });
    let name = format!("{namespace}/{}", written.name);
    let field = format!("{field}.delegate");
    if broken {
        let message = format!("\"{name}\" cannot be used, and what this rule takes is refused");
        let finding = at(root, field, &catalog::ROUTE_BROKEN, message);
        findings.add(finding.help("correct it: no later rule takes these requests until then"));
        return Delegate::Broken;
    }
    let message = format!("\"{name}\" is no VirtualService without hosts that is exported here");
    findings.add(
        at(root, field, &catalog::REFERENCE_NOT_FOUND, message)
            .help("the rule is left out until there is one"),
    );
    Delegate::Absent
}

/// A delegate's rule under the root's: what it does not say itself, the root says.
fn merged(
    (root, outer): (&Resource<VirtualService>, &HttpRoute),
    (delegate, inner): (&Resource<VirtualService>, &HttpRoute),
) -> Option<HttpRoute> {
    let mut rule = inner.clone();
    rule.r#match = matches(
        &qualified(&outer.r#match, &root.id.namespace),
        &qualified(&inner.r#match, &delegate.id.namespace),
    )?;
    rule.name = joined(&outer.name, &inner.name);
    fill(&mut rule.rewrite, outer.rewrite.as_ref());
    fill(&mut rule.direct_response, outer.direct_response.as_ref());
    fill(&mut rule.timeout, outer.timeout.as_ref());
    fill(&mut rule.retries, outer.retries.as_ref());
    fill(&mut rule.fault, outer.fault.as_ref());
    fill(&mut rule.mirror, outer.mirror.as_ref());
    fill(&mut rule.mirror_percent, outer.mirror_percent.as_ref());
    fill(&mut rule.mirror_percentage, outer.mirror_percentage.as_ref());
    fill(&mut rule.cors_policy, outer.cors_policy.as_ref());
    fill(&mut rule.headers, outer.headers.as_ref());
    if rule.mirrors.is_empty() {
        rule.mirrors.clone_from(&outer.mirrors);
    }
    Some(rule)
}

fn fill<T: Clone>(own: &mut Option<T>, other: Option<&T>) {
    if own.is_none() {
        *own = other.cloned();
    }
}

fn joined(outer: &str, inner: &str) -> String {
    match (outer, inner) {
        (name, "") | ("", name) => name.to_owned(),
        _ => format!("{outer}-{inner}"),
    }
}

/// Matches with their gateways named in full.
fn qualified(matches: &[HttpMatch], namespace: &str) -> Vec<HttpMatch> {
    let mut out = matches.to_vec();
    for name in out.iter_mut().flat_map(|one| &mut one.gateways).filter(|name| *name != "mesh") {
        let (namespace, own) = reference(name, namespace);
        *name = format!("{namespace}/{own}");
    }
    out
}

/// Every pair of a root's and a delegate's match that go together; nothing when a delegate's match
/// goes with none.
fn matches(outer: &[HttpMatch], inner: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if outer.is_empty() || inner.is_empty() {
        return Some(if inner.is_empty() { outer.to_vec() } else { inner.to_vec() });
    }
    let mut out = Vec::new();
    for own in inner {
        let before = out.len();
        out.extend(outer.iter().filter(|root| within(root, own)).map(|root| both(root, own)));
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

/// Whether every request that a delegate's match takes can be one that the root's takes.
fn within(root: &HttpMatch, own: &HttpMatch) -> bool {
    let pairs = [
        (&root.uri, &own.uri),
        (&root.scheme, &own.scheme),
        (&root.method, &own.method),
        (&root.authority, &own.authority),
    ];
    let maps = [
        (&root.headers, &own.headers),
        (&root.without_headers, &own.without_headers),
        (&root.query_params, &own.query_params),
    ];
    let narrower = |root: Option<&StringMatch>, own: Option<&StringMatch>| match (root, own) {
        (None, _) | (_, None) => true,
        (Some(root), Some(own)) => narrows(root, own),
    };
    pairs.iter().all(|(root, own)| narrower(root.as_ref(), own.as_ref()))
        && maps
            .iter()
            .all(|(root, own)| own.iter().all(|(name, own)| narrower(root.get(name), Some(own))))
        && root.ignore_uri_case == own.ignore_uri_case
        && (root.port == 0 || own.port == 0 || root.port == own.port)
        && (root.source_namespace.is_empty() || root.source_namespace == own.source_namespace)
        && own
            .source_labels
            .iter()
            .all(|(name, value)| root.source_labels.get(name).is_none_or(|root| root == value))
        && (root.gateways.is_empty()
            || own.gateways.iter().all(|name| root.gateways.contains(name)))
}

/// As in Istio, an empty text lets nothing in, and an expression is never compared.
fn narrows(root: &StringMatch, own: &StringMatch) -> bool {
    match (root, own) {
        (StringMatch::Exact(root) | StringMatch::Prefix(root), _) if root.is_empty() => false,
        (StringMatch::Exact(root), StringMatch::Exact(own)) => root == own,
        (StringMatch::Prefix(root), StringMatch::Exact(own) | StringMatch::Prefix(own)) => {
            own.starts_with(root.as_str())
        }
        _ => false,
    }
}

fn both(root: &HttpMatch, own: &HttpMatch) -> HttpMatch {
    let mut out = own.clone();
    out.name = joined(&root.name, &own.name);
    fill(&mut out.uri, root.uri.as_ref());
    fill(&mut out.scheme, root.scheme.as_ref());
    fill(&mut out.method, root.method.as_ref());
    fill(&mut out.authority, root.authority.as_ref());
    for (own, root) in [
        (&mut out.headers, &root.headers),
        (&mut out.without_headers, &root.without_headers),
        (&mut out.query_params, &root.query_params),
    ] {
        for (name, value) in root {
            own.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    for (name, value) in &root.source_labels {
        out.source_labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if out.port == 0 {
        out.port = root.port;
    }
    if out.source_namespace.is_empty() {
        out.source_namespace.clone_from(&root.source_namespace);
    }
    if out.gateways.is_empty() {
        out.gateways.clone_from(&root.gateways);
    }
    if out.stat_prefix.is_empty() {
        out.stat_prefix.clone_from(&root.stat_prefix);
    }
    out
}

#[cfg(test)]
mod tests;
