//! AuthorizationPolicies that select this gateway.
//!
//! **Invariant:** a policy that cannot be enforced as written refuses everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::auth::authz::{self, Policies};
use crate::base::id::Origin;
use crate::diag::catalog;
use crate::resources::authorization_policy::Action;
use crate::resources::{AuthorizationPolicy, Resource, ResourceSet};
use crate::snapshot::external::External;
use crate::snapshot::{Access, Authorization};

use super::access_rules::{self, Unenforceable};
use super::external::FindProvider;
use super::findings::{Findings, at};
use super::selection::{Reach, Targets, broken, fails_closed, reach, unread};
use super::settings::CompileSettings;

/// Annotation of policies that are evaluated for logs only.
const DRY_RUN: &str = "istio.io/dry-run";

type Policy = Resource<AuthorizationPolicy>;

/// Judges all policies; a broken one refuses. `find` finds the providers of CUSTOM policies.
pub fn authorization(
    set: &ResourceSet,
    settings: &CompileSettings,
    find: &mut FindProvider<'_>,
    findings: &mut Findings,
) -> Authorization {
    let mut refusing = broken(set, "AuthorizationPolicy", settings, findings);
    let (mut deny, mut allow) = (Vec::new(), Vec::new());
    let mut asked: BTreeMap<&str, External> = BTreeMap::new();
    for policy in &set.authorization_policies {
        match effect(policy, settings, findings) {
            Effect::None => {}
            Effect::Refuse(origin) => {
                refusing.get_or_insert(origin);
            }
            Effect::Allow(policy) => allow.push(policy),
            Effect::Deny(policy) => deny.push(policy),
            Effect::Ask(compiled) => {
                let name = policy.spec.provider.as_ref().map_or("", |one| one.name.as_str());
                let found = find(name, findings).map_err(|why| tell(policy, why, findings)).ok();
                let new = || External { policies: Vec::new(), provider: found };
                asked.entry(name).or_insert_with(new).policies.push(compiled);
            }
        }
    }
    match refusing {
        Some(origin) => Authorization::Refuse(origin),
        None if deny.is_empty() && allow.is_empty() && asked.is_empty() => Authorization::Open,
        None => Authorization::Enforce(Arc::new(Access {
            external: asked.into_values().collect(),
            policies: Policies::new(deny, allow),
        })),
    }
}

/// Tells that a provider is none.
fn tell(policy: &Policy, why: String, findings: &mut Findings) {
    let finding = at(policy, "spec.provider.name", &catalog::POLICY_FAILS_CLOSED, why);
    findings.add(finding.help("what the policy's rules match gets 403 until it is mended"));
}

/// What a policy does here.
enum Effect {
    /// Nothing.
    None,
    /// It takes part in what is allowed.
    Allow(authz::Policy),
    /// What it matches is refused.
    Deny(authz::Policy),
    /// Its provider is asked about what it matches.
    Ask(authz::Policy),
    /// It refuses everything.
    Refuse(Origin),
}

fn effect(policy: &Policy, settings: &CompileSettings, findings: &mut Findings) -> Effect {
    let spec = &policy.spec;
    let targets = Targets::new(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs);
    let unclear = match reach(policy, &targets, settings, findings) {
        Reach::Elsewhere => return Effect::None,
        Reach::Here => None,
        Reach::Unclear(why) => Some(why),
    };
    if is_silent(policy, findings) {
        return Effect::None;
    }
    if let Some(why) = unclear {
        return Effect::Refuse(fails_closed(policy, "spec", why, findings));
    }
    if let Some(field) = unread(policy).next() {
        let message = "a policy with a field that does not exist may allow more than it says";
        return Effect::Refuse(fails_closed(policy, field, message, findings));
    }
    let enforced = match spec.action {
        Action::Allow => rules(policy, settings).map(Effect::Allow),
        Action::Deny => rules(policy, settings).map(Effect::Deny),
        Action::Custom => rules(policy, settings).and_then(before_tokens).map(Effect::Ask),
        Action::Audit => return Effect::None,
    };
    enforced
        .unwrap_or_else(|(field, why)| Effect::Refuse(fails_closed(policy, &field, why, findings)))
}

