//! Rules for `VirtualService`.
//!
//! **Invariant**: a rule is reported at the field that breaks it.

use super::headers::{check_headers, header_name, host_setters};
use super::names::{Names, has_sni, is_address, is_below, tls_match};
use super::traffic::{check_cors, check_fault, check_retries};
use super::{Findings, repeated};
use crate::base::{limit, pattern};
use crate::diag::catalog;
use crate::resources::meta::StringMatch;
use crate::resources::name::is_label;
use crate::resources::virtual_service::{
    Destination, DirectResponse, HttpMatch, HttpRedirect, HttpRewrite, HttpRoute,
};
use crate::resources::{Labels, VirtualService};

pub(in super::super) fn check(service: &VirtualService, findings: &mut Findings<'_>) {
    findings.export_to(&service.export_to, false);
    findings.gateways(&service.gateways, "spec.gateways");
    let delegate = service.hosts.is_empty();
    if delegate {
        let extra = !service.gateways.is_empty()
            || !service.tls.is_empty()
            || !service.tcp.is_empty()
            || service.http.is_empty();
        let message = "without hosts this is a delegate, which has http rules only";
        findings.error_if(extra, "spec.hosts", message);
    }
    let mesh = service.gateways.is_empty() || service.gateways.iter().any(|name| name == "mesh");
    let names = Names { bound: !mesh, sni: service.tls.iter().any(has_sni), hosts: &service.hosts };
    for (index, host) in service.hosts.iter().enumerate() {
        let admitted = names.admit(host, names.sni) || is_address(host);
        findings.host_if(admitted, host, &format!("spec.hosts[{index}]"));
    }
    if let Some(index) = repeated(service.hosts.iter().map(String::as_str)) {
        findings.error(&format!("spec.hosts[{index}]"), "the host is repeated");
    }
    overlapping(service, findings);
    if let Some(index) = service.hosts.iter().position(|host| host == "*").filter(|_| mesh) {
        let message = "\"*\" cannot be a host of the mesh: name a Gateway in spec.gateways";
        findings.error(&format!("spec.hosts[{index}]"), message);
    }
    let routes = service.http.len() + service.tls.len() + service.tcp.len();
    findings.error_if(routes == 0, "spec", "one of http, tls and tcp is needed");
    for (index, route) in service.http.iter().enumerate() {
        let path = format!("spec.http[{index}]");
        http_route(route, &path, findings);
        let nested = delegate && route.delegate.is_some();
        findings.error_if(nested, &format!("{path}.delegate"), "a delegate has no delegates");
        let claims = route.r#match.iter().enumerate().filter(|(_, http)| asks_for_claims(http));
        for (index, _) in claims.filter(|_| mesh) {
            let message = "claims can be matched at Gateways alone: name them in spec.gateways";
            findings.error(&format!("{path}.match[{index}]"), message);
        }
    }
    for (index, route) in service.tls.iter().enumerate() {
        let path = format!("spec.tls[{index}]");
        findings.error_if(route.r#match.is_empty(), &path, "a tls rule needs a match");
        for (index, tls) in route.r#match.iter().enumerate() {
            tls_match(tls, &names, &format!("{path}.match[{index}]"), findings);
        }
        let weighted = route.route.iter().map(|d| (d.destination.as_ref(), d.weight));
        destinations(weighted, &path, findings);
        findings.error_if(route.route.is_empty(), &path, "the rule needs a route");
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        for (index, l4) in route.r#match.iter().enumerate() {
            let path = format!("{path}.match[{index}]");
            findings.subnets(&l4.destination_subnets, &format!("{path}.destinationSubnets"));
            check_where((l4.port, &l4.source_labels, &l4.gateways), &path, findings);
        }
        let weighted = route.route.iter().map(|d| (d.destination.as_ref(), d.weight));
        destinations(weighted, &path, findings);
        findings.error_if(route.route.is_empty(), &path, "the rule needs a route");
    }
}

/// Hosts that another one covers.
fn overlapping(service: &VirtualService, findings: &mut Findings<'_>) {
    for (index, host) in service.hosts.iter().enumerate() {
        if service.hosts.iter().any(|other| other != host && is_below(host, other)) {
            let message = "another host of the list covers this one";
            findings.error(&format!("spec.hosts[{index}]"), message);
        }
    }
}

fn asks_for_claims(http: &HttpMatch) -> bool {
    http.headers.keys().chain(http.without_headers.keys()).any(|name| is_claim(name))
}

/// `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
fn is_claim(name: &str) -> bool {
    const CLAIMS: &str = "@request.auth.claims";
    let begins = name.get(..CLAIMS.len()).is_some_and(|text| text.eq_ignore_ascii_case(CLAIMS));
    let rest = name.get(CLAIMS.len()..).filter(|_| begins).unwrap_or_default();
    let bracketed = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bracketed.or_else(|| rest.strip_prefix('.')).is_some_and(|claim| !claim.is_empty())
}

