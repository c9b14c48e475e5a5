//! A request's head as its backend sees it, made of the head that policies saw: for each try anew.

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, Version};

use super::attempt::head_of;
use super::exchange::Exchange;
use super::forward::Work;
use super::head::{Answered, RequestValues, prepare};
use super::websocket::Handshake;
use crate::base::header::{
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH,
};
use crate::decide::reject::Reject;
use crate::decide::target::target;
use crate::snapshot::cluster::{Cluster, Protocol};

/// A head that is ready to be sent.
pub struct Dressed {
    /// It.
    pub request: Request<()>,
    /// What it was before the rule's operations, where operations on the answer's headers may ask for it.
    pub received: Option<Box<Request<()>>>,
}

/// Carries out what the token's rule, the route and the backend's protocol make of a request.
pub fn dress(
    exchange: &Exchange,
    work: &Work<'_>,
    cluster: &Cluster,
    handshake: Option<&Handshake>,
) -> Result<Dressed, Reject> {
    let mut request = head_of(&exchange.asked);
    let Work { snapshot, rule, destination, verdict, .. } = work;
    let changed = prepare(snapshot, &exchange.head, &mut request, verdict);
    if work.client_cert {
        exchange.connection().client.tell(request.headers_mut());
    }
    let target = target(rule, sent(&request), changed.as_deref())?;
    let asked = !destination.request_headers.is_empty();
    let answered = destination.response_headers.iter().any(|step| !step.is_empty());
    let received = (asked || answered).then(|| Box::new(head_of(&request)));
    if let Some(received) = received.as_ref().filter(|_| asked) {
        let values = RequestValues::of(exchange, received, Answered::default());
        for step in &destination.request_headers {
            step.apply(request.headers_mut(), &values);
        }
    }
    rewrite_host(work, &mut request);
    if let Some(target) = target {
        rewrite_path(work, changed.as_deref(), &mut request, target);
    }
    address(&mut request, cluster, exchange.head.scheme);
    if let Some(time) = rule.retry.per_try.or(rule.timeout) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        request.headers_mut().insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HeaderValue::from(millis));
    }
    if let Some(handshake) = handshake {
        handshake.ask(&mut request);
    }
    Ok(Dressed { request, received: received.filter(|_| answered) })
}

fn rewrite_host(work: &Work<'_>, request: &mut Request<()>) {
    let new = work.rule.authority.as_ref().or(work.destination.authority.as_ref());
    if let Some(new) = new
        && let Some(old) = request.headers_mut().insert(HOST, new.clone())
        && old != *new
    {
        request.headers_mut().insert(X_ENVOY_ORIGINAL_HOST, old);
    }
}

/// Path and query as they were sent.
fn sent(request: &Request<()>) -> &str {
    request.uri().path_and_query().map_or("/", PathAndQuery::as_str)
}

fn rewrite_path(
    work: &Work<'_>,
    changed: Option<&str>,
    request: &mut Request<()>,
    target: PathAndQuery,
) {
    let current = changed.unwrap_or(sent(request));
    if work.rule.path.is_some()
        && target.as_str() != current
        && let Ok(original) = HeaderValue::from_str(current)
    {
        request.headers_mut().insert(X_ENVOY_ORIGINAL_PATH, original);
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(target);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Names the host as the cluster's protocol wants it.
pub fn address<B>(request: &mut Request<B>, cluster: &Cluster, scheme: &str) {
    *request.version_mut() = match cluster.protocol {
        Protocol::Http2 => Version::HTTP_2,
        Protocol::Http1 | Protocol::Tcp => Version::HTTP_11,
    };
    if cluster.protocol != Protocol::Http2 && request.uri().authority().is_none() {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(authority) = parts.authority.take()
        && !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    parts.scheme = None;
    if cluster.protocol == Protocol::Http2 {
        let host = request.headers_mut().remove(HOST);
        parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        parts.scheme = parts.authority.is_some().then_some(if scheme == "https" {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