/// Providers are asked before tokens are read: a rule that looks at tokens would never ask them.
fn before_tokens(policy: authz::Policy) -> Result<authz::Policy, Unenforceable> {
    match policy.rules.iter().position(|(rule, _)| rule.looks_at_tokens()) {
        None => Ok(policy),
        Some(index) => {
            let why = "a provider is asked before tokens are read; use DENY or ALLOW for tokens";
            Err((format!("spec.rules[{index}]"), why.to_owned()))
        }
    }
}

fn rules(policy: &Policy, settings: &CompileSettings) -> Result<authz::Policy, Unenforceable> {
    let namespace = &*policy.id.namespace;
    let mut rules = Vec::with_capacity(policy.spec.rules.len());
    for (index, written) in policy.spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        let rule = access_rules::rule(written, namespace, settings)
            .map_err(|(below, why)| (format!("{field}.{below}"), why))?;
        rules.push((rule, policy.origin(&field)));
    }
    Ok(authz::Policy {
        namespace: namespace.into(),
        name: (*policy.id.name).into(),
        rules,
        origin: policy.origin("spec"),
    })
}

/// Whether a policy never changes an outcome: AUDIT, and dry runs of ALLOW and DENY.
fn is_silent(policy: &Policy, findings: &mut Findings) -> bool {
    if policy.spec.action == Action::Audit {
        let message = "AUDIT is not acted on yet";
        let finding = at(policy, "spec.action", &catalog::VALUE_NOT_ACTED_ON, message);
        findings.add(finding.help("nothing is marked for an audit"));
        return true;
    }
    let Some(value) = policy.meta.annotations.get(DRY_RUN) else { return false };
    let field = format!("metadata.annotations.{DRY_RUN}");
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" if policy.spec.action != Action::Custom => {
            let message = "dry runs are not acted on yet";
            let finding = at(policy, field, &catalog::VALUE_NOT_ACTED_ON, message);
            findings.add(finding.help("the policy is neither evaluated nor enforced"));
            true
        }
        "1" | "t" | "T" | "true" | "TRUE" | "True" => {
            let message = "action CUSTOM has no dry run";
            let finding = at(policy, field, &catalog::INVALID_ANNOTATION, message);
            findings.add(finding.help("remove the annotation; the policy is in force"));
            false
        }
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        other => {
            let message = format!("\"{other}\" is neither \"true\" nor \"false\"");
            let finding = at(policy, field, &catalog::INVALID_ANNOTATION, message);
            findings.add(finding.help("the policy is in force; write \"true\" for a dry run"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    /// Policies in, name of the refusing one and codes out.
    fn check(policies: &[&str], refusing: Option<&str>, codes: &[&str]) {
        let set = fixture::set("AuthorizationPolicy", policies);
        let mut findings = Findings::default();
        let none = &mut |_: &str, _: &mut Findings| Err("no provider".to_owned());
        let outcome = authorization(&set, &fixture::settings(), none, &mut findings);
        let name = match &outcome {
            Authorization::Open => None,
            Authorization::Refuse(origin) => Some(&*origin.resource.name),
            Authorization::Enforce(_) => Some("enforced"),
        };
        assert_eq!(name, refusing, "{policies:?}");
        assert_eq!(fixture::codes(findings), codes, "{policies:?}");
    }

    const DENY: &str = "spec: {action: DENY, rules: [{}]}";

    #[test]
    fn what_can_be_enforced_is() {
        let allow = "spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}";
        let selector = "spec: {selector: {matchLabels: {istio: edge}}, action: DENY, rules: [{}]}";
        for (meta, spec) in [
            ("{name: a, namespace: edge}", DENY),
            ("{name: a, namespace: root}", DENY),
            ("{name: a, namespace: edge}", "spec: {}"),
            ("{name: a, namespace: edge}", allow),
            ("{name: a, namespace: edge}", selector),
        ] {
            check(&[meta, spec], Some("enforced"), &[]);
        }
        let custom = "spec: {action: CUSTOM, provider: {name: x}, rules: [{}]}";
        check(&["{name: a, namespace: edge}", custom], Some("enforced"), &["PC052"]);
        let user = "spec: {action: CUSTOM, provider: {name: x}, rules: [{when: [{key: \
                    request.auth.presenter, values: [a]}]}]}";
        check(&["{name: a, namespace: edge}", user], Some("a"), &["PC052"]);
    }

    #[test]
    fn what_is_not_understood_refuses() {
        let experimental = "spec: {rules: [{when: [{key: 'experimental.envoy.filters.a[b]', values: \
                            [x]}]}]}";
        check(&["{name: a, namespace: edge}", experimental], Some("a"), &["PC052"]);
        check(
            &["{name: a, namespace: edge}", "spec: {rules: [{from: []}]}"],
            Some("a"),
            &["PC052"],
        );
    }

    #[test]
    fn what_is_about_other_workloads_does_not_apply() {
        check(&["{name: a, namespace: shop}", DENY], None, &[]);
        let selector = "spec: {selector: {matchLabels: {app: x}}, action: DENY, rules: [{}]}";
        check(&["{name: a, namespace: edge}", selector], None, &[]);
        check(&["{name: a, namespace: root}", selector], None, &[]);
        let attached = "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: \
                        x}], action: DENY, rules: [{}]}";
        check(&["{name: a, namespace: edge}", attached], None, &["IST0167"]);
    }

    #[test]
    fn a_reach_that_cannot_hold_fails_closed() {
        let istio = "spec: {targetRefs: [{group: networking.istio.io, kind: Gateway, name: x}], \
                     rules: [{}]}";
        check(&["{name: a, namespace: edge}", istio], Some("a"), &["PC052"]);
        let both = "spec: {selector: {matchLabels: {istio: edge}}, targetRef: {kind: Service, name: \
                    x}, rules: [{}]}";
        check(&["{name: a, namespace: edge}", both], Some("a"), &["PC052"]);
    }

    #[test]
    fn a_misspelt_field_never_makes_a_rule_that_allows_everything() {
        let typo = "spec: {rules: [{form: [{source: {principals: [x]}}]}]}";
        check(&["{name: a, namespace: edge}", typo], Some("a"), &["PC052"]);
    }

    #[test]
    fn audits_and_dry_runs_are_told_and_refuse_nothing() {
        check(
            &["{name: a, namespace: edge}", "spec: {action: AUDIT, rules: [{}]}"],
            None,
            &["PC062"],
        );
        let dry = |value| {
            format!("{{name: a, namespace: edge, annotations: {{istio.io/dry-run: \"{value}\"}}}}")
        };
        check(&[&dry("true"), DENY], None, &["PC062"]);
        check(&[&dry("false"), DENY], Some("enforced"), &[]);
        check(&[&dry("yes"), DENY], Some("enforced"), &["IST0125"]);
        let custom = "spec: {action: CUSTOM, provider: {name: x}, rules: [{}]}";
        check(&[&dry("true"), custom], Some("enforced"), &["IST0125", "PC052"]);
    }

    #[test]
    fn a_policy_that_cannot_be_read_refuses_what_it_selects() {
        let wrong = "spec: {action: NEVER}";
        check(&["{name: a, namespace: edge}", wrong], Some("a"), &["PC052"]);
        check(&["{name: a, namespace: root}", wrong], Some("a"), &["PC052"]);
        check(&["{name: a, namespace: shop}", wrong], None, &[]);
        let other = "spec: {action: NEVER, selector: {matchLabels: {app: x}}}";
        check(&["{name: a, namespace: edge}", other], None, &[]);
        check(&["{name: a, namespace: edge}", "spec: {rules: [}"], Some("a"), &["PC052"]);
    }
}
