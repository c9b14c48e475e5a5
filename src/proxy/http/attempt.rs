//! Tries: a request reaches an endpoint and is answered, or there is a reason why not.
//!
//! What was not sent is tried again as the rule's policy says. What was sent is sent again only for a
//! cause that the policy names, or once when its connection had lain idle, was closed without an
//! answer, and the method may be repeated: the backend closed it before it saw the request.

use std::pin::pin;
use std::time::Duration;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep};

use super::exchange::Exchange;
use super::request_body::RequestBody;
use crate::base::header::X_ENVOY_ATTEMPT_COUNT;
use crate::base::host::without_port;
use crate::decide::head::Head;
use crate::decide::reject::{ConnectFailure, Reject, Tried};
use crate::route::retry::{Failure, RetryPolicy};
use crate::snapshot::cluster::{Cluster, Protocol};
use crate::upstream::bounds::Permit;
use crate::upstream::connect::ConnectError;
use crate::upstream::pool::lease::Lease;
use crate::upstream::pool::{AcquireError, Demand, Pool, PreviousTries, Wanted};

/// An answer, the connection it comes over, and when its request was sent.
pub type Sent = (Response<Incoming>, Lease<RequestBody>, Instant);

/// Makes a request's head as it was before its first try.
pub type Again<'a> = dyn Fn(&Exchange) -> Result<Request<()>, Reject> + 'a;

/// What of a request does not change from try to try.
#[derive(Clone, Copy, Debug)]
pub struct Aim<'a> {
    /// What keeps it on one endpoint.
    pub hash: Option<u64>,
    /// When an answer would come too late.
    pub deadline: Option<Instant>,
    /// When it is tried again.
    pub retry: &'a RetryPolicy,
}

/// Finds a connection and sends; `again` makes the request's head anew for another try.
pub async fn send(
    exchange: &mut Exchange,
    (cluster, pool): (&Cluster, &Pool<RequestBody>),
    aim: &Aim<'_>,
    again: &Again<'_>,
) -> Result<Sent, Reject> {
    let connection = exchange.connection().clone();
    // An HTTP/2 backend may refuse a stream that it was sent (RFC 9113 section 8.7).
    let repeats = aim.retry.after_sending()
        || (cluster.protocol == Protocol::Http2 && aim.retry.retries(Failure::Refused));
    if repeats {
        exchange.upload.keep();
    }
    let mut tries = Tries::new(aim.retry);
    loop {
        let mut lease = {
            let demand = Demand {
                host: host(&exchange.request, &exchange.head),
                hash: aim.hash,
                client: (connection.peer, connection.local),
                wanted: tries.wanted,
            };
            tries.acquire(pool, &demand).await?
        };
        lease.deadline = aim.deadline;
        // Boxed: few requests are WebSockets.
        let connects = *exchange.request.method() == Method::CONNECT;
        if connects && !Box::pin(lease.takes_connects()).await {
            return Err(Reject::UpstreamProtocol);
        }
        if tries.failed > 0 {
            let attempt = HeaderValue::from(tries.failed + 1);
            exchange.request.headers_mut().insert(X_ENVOY_ATTEMPT_COUNT, attempt);
        }
        note_endpoint(exchange, &lease);
        let stale = tries.may_be_stale(exchange, &lease);
        let repeatable = stale || (repeats && tries.left());
        let began = Instant::now();
        let (reject, cause) = match send_once(exchange, &mut lease, aim.retry.per_try).await {
            Ok(response) => {
                let wanted = repeats && aim.retry.retries_answer(&response);
                let may = wanted && repeatable && exchange.upload.can_repeat();
                if may && tries.again(pool).await.is_ok() {
                    tries.leave(&lease);
                    exchange.request = again(exchange)?;
                    continue;
                }
                if wanted {
                    tries.note_exhausted(exchange);
                }
                return Ok((response, lease, began));
            }
            Err(Failed::Returned) => {
                // Its connection died while it lay idle: that is no failure of the endpoint.
                let counts = !lease.reused;
                let wanted = aim.retry.retries(Failure::Unsent);
                if counts && !(wanted && tries.again(pool).await.is_ok()) {
                    return Err(tries.last(Reject::UpstreamClosed));
                }
                continue;
            }
            Err(Failed::Sent(reject, cause)) => (reject, cause),
        };
        let died = stale && matches!(reject, Reject::UpstreamClosed);
        if !(repeatable && exchange.upload.can_repeat()) {
            return Err(tries.last(reject));
        }
        if died {
            tries.wanted = Wanted::Fresh;
        } else if !aim.retry.retries(cause) || tries.again(pool).await.is_err() {
            return Err(tries.last(reject));
        } else {
            tries.leave(&lease);
        }
        exchange.request = again(exchange)?;
    }
}

fn note_endpoint(exchange: &mut Exchange, lease: &Lease<RequestBody>) {
    if let Some(log) = &mut exchange.record.log {
        log.upstream_host = lease.peer();
        log.upstream_local = lease.local();
    }
}

/// Why a try has no answer.
enum Failed {
    /// Nothing was sent; the exchange has its request again.
    Returned,
    /// Something may have been.
    Sent(Reject, Failure),
}

