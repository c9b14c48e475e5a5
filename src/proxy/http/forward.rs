//! Sending a request to its destination, and its answer back.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, SET_COOKIE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::attempt::head_of;
use super::body::{Expiry, ResponseBody};
use super::exchange::Exchange;
use super::head::{Answered, Plan, RequestValues};
use super::request_body::Gate;
use super::upload::Fault;
use super::websocket::Handshake;
use super::{attempt, deadline, mirror, respond, upgrade};
use crate::balance::hash_policy::{HashFacts, Hashed};
use crate::base::header::{
    X_ENVOY_DECORATOR_OPERATION, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_ORIGINAL_HOST,
    X_ENVOY_ORIGINAL_PATH, X_ENVOY_UPSTREAM_SERVICE_TIME,
};
use crate::decide::reject::Reject;
use crate::decide::sanitize::{Noticed, strip_hop_by_hop};
use crate::decide::target::target;
use crate::snapshot::Snapshot;
use crate::snapshot::cluster::{Cluster, Protocol};
use crate::snapshot::route::{Destination, Forward};

/// What there is to do.
pub struct Work<'a> {
    /// The request's snapshot.
    pub snapshot: &'a Snapshot,
    /// The rule.
    pub rule: &'a Forward,
    /// The chosen destination.
    pub destination: &'a Destination,
    /// What preparing its head found.
    pub plan: Plan,
    /// The request's random number.
    pub random: u32,
}

