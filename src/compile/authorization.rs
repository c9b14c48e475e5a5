//! AuthorizationPolicies that select this gateway.
//!
//! **Invariant:** a policy that cannot be enforced as written refuses everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::auth::authz::{self, Policies, PolicySet, Shadow};
use crate::base::id::Origin;
use crate::diag::catalog;
use crate::resources::authorization_policy::{Action, DRY_RUN, dry_run};
use crate::resources::{AuthorizationPolicy, Resource, ResourceSet};
use crate::snapshot::external::External;
use crate::snapshot::{Access, Authorization};

use super::access_rules::{self, Unenforceable};
use super::external::FindProvider;
use super::findings::{Findings, at};
use super::selection::{Reach, Targets, broken, fails_closed, reach, unread};
use super::settings::CompileSettings;
use super::{streams, unmatchable};

type Policy = Resource<AuthorizationPolicy>;

/// Judges all policies; a broken one refuses. `find` finds the providers of CUSTOM policies.
pub fn authorization(
    set: &ResourceSet,
    settings: &CompileSettings,
    find: &mut FindProvider<'_>,
    findings: &mut Findings,
) -> Authorization {
    let mut refusing = broken(set, "AuthorizationPolicy", settings, findings);
    let mut compiled: BTreeMap<(Action, Force), Vec<authz::Policy>> = BTreeMap::new();
    let mut asked: BTreeMap<&str, Vec<authz::Policy>> = BTreeMap::new();
    let mut providers = BTreeMap::new();
    let streams = streams::served(set, settings);
    for policy in &set.authorization_policies {
        match effect(policy, settings, findings) {
            Effect::None => {}
            Effect::Refuse(origin) => {
                refusing.get_or_insert(origin);
            }
            Effect::Judge(force, rules) => {
                if streams {
                    streams::tell_denied(policy, findings);
                }
                compiled.entry((policy.spec.action, force)).or_default().push(rules);
            }
            Effect::Ask(rules) => {
                let name = policy.spec.provider.as_ref().map_or("", |one| one.name.as_str());
                let found = find(name, findings).map_err(|why| tell(policy, why, findings)).ok();
                providers.entry(name).or_insert(found);
                asked.entry(name).or_default().push(rules);
            }
        }
    }
    if let Some(origin) = refusing {
        return Authorization::Refuse(origin);
    }
    let mut take = |action, force| compiled.remove(&(action, force)).unwrap_or_default();
    let policies =
        Policies::new(take(Action::Deny, Force::Enforced), take(Action::Allow, Force::Enforced));
    let shadow = Shadow {
        audit: PolicySet::new(take(Action::Audit, Force::Shadow)),
        deny: PolicySet::new(take(Action::Deny, Force::Shadow)),
        allow: PolicySet::new(take(Action::Allow, Force::Shadow)),
    };
    let shadow = Some(Box::new(shadow)).filter(|shadow| !shadow.is_empty());
    let external: Vec<_> = asked
        .into_iter()
        .map(|(name, policies)| External {
            policies: PolicySet::new(policies),
            provider: providers.remove(name).flatten(),
        })
        .collect();
    if policies.is_empty() && shadow.is_none() && external.is_empty() {
        return Authorization::Open;
    }
    Authorization::Enforce(Arc::new(Access { external, policies, shadow }))
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
    /// It says what its action says of what it matches.
    Judge(Force, authz::Policy),
    /// Its provider is asked about what it matches.
    Ask(authz::Policy),
    /// It refuses everything.
    Refuse(Origin),
}

/// Whether what a policy says is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Force {
    /// It is.
    Enforced,
    /// It is told: AUDIT and dry runs.
    Shadow,
}

fn effect(policy: &Policy, settings: &CompileSettings, findings: &mut Findings) -> Effect {
    let spec = &policy.spec;
    let targets = Targets::new(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs);
    let unclear = match reach(policy, &targets, settings, findings) {
        Reach::Elsewhere => return Effect::None,
        Reach::Here => None,
        Reach::Unclear(why) => Some(why),
    };
    unmatchable::tell(policy, findings);
    let force = force(policy);
    let mut fail = |field: &str, why: &str| match force {
        Force::Enforced => Effect::Refuse(fails_closed(policy, field, why, findings)),
        Force::Shadow => {
            let finding = at(policy, field, &catalog::VALUE_NOT_ACTED_ON, why);
            findings.add(finding.help("the policy is not evaluated until it is corrected"));
            Effect::None
        }
    };
    if let Some(why) = unclear {
        return fail("spec", why);
    }
    if let Some(field) = unread(policy).next() {
        return fail(
            field,
            "a policy with a field that does not exist may allow more than it says",
        );
    }
    let effect = match spec.action {
        Action::Custom => rules(policy, settings).and_then(before_tokens).map(Effect::Ask),
        _ => rules(policy, settings).map(|rules| Effect::Judge(force, rules)),
    };
    effect.unwrap_or_else(|(field, why)| fail(&field, &why))
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

/// Whether a policy is enforced; AUDIT never is, and dry runs of ALLOW and DENY are not.
fn force(policy: &Policy) -> Force {
    let dry = policy.meta.annotations.get(DRY_RUN).and_then(|value| dry_run(value));
    if policy.spec.action == Action::Audit || dry == Some(true) {
        Force::Shadow
    } else {
        Force::Enforced
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
    fn audits_and_dry_runs_are_evaluated_and_a_broken_one_refuses_nothing() {
        let meta = "{name: a, namespace: edge}";
        check(&[meta, "spec: {action: AUDIT, rules: [{}]}"], Some("enforced"), &[]);
        let dry = |value| {
            format!("{{name: a, namespace: edge, annotations: {{istio.io/dry-run: \"{value}\"}}}}")
        };
        check(&[&dry("true"), DENY], Some("enforced"), &[]);
        check(&[&dry("true"), "spec: {rules: [{from: [{source: {ipBlocks: [x]}}]}]}"], None, &[]);
        check(
            &[meta, "spec: {rules: [{from: [{source: {ipBlocks: [x]}}]}]}"],
            Some("a"),
            &["PC052"],
        );
        let unread = "spec: {action: DENY, rules: [{form: []}]}";
        check(&[&dry("true"), unread], None, &["PC062"]);
        let target = "spec: {targetRefs: [{kind: Deployment, name: x}], rules: [{}]}";
        check(&[&dry("true"), target], None, &[]);
        check(
            &[meta, "spec: {action: AUDIT, rules: [{when: [{key: x, values: [a]}]}]}"],
            None,
            &[],
        );
        check(&[&dry("false"), DENY], Some("enforced"), &[]);
        check(&[&dry("yes"), DENY], Some("a"), &["PC052"]);
        let custom = "spec: {action: CUSTOM, provider: {name: x}, rules: [{}]}";
        check(&[&dry("true"), custom], Some("a"), &["PC052"]);
        let audit = "spec: {action: AUDIT, rules: [{}]}";
        check(&[&dry("true"), audit], None, &[]);
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
