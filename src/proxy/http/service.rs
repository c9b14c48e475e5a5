//! One request, from its head to the last byte of its answer: the list of phases.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::HeaderMap;
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::ResponseBody;
use super::head;
use super::upload::Upload;
use super::{HttpConnection, forward, respond};
use crate::base::header::{GRPC_STATUS, X_FORWARDED_FOR, X_REQUEST_ID};
use crate::base::id::Origin;
use crate::decide::head::Head;
use crate::decide::reject::{BadRequest, Reject};
use crate::decide::request::{Decision, Outcome, RequestFacts, decide, is_grpc};
use crate::decide::sanitize::{Arrival, sanitize};
use crate::net::liveness::Liveness;
use crate::snapshot::Snapshot;
use crate::telemetry::worker::ActiveRequest;
use crate::telemetry::{Protocol, RequestRecord};

/// The flag of a request that was made to wait.
const DELAYED: &str = "DI";

/// A request and its answer: ends once, as a metrics sample and an access log line.
pub struct Exchange {
    connection: Rc<HttpConnection>,
    /// What will be logged and counted.
    pub record: RequestRecord,
    /// The request's body.
    pub upload: Rc<Upload>,
    /// What its answer says besides (CORS).
    pub extra: Option<Box<HeaderMap>>,
    http2: bool,
    /// A `HEAD` request: its answer has no body, whatever its length says.
    head: bool,
    _active: ActiveRequest,
}

impl Exchange {
    fn begin(connection: &Rc<HttpConnection>, request: &Request<Incoming>) -> Box<Self> {
        let telemetry = &connection.registered.worker.telemetry;
        connection.registered.liveness.request_began();
        let grpc = is_grpc(request.headers());
        let protocol = if grpc { Protocol::Grpc } else { Protocol::Http };
        let mut log = telemetry.log.fields();
        if let Some(log) = &mut log {
            let header = |name| request.headers().get(name).cloned();
            log.start_time = Some(SystemTime::now());
            log.method = Some(request.method().clone());
            log.path = request.uri().path_and_query().cloned();
            log.version = Some(request.version());
            log.user_agent = header(http::header::USER_AGENT);
            let authority = request.uri().authority();
            log.authority = authority
                .and_then(|name| HeaderValue::from_str(name.as_str()).ok())
                .or_else(|| header(http::header::HOST));
            log.downstream_local = Some(connection.local);
            log.downstream_remote = Some(connection.peer);
            log.server_name.clone_from(&connection.server_name);
        }
        let mut record = RequestRecord::new(Instant::now(), protocol, log);
        record.request_head_bytes = head_bytes(request.headers());
        Box::new(Self {
            connection: connection.clone(),
            record,
            upload: Rc::default(),
            extra: None,
            http2: request.version() == Version::HTTP_2,
            head: *request.method() == Method::HEAD,
            _active: telemetry.metrics.request_started(),
        })
    }

    /// The connection.
    pub fn connection(&self) -> &Rc<HttpConnection> {
        &self.connection
    }

    /// The connection's watch.
    pub fn liveness(&self) -> &Liveness {
        &self.connection.registered.liveness
    }

    /// Whether the client asked by gRPC.
    pub fn is_grpc(&self) -> bool {
        self.record.protocol == Protocol::Grpc
    }

    /// Whether the client speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// Notes what the request is known by from here on.
    fn sanitized(&mut self, headers: &HeaderMap) {
        if let Some(log) = &mut self.record.log {
            log.forwarded_for = headers.get(X_FORWARDED_FOR).cloned();
            log.request_id = headers.get(X_REQUEST_ID).cloned();
        }
    }

    /// Notes the answer's head.
    pub fn answered<B>(&mut self, response: &Response<B>) {
        self.record.code = response.status().as_u16();
        self.record.response_head_bytes = head_bytes(response.headers());
        self.note_grpc_status(response.headers());
    }

    /// Notes what was refused, and by what.
    pub fn rejected(&mut self, reject: &Reject) {
        let answer = reject.answer();
        self.record.flags = match (self.record.flags, answer.flag) {
            (DELAYED, "FI") => "DI,FI",
            (_, flag) => flag,
        };
        self.record.reason = Some(answer.code);
        self.record.details = reject.details();
        if let Some(log) = &mut self.record.log {
            if let Some(origin) = reject.origin() {
                log.resource = Some(origin.clone());
            }
            log.upstream_transport_failure = reject.transport_failure().map(Into::into);
        }
    }

    /// Notes which resource decided.
    pub fn decided_by(&mut self, name: &Arc<str>, origin: &Origin) {
        if let Some(log) = &mut self.record.log {
            log.route_name = (!name.is_empty()).then(|| name.clone());
            log.resource = Some(origin.clone());
        }
    }

    /// Counts body bytes and looks at trailers.
    pub fn sent(&mut self, bytes: u64, trailers: Option<&HeaderMap>) {
        self.record.bytes_sent += bytes;
        if let Some(trailers) = trailers {
            self.note_grpc_status(trailers);
        }
    }

    /// The backend failed after the answer's head was sent.
    pub fn backend_failed_midway(&mut self) {
        self.record.flags = "UC";
        self.record.reason = Some("upstream_closed_midway");
    }

    /// The answer's time ran out after its head was sent.
    pub fn timed_out_midway(&mut self) {
        self.record.flags = "UT";
        self.record.reason = Some("timeout_midway");
    }

