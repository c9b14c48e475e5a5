//! HTTP rules as routes.

use std::sync::Arc;

use crate::diag::catalog;
use crate::resources::Resource;
use crate::resources::virtual_service::{HttpMatch, HttpRoute, VirtualService};
use crate::route::matcher::RequestMatch;
use crate::snapshot::cluster::ClusterId;
use crate::snapshot::route::{Action, Forward, Route};

use super::actions::One;
use super::clusters::Written;
use super::conditions::{InvalidCondition, claim_field, condition};
use super::delegates::PlacedRule;
use super::findings::{Findings, at};
use super::names::{reference, selects};
use super::settings::CompileSettings;

/// For whom a VirtualService is compiled.
pub struct Scope<'a> {
    /// Who this gateway is.
    pub settings: &'a CompileSettings,
    /// Namespace and name of the Gateway.
    pub gateway: (&'a str, &'a str),
    /// `servers[].port.number`.
    pub port: u16,
    /// Whether a RequestAuthentication reads tokens here.
    pub tokens: bool,
}

/// Finds the cluster of a destination, or tells why there is none.
pub type Find<'f> = dyn FnMut(&Written<'_>) -> Option<ClusterId> + 'f;

/// What cannot be used; it was told.
pub(super) struct Broken;

/// The routes of every rule that applies in this scope, in order.
pub fn http_routes(
    rules: &[PlacedRule<'_>],
    scope: &Scope<'_>,
    find: &mut Find<'_>,
    findings: &mut Findings,
) -> Vec<Arc<Route>> {
    let mut routes = Vec::new();
    for PlacedRule { resource, field, rule } in rules {
        let matches = applicable(resource, rule, scope);
        if matches.is_empty() && !rule.r#match.is_empty() {
            continue;
        }
        let mut pass = Rule { resource, written: rule, field, scope, findings };
        let compiled = pass.compile(&matches, find);
        let all = compiled.iter().any(|route| route.condition.is_catch_all());
        routes.extend(compiled);
        if all {
            break;
        }
    }
    routes
}

fn applicable<'r>(
    resource: &Resource<VirtualService>,
    rule: &'r HttpRoute,
    scope: &Scope<'_>,
) -> Vec<(usize, &'r HttpMatch)> {
    let own = &*resource.id.namespace;
    let here = |m: &HttpMatch| {
        let gateways_fit = m.gateways.is_empty()
            || m.gateways.iter().any(|name| reference(name, own) == scope.gateway);
        (m.port == 0 || m.port == u32::from(scope.port))
            && gateways_fit
            && selects(&m.source_labels, &scope.settings.labels)
            && (m.source_namespace.is_empty() || m.source_namespace == scope.settings.namespace)
    };
    rule.r#match.iter().enumerate().filter(|(_, m)| here(m)).collect()
}

/// What becomes of a rule, or a match of one, that cannot be used.
const REFUSED: &str =
    "correct it: what the rule takes gets 503, and no later rule takes it until then";

/// One rule being compiled.
pub(super) struct Rule<'a> {
    pub(super) resource: &'a Resource<VirtualService>,
    pub(super) written: &'a HttpRoute,
    pub(super) field: &'a str,
    pub(super) scope: &'a Scope<'a>,
    findings: &'a mut Findings,
}