fn http_route(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    actions(route, path, findings);
    for (index, http) in route.r#match.iter().enumerate() {
        http_match(http, &format!("{path}.match[{index}]"), findings);
    }
    let weighted = route.route.iter().map(|d| (d.destination.as_ref(), d.weight));
    destinations(weighted, path, findings);
    for (index, destination) in route.route.iter().enumerate() {
        check_headers(
            destination.headers.as_deref(),
            &format!("{path}.route[{index}].headers"),
            findings,
        );
    }
    check_headers(route.headers.as_deref(), &format!("{path}.headers"), findings);
    host_setters(route, path, findings);
    if let Some(redirect) = &route.redirect {
        check_redirect(redirect, &route.r#match, &format!("{path}.redirect"), findings);
    }
    if let Some(response) = &route.direct_response {
        direct_response(response, &format!("{path}.directResponse"), findings);
    }
    if let Some(retries) = &route.retries {
        check_retries(retries, &format!("{path}.retries"), findings);
    }
    if let Some(fault) = &route.fault {
        check_fault(fault, &format!("{path}.fault"), findings);
    }
    if let Some(cors) = &route.cors_policy {
        check_cors(cors, &format!("{path}.corsPolicy"), findings);
    }
    if let Some(rewrite) = &route.rewrite {
        let path = format!("{path}.rewrite");
        let empty = **rewrite == HttpRewrite::default();
        let message = "a rewrite needs uri, uriRegexRewrite or authority";
        findings.error_if(empty, &path, message);
        let both = !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some();
        findings.error_if(both, &path, "uri and uriRegexRewrite exclude each other");
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            let path = format!("{path}.uriRegexRewrite");
            check_regex(&regex.r#match, &format!("{path}.match"), findings);
            findings.not_empty(&regex.rewrite, &format!("{path}.rewrite"));
        }
    }
    findings.duration(route.timeout, &format!("{path}.timeout"));
    mirrors(route, path, findings);
}

/// Exactly one of route, redirect, directResponse and delegate; a rule that delegates may have a
/// directResponse for rules of the delegate that have none.
fn actions(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    if route.delegate.is_some() {
        let own = !route.route.is_empty() || route.redirect.is_some();
        findings.error_if(own, path, "a rule with a delegate has neither route nor redirect");
        return;
    }
    let own_answer = route.redirect.is_some() || route.direct_response.is_some();
    let count = usize::from(!route.route.is_empty())
        + usize::from(route.redirect.is_some())
        + usize::from(route.direct_response.is_some());
    if count != 1 {
        findings.error(path, "a rule has exactly one of route, redirect, directResponse, delegate");
    }
    let message = "fault, rewrite, mirror and retries need a route to act on";
    let refused = own_answer && (route.fault.is_some() || route.rewrite.is_some());
    findings.error_if(refused, path, message);
    let copied = route.mirror.is_some() || !route.mirrors.is_empty();
    let idle = own_answer && (copied || route.retries.is_some());
    findings.unworkable_if(idle && !refused, path, message);
}

fn mirrors(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    // A rule that delegates has neither of its own.
    let both = route.mirror.is_some() && !route.mirrors.is_empty() && route.delegate.is_none();
    findings.error_if(both, &format!("{path}.mirrors"), "mirror and mirrors exclude each other");
    if let Some(mirror) = &route.mirror {
        destination(mirror, &format!("{path}.mirror"), findings);
    }
    if let Some(percent) = route.mirror_percent {
        let path = format!("{path}.mirrorPercent");
        findings.percent(f64::from(percent), &path);
        findings.add(&catalog::DEPRECATED, &path, "write mirrorPercentage");
    }
    let percent = route.mirror_percentage.map_or(0.0, |percent| percent.value);
    findings.percent(percent, &format!("{path}.mirrorPercentage"));
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{index}]");
        match &mirror.destination {
            Some(target) => destination(target, &format!("{path}.destination"), findings),
            None => findings.error(&path, "a destination is needed"),
        }
        let percent = mirror.percentage.map_or(0.0, |percent| percent.value);
        findings.percent(percent, &format!("{path}.percentage"));
    }
}

fn http_match(http: &HttpMatch, path: &str, findings: &mut Findings<'_>) {
    // An empty prefix of a path is every path's.
    if let Some(uri @ StringMatch::Regex(_)) = &http.uri {
        string_match(uri, &format!("{path}.uri"), findings);
    }
    for (value, name) in
        [(&http.scheme, "scheme"), (&http.method, "method"), (&http.authority, "authority")]
    {
        if let Some(value) = value {
            string_match(value, &format!("{path}.{name}"), findings);
        }
    }
    for (map, name) in [
        (&http.headers, "headers"),
        (&http.without_headers, "withoutHeaders"),
        (&http.query_params, "queryParams"),
    ] {
        for (key, value) in map {
            let path = format!("{path}.{name}.{key}");
            if name == "queryParams" {
                findings.unworkable_if(key.is_empty(), &path, "a parameter has a name");
            } else if !is_claim(key) {
                header_name(key, &path, findings);
            }
            // "*" is no expression, and means what is there.
            let present = *value == StringMatch::Regex("*".to_owned());
            if name != "withoutHeaders" || !present {
                string_match(value, &path, findings);
            }
        }
    }
    check_where((http.port, &http.source_labels, &http.gateways), path, findings);
    let space = http.source_namespace.as_str();
    let wrong = !space.is_empty() && !is_label(space);
    findings.error_if(wrong, &format!("{path}.sourceNamespace"), "it is not a namespace");
}