    /// The client left before the end.
    pub fn client_left(&mut self) {
        self.record.flags = "DC";
        self.record.details = "downstream_remote_disconnect".into();
    }

    /// Whether the answer has a body to lose (`HEAD`, 204 and 304 have none).
    pub fn expects_body(&self) -> bool {
        !self.head && !matches!(self.record.code, 101 | 204 | 304)
    }

    /// Whether only the answer's head is asked for.
    pub fn is_head(&self) -> bool {
        self.head
    }

    fn note_grpc_status(&mut self, headers: &HeaderMap) {
        if self.is_grpc()
            && let Some(value) = headers.get(GRPC_STATUS)
        {
            self.record.grpc_status = value.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    /// Ends the exchange.
    pub fn finish(mut self) {
        self.liveness().request_ended();
        self.record.bytes_received = self.upload.bytes.get();
        let Self { record, connection, .. } = self;
        record.finish(&connection.registered.worker.telemetry);
    }
}

fn head_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() as u64
}

/// A connection ended before its time. A head that cannot be read was answered by the codec; it is
/// counted and logged here, as every answer of our own is.
pub fn ended(connection: &HttpConnection, error: &hyper::Error) {
    tracing::debug!(peer = %connection.peer, %error, "connection ended");
    if !error.is_parse() {
        return;
    }
    let reject = if error.is_parse_too_large() {
        Reject::TooManyHeaders
    } else {
        Reject::BadRequest(BadRequest::Unreadable)
    };
    let telemetry = &connection.registered.worker.telemetry;
    let mut log = telemetry.log.fields();
    if let Some(log) = &mut log {
        log.start_time = Some(SystemTime::now());
        log.downstream_local = Some(connection.local);
        log.downstream_remote = Some(connection.peer);
        log.server_name.clone_from(&connection.server_name);
    }
    let mut record = RequestRecord::new(Instant::now(), Protocol::Http, log);
    record.code = reject.status().as_u16();
    record.reason = Some(reject.answer().code);
    record.details = reject.details();
    record.finish(telemetry);
}

/// Answers one request.
pub async fn serve(
    connection: Rc<HttpConnection>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let snapshot = connection.registered.worker.snapshot();
    let mut exchange = Exchange::begin(&connection, &request);
    let head = match Head::read(connection.client.tls, &snapshot.edge, &request) {
        Ok(head) => head,
        Err(reject) => return respond::reject(exchange, &snapshot, &reject),
    };
    let arrival = Arrival {
        peer: &connection.peer_ip,
        certificate: connection.client.xfcc.as_ref(),
        request_id: head::request_id(),
    };
    sanitize(&mut request, &head, &snapshot.edge, arrival);
    exchange.sanitized(request.headers());
    phases(&connection, &snapshot, exchange, head, request).await
}

async fn phases(
    connection: &Rc<HttpConnection>,
    snapshot: &Snapshot,
    mut exchange: Box<Exchange>,
    head: Head,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let Some(serving) = connection.serving.resolve(snapshot) else {
        return respond::reject(exchange, snapshot, &Reject::Misdirected);
    };
    let path_and_query = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let random = fastrand::u32(..);
    let facts = RequestFacts {
        connection: connection.facts(),
        trusted: head.trusted_ip,
        head: head.for_routing(request.method(), request.headers(), request.uri().query()),
        path_and_query,
        tokens: &connection.registered.worker.tokens,
        now: unix_now(),
        random,
    };
    let decision = decide(snapshot, &serving.listener, &serving.block, &facts);
    if let Some(route) = decision.route {
        exchange.decided_by(&route.name, &route.origin);
    }
    let Decision { outcome, verdict, delay, .. } = decision;
    if let (Outcome::Redirect(..) | Outcome::Respond(_), Some(authenticator)) =
        (&outcome, &snapshot.authentication)
    {
        // Templates of the answer see what routes saw.
        authenticator.fill(&verdict, request.headers_mut());
    }
    if let Some(delay) = delay {
        exchange.record.flags = DELAYED;
        // Boxed: most requests need no room for a timer.
        Box::pin(tokio::time::sleep(delay)).await;
    }
    match outcome {
        Outcome::Reject(reject) => {
            if matches!(reject, Reject::Jwt(_)) {
                respond::ask_for_token(&mut exchange, snapshot, &head, request.uri());
            }
            respond::reject(exchange, snapshot, &reject)
        }
        Outcome::HttpsRedirect => {
            respond::https_redirect(exchange, snapshot, &head, request.uri().query())
        }
        Outcome::Redirect(redirect, operations) => {
            let values = head::values(&head, connection, &request);
            respond::redirect(exchange, snapshot, &values, redirect, operations)
        }
        Outcome::Respond(response) => {
            let values = head::values(&head, connection, &request);
            respond::direct(exchange, snapshot, &values, response)
        }
        Outcome::Preflight(headers) => respond::preflight(exchange, snapshot, headers),
        Outcome::Forward(rule, destination) => {
            let cors = rule.cors.as_ref().and_then(|cors| cors.answer(request.headers()));
            exchange.extra = cors.map(Box::new);
            let plan = head::prepare(snapshot, &head, &mut request, &verdict);
            let work = forward::Work { snapshot, rule, destination, head: &head, plan, random };
            forward::forward(exchange, work, request).await
        }
    }
}

/// Unix time in seconds, for tokens.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
