//! Rules for RequestAuthentication, AuthorizationPolicy and PeerAuthentication.
//!
//! **Invariant**: a rule that would match more than it says is an error, never a warning.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::Findings;
use crate::resources::authorization_policy::{
    Action, Condition, DRY_RUN, Operation, Rule, Source, dry_run,
};
use crate::resources::meta::{TargetRef, WorkloadSelector};
use crate::resources::request_authentication::JwtRule;
use crate::resources::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};

fn target(
    selector: Option<&WorkloadSelector>,
    (one, several): (Option<&TargetRef>, &[TargetRef]),
    findings: &mut Findings<'_>,
) {
    if let Some(selector) = selector {
        findings.selector(&selector.match_labels, "spec.selector.matchLabels");
    }
    let ways = usize::from(selector.is_some()) + usize::from(one.is_some());
    let place = if selector.is_some() { "spec.selector" } else { "spec.targetRef" };
    let many = ways + usize::from(!several.is_empty()) > 1;
    findings.error_if(many, place, "selector, targetRef and targetRefs exclude each other");
    if let Some(target) = one {
        target_ref(target, "spec.targetRef", findings);
    }
    for (index, target) in several.iter().enumerate() {
        target_ref(target, &format!("spec.targetRefs[{index}]"), findings);
    }
}

