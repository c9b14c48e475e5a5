//! Which security policies select this gateway.
//!
//! **Invariant:** a policy whose reach is not clear reaches this gateway, so that it can fail closed.

use crate::base::id::Origin;
use crate::diag::{Diagnostic, catalog};
use crate::resources::meta::{TargetRef, WorkloadSelector};
use crate::resources::{Broken, Resource, ResourceSet};

use super::findings::{Findings, at};
use super::names::selects;
use super::settings::CompileSettings;

/// The fields by which a policy says what it selects.
pub struct Targets<'a> {
    /// `spec.selector`.
    pub selector: Option<&'a WorkloadSelector>,
    /// `spec.targetRef` and `spec.targetRefs[]`.
    pub references: Vec<&'a TargetRef>,
    /// The one of them that is written.
    pub field: &'static str,
}

impl<'a> Targets<'a> {
    /// From a policy's fields.
    pub fn new(
        selector: Option<&'a WorkloadSelector>,
        reference: Option<&'a TargetRef>,
        references: &'a [TargetRef],
    ) -> Self {
        let field = if reference.is_some() { "spec.targetRef" } else { "spec.targetRefs" };
        Self { selector, references: reference.into_iter().chain(references).collect(), field }
    }
}

/// Whether a policy applies to this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    Here,
    /// It is about something else.
    Elsewhere,
    /// What it says of its reach cannot hold; it has to fail closed.
    Unclear(&'static str),
}

/// Judges the reach of a policy; tells when it attaches to what cannot be here.
pub fn reach<T>(
    policy: &Resource<T>,
    targets: &Targets<'_>,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Reach {
    if !is_heard(&policy.id.namespace, settings) {
        return Reach::Elsewhere;
    }
    let selected = targets.selector.map(|s| selects(&s.match_labels, &settings.labels));
    if targets.references.is_empty() {
        return if selected.unwrap_or(true) { Reach::Here } else { Reach::Elsewhere };
    }
    let istio_gateway =
        |target: &&TargetRef| target.kind == "Gateway" && target.group.ends_with("istio.io");
    if targets.references.iter().any(istio_gateway) {
        return Reach::Unclear("targetRefs cannot name a Gateway of Istio's; use a selector");
    }
    match selected {
        Some(true) => Reach::Unclear("selector and targetRefs exclude each other; keep one"),
        Some(false) => Reach::Elsewhere,
        None => {
            let message =
                "targetRefs attach to objects of the Gateway API, which are not read here";
            let finding = at(policy, targets.field, &catalog::INEFFECTIVE_POLICY, message);
            findings.add(finding.help("use a selector to apply the policy to this gateway"));
            Reach::Elsewhere
        }
    }
}

/// Policies of a kind among those that cannot be used, which are in force and select this gateway.
pub fn concerning<'a>(
    all: impl IntoIterator<Item = &'a Broken>,
    kind: &'a str,
    settings: &'a CompileSettings,
) -> impl Iterator<Item = &'a Broken> {
    all.into_iter().filter(move |broken| {
        let selected = broken.selector.as_ref().is_none_or(|s| selects(s, &settings.labels));
        let heard = broken.is_of_any_namespace() || is_heard(&broken.id.namespace, settings);
        broken.may_be(kind) && heard && selected && !broken.told_only
    })
}

/// Tells every one of [`concerning`]; gives the first.
pub fn broken(
    set: &ResourceSet,
    kind: &str,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Option<Origin> {
    let mut first = None;
    for broken in concerning(&set.broken, kind, settings) {
        let finding = if broken.is_unknown() {
            let message = "what is here cannot be read and may be a policy for this gateway";
            Diagnostic::new(&catalog::POLICY_FAILS_CLOSED, message)
                .help("every request gets 403 until it can be read or is removed")
        } else {
            let message = format!("{} cannot be used and selects this gateway", broken.id);
            Diagnostic::new(&catalog::POLICY_FAILS_CLOSED, message)
                .resource(broken.id.clone())
                .help("every request gets 403 until it is corrected or removed")
        };
        findings.add(finding.at(broken.location.clone()));
        first.get_or_insert_with(|| broken.origin());
    }
    first
}

/// Tells that a policy fails closed because of a field; gives its origin.
pub fn fails_closed<T>(
    policy: &Resource<T>,
    field: &str,
    message: impl Into<String>,
    findings: &mut Findings,
) -> Origin {
    let finding = at(policy, field, &catalog::POLICY_FAILS_CLOSED, message);
    findings.add(finding.help("every request gets 403 until it is corrected or removed"));
    policy.origin(field)
}

/// A field of a policy that its kind does not have: without it the policy may mean less than it says.
pub fn unread<T>(policy: &Resource<T>) -> impl Iterator<Item = &str> {
    policy.unread.iter().map(|field| &**field).filter(|field| !field.starts_with("metadata"))
}

/// Whether policies of a namespace concern this gateway.
fn is_heard(namespace: &str, settings: &CompileSettings) -> bool {
    namespace == settings.namespace || namespace == settings.root_namespace
}
