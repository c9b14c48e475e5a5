//! A check by HTTP (`envoyExtAuthzHttp`): the request's head, sent to another service.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};

use super::body::Beginning;
use super::changes::{Change, Changes, How, may_change};
use super::{Answer, Denied, Failure, Said};
use crate::auth::authz::TextMatch;
use crate::base::header::{X_ENVOY_AUTH_HEADERS_TO_REMOVE, X_ENVOY_AUTH_PARTIAL_BODY};
use crate::decide::head::Head;
use crate::decide::sanitize::strip_hop_by_hop;
use crate::snapshot::external::HttpCheck;

/// Headers of a denying answer that the client gets whatever is listed.
const ALWAYS_DOWNSTREAM: [&str; 2] = ["www-authenticate", "location"];

/// The check for a request; nothing when its path would be none.
pub(super) fn check<B>(
    rule: &HttpCheck,
    head: &Head,
    request: &Request<B>,
    body: Option<Beginning>,
) -> Option<Request<Bytes>> {
    let path = match request.uri().query() {
        Some(query) => format!("{}{}?{query}", rule.path_prefix, head.path),
        None => format!("{}{}", rule.path_prefix, head.path),
    };
    let partial = body.as_ref().map(|body| body.partial);
    let mut check = Request::new(body.map(|body| body.bytes).unwrap_or_default());
    check.method_mut().clone_from(request.method());
    *check.uri_mut() = Uri::from(PathAndQuery::try_from(path).ok()?);
    let length = check.body().len();
    let headers = check.headers_mut();
    for (name, value) in request.headers() {
        if *name == AUTHORIZATION || listed(&rule.request_headers, name) {
            headers.append(name, value.clone());
        }
    }
    strip_hop_by_hop(headers, false);
    headers.insert(HOST, HeaderValue::from_str(&head.authority).ok()?);
    if let Some(partial) = partial {
        let text = if partial { "true" } else { "false" };
        headers.insert(X_ENVOY_AUTH_PARTIAL_BODY, HeaderValue::from_static(text));
    }
    for (name, value) in &rule.added_headers {
        headers.insert(name, value.clone());
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Some(check)
}

/// What an answer says: 200 allows, 5xx is a failure, anything else denies.
pub(super) fn said(rule: &HttpCheck, (head, body, _): Answer) -> Result<Said, Failure> {
    if head.status.is_server_error() {
        return Err(Failure("an answer that says the provider failed"));
    }
    let mut headers = head.headers;
    strip_hop_by_hop(&mut headers, false);
    if head.status == StatusCode::OK {
        return Ok(Said::Allowed(allowed(rule, &headers)));
    }
    headers = kept(&headers, may_change);
    if !rule.downstream_on_deny.is_empty() {
        headers = kept(&headers, |name| {
            listed(&rule.downstream_on_deny, name) || ALWAYS_DOWNSTREAM.contains(&name.as_str())
        });
    }
    Ok(Said::Denied(Denied { status: head.status, headers, body }))
}

fn allowed(rule: &HttpCheck, headers: &HeaderMap) -> Changes {
    let mut changes = Changes::default();
    for name in headers.keys() {
        // Several lines of one name take the place of the client's together.
        let mut how = How::Set;
        for value in headers.get_all(name) {
            let change = |how| Change::new(name.clone(), value.clone(), how);
            if listed(&rule.upstream_on_allow, name) {
                changes.request.extend(change(how));
                how = How::Add;
            }
            if listed(&rule.downstream_on_allow, name) {
                changes.answer.extend(change(How::Add));
            }
        }
    }
    let named = headers.get_all(X_ENVOY_AUTH_HEADERS_TO_REMOVE).iter();
    let named = named.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let named = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    changes.remove.extend(named);
    changes
}

fn kept(headers: &HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let some = headers.iter().filter(|(name, _)| keep(name));
    some.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn listed(list: &[TextMatch], name: &HeaderName) -> bool {
    list.iter().any(|one| one.matches(name.as_str()))
}
