//! RequestAuthentications that select this gateway, pooled into one [`Authenticator`].
//!
//! **Invariant:** a rule that cannot be used as written still stands, without a key, so that tokens
//! of its issuer are refused; a RequestAuthentication that cannot be read refuses everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::auth::jwt::{Authenticator, IssuerKeys, JwksSource, JwtRule};
use crate::base::id::Origin;
use crate::diag::catalog;
use crate::resources::{RequestAuthentication, Resource, ResourceSet};

use super::findings::{Findings, at};
use super::selection::{Reach, Targets, broken, concerning, fails_closed, reach, unread};
use super::services::Services;
use super::settings::CompileSettings;
use super::token_rules::RulePass;

/// Finds the keys of a source.
pub type FindKeys<'a> = dyn Fn(&JwksSource) -> Arc<IssuerKeys> + 'a;

/// What the RequestAuthentications come to.
#[derive(Debug, Default)]
pub struct Authentication {
    /// The rules; nothing when no policy selects this gateway.
    pub authenticator: Option<Arc<Authenticator>>,
    /// Key sets to fetch, each once.
    pub sources: Vec<JwksSource>,
    /// Query parameters that may hold a token, those of texts that cannot be used among them; `None` when
    /// not all of their names can be read.
    pub parameters: Option<Vec<Box<str>>>,
    /// The policy because of which everything is refused.
    pub refusing: Option<Origin>,
}

/// Compiles all policies that select this gateway.
pub fn authentication(
    set: &ResourceSet,
    settings: &CompileSettings,
    services: &Services<'_>,
    keys: &FindKeys<'_>,
    findings: &mut Findings,
) -> Authentication {
    let mut out = Authentication {
        refusing: broken(set, "RequestAuthentication", settings, findings),
        ..Authentication::default()
    };
    let mut rules = Vec::new();
    let mut all_read = true;
    for policy in &set.request_authentications {
        match judge(policy, settings, findings) {
            Effect::None => continue,
            Effect::Use => {}
            Effect::Refuse(origin) => {
                out.refusing.get_or_insert(origin);
            }
        }
        all_read &= unread(policy).next().is_none();
        for (index, written) in policy.spec.jwt_rules.iter().enumerate() {
            let field = format!("spec.jwtRules[{index}]");
            let services = (services, &*settings.namespace);
            let sources = &mut out.sources;
            let pass = RulePass { policy, field, keys, services, sources, findings };
            rules.push(pass.compile(written));
        }
    }
    out.parameters = parameters(&rules, set, settings).filter(|_| all_read);
    out.authenticator = (!rules.is_empty()).then(|| Arc::new(Authenticator::new(rules)));
    out
}

/// Clients send tokens in the parameters of a broken policy all the same, and of one that goes on as it was
/// in those that its text names now.
fn parameters(
    rules: &[JwtRule],
    set: &ResourceSet,
    settings: &CompileSettings,
) -> Option<Vec<Box<str>>> {
    let mut all: BTreeSet<&str> =
        rules.iter().flat_map(|rule| rule.locations.parameters()).collect();
    let unread = set.broken.iter().chain(&set.outlived);
    for broken in concerning(unread, "RequestAuthentication", settings) {
        all.extend(broken.token_parameters.as_ref()?.iter().map(String::as_str));
    }
    Some(all.into_iter().map(Box::from).collect())
}

/// What a policy does here.
enum Effect {
    /// Nothing.
    None,
    /// Its rules are used.
    Use,
    /// Its rules are used, and everything is refused because it says more than they do.
    Refuse(Origin),
}

