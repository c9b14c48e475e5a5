//! What policies about requests do to streams of bytes.

use crate::diag::catalog;
use crate::resources::authorization_policy::{Action, Rule};
use crate::resources::gateway::{Server, TlsMode};
use crate::resources::{AuthorizationPolicy, Resource, ResourceSet};

use super::findings::{Findings, at};
use super::gateways::is_http;
use super::names::selects;
use super::settings::CompileSettings;

/// Whether a server of this gateway passes bytes on.
pub fn served(set: &ResourceSet, settings: &CompileSettings) -> bool {
    let here = |selector| selects(selector, &settings.labels);
    let gateways = set.gateways.iter().filter(|gateway| here(&gateway.spec.selector));
    gateways.flat_map(|gateway| &gateway.spec.servers).any(passes_bytes)
}

fn passes_bytes(server: &Server) -> bool {
    let protocol = server.port.as_ref().map_or("", |port| port.protocol.as_str());
    let mode = server.tls.as_ref().map(|tls| tls.mode).unwrap_or_default();
    let passes = matches!(mode, TlsMode::Passthrough | TlsMode::AutoPassthrough);
    !is_http(protocol) && (passes || !protocol.eq_ignore_ascii_case("HTTPS"))
}

/// Tells of rules that deny streams whatever their conditions on requests say (IST0133).
pub fn tell_denied(policy: &Resource<AuthorizationPolicy>, findings: &mut Findings) {
    if policy.spec.action != Action::Deny {
        return;
    }
    for (index, _) in policy.spec.rules.iter().enumerate().filter(|(_, rule)| denies_any(rule)) {
        let message = "the rule denies every stream of bytes: those have none of what it asks for";
        let field = format!("spec.rules[{index}]");
        let finding = at(policy, field, &catalog::SCHEMA_WARNING, message);
        findings.add(finding.help("name the ports of requests in to[].operation.ports"));
    }
}

/// Whether a rule asks for nothing that a stream has.
fn denies_any(rule: &Rule) -> bool {
    let sources: Vec<_> =
        rule.from.iter().flatten().filter_map(|from| from.source.as_ref()).collect();
    let known = sources.iter().any(|source| {
        [
            &source.principals,
            &source.not_principals,
            &source.namespaces,
            &source.not_namespaces,
            &source.service_accounts,
            &source.not_service_accounts,
            &source.ip_blocks,
            &source.not_ip_blocks,
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
        ]
        .iter()
        .any(|list| !list.is_empty())
    });
    let operations: Vec<_> =
        rule.to.iter().flatten().filter_map(|to| to.operation.as_ref()).collect();
    let on_ports = operations.iter().any(|one| !one.ports.is_empty() || !one.not_ports.is_empty());
    if operations.is_empty() { !sources.is_empty() && !known } else { !on_ports }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    fn check(server: &str, rule: &str, expected: &[&str]) {
        let gateway =
            format!("spec: {{selector: {{istio: edge}}, servers: [{{hosts: [a.com], {server}}}]}}");
        let policy = format!("spec: {{action: DENY, rules: [{{{rule}}}]}}");
        let set = fixture::set_of(&[
            ("networking.istio.io/v1", "Gateway", "{name: g}", &gateway),
            ("security.istio.io/v1", "AuthorizationPolicy", "{name: a, namespace: edge}", &policy),
        ]);
        let mut findings = Findings::default();
        if served(&set, &fixture::settings()) {
            set.authorization_policies.iter().for_each(|one| tell_denied(one, &mut findings));
        }
        assert_eq!(fixture::codes(findings), expected, "{server} {rule}");
    }

    const TCP: &str = "port: {number: 1, name: a, protocol: TCP}";

    #[test]
    fn a_rule_about_requests_that_denies_streams_is_told() {
        let paths = "to: [{operation: {paths: [/a]}}]";
        check(TCP, paths, &["IST0133"]);
        check(TCP, "from: [{source: {requestPrincipals: ['*']}}]", &["IST0133"]);
        check(TCP, "from: [{source: {ipBlocks: [10.0.0.1]}}]", &[]);
        check(TCP, "to: [{operation: {paths: [/a], ports: ['80']}}]", &[]);
        check(TCP, "when: [{key: source.ip, values: [10.0.0.1]}]", &[]);
    }

    #[test]
    fn a_gateway_of_requests_alone_has_no_streams() {
        let paths = "to: [{operation: {paths: [/a]}}]";
        check("port: {number: 1, name: a, protocol: HTTP}", paths, &[]);
        let https =
            |mode| format!("port: {{number: 1, name: a, protocol: HTTPS}}, tls: {{{mode}}}");
        check(&https("mode: SIMPLE, credentialName: c"), paths, &[]);
        check(&https("mode: PASSTHROUGH"), paths, &["IST0133"]);
        check(
            "port: {number: 1, name: a, protocol: TLS}, tls: {mode: SIMPLE, credentialName: c}",
            paths,
            &["IST0133"],
        );
    }
}
