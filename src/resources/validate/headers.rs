//! Rules for what a `VirtualService` does to headers, and for their names.
//!
//! **Invariant**: as in [`super::virtual_service`].

use http::HeaderName;
use http::header::SERVER;

use super::Findings;
use crate::base::header::is_framing;
use crate::diag::catalog;
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
        let path = format!("{path}.response");
        operations(response, |_| false, &path, findings);
        overwritten(response, &path, findings);
    }
}

/// Operations that the gateway's own word is the last on.
fn overwritten(operations: &HeaderOperations, path: &str, findings: &mut Findings<'_>) {
    let maps = [(&operations.set, "set"), (&operations.add, "add")].into_iter();
    let named =
        maps.flat_map(|(map, name)| map.keys().map(move |key| (key, format!("{name}.{key}"))));
    let removed = operations.remove.iter().enumerate();
    let removed = removed.map(|(index, key)| (key, format!("remove[{index}]")));
    for (_, field) in named.chain(removed).filter(|(key, _)| SERVER == key.as_str()) {
        let message = "the gateway says who serves, as Istio's does: the operation has no effect";
        findings.add(&catalog::VALUE_NOT_ACTED_ON, &format!("{path}.{field}"), message);
    }
}

/// Operations of one direction, of which `settable` tells the host and pseudo-headers that can be set.
/// Other names are the compiler's to judge: Istio lets all in.
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
            let control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
            let wrong = value.bytes().any(control);
            findings.error_if(wrong, &path, "the value holds a character that no header may hold");
            if let Err(message) = variables(value) {
                findings.error(&path, message);
            }
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
    findings.error_if(name.is_empty(), path, "a header has a name");
    let framing = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| is_framing(&name));
    let message = "the gateway alone says where a message ends and what one connection is for: the \
                   operation is left out";
    findings.unworkable_if(framing, path, message);
}

/// The name of a header or a pseudo-header in a condition.
pub(super) fn header_name(name: &str, path: &str, findings: &mut Findings<'_>) {
    let pseudo = [":method", ":scheme", ":authority", ":path", ":status"].contains(&name);
    if !pseudo && HeaderName::from_bytes(name.as_bytes()).is_err() {
        findings.error(path, format!("\"{name}\" is not a header name"));
    }
}

/// Whether every `%` of a value begins or ends a variable, `%NAME%` or `%NAME(argument)%`, or is one of
/// two. Of an argument in quotes no more is looked at than Istio does: what its variable takes is not
/// asked here.
fn variables(value: &str) -> Result<(), &'static str> {
    let open = "a \"%\" without its end; write \"%%\" for a percent sign";
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(escaped) = after.strip_prefix('%') {
            rest = escaped;
            continue;
        }
        let end = after.find(['%', '(']).ok_or(open)?;
        let (_, tail) = after.split_at(end);
        rest = match tail.strip_prefix('(') {
            Some(argument) => {
                let close = after_argument(argument)?;
                close.trim_start_matches(' ').strip_prefix('%').ok_or(open)?
            }
            None => tail.strip_prefix('%').ok_or(open)?,
        };
    }
    Ok(())
}

/// What follows the bracket that ends an argument: a list of texts, or one text.
fn after_argument(text: &str) -> Result<&str, &'static str> {
    let open = "an argument without its \")\"";
    let mut rest = text.trim_start_matches(' ');
    rest = match rest.strip_prefix('[') {
        Some(list) => quote(list)?,
        // Its first character is never looked at.
        None => rest.get(rest.chars().next().map_or(0, char::len_utf8)..).unwrap_or_default(),
    };
    loop {
        let at = rest.find(['\\', ')', '"']).ok_or(open)?;
        let (_, found) = rest.split_at(at);
        if let Some(tail) = found.strip_prefix(')') {
            return Ok(tail);
        }
        if let Some(tail) = found.strip_prefix('"') {
            let tail = tail.trim_start_matches(' ');
            if let Some(end) = tail.strip_prefix(']') {
                return end.trim_start_matches(' ').strip_prefix(')').ok_or(open);
            }
            rest =
                quote(tail.strip_prefix(',').ok_or("a text of a list without a comma after it")?)?;
            continue;
        }
        let mut escaped = found.chars();
        escaped.next();
        escaped.next().ok_or(open)?;
        rest = escaped.as_str();
    }
}

/// What follows the quote that begins a text.
fn quote(text: &str) -> Result<&str, &'static str> {
    text.trim_start_matches(' ').strip_prefix('"').ok_or("a list without a quoted text")
}