fn target_ref(target: &TargetRef, path: &str, findings: &mut Findings<'_>) {
    const TARGETS: [(&str, &str); 5] = [
        ("", "Service"),
        ("core", "Service"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    ];
    findings.not_empty(&target.name, &format!("{path}.name"));
    let abroad = !target.namespace.is_empty();
    let message = "a policy's targets are of its own namespace: remove it";
    findings.error_if(abroad, &format!("{path}.namespace"), message);
    let (group, kind) = (target.group.as_str(), target.kind.as_str());
    if !TARGETS.contains(&(group, kind)) {
        let message = format!("a policy has no target of kind \"{kind}\" in group \"{group}\"");
        findings.error(&format!("{path}.kind"), message);
    }
}

pub(in super::super) fn peer_authentication(
    policy: &PeerAuthentication,
    findings: &mut Findings<'_>,
) {
    target(policy.selector.as_ref(), (None, &[]), findings);
    let selects = policy.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
    let path = "spec.portLevelMtls";
    let Some(ports) = &policy.port_level_mtls else { return };
    findings.error_if(ports.is_empty(), path, "an empty map says nothing: remove it");
    findings.error_if(!selects, path, "port levels need a selector");
    for port in ports.keys() {
        findings.port(*port, &format!("{path}.{port}"));
    }
}

pub(in super::super) fn request_authentication(
    policy: &RequestAuthentication,
    findings: &mut Findings<'_>,
) {
    target(policy.selector.as_ref(), (policy.target_ref.as_ref(), &policy.target_refs), findings);
    for (index, rule) in policy.jwt_rules.iter().enumerate() {
        jwt_rule(rule, &format!("spec.jwtRules[{index}]"), findings);
    }
}

fn jwt_rule(rule: &JwtRule, path: &str, findings: &mut Findings<'_>) {
    let nobody = rule.issuer.is_empty() && rule.jwks_uri.is_empty();
    findings.error_if(nobody, &format!("{path}.issuer"), "an issuer or a jwksUri is needed");
    for (list, name) in [
        (&rule.audiences, "audiences"),
        (&rule.from_params, "fromParams"),
        (&rule.from_cookies, "fromCookies"),
        (&rule.space_delimited_claims, "spaceDelimitedClaims"),
    ] {
        for (index, text) in list.iter().enumerate() {
            findings.not_empty(text, &format!("{path}.{name}[{index}]"));
        }
    }
    // Schemes are told in any letter case (RFC 3986 section 3.1).
    let scheme = rule.jwks_uri.split_once("://").map_or("", |(scheme, _)| scheme);
    let web = ["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme));
    let wrong = !rule.jwks_uri.is_empty() && !web;
    findings.error_if(wrong, &format!("{path}.jwksUri"), "the address must begin with http(s)://");
    let message = "the address has a port that is no number";
    let port = web && !has_plain_port(&rule.jwks_uri);
    findings.error_if(port, &format!("{path}.jwksUri"), message);
    if !rule.jwks.is_empty() {
        inline_keys(&rule.jwks, &format!("{path}.jwks"), findings);
    }
    for (index, header) in rule.from_headers.iter().enumerate() {
        findings.not_empty(&header.name, &format!("{path}.fromHeaders[{index}].name"));
    }
    if !rule.output_payload_to_header.is_empty() {
        let path = format!("{path}.outputPayloadToHeader");
        let wrong = HeaderName::from_bytes(rule.output_payload_to_header.as_bytes()).is_err();
        findings.unworkable_if(wrong, &path, "it is not a header name");
    }
    for (index, claim) in rule.output_claim_to_headers.iter().enumerate() {
        let path = format!("{path}.outputClaimToHeaders[{index}]");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let wrong = claim.header.is_empty() || !claim.header.bytes().all(plain);
        let message = "a header's name of letters, digits, \"-\" and \"_\" is needed";
        findings.error_if(wrong, &format!("{path}.header"), message);
        findings.not_empty(&claim.claim, &format!("{path}.claim"));
    }
    findings.duration(rule.timeout, &format!("{path}.timeout"));
}

/// Whether the port of a URL, where it has one, is a number, however large.
fn has_plain_port(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let after = host.rsplit(']').next().unwrap_or_default();
    let port = after.rsplit_once(':').map_or("", |(_, port)| port);
    port.bytes().all(|byte| byte.is_ascii_digit())
}

fn inline_keys(jwks: &str, path: &str, findings: &mut Findings<'_>) {
    let help = "correct the key set: until then the tokens of this issuer are refused";
    let Ok(set) = serde_json::from_str::<serde_json::Value>(jwks) else {
        return findings.error_of_part(path, "the key set is not JSON", help);
    };
    let Some(keys) = set.get("keys").and_then(serde_json::Value::as_array) else {
        return findings.error_of_part(path, "the key set has no list \"keys\"", help);
    };
    if keys.iter().any(|key| key.get("d").is_some() || key.get("k").is_some()) {
        findings.warning(path, "the key set holds a private key: whoever reads it can sign tokens");
    }
}

pub(in super::super) fn authorization_policy(
    policy: &AuthorizationPolicy,
    findings: &mut Findings<'_>,
) {
    target(policy.selector.as_ref(), (policy.target_ref.as_ref(), &policy.target_refs), findings);
    let custom = policy.action == Action::Custom;
    if let Some(value) = findings.meta.annotations.get(DRY_RUN) {
        let path = format!("metadata.annotations.{DRY_RUN}");
        let other = !matches!(policy.action, Action::Allow | Action::Deny);
        findings.error_if(other, &path, "only ALLOW and DENY have a dry run: remove it");
        let neither = !other && dry_run(value).is_none();
        findings.error_if(neither, &path, "a dry run is \"true\" or \"false\"");
    }
    if policy.rules.is_empty() && matches!(policy.action, Action::Deny | Action::Custom) {
        findings.error("spec.rules", "without a rule this policy never applies");
    }
    let named = policy.provider.as_ref().is_some_and(|provider| !provider.name.is_empty());
    findings.error_if(custom && !named, "spec.provider", "action CUSTOM needs a provider's name");
    let extra = policy.provider.is_some() && !custom;
    findings.error_if(extra, "spec.provider", "only action CUSTOM has a provider");
    for (index, rule) in policy.rules.iter().enumerate() {
        check_rule(rule, custom, &format!("spec.rules[{index}]"), findings);
    }
}

fn check_rule(rule: &Rule, custom: bool, path: &str, findings: &mut Findings<'_>) {
    let empty = rule.from.as_ref().is_some_and(Vec::is_empty);
    findings.error_if(empty, &format!("{path}.from"), "an empty list would match everyone");
    let empty = rule.to.as_ref().is_some_and(Vec::is_empty);
    findings.error_if(empty, &format!("{path}.to"), "an empty list would match everything");
    for (index, from) in rule.from.iter().flatten().enumerate() {
        let path = format!("{path}.from[{index}].source");
        match &from.source {
            Some(source) if *source != Source::default() => {
                check_source(source, custom, &path, findings);
            }
            _ => findings.error(&path, "a source needs a field: an empty one would match everyone"),
        }
    }
    for (index, to) in rule.to.iter().flatten().enumerate() {
        let path = format!("{path}.to[{index}].operation");
        match &to.operation {
            Some(operation) if *operation != Operation::default() => {
                check_operation(operation, &path, findings);
            }
            _ => findings.error(&path, "an operation needs a field"),
        }
    }
    for (index, condition) in rule.when.iter().enumerate() {
        check_condition(condition, custom, &format!("{path}.when[{index}]"), findings);
    }
}

fn check_source(source: &Source, custom: bool, path: &str, findings: &mut Findings<'_>) {
    let identities = [
        (&source.principals, "principals"),
        (&source.not_principals, "notPrincipals"),
        (&source.namespaces, "namespaces"),
        (&source.not_namespaces, "notNamespaces"),
        (&source.service_accounts, "serviceAccounts"),
        (&source.not_service_accounts, "notServiceAccounts"),
        (&source.trust_domains, "trustDomains"),
        (&source.not_trust_domains, "notTrustDomains"),
        (&source.request_principals, "requestPrincipals"),
        (&source.not_request_principals, "notRequestPrincipals"),
    ];
    for (values, name) in identities {
        let path = format!("{path}.{name}");
        not_empty(values, &path, findings);
        let refused = custom && !values.is_empty();
        findings.error_if(refused, &path, "the field cannot be used with action CUSTOM");
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let others = identities.iter().take(4).any(|(values, _)| !values.is_empty());
    let message = "serviceAccounts exclude principals and namespaces";
    findings.error_if(accounts && others, &format!("{path}.serviceAccounts"), message);
    for (values, name) in identities.iter().skip(4).take(2) {
        service_accounts(values, &format!("{path}.{name}"), findings);
    }
    for (values, name) in identities.iter().skip(6).take(2) {
        let path = format!("{path}.{name}");
        wildcards(values, &path, findings);
        for (index, _) in values.iter().enumerate().filter(|(_, value)| value.contains('/')) {
            findings.error(&format!("{path}[{index}]"), "a trust domain has no slash");
        }
    }
    for (values, name) in [
        (&source.ip_blocks, "ipBlocks"),
        (&source.not_ip_blocks, "notIpBlocks"),
        (&source.remote_ip_blocks, "remoteIpBlocks"),
        (&source.not_remote_ip_blocks, "notRemoteIpBlocks"),
    ] {
        blocks(values, &format!("{path}.{name}"), findings);
    }
}

fn check_operation(operation: &Operation, path: &str, findings: &mut Findings<'_>) {
    for (values, name) in [
        (&operation.hosts, "hosts"),
        (&operation.not_hosts, "notHosts"),
        (&operation.methods, "methods"),
        (&operation.not_methods, "notMethods"),
    ] {
        not_empty(values, &format!("{path}.{name}"), findings);
    }
    for (values, name) in [(&operation.ports, "ports"), (&operation.not_ports, "notPorts")] {
        ports(values, &format!("{path}.{name}"), findings);
    }
    for (values, name) in [(&operation.paths, "paths"), (&operation.not_paths, "notPaths")] {
        let list = format!("{path}.{name}");
        not_empty(values, &list, findings);
        for (index, value) in values.iter().enumerate() {
            let wrong = value.contains(['{', '}']) && !is_template(value);
            let message = "a path template has only whole {*} and {**} segments, {**} last";
            findings.error_if(wrong, &format!("{list}[{index}]"), message);
        }
    }
}

/// Whether `{*}` is one segment, `{**}` any rest, as the last operator; literals are parts of paths.
fn is_template(path: &str) -> bool {
    let literal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte);
    let mut open_ended = false;
    path.trim_matches('/').split('/').all(|segment| match segment {
        "{*}" => !open_ended,
        "{**}" => !std::mem::replace(&mut open_ended, true),
        text => !text.is_empty() && text.bytes().all(literal),
    })
}

fn check_condition(condition: &Condition, custom: bool, path: &str, findings: &mut Findings<'_>) {
    let key = condition.key.as_str();
    findings.not_empty(key, &format!("{path}.key"));
    let none = condition.values.is_empty() && condition.not_values.is_empty();
    findings.error_if(none, path, "a condition needs values or notValues");
    if !key.is_empty() && !is_condition_key(key) {
        findings.error(&format!("{path}.key"), format!("\"{key}\" is not a known condition"));
    }
    let identity = key.starts_with("request.auth.")
        || matches!(
            key,
            "source.namespace"
                | "source.principal"
                | "source.serviceAccount"
                | "source.trustDomain"
        );
    let message = "the condition cannot be used with action CUSTOM";
    findings.error_if(custom && identity, &format!("{path}.key"), message);
    for (values, name) in [(&condition.values, "values"), (&condition.not_values, "notValues")] {
        let path = format!("{path}.{name}");
        match key {
            "source.ip" | "remote.ip" | "destination.ip" => blocks(values, &path, findings),
            "destination.port" => ports(values, &path, findings),
            "source.serviceAccount" => {
                not_empty(values, &path, findings);
                service_accounts(values, &path, findings);
            }
            "source.trustDomain" => {
                not_empty(values, &path, findings);
                wildcards(values, &path, findings);
            }
            _ => not_empty(values, &path, findings),
        }
    }
}

fn is_condition_key(key: &str) -> bool {
    let bracketed = |prefix: &str| {
        let rest = key.strip_prefix(prefix).unwrap_or_default();
        rest.len() > 2 && rest.starts_with('[') && rest.ends_with(']')
    };
    let filter = key.strip_prefix("experimental.envoy.filters.").and_then(|f| f.strip_suffix(']'));
    matches!(
        key,
        "source.ip"
            | "remote.ip"
            | "source.namespace"
            | "source.principal"
            | "source.serviceAccount"
            | "source.trustDomain"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter"
            | "destination.ip"
            | "destination.port"
            | "connection.sni"
    ) || bracketed("request.headers")
        || bracketed("request.auth.claims")
        || filter.and_then(|filter| filter.split_once('[')).is_some_and(|(_, key)| !key.is_empty())
}

fn not_empty(values: &[String], path: &str, findings: &mut Findings<'_>) {
    for (index, _) in values.iter().enumerate().filter(|(_, value)| value.is_empty()) {
        findings.error(&format!("{path}[{index}]"), "an empty value matches nothing");
    }
}

/// `account` or `namespace/account`, whole.
fn service_accounts(values: &[String], path: &str, findings: &mut Findings<'_>) {
    findings.error_if(values.len() > 16, path, "at most 16 service accounts");
    for (index, value) in values.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
        let whole = value.split('/').count() <= 2 && value.split('/').all(|part| !part.is_empty());
        if !whole || value.contains('*') || value.len() > 320 {
            let message = "a service account is name or namespace/name, without a wildcard";
            findings.error(&format!("{path}[{index}]"), message);
        }
    }
}

/// Texts with at most one `*`, at an end.
fn wildcards(values: &[String], path: &str, findings: &mut Findings<'_>) {
    for (index, value) in values.iter().enumerate() {
        let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
        if inner.contains('*') {
            findings.error(&format!("{path}[{index}]"), "one \"*\" stands at an end, or none");
        }
    }
}

fn blocks(values: &[String], path: &str, findings: &mut Findings<'_>) {
    for (index, value) in values.iter().enumerate() {
        if value.parse::<IpNet>().is_err() && value.parse::<IpAddr>().is_err() {
            let message = format!("\"{value}\" is not an IP address or CIDR block");
            findings.error(&format!("{path}[{index}]"), message);
        }
    }
}

fn ports(values: &[String], path: &str, findings: &mut Findings<'_>) {
    for (index, value) in values.iter().enumerate() {
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || value.parse::<u16>().is_err() {
            let message = format!("\"{value}\" is not a port");
            findings.error(&format!("{path}[{index}]"), message);
        }
    }
}