/// Forwards a request and answers it.
pub async fn forward(mut exchange: Box<Exchange>, work: Work<'_>) -> Response<ResponseBody> {
    let Some(cluster) = cluster(&work, exchange.request.version()) else {
        return respond::reject(exchange, work.snapshot, &Reject::ClusterNotFound);
    };
    let target = target(work.rule, sent(&exchange.request), work.plan.path_and_query.as_deref());
    let target = match target {
        Ok(target) => target,
        Err(reject) => return respond::reject(exchange, work.snapshot, &reject),
    };
    let pool = {
        let worker = &exchange.connection().registered.worker;
        worker.upstreams.pool(&cluster, &worker.telemetry.metrics)
    };
    exchange.goes_to(pool.destination());
    let Prepared { received, client_upgrade, handshake, hashed, mut expiry } =
        prepare(&mut exchange, &work, &cluster, target);
    mirror::start(&exchange, &work);
    let aim = attempt::Aim {
        hash: hashed.key,
        deadline: work.rule.timeout.map(|time| Instant::now() + time),
        retry: &work.rule.retry,
    };
    let sent = {
        let sending = pin!(attempt::send(&mut exchange, (&cluster, &pool), &aim));
        deadline::within(&mut expiry, sending).await
    };
    let sent = sent.and_then(|mut sent| {
        if !is_framed(&sent.0, handshake.is_some()) {
            return Err(Reject::UpstreamProtocol);
        }
        let switched = handshake.map(|handshake| handshake.answer(&mut sent.0)).transpose()?;
        Ok((sent, switched.unwrap_or(false)))
    });
    match sent {
        Ok(((mut response, lease, began), switched)) => {
            let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(log) = &mut exchange.record.log {
                log.upstream_service_milliseconds = Some(millis);
            }
            finish_head(&mut response, millis, (switched, exchange.is_http2()));
            if let Some(received) = received {
                let answer = Answered { status: Some(response.status()), upstream: lease.peer() };
                let values = RequestValues::of(&exchange, &received, answer);
                for step in &work.destination.response_headers {
                    step.apply(response.headers_mut(), &values);
                }
            }
            if let Some(cookie) = hashed.set_cookie {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            exchange.say_besides(response.headers_mut(), &work.snapshot.edge);
            exchange.record.details = "via_upstream".into();
            exchange.answered(&response);
            if switched {
                return upgrade::switch(exchange, response, client_upgrade, lease);
            }
            let encoder = match exchange.web.map(|call| call.answer(&mut response)) {
                // Its body is nothing that a call could read.
                Some(None) => return response.map(|_| ResponseBody::own(Bytes::new(), exchange)),
                Some(encoder) => encoder,
                None => None,
            };
            response
                .map(|incoming| ResponseBody::backend(incoming, lease, exchange, (expiry, encoder)))
        }
        Err(reject) => {
            let reject = exchange.upload.fault.get().map_or(reject, Fault::reject);
            respond::reject(exchange, work.snapshot, &reject)
        }
    }
}

/// The destination's cluster; where the client's version is kept, the one of its version.
fn cluster(work: &Work<'_>, version: Version) -> Option<Arc<Cluster>> {
    let cluster = work.snapshot.cluster(work.destination.cluster?)?;
    match cluster.for_http2 {
        Some(other) if version == Version::HTTP_2 => work.snapshot.cluster(other).cloned(),
        _ => Some(cluster.clone()),
    }
}

/// What keeps a request, as it is sent, on one endpoint.
fn hash(exchange: &Exchange, cluster: &Cluster) -> Hashed {
    let Exchange { request, head, .. } = exchange;
    let connection = exchange.connection();
    cluster.hash.as_ref().map_or_else(Hashed::default, |policy| {
        policy.key(&HashFacts {
            headers: request.headers(),
            query: request.uri().query(),
            client: head.trusted.as_ref().unwrap_or(&connection.peer_ip).as_bytes(),
            connection: (connection.peer, connection.local),
        })
    })
}

/// Whether an answer's end is where every reader finds it: with two lengths it has two ends, and a
/// switch of protocols that nobody asked for has none.
fn is_framed(response: &Response<Incoming>, upgrade: bool) -> bool {
    let headers = response.headers();
    let two_lengths =
        headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
    !two_lengths && (upgrade || response.status() != StatusCode::SWITCHING_PROTOCOLS)
}

/// What is kept of a request while its answer is waited for.
struct Prepared {
    /// Its head before the rule's operations, where operations on the answer's headers may ask for it.
    received: Option<Box<Request<()>>>,
    client_upgrade: Option<OnUpgrade>,
    handshake: Option<Handshake>,
    hashed: Hashed,
    expiry: Option<Expiry>,
}

/// Carries out the rule's rewrites and header operations.
fn prepare(
    exchange: &mut Exchange,
    work: &Work<'_>,
    cluster: &Cluster,
    target: Option<PathAndQuery>,
) -> Prepared {
    if let Some(log) = &mut exchange.record.log {
        log.upstream_cluster = Some(cluster.name.clone());
    }
    let headers = exchange.request.headers();
    let grpc = if exchange.is_grpc() { deadline::grpc_timeout(headers) } else { None };
    let client_upgrade = exchange.head.upgrade.then(|| hyper::upgrade::on(&mut exchange.request));
    let destination = work.destination;
    let asked = !destination.request_headers.is_empty();
    let answered = destination.response_headers.iter().any(|step| !step.is_empty());
    let received = (asked || answered).then(|| Box::new(head_of(&exchange.request)));
    if let Some(received) = received.as_ref().filter(|_| asked) {
        let mut headers = std::mem::take(exchange.request.headers_mut());
        let values = RequestValues::of(exchange, received, Answered::default());
        for step in &destination.request_headers {
            step.apply(&mut headers, &values);
        }
        *exchange.request.headers_mut() = headers;
    }
    rewrite_host(work, &mut exchange.request);
    if let Some(target) = target {
        rewrite_path(work, &mut exchange.request, target);
    }
    address(&mut exchange.request, cluster, exchange.head.scheme);
    if let Some(time) = work.rule.retry.per_try.or(work.rule.timeout) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let headers = exchange.request.headers_mut();
        headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HeaderValue::from(millis));
    }
    gate(exchange, cluster);
    let http2 = exchange.is_http2();
    let handshake = exchange
        .head
        .upgrade
        .then(|| Handshake::ask(&mut exchange.request, cluster.protocol, http2));
    Prepared {
        received: received.filter(|_| answered),
        client_upgrade,
        handshake,
        hashed: hash(exchange, cluster),
        expiry: deadline::or_refused(
            deadline::expiry(&exchange.upload, work.rule.timeout, grpc),
            exchange.standing.as_ref(),
        ),
    }
}

/// Holds the body of a request that expects to be told to send it.
fn gate(exchange: &mut Exchange, cluster: &Cluster) {
    let headers = exchange.request.headers();
    if !headers.contains_key(EXPECT) || cluster.protocol != Protocol::Http1 {
        return;
    }
    let gate = Arc::new(Gate::default());
    exchange.gate = Some(gate.clone());
    hyper::ext::on_informational(&mut exchange.request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            gate.open();
        }
    });
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

fn rewrite_path(work: &Work<'_>, request: &mut Request<()>, target: PathAndQuery) {
    let current = work.plan.path_and_query.as_deref().unwrap_or(sent(request));
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

/// Makes an answer's head what the client shall see, apart from the rule's own operations.
fn finish_head(
    response: &mut Response<Incoming>,
    millis: u64,
    (switched, http2): (bool, bool),
) {
    *response.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let empty = response.status() == StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let noticed = strip_hop_by_hop(headers, switched && !http2);
    if empty {
        // A length here is no length of anything (RFC 9110 section 8.6).
        headers.remove(CONTENT_LENGTH);
    }
    if noticed.has(Noticed::CONTROL) {
        headers.remove(X_ENVOY_DECORATOR_OPERATION);
    }
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(millis));
}