/// One try over one connection, within its own time.
async fn send_once(
    exchange: &mut Exchange,
    lease: &mut Lease<RequestBody>,
    per_try: Option<Duration>,
) -> Result<Response<Incoming>, Failed> {
    lease.ready().await;
    let answer = {
        let mut sending = pin!(lease.send(exchange.outgoing()));
        match per_try {
            None => Some(sending.await),
            Some(time) => {
                let upload = exchange.upload.clone();
                // Boxed: most rules give a try no time of its own.
                let over = Box::pin(async move {
                    upload.finished().await;
                    sleep(time).await;
                });
                tokio::select! {
                    answer = sending.as_mut() => Some(answer),
                    () = over => None,
                }
            }
        }
    };
    match answer {
        Some(Ok(response)) => Ok(response),
        Some(Err(mut error)) => {
            if let Some(unsent) = error.take_message() {
                exchange.unsent(unsent);
                return Err(Failed::Returned);
            }
            let cause = if is_refused(error.error()) { Failure::Refused } else { Failure::Reset };
            Err(Failed::Sent(failure(error.error()), cause))
        }
        None => {
            lease.deadline = Some(Instant::now());
            Err(Failed::Sent(Reject::TryTimeout, Failure::Reset))
        }
    }
}

/// The host that a request asks for as it is sent, for the name in a handshake.
pub(super) fn host<'a, B>(request: &'a Request<B>, head: &'a Head) -> &'a str {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    without_port(host.unwrap_or(&head.authority))
}

/// A request's head, to be sent once more.
pub(super) fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    if let Some(protocol) = request.extensions().get::<hyper::ext::Protocol>() {
        copy.extensions_mut().insert(protocol.clone());
    }
    copy
}

/// What earlier tries of a request leave to know.
struct Tries<'a> {
    policy: &'a RetryPolicy,
    failed: u32,
    previous: PreviousTries,
    wanted: Wanted,
    permit: Option<Permit>,
    refused: bool,
}

impl<'a> Tries<'a> {
    fn new(policy: &'a RetryPolicy) -> Self {
        Self {
            policy,
            failed: 0,
            previous: PreviousTries::new(policy.remote, policy.avoid_hashed),
            wanted: Wanted::default(),
            permit: None,
            refused: false,
        }
    }

    /// Whether a connection may have been closed before the backend sees a request that is harmless
    /// to repeat.
    fn may_be_stale(&self, exchange: &Exchange, lease: &Lease<RequestBody>) -> bool {
        lease.reused
            && self.wanted == Wanted::Any
            && exchange.upload.is_empty()
            && exchange.request.method().is_idempotent()
    }

    fn left(&self) -> bool {
        self.failed < self.policy.attempts
    }

    /// Waits for another try, if there may be one.
    async fn again(&mut self, pool: &Pool<RequestBody>) -> Result<(), ()> {
        if !self.left() {
            return Err(());
        }
        if self.permit.is_none() {
            self.permit = pool.retry().map_err(|_| self.refused = true)?;
        }
        self.failed += 1;
        self.previous.again();
        // Boxed: most requests find a connection and need no room for a timer.
        Box::pin(sleep(self.policy.back_off(self.failed, fastrand::f64()))).await;
        Ok(())
    }

    /// Leaves an endpoint out from now on.
    fn leave(&mut self, lease: &Lease<RequestBody>) {
        if self.policy.avoid_previous {
            self.previous.leave(lease.peer());
        }
    }

    fn tried(&self) -> Tried {
        match (self.refused, self.failed) {
            (true, _) => Tried::Overflow,
            (false, 0) => Tried::Once,
            (false, _) => Tried::Repeatedly,
        }
    }

    /// The reason of the last try.
    fn last(&self, reject: Reject) -> Reject {
        match self.tried() {
            Tried::Once | Tried::Overflow => reject,
            Tried::Repeatedly => Reject::Exhausted(Box::new(reject)),
        }
    }

    /// Notes that an answer is passed on for want of more tries.
    fn note_exhausted(&self, exchange: &mut Exchange) {
        if self.failed > 0 && !self.left() {
            exchange.record.flags = "URX";
        }
    }

    async fn acquire(
        &mut self,
        pool: &Pool<RequestBody>,
        demand: &Demand<'_>,
    ) -> Result<Lease<RequestBody>, Reject> {
        loop {
            match pool.acquire(demand, &mut self.previous).await {
                Ok(lease) => return Ok(lease),
                Err(AcquireError::NoEndpoint) => return Err(Reject::NoHealthyUpstream),
                Err(AcquireError::Overflow(_)) => return Err(Reject::Overflow),
                Err(AcquireError::Connect(error)) => {
                    let hopeless = matches!(error, ConnectError::Unusable(_));
                    let wanted = !hopeless && self.policy.retries(Failure::Connect);
                    if !wanted || self.again(pool).await.is_err() {
                        return Err(Reject::ConnectFailed(connect_failure(&error), self.tried()));
                    }
                    if !self.policy.avoid_previous {
                        self.previous.forget_endpoints();
                    }
                }
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
    let stream = h2_error(error);
    if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
        Reject::UpstreamProtocol
    } else if error.is_user() {
        Reject::ClientGone
    } else if is_flood(error) {
        Reject::UpstreamFlood
    } else if stream.is_some_and(h2::Error::is_library) {
        Reject::UpstreamProtocol
    } else if stream.is_some_and(h2::Error::is_reset) {
        Reject::UpstreamReset
    } else {
        Reject::UpstreamClosed
    }
}

/// Whether a stream was refused before the backend looked at it: alone, or with all those that came
/// too late for a connection that the backend ends in good order (RFC 9113 sections 6.8 and 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    })
}

/// Whether this end closed an HTTP/2 connection because its peer flooded it.
pub(super) fn is_flood(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
    })
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        source = inner.source();
    }
    None
}