impl Rule<'_> {
    /// Tells why the rule cannot be served.
    pub(super) fn broken(&mut self, field: &str, message: impl Into<String>) -> Broken {
        let field = format!("{}{field}", self.field);
        let diagnostic = at(self.resource, field, &catalog::ROUTE_BROKEN, message);
        self.findings.add(diagnostic.help(REFUSED));
        Broken
    }

    fn compile(&mut self, matches: &[(usize, &HttpMatch)], find: &mut Find<'_>) -> Vec<Arc<Route>> {
        if matches.is_empty() {
            let name = self.written.name.clone();
            let action = self.action(One { uri: None, name: &name }, find);
            return vec![self.route(name, "", RequestMatch::default(), action)];
        }
        let mut out = Vec::new();
        for (index, entry) in matches {
            let name = match (self.written.name.as_str(), entry.name.as_str()) {
                (name, "") | ("", name) => name.to_owned(),
                (rule, entry) => format!("{rule}.{entry}"),
            };
            let one = One { uri: entry.uri.as_ref(), name: &name };
            let (condition, action) = match self.condition(*index, entry) {
                (condition, Ok(())) => (condition, self.action(one, find)),
                (readable, Err(Broken)) => (readable, Action::Forward(Forward::nowhere())),
            };
            let all = condition.is_catch_all();
            out.push(self.route(name, &entry.stat_prefix, condition, action));
            if all {
                break;
            }
        }
        out
    }

    fn route(
        &self,
        name: String,
        counted: &str,
        condition: RequestMatch,
        action: Action,
    ) -> Arc<Route> {
        let origin = self.resource.origin(self.field);
        let counted = (!counted.is_empty()).then(|| counted.into());
        Arc::new(Route { name: name.into(), counted, origin, condition, action })
    }

    /// The condition of a match; as far as it can be read, when not all of it can.
    fn condition(&mut self, index: usize, entry: &HttpMatch) -> (RequestMatch, Result<(), Broken>) {
        if !self.scope.tokens
            && let Some(field) = claim_field(entry)
        {
            let field = format!("{}.match[{index}].{field}", self.field);
            let code = &catalog::CLAIM_ROUTE_WITHOUT_AUTHENTICATION;
            let message = "no RequestAuthentication reads tokens for this gateway";
            let finding = at(self.resource, field, code, message);
            self.findings
                .add(finding.help("add one that selects it; until then no request has a claim"));
        }
        let mut invalid = Vec::new();
        let condition = condition(entry, &mut invalid);
        let whole = invalid.is_empty();
        for InvalidCondition { field, message } in invalid {
            self.broken(&format!(".match[{index}].{field}"), message);
        }
        (condition, if whole { Ok(()) } else { Err(Broken) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::delegates;
    use super::*;
    use crate::resources::{ConfigFile, parse};

    fn check(rules: &str) -> (Vec<Arc<Route>>, Vec<&'static str>) {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a, \
             namespace: shop}}\nspec:\n  hosts: [a.com]\n  gateways: [gw]\n  http:\n{rules}"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let settings = CompileSettings::default();
        let scope =
            Scope { settings: &settings, gateway: ("shop", "gw"), port: 443, tokens: false };
        let mut findings = Findings::default();
        let find: &mut Find<'_> = &mut |_| Some(ClusterId(0));
        let rules = delegates::rules(&parsed.set.virtual_services[0], &parsed.set, &mut findings);
        let routes = http_routes(&rules, &scope, find, &mut findings);
        (routes, findings.finish().iter().map(|d| d.code.id).collect())
    }

    #[test]
    fn each_match_is_a_route_and_the_rule_names_both() {
        let (routes, codes) = check(
            "  - name: r\n    match: [{name: x, uri: {prefix: /a}}, {uri: {exact: /b}}]\n    route: \
             [{destination: {host: c}}]\n",
        );
        let names: Vec<_> = routes.iter().map(|route| &*route.name).collect();
        assert_eq!(names, ["r.x", "r"]);
        assert!(codes.is_empty());
        assert_eq!(routes[0].origin.line, 8);
    }

    #[test]
    fn matches_of_other_ports_and_gateways_take_no_part() {
        let (routes, _) = check(
            "  - match: [{port: 80}, {gateways: [other]}]\n    route: [{destination: {host: c}}]\n",
        );
        assert!(routes.is_empty());
    }

    /// Rules before `/ok`, what they are told, and how many routes lead somewhere.
    fn check_broken(rules: &str, codes: &[&str], (routes, leading): (usize, usize)) {
        let last = "  - match: [{uri: {prefix: /ok}}]\n    route: [{destination: {host: c}}]\n";
        let (found, told) = check(&format!("{rules}{last}"));
        let leads = |route: &&Arc<Route>| match &route.action {
            Action::Forward(to) => to.destinations.pick(0).is_some_and(|to| to.cluster.is_some()),
            Action::Redirect(..) | Action::Respond(_) => true,
        };
        assert_eq!(told, codes, "{rules}");
        assert_eq!((found.len(), found.iter().filter(leads).count()), (routes, leading), "{rules}");
    }

    #[test]
    fn what_a_rule_takes_that_cannot_be_used_is_taken_by_no_later_rule() {
        let to = "route: [{destination: {host: c}}]";
        for (action, codes) in [
            (
                format!("headers: {{request: {{set: {{a: '%NO_SUCH%'}}}}}}\n    {to}"),
                &["PC045"][..],
            ),
            (
                "directResponse: {status: 403}\n    headers: {response: {add: {a: '%NO_SUCH%'}}}"
                    .into(),
                &["PC045"],
            ),
            (
                "redirect: {uri: /x}\n    headers: {response: {add: {a: '%NO_SUCH%'}}}".into(),
                &["PC045"],
            ),
        ] {
            let rule = format!("  - match: [{{uri: {{prefix: /a}}}}]\n    {action}\n");
            check_broken(&rule, codes, (2, 1));
            check_broken(&format!("  - {action}\n"), codes, (1, 0));
        }
        let claims = |rest: &str| {
            format!(
                "  - match: [{{headers: {{'@request.auth.claims.a.': {{exact: a}}}}{rest}}}]\n    {to}\n"
            )
        };
        check_broken(&claims(", uri: {prefix: /a}"), &["IST0149", "PC045"], (2, 1));
        check_broken(&claims(""), &["IST0149", "PC045"], (1, 0));
    }

    #[test]
    fn rules_after_a_catch_all_are_dropped() {
        let (routes, codes) = check(
            "  - route: [{destination: {host: c}}]\n  - match: [{uri: {prefix: /x}}]\n    route: \
             [{destination: {host: c}}]\n",
        );
        assert_eq!((routes.len(), codes), (1, vec![]));
    }

    #[test]
    fn matches_after_a_catch_all_are_dropped() {
        let (routes, codes) = check(
            "  - match: [{uri: {prefix: /}}, {uri: {prefix: /x}}]\n    route: [{destination: {host: \
             c}}]\n",
        );
        assert_eq!((routes.len(), codes), (1, vec![]));
    }
}
