//! Sending a request to its destination, and its answer back.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use http::header::{EXPECT, HOST, SERVER};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use super::body::{Gate, RequestBody, ResponseBody};
use super::head::{Head, Plan, RequestValues, strip_hop_by_hop};
use super::service::Exchange;
use super::{respond, upgrade};
use crate::base::header::{
    X_ENVOY_DECORATOR_OPERATION, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_ORIGINAL_HOST,
    X_ENVOY_ORIGINAL_PATH, X_ENVOY_UPSTREAM_SERVICE_TIME, X_FORWARDED_FOR, X_REQUEST_ID,
};
use crate::base::host::without_port;
use crate::decide::reject::{ConnectFailure, Reject};
use crate::snapshot::Snapshot;
use crate::snapshot::cluster::{Cluster, Protocol};
use crate::snapshot::route::{Destination, Forward};
use crate::upstream::connect::ConnectError;
use crate::upstream::pool::{AcquireError, Lease, Pool};

/// What there is to do.
pub struct Work<'a> {
    /// The request's snapshot.
    pub snapshot: &'a Snapshot,
    /// The rule.
    pub rule: &'a Forward,
    /// The chosen destination.
    pub destination: &'a Destination,
    /// The request's head as it came.
    pub head: &'a Head,
    /// What preparing it found.
    pub plan: Plan,
}

/// Tries after the first when the endpoint could not be reached (Istio's default retry policy).
const CONNECT_RETRIES: usize = 2;

/// Forwards a request and answers it.
pub async fn forward(
    mut exchange: Box<Exchange>,
    work: Work<'_>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let cluster = work.destination.cluster.and_then(|id| work.snapshot.cluster(id)).cloned();
    let Some(cluster) = cluster else {
        return respond::reject(exchange, work.snapshot, Some(work.head), &Reject::ClusterNotFound);
    };
    exchange.record.destination = cluster.labels.clone();
    let deadline = work.rule.timeout.map(|time| Instant::now() + time);
    let values_headers = needs_values(work.destination).then(|| request.headers().clone());
    let (method, query, version) =
        (request.method().clone(), request.uri().query().map(str::to_owned), request.version());
    let (request, client_upgrade) = prepare(&mut exchange, &work, &cluster, request);
    log_request(&mut exchange, &cluster, &request);
    let host = request_host(&request, work.head);
    let sent = {
        let mut sending = pin!(send(&mut exchange, &cluster, &host, request));
        match deadline {
            None => sending.await,
            Some(deadline) => {
                timeout_at(deadline, sending.as_mut()).await.unwrap_or(Err(Reject::Timeout))
            }
        }
    };
    match sent {
        Ok((mut response, lease, began)) => {
            let connection = exchange.connection().clone();
            let values = RequestValues {
                head: work.head,
                connection: &connection,
                method: &method,
                headers: Cow::Owned(values_headers.unwrap_or_default()),
                query: query.as_deref(),
                version,
            };
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(log) = &mut exchange.record.log {
                log.upstream_service_milliseconds = Some(millis);
            }
            finish_head(&work, &mut response, &values, (millis, switched));
            exchange.record.details = "via_upstream".into();
            exchange.answered(&response);
            if switched {
                return upgrade::switch(exchange, response, client_upgrade, lease);
            }
            response.map(|incoming| ResponseBody::backend(incoming, lease, exchange))
        }
        Err(reject) => {
            let reject =
                if exchange.upload.stalled.get() { Reject::RequestTimeout } else { reject };
            respond::reject(exchange, work.snapshot, Some(work.head), &reject)
        }
    }
}

fn needs_values(destination: &Destination) -> bool {
    destination.response_headers.iter().any(|step| !step.is_empty())
}

/// Carries out the rule's rewrites and header operations and wraps the body.
fn prepare(
    exchange: &mut Exchange,
    work: &Work<'_>,
    cluster: &Cluster,
    mut request: Request<Incoming>,
) -> (Request<RequestBody>, Option<hyper::upgrade::OnUpgrade>) {
    let client_upgrade = work.head.upgrade.then(|| hyper::upgrade::on(&mut request));
    let connection = exchange.connection().clone();
    if !work.destination.request_headers.is_empty() {
        let received = request.headers().clone();
        let method = request.method().clone();
        let query = request.uri().query().map(str::to_owned);
        let values = RequestValues {
            head: work.head,
            connection: &connection,
            method: &method,
            headers: Cow::Owned(received),
            query: query.as_deref(),
            version: request.version(),
        };
        for step in &work.destination.request_headers {
            step.apply(request.headers_mut(), &values);
        }
    }
    rewrite_host(work, &mut request);
    rewrite_uri(work, cluster, &mut request);
    if let Some(time) = work.rule.timeout {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        request.headers_mut().insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HeaderValue::from(millis));
    }
    let gated = request.headers().contains_key(EXPECT) && cluster.protocol == Protocol::Http1;
    let gate = gated.then(|| Arc::new(Gate::default()));
    let mut request = request.map(|body| exchange.upload.begin(body, gate.clone()));
    if let Some(gate) = gate {
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    (request, client_upgrade)
}

