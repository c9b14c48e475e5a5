//! Rules for what a `VirtualService` does to headers, and for their names.
//!
//! **Invariant**: as in [`super::virtual_service`].

use http::{HeaderName, HeaderValue};

use super::Findings;
use crate::base::header::is_framing;
use crate::resources::virtual_service::{HeaderOperations, Headers, HttpRoute};

/// More than one place that sets the host of requests.
pub(super) fn host_setters(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    let of = |headers: Option<&Headers>| {
        let request = headers.and_then(|headers| headers.request.as_ref());
        request.map_or(0, |request| {
            let names = request.set.keys().chain(request.add.keys());
            names.filter(|n| is_authority(n)).count()
        })
    };
    let rewrite = route.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
    let outer = of(route.headers.as_deref()) + usize::from(rewrite);
    let most = route.route.iter().map(|one| of(one.headers.as_deref())).max().unwrap_or(0);
    let message = "the host of requests is set more than once: keep one";
    findings.error_if(outer > 1, path, message);
    findings.unworkable_if(outer <= 1 && outer + most > 1, path, message);
}

pub(super) fn check_headers(headers: Option<&Headers>, path: &str, findings: &mut Findings<'_>) {
    let Some(headers) = headers else { return };
    if let Some(request) = &headers.request {
        operations(request, is_authority, &format!("{path}.request"), findings);
    }
    if let Some(response) = &headers.response {
        operations(response, |_| false, &format!("{path}.response"), findings);
    }
}

/// Operations of one direction, of which `settable` tells the host and pseudo-headers that can be set.
fn operations(
    operations: &HeaderOperations,
    settable: fn(&str) -> bool,
    path: &str,
    findings: &mut Findings<'_>,
) {
    for (map, name) in [(&operations.set, "set"), (&operations.add, "add")] {
        for (key, value) in map {
            let path = format!("{path}.{name}.{key}");
            if !settable(key) {
                changeable(key, &path, findings);
            }
            let wrong = HeaderValue::from_str(value).is_err();
            findings.error_if(wrong, &path, "the value cannot stand in a header");
        }
    }
    for (index, key) in operations.remove.iter().enumerate() {
        changeable(key, &format!("{path}.remove[{index}]"), findings);
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// A header that an operation may name.
fn changeable(name: &str, path: &str, findings: &mut Findings<'_>) {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        let message = format!("\"{name}\" cannot be changed here: a host is set, in a request");
        return findings.error(path, message);
    }
    header_name(name, path, findings);
    let framing = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| is_framing(&name));
    let message = "the gateway alone says where a message ends and what one connection is for: the \
                   operation is left out";
    findings.unworkable_if(framing, path, message);
}

pub(super) fn header_name(name: &str, path: &str, findings: &mut Findings<'_>) {
    let plain = name.strip_prefix(':').unwrap_or(name);
    if HeaderName::from_bytes(plain.as_bytes()).is_err() {
        findings.error(path, format!("\"{name}\" is not a header name"));
    }
}