/// Conditions that matches of every protocol have.
pub(super) fn check_where(
    (port, labels, gateways): (u32, &Labels, &[String]),
    path: &str,
    findings: &mut Findings<'_>,
) {
    if port != 0 {
        findings.port(port, &format!("{path}.port"));
    }
    findings.labels(labels, &format!("{path}.sourceLabels"));
    findings.gateways(gateways, &format!("{path}.gateways"));
}

pub(super) fn string_match(value: &StringMatch, path: &str, findings: &mut Findings<'_>) {
    match value {
        StringMatch::Regex(regex) => check_regex(regex, path, findings),
        StringMatch::Prefix(text) => {
            let message = "an empty prefix: leave the match out, or write {} for \"is there\"";
            findings.error_if(text.is_empty(), path, message);
        }
        StringMatch::Exact(_) | StringMatch::Present => {}
    }
}

fn check_regex(regex: &str, path: &str, findings: &mut Findings<'_>) {
    findings.error_if(regex.is_empty(), path, "an empty regular expression");
    if let Err(why) = pattern::search(regex) {
        findings.error(path, format!("{why}; write one of RE2"));
    }
}

fn destinations<'a>(
    weighted: impl ExactSizeIterator<Item = (Option<&'a Destination>, i32)>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    let (count, mut sum) = (weighted.len(), 0_i64);
    for (index, (target, weight)) in weighted.enumerate() {
        let path = format!("{path}.route[{index}]");
        match target {
            Some(target) => destination(target, &format!("{path}.destination"), findings),
            None => findings.error(&path, "a destination is needed"),
        }
        let message = "a weight cannot be negative";
        findings.error_if(weight < 0, &format!("{path}.weight"), message);
        sum += i64::from(weight.max(0));
    }
    let message = "the weights of several destinations are all 0";
    findings.error_if(count > 1 && sum == 0, &format!("{path}.route"), message);
}

fn destination(destination: &Destination, path: &str, findings: &mut Findings<'_>) {
    let host = format!("{path}.host");
    findings.not_empty(&destination.host, &host);
    match destination.host.as_str() {
        "" => {}
        "*" => findings.error(&host, "a destination is one host"),
        name => findings.host(name, &host),
    }
    let wrong = !destination.subset.is_empty() && !is_label(&destination.subset);
    findings.error_if(wrong, &format!("{path}.subset"), "it is not a subset's name");
    if let Some(port) = destination.port {
        findings.port(port.number, &format!("{path}.port.number"));
    }
}

fn check_redirect(
    redirect: &HttpRedirect,
    matches: &[HttpMatch],
    path: &str,
    findings: &mut Findings<'_>,
) {
    let whole = |one: &HttpMatch| {
        one.uri.as_ref().is_some_and(|uri| !matches!(uri, StringMatch::Prefix(_)))
    };
    let wrong = !redirect.prefix_rewrite.is_empty() && matches.iter().any(whole);
    let message =
        "there is no prefix to replace where a match of the uri is exact or regex: write uri";
    findings.error_if(wrong, &format!("{path}.prefixRewrite"), message);
    let code = redirect.redirect_code;
    let message = "a redirect's code is between 300 and 399";
    let wrong = code != 0 && !(300..=399).contains(&code);
    findings.error_if(wrong, &format!("{path}.redirectCode"), message);
    let unset = HttpRedirect { redirect_code: code, ..HttpRedirect::default() };
    findings.error_if(*redirect == unset, path, "a redirect needs something to change");
    let both = !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty();
    findings.error_if(both, path, "uri and prefixRewrite exclude each other");
    let both = redirect.port.is_some() && redirect.derive_port.is_some();
    findings.error_if(both, path, "port and derivePort exclude each other");
    match redirect.port {
        Some(0) => findings.warning(&format!("{path}.port"), "port 0 stands for none: remove it"),
        Some(port) => findings.port(port, &format!("{path}.port")),
        None => {}
    }
    let wrong = !matches!(redirect.scheme.as_str(), "" | "http" | "https");
    findings.error_if(wrong, &format!("{path}.scheme"), "the scheme is http or https");
}

fn direct_response(response: &DirectResponse, path: &str, findings: &mut Findings<'_>) {
    findings.status(i64::from(response.status), &format!("{path}.status"));
    let Some(body) = &response.body else { return };
    let text = body.string.as_ref().map_or(0, String::len);
    let size = text.max(body.bytes.as_ref().map_or(0, |bytes| bytes.0.len()));
    let path = format!("{path}.body");
    if size > limit::DIRECT_RESPONSE_BYTES {
        findings.error(&path, "the body is larger than 1 MiB");
    } else if size > 100 * 1024 {
        findings.warning(&path, "the body is larger than 100 KiB and is kept in memory");
    }
    let both = body.string.is_some() && body.bytes.is_some();
    findings.error_if(both, &path, "string and bytes exclude each other");
}
