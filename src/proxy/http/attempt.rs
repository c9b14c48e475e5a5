//! Tries: a request reaches an endpoint, or there is a reason why none was reached.
//!
//! What was not sent is tried again elsewhere. What was sent is sent once more only when its
//! connection had lain idle, was closed without an answer, and the method may be repeated: the
//! backend closed it before it saw the request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep};

use super::body::RequestBody;
use super::service::Exchange;
use crate::base::header::X_ENVOY_ATTEMPT_COUNT;
use crate::base::host::without_port;
use crate::base::limit;
use crate::decide::head::Head;
use crate::decide::reject::{ConnectFailure, Reject, Tried};
use crate::snapshot::cluster::Cluster;
use crate::upstream::bounds::Permit;
use crate::upstream::connect::ConnectError;
use crate::upstream::pool::lease::Lease;
use crate::upstream::pool::{AcquireError, Demand, Pool, Wanted};

/// Tries after the first when no endpoint could be reached (Istio's default retry policy).
const CONNECT_RETRIES: u32 = 2;

/// An answer, the connection it comes over, and when its request was sent.
pub type Sent = (Response<Incoming>, Lease<RequestBody>, Instant);

/// What of a request does not change from try to try.
#[derive(Clone, Copy, Debug)]
pub struct Aim<'a> {
    /// Its head as it came.
    pub head: &'a Head,
    /// What keeps it on one endpoint.
    pub hash: Option<u64>,
    /// When an answer would come too late.
    pub deadline: Option<Instant>,
}

/// Finds a connection and sends.
pub async fn send(
    exchange: &mut Exchange,
    cluster: &Arc<Cluster>,
    aim: &Aim<'_>,
    mut request: Request<RequestBody>,
) -> Result<Sent, Reject> {
    let connection = exchange.connection().clone();
    let worker = &connection.registered.worker;
    let pool = worker.upstreams.pool(cluster, &worker.telemetry.metrics);
    let mut tries = Tries::default();
    loop {
        let demand = Demand {
            host: host(&request, aim.head),
            hash: aim.hash,
            client: (connection.peer, connection.local),
            wanted: tries.wanted,
        };
        let mut lease = tries.acquire(&pool, &demand).await?;
        lease.deadline = aim.deadline;
        if tries.failed > 0 {
            let attempt = HeaderValue::from(tries.failed + 1);
            request.headers_mut().insert(X_ENVOY_ATTEMPT_COUNT, attempt);
        }
        if let Some(log) = &mut exchange.record.log {
            log.upstream_host = lease.peer();
            log.upstream_local = lease.local();
        }
        let began = Instant::now();
        let repeatable = lease.reused && tries.wanted == Wanted::Any && exchange.upload.is_empty();
        let copy =
            (repeatable && request.method().is_idempotent()).then(|| copy(exchange, &request));
        match lease.send(request).await {
            Ok(response) => return Ok((response, lease, began)),
            Err(mut error) => match (error.take_message(), copy, failure(error.error())) {
                (Some(unsent), ..) if lease.reused => request = unsent,
                (None, Some(copy), Reject::UpstreamClosed | Reject::UpstreamReset) => {
                    tries.wanted = Wanted::Fresh;
                    request = copy;
                }
                (.., reject) => return Err(reject),
            },
        }
    }
}

/// The host that a request asks for, for the name in a handshake.
fn host<'a>(request: &'a Request<RequestBody>, head: &'a Head) -> &'a str {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    without_port(host.unwrap_or(&head.authority))
}

/// The same request, which has no body.
fn copy(exchange: &Exchange, request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(exchange.upload.again());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// What earlier tries of a request leave to know.
#[derive(Default)]
struct Tries {
    failed: u32,
    avoid: SmallVec<[SocketAddr; 2]>,
    wanted: Wanted,
    permit: Option<Permit>,
}

impl Tries {
    async fn acquire(
        &mut self,
        pool: &Pool<RequestBody>,
        demand: &Demand<'_>,
    ) -> Result<Lease<RequestBody>, Reject> {
        loop {
            match pool.acquire(demand, &mut self.avoid).await {
                Ok(lease) => return Ok(lease),
                Err(AcquireError::NoEndpoint) => return Err(Reject::NoHealthyUpstream),
                Err(AcquireError::Overflow(_)) => return Err(Reject::Overflow),
                Err(AcquireError::Connect(error)) => {
                    let hopeless = matches!(error, ConnectError::Unusable(_));
                    if self.failed == CONNECT_RETRIES || hopeless {
                        let tried = if self.failed > 0 { Tried::Repeatedly } else { Tried::Once };
                        return Err(Reject::ConnectFailed(connect_failure(&error), tried));
                    }
                    if self.permit.is_none() {
                        let failed =
                            |_| Reject::ConnectFailed(connect_failure(&error), Tried::Overflow);
                        self.permit = pool.retry().map_err(failed)?;
                    }
                    self.failed += 1;
                    // Boxed: most requests find a connection and need no room for a timer.
                    Box::pin(sleep(back_off(self.failed, fastrand::f64()))).await;
                }
            }
        }
    }
}

/// How long to wait before a retry: random, up to a bound that doubles (Envoy's default).
fn back_off(retry: u32, random: f64) -> Duration {
    let most = limit::RETRY_BASE_TIME * (2_u32.saturating_pow(retry) - 1);
    most.min(limit::RETRY_MOST_TIME).mul_f64(random)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_wait_up_to_a_bound_that_doubles() {
        let most: Vec<_> = (1..6).map(|retry| back_off(retry, 1.0).as_millis()).collect();
        assert_eq!(most, [25, 75, 175, 250, 250]);
        assert_eq!(back_off(3, 0.0), Duration::ZERO);
        assert_eq!(back_off(40, 1.0).as_millis(), 250);
    }
}
