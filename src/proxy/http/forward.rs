//! Sending a request to its destination, and its answer back.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::body::{Expiry, ResponseBody};
use super::dress::{Dressed, dress};
use super::exchange::Exchange;
use super::head::{Answered, RequestValues};
use super::request_body::Gate;
use super::upload::Fault;
use super::websocket::Handshake;
use super::{attempt, deadline, mirror, respond, upgrade};
use crate::auth::jwt::Verdict;
use crate::balance::hash_policy::{HashFacts, Hashed};
use crate::base::header::{X_ENVOY_DECORATOR_OPERATION, X_ENVOY_UPSTREAM_SERVICE_TIME};
use crate::decide::head::has_other_coding;
use crate::decide::reject::Reject;
use crate::decide::sanitize::{Noticed, strip_hop_by_hop};
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
    /// What its token says.
    pub verdict: &'a Verdict,
    /// Whether the backend is told of the client's certificate.
    pub client_cert: bool,
    /// The request's random number.
    pub random: u32,
}

/// Forwards a request and answers it.
pub async fn forward(mut exchange: Box<Exchange>, work: Work<'_>) -> Response<ResponseBody> {
    let Some(cluster) = cluster(&work, exchange.request.version()) else {
        return respond::reject(exchange, work.snapshot, &Reject::ClusterNotFound);
    };
    let prepared = prepare(&mut exchange, &work, &cluster);
    let Prepared { received, client_upgrade, handshake, hashed, mut expiry } = match prepared {
        Ok(prepared) => prepared,
        Err(reject) => return respond::reject(exchange, work.snapshot, &reject),
    };
    let pool = {
        let worker = &exchange.connection().registered.worker;
        worker.upstreams.pool(&cluster, &worker.telemetry.metrics)
    };
    exchange.goes_to(pool.destination());
    mirror::start(&exchange, &work);
    let aim = attempt::Aim {
        hash: hashed.key,
        deadline: work.rule.timeout.map(|time| Instant::now() + time),
        retry: &work.rule.retry,
    };
    let sent = {
        let again = |exchange: &Exchange| {
            dress(exchange, &work, &cluster, handshake.as_ref()).map(|dressed| dressed.request)
        };
        let sending = pin!(attempt::send(&mut exchange, (&cluster, &pool), &aim, &again));
        deadline::within(&mut expiry, sending).await
    };
    let sent = sent.and_then(|mut sent| {
        let switched = accept(&mut exchange, &mut sent.0, handshake.as_ref())?;
        Ok((sent, switched))
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

/// Judges an answer's head; whether a WebSocket of HTTP/2 begins.
fn accept(
    exchange: &mut Exchange,
    response: &mut Response<Incoming>,
    handshake: Option<&Handshake>,
) -> Result<bool, Reject> {
    if let Some(tightened) = exchange.tightened() {
        return Err(tightened);
    }
    if !is_framed(response, handshake.is_some()) {
        return Err(Reject::UpstreamProtocol);
    }
    let switched = handshake.map(|handshake| handshake.answer(response)).transpose()?;
    Ok(switched.unwrap_or(false))
}

/// Whether an answer's end is where every reader finds it: with two lengths it has two ends, in a coding
/// of the hop nobody knows it, and a switch of protocols that nobody asked for has none.
fn is_framed(response: &Response<Incoming>, upgrade: bool) -> bool {
    let headers = response.headers();
    let one_end = !headers.contains_key(TRANSFER_ENCODING)
        || !(headers.contains_key(CONTENT_LENGTH) || has_other_coding(headers));
    one_end && (upgrade || response.status() != StatusCode::SWITCHING_PROTOCOLS)
}

/// What is kept of a request while its answer is waited for.
struct Prepared {
    /// As in [`Dressed`].
    received: Option<Box<Request<()>>>,
    client_upgrade: Option<OnUpgrade>,
    handshake: Option<Handshake>,
    hashed: Hashed,
    expiry: Option<Expiry>,
}

/// Makes the request ready for its first try.
fn prepare(
    exchange: &mut Exchange,
    work: &Work<'_>,
    cluster: &Cluster,
) -> Result<Prepared, Reject> {
    exchange.asked = std::mem::take(&mut exchange.request);
    let client_upgrade = exchange.head.upgrade.then(|| hyper::upgrade::on(&mut exchange.asked));
    let http2 = exchange.is_http2();
    let asks = || Handshake::of(&exchange.asked, cluster.protocol, http2);
    let handshake = exchange.head.upgrade.then(asks);
    let Dressed { request, received } = dress(exchange, work, cluster, handshake.as_ref())?;
    exchange.request = request;
    if let Some(log) = &mut exchange.record.log {
        log.upstream_cluster = Some(cluster.name.clone());
    }
    gate(exchange, cluster);
    let headers = exchange.asked.headers();
    let grpc = if exchange.is_grpc() { deadline::grpc_timeout(headers) } else { None };
    Ok(Prepared {
        received,
        client_upgrade,
        handshake,
        hashed: hash(exchange, cluster),
        expiry: deadline::or_refused(
            deadline::expiry(&exchange.upload, work.rule.timeout, grpc),
            exchange.standing.as_ref(),
        ),
    })
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

/// Makes an answer's head what the client shall see, apart from the rule's own operations.
fn finish_head(response: &mut Response<Incoming>, millis: u64, (switched, http2): (bool, bool)) {
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