fn rewrite_host(work: &Work<'_>, request: &mut Request<Incoming>) {
    let new = work.rule.authority.as_ref().or(work.destination.authority.as_ref());
    if let Some(new) = new
        && let Some(old) = request.headers_mut().insert(HOST, new.clone())
        && old != *new
    {
        request.headers_mut().insert(X_ENVOY_ORIGINAL_HOST, old);
    }
}

fn rewrite_uri(work: &Work<'_>, cluster: &Cluster, request: &mut Request<Incoming>) {
    let sent = work.plan.path_and_query.as_deref();
    let current = sent.or_else(|| request.uri().path_and_query().map(PathAndQuery::as_str));
    let current = current.unwrap_or("/").to_owned();
    let rewritten = work.rule.path.as_ref().map(|rewrite| {
        let (path, query) = match current.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (current.as_str(), None),
        };
        let path = rewrite.apply(path);
        match query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        }
    });
    if rewritten.as_ref().is_some_and(|new| *new != current)
        && let Ok(original) = HeaderValue::from_str(&current)
    {
        request.headers_mut().insert(X_ENVOY_ORIGINAL_PATH, original);
    }
    let target = rewritten.unwrap_or(current);
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if cluster.protocol == Protocol::Http2 {
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
        parts.authority = host.and_then(|host| Authority::try_from(host).ok());
        parts.scheme = parts.authority.is_some().then_some(if work.head.scheme == "https" {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        request.headers_mut().remove(HOST);
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = match cluster.protocol {
        Protocol::Http2 => Version::HTTP_2,
        Protocol::Http1 | Protocol::Tcp => Version::HTTP_11,
    };
}

fn request_host(request: &Request<RequestBody>, head: &Head) -> String {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    without_port(host.unwrap_or(&head.authority)).to_owned()
}

fn log_request(exchange: &mut Exchange, cluster: &Cluster, request: &Request<RequestBody>) {
    if let Some(log) = &mut exchange.record.log {
        log.upstream_cluster = Some(cluster.name.clone());
        log.forwarded_for = request.headers().get(X_FORWARDED_FOR).cloned();
        log.request_id = request.headers().get(X_REQUEST_ID).cloned();
    }
}

type Sent = (Response<Incoming>, Lease<RequestBody>, Instant);

/// Finds a connection and sends. What was not sent is tried again elsewhere; what was sent is not,
/// for the backend may have acted on it.
async fn send(
    exchange: &mut Exchange,
    cluster: &Arc<Cluster>,
    host: &str,
    mut request: Request<RequestBody>,
) -> Result<Sent, Reject> {
    let connection = exchange.connection().clone();
    let worker = &connection.registered.worker;
    let pool = worker.upstreams.pool(cluster, &worker.telemetry.metrics);
    let mut avoid = SmallVec::new();
    loop {
        let mut lease = acquire(&pool, host, &mut avoid).await?;
        if let Some(log) = &mut exchange.record.log {
            log.upstream_host = lease.peer;
            log.upstream_local = lease.local;
        }
        let began = Instant::now();
        match lease.send(request).await {
            Ok(response) => return Ok((response, lease, began)),
            Err(mut error) => match error.take_message() {
                Some(unsent) if lease.reused => request = unsent,
                _ => return Err(failure(error.error())),
            },
        }
    }
}

async fn acquire(
    pool: &Pool<RequestBody>,
    host: &str,
    avoid: &mut SmallVec<[SocketAddr; 2]>,
) -> Result<Lease<RequestBody>, Reject> {
    let mut retries = 0;
    loop {
        match pool.acquire(host, avoid).await {
            Ok(lease) => return Ok(lease),
            Err(AcquireError::NoEndpoint) => return Err(Reject::NoHealthyUpstream),
            Err(AcquireError::Connect(error)) => {
                if retries == CONNECT_RETRIES || matches!(error, ConnectError::Unusable(_)) {
                    return Err(Reject::ConnectFailed(connect_failure(&error)));
                }
                retries += 1;
            }
        }
    }
}

fn connect_failure(error: &ConnectError) -> ConnectFailure {
    match error {
        ConnectError::Refused(_) => ConnectFailure::Refused,
        ConnectError::Timeout => ConnectFailure::Timeout,
        ConnectError::Tls(source) => ConnectFailure::Tls(source.to_string().into()),
        ConnectError::Unusable(reason) => ConnectFailure::Unusable(reason.to_string().into()),
    }
}

fn failure(error: &hyper::Error) -> Reject {
    if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
        Reject::UpstreamProtocol
    } else if error.is_user() {
        Reject::ClientGone
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Reject::UpstreamClosed
    } else {
        Reject::UpstreamReset
    }
}

/// Makes an answer's head what the client shall see.
fn finish_head(
    work: &Work<'_>,
    response: &mut Response<Incoming>,
    values: &RequestValues<'_>,
    (millis, switched): (u64, bool),
) {
    let headers = response.headers_mut();
    strip_hop_by_hop(headers, switched);
    headers.remove(X_ENVOY_DECORATOR_OPERATION);
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(millis));
    if let Some(server) = &work.snapshot.edge.server_header {
        headers.insert(SERVER, server.clone());
    }
    for step in &work.destination.response_headers {
        step.apply(headers, values);
    }
    *response.version_mut() = values.version;
}