fn judge(
    policy: &Resource<RequestAuthentication>,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Effect {
    let spec = &policy.spec;
    let targets = Targets::new(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs);
    match reach(policy, &targets, settings, findings) {
        Reach::Elsewhere => return Effect::None,
        Reach::Unclear(why) => return Effect::Refuse(fails_closed(policy, "spec", why, findings)),
        Reach::Here => {}
    }
    if let Some(field) = unread(policy).find(|field| !field.starts_with("spec.jwtRules[")) {
        let message = "a policy with a field that does not exist may check less than it says";
        return Effect::Refuse(fails_closed(policy, field, message, findings));
    }
    if spec.jwt_rules.is_empty() {
        let message = "without jwtRules the policy has no effect";
        let finding = at(policy, "spec", &catalog::INEFFECTIVE_POLICY, message);
        findings.add(finding.help("add jwtRules, or remove the policy"));
    }
    Effect::Use
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt::{KeyLocation, KeyState};
    use crate::base::id::Generation;
    use crate::compile::fixture;
    use crate::resources::{ConfigFile, Parsed, assemble, parse_file};

    /// Policies in; issuers of the rules in order and codes out.
    fn compile(policies: &[&str]) -> (Authentication, Vec<&'static str>) {
        compiled(&fixture::set("RequestAuthentication", policies))
    }

    fn compiled(set: &ResourceSet) -> (Authentication, Vec<&'static str>) {
        let mut findings = Findings::default();
        let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
        let settings = fixture::settings();
        let services = Services::new(set, &settings, &mut findings);
        let out = authentication(set, &settings, &services, &keys, &mut findings);
        (out, fixture::codes(findings))
    }

    fn check(policies: &[&str], issuers: &[&str], codes: &[&str]) -> Authentication {
        let (out, told) = compile(policies);
        let found: Vec<_> = out
            .authenticator
            .iter()
            .flat_map(|authenticator| authenticator.rules())
            .map(|rule| rule.issuer.as_deref().unwrap_or_default())
            .collect();
        assert_eq!(found, issuers, "{policies:?}");
        assert_eq!(told, codes, "{policies:?}");
        out
    }

    const OWN: &str = "{name: a, namespace: edge}";
    const ROOT: &str = "{name: b, namespace: root}";
    const RULES: &str = "spec: {jwtRules: [{issuer: x, jwksUri: \"https://x/k\"}]}";
    const OTHER: &str =
        "spec: {jwtRules: [{issuer: other, jwksUri: \"https://x/k\", fromParams: [t]}]}";

    #[test]
    fn rules_of_all_policies_that_select_the_gateway_are_pooled() {
        let out = check(&[OWN, RULES, ROOT, OTHER], &["x", "other"], &[]);
        assert_eq!(out.sources.len(), 2);
        assert!(out.refusing.is_none());
        assert_eq!(out.parameters, Some(vec!["access_token".into(), "t".into()]));
    }

    #[test]
    fn parameters_of_policies_that_cannot_be_used_count_and_may_be_any() {
        let parameters = |spec: &str| compile(&[OWN, spec]).0.parameters;
        let refused = "spec: {jwtRules: [{issuer: x, fromParams: [t]}, {jwksUri: 'ftp://x'}]}";
        assert_eq!(parameters(refused), Some(vec!["t".into()]));
        for unclear in ["spec: {jwtRules: 1}", "spec: {jwtRules: [{issuer: x, fromParam: [t]}]}"] {
            assert_eq!(parameters(unclear), None, "{unclear}");
        }
        let elsewhere = "spec: {selector: {matchLabels: {app: x}}, jwtRules: 1}";
        assert_eq!(parameters(elsewhere), Some(Vec::new()));
    }

    #[test]
    fn a_policy_that_goes_on_as_it_was_has_the_parameters_of_both_its_texts() {
        let file = |spec: &str| {
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {OWN}\n{spec}"
            );
            let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
            parse_file(&file)
        };
        let good = "spec: {jwtRules: [{issuer: x, jwksUri: 'https://x/k', fromParams: [old]}]}";
        let before = assemble([&file(good)], &Parsed::default(), Generation(1));
        let check = |spec: &str, expected: Option<&[&str]>| {
            let set = assemble([&file(spec)], &before, Generation(1)).set;
            let (out, _) = compiled(&set);
            assert_eq!(out.authenticator.map(|all| all.rules().len()), Some(1), "{spec}");
            let names = |all: &[&str]| all.iter().map(|name| Box::from(*name)).collect();
            assert_eq!(out.parameters, expected.map(names), "{spec}");
        };
        check(good, Some(&["old"]));
        let refused = "spec: {jwtRules: [{issuer: x, fromParams: [new]}, {jwksUri: 'ftp://x'}]}";
        check(refused, Some(&["new", "old"]));
        let elsewhere = refused.replace("{jwt", "{selector: {matchLabels: {app: x}}, jwt");
        check(&elsewhere, Some(&["old"]));
        check("spec: {jwtRules: 1}", None);
        check("spec: {jwtRules: [", None);
        check("spec: [}", None);
    }

    #[test]
    fn policies_about_other_workloads_do_not_apply() {
        let out = check(&["{name: a, namespace: shop}", RULES], &[], &[]);
        assert!(out.authenticator.is_none() && out.sources.is_empty());
        let selector = "spec: {selector: {matchLabels: {app: x}}, jwtRules: [{issuer: x, jwksUri: \
                        \"https://x/k\"}]}";
        check(&[OWN, selector, ROOT, selector], &[], &[]);
        let attached = "spec: {targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: \
                        x}, jwtRules: [{issuer: x}]}";
        check(&[OWN, attached], &[], &["IST0167"]);
        check(&[OWN, "spec: {}"], &[], &["IST0167"]);
    }

    #[test]
    fn one_source_is_fetched_once() {
        let twice = "spec: {jwtRules: [{issuer: x, jwksUri: \"https://x/k\"}, {issuer: x, jwksUri: \
                     \"https://x/k\", audiences: [a]}]}";
        let out = check(&[OWN, twice], &["x", "x"], &[]);
        assert_eq!(out.sources.len(), 1);
        assert_eq!(out.sources[0].location, KeyLocation::Uri("https://x/k".into()));
    }

    #[test]
    fn what_cannot_be_read_refuses_what_it_selects() {
        let check = |policies: &[&str], issuers: &[&str], code: &str, refuses: bool| {
            let codes = [code];
            let codes = if code.is_empty() { &[][..] } else { &codes[..] };
            assert_eq!(check(policies, issuers, codes).refusing.is_some(), refuses);
        };
        let wrong = "spec: {jwtRules: 1}";
        check(&[OWN, wrong], &[], "PC052", true);
        check(&[ROOT, wrong, OWN, RULES], &["x"], "PC052", true);
        check(&["{name: a, namespace: shop}", wrong], &[], "", false);
        check(&[OWN, "spec: {selector: {matchLabels: {app: x}}, jwtRules: 1}"], &[], "", false);
        check(&[OWN, "spec: {jwtRule: [{issuer: x}]}"], &[], "PC052", true);
        check(&[OWN, "sepc: {jwtRules: [{issuer: x}]}"], &[], "PC052", true);
    }
}
