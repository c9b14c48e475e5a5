//! One request, from its head to the last byte of its answer: the list of phases.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{HeaderMap, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::attempt::head_of;
use super::body::ResponseBody;
use super::head::{self, Plan};
use super::upload::{Gate, RequestBody, Upload};
use super::{HttpConnection, external, forward, respond};
use crate::base::header::{GRPC_STATUS, X_FORWARDED_FOR, X_REQUEST_ID};
use crate::base::id::Origin;
use crate::decide::head::Head;
use crate::decide::reject::{BadRequest, Reject};
use crate::decide::request::{Decision, Outcome, RequestFacts, decide, is_grpc};
use crate::decide::sanitize::{Arrival, sanitize};
use crate::net::liveness::Liveness;
use crate::proxy::connection::Serving;
use crate::snapshot::Snapshot;
use crate::telemetry::downstream::ActiveRequest;
use crate::telemetry::messages::{Direction, MessageMeter};
use crate::telemetry::{Destination, Protocol, RequestRecord};

/// The flag of a request that was made to wait.
const DELAYED: &str = "DI";

/// A request and its answer: ends once, as a metrics sample and an access log line. One that is dropped
/// before its answer was there was given up by its client.
pub struct Exchange {
    connection: Rc<HttpConnection>,
    /// What will be logged and counted.
    pub record: RequestRecord,
    /// The request: as it came, then as it is sent, then what is kept for another try.
    pub request: Request<()>,
    /// What was read from its head.
    pub head: Head,
    /// Its body.
    pub upload: Rc<Upload>,
    /// What holds the body back.
    pub gate: Option<Arc<Gate>>,
    /// What its answer says besides (CORS).
    pub extra: Option<Box<HeaderMap>>,
    /// Counts the answer's gRPC messages.
    messages: Option<Box<MessageMeter>>,
    http2: bool,
    /// A `HEAD` request: its answer has no body, whatever its length says.
    bodiless: bool,
    answered: bool,
    _active: ActiveRequest,
}

impl Exchange {
    fn begin(connection: Rc<HttpConnection>, request: Request<Incoming>) -> Box<Self> {
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
        let active = telemetry.metrics.request_started();
        let (parts, incoming) = request.into_parts();
        Box::new(Self {
            connection,
            record,
            http2: parts.version == Version::HTTP_2,
            bodiless: parts.method == Method::HEAD,
            request: Request::from_parts(parts, ()),
            head: Head::default(),
            upload: Upload::begin(incoming),
            gate: None,
            extra: None,
            answered: false,
            messages: None,
            _active: active,
        })
    }

    /// The request, to be sent; where `keep`, its head stays for another try.
    pub fn outgoing(&mut self, keep: bool) -> Request<RequestBody> {
        let kept = if keep { head_of(&self.request) } else { Request::default() };
        let body = self.upload.again().gated(self.gate.take());
        std::mem::replace(&mut self.request, kept).map(|()| body)
    }

    /// Takes a request back of which nothing was sent.
    pub fn unsent(&mut self, request: Request<RequestBody>) {
        let (parts, body) = request.into_parts();
        self.request = Request::from_parts(parts, ());
        self.gate = body.into_gate();
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

    /// Reads the head, and takes out of it what the client may not say.
    fn read(&mut self, snapshot: &Snapshot) -> Result<(), Reject> {
        let sender = self.connection.sender();
        self.head = Head::read(sender, &snapshot.edge, &self.request)?;
        let arrival = Arrival {
            peer: &self.connection.peer_ip,
            certificate: self.connection.client.xfcc.as_ref(),
            request_id: head::request_id(),
            workload: sender.workload,
        };
        sanitize(&mut self.request, &self.head, &snapshot.edge, arrival);
        if let Some(log) = &mut self.record.log {
            let headers = self.request.headers();
            log.forwarded_for = headers.get(X_FORWARDED_FOR).cloned();
            log.request_id = headers.get(X_REQUEST_ID).cloned();
        }
        Ok(())
    }

    /// Adds headers to what the answer says besides.
    pub fn say_besides(&mut self, headers: HeaderMap) {
        self.extra.get_or_insert_default().extend(headers);
    }

    /// Notes the answer's head.
    pub fn answered<B>(&mut self, response: &Response<B>) {
        self.answered = true;
        self.record.code = response.status().as_u16();
        self.record.response_head_bytes = head_bytes(response.headers());
        self.note_grpc_status(response.headers());
        if let Some(destination) = &self.record.destination
            && self.is_grpc()
            && is_grpc(response.headers())
        {
            self.messages = Some(Box::new(destination.messages(Direction::Response)));
        }
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

    /// Notes that a provider refused, and the rule that had it asked.
    pub fn denied_by_provider(&mut self, origin: Origin) {
        self.record.flags = "UAEX";
        self.record.reason = Some("external_authorization_denied");
        self.record.details = "ext_authz_denied".into();
        if let Some(log) = &mut self.record.log {
            log.resource = Some(origin);
        }
    }

    /// Notes which resource decided.
    pub fn decided_by(&mut self, name: &Arc<str>, origin: &Origin) {
        if let Some(log) = &mut self.record.log {
            log.route_name = (!name.is_empty()).then(|| name.clone());
            log.resource = Some(origin.clone());
        }
    }

    /// Counts body bytes and messages, and looks at trailers.
    pub fn sent(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.record.bytes_sent += data.len() as u64;
            self.messages.iter_mut().for_each(|meter| meter.pass(data));
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.note_grpc_status(trailers);
        }
    }

    /// Notes where the request goes.
    pub fn goes_to(&mut self, destination: Rc<Destination>) {
        if self.is_grpc() {
            self.upload.count_messages(destination.messages(Direction::Request));
        }
        self.record.destination = Some(destination);
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
        self.record.reason = Some("client_gone");
        self.record.details = "downstream_remote_disconnect".into();
    }

    /// Whether the answer has a body to lose (`HEAD`, 204 and 304 have none).
    pub fn expects_body(&self) -> bool {
        !self.bodiless && !matches!(self.record.code, 101 | 204 | 304)
    }

    /// Whether only the answer's head is asked for.
    pub fn is_head(&self) -> bool {
        self.bodiless
    }

    fn note_grpc_status(&mut self, headers: &HeaderMap) {
        if self.is_grpc()
            && let Some(value) = headers.get(GRPC_STATUS)
        {
            self.record.grpc_status = value.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    /// Ends the exchange.
    pub fn finish(self) {}
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.liveness().request_ended();
        if !self.answered {
            self.rejected(&Reject::ClientGone);
        }
        self.record.bytes_received = self.upload.bytes.get();
        self.record.finish(&self.connection.registered.worker.telemetry);
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
    record.flags = reject.answer().flag;
    record.reason = Some(reject.answer().code);
    record.details = reject.details();
    record.finish(telemetry);
}

/// Answers one request. Not `async`, so that what waits for the answer has no room for the request.
pub fn serve(
    connection: Rc<HttpConnection>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> {
    let liveness = &connection.registered.liveness;
    let asks = liveness.is_asked() && request.headers().contains_key(UPGRADE);
    let asked = asks.then(|| liveness.clone());
    phases(Exchange::begin(connection, request)).inspect(move |_| {
        if let Some(liveness) = asked {
            liveness.answer();
        }
    })
}

async fn phases(mut exchange: Box<Exchange>) -> Response<ResponseBody> {
    let snapshot = exchange.connection.registered.worker.snapshot();
    if let Err(reject) = exchange.read(&snapshot) {
        return respond::reject(exchange, &snapshot, &reject);
    }
    let Some(serving) = exchange.connection.serving.resolve(&snapshot) else {
        return respond::reject(exchange, &snapshot, &Reject::Misdirected);
    };
    if snapshot.authorization.asks() {
        // Boxed: most gateways ask nobody.
        let asking = external::consult(&mut exchange, &snapshot, &serving);
        if let Err(refusal) = Box::pin(asking).await {
            return respond::refusal(exchange, &snapshot, refusal);
        }
    }
    let random = fastrand::u32(..);
    let Decided { outcome, delay, plan } = decided(&mut exchange, &snapshot, &serving, random);
    if let Some(delay) = delay {
        exchange.record.flags = DELAYED;
        // Boxed: most requests need no room for a timer.
        Box::pin(tokio::time::sleep(delay)).await;
    }
    match outcome {
        Outcome::Forward(rule, destination) => {
            let work = forward::Work { snapshot: &snapshot, rule, destination, plan, random };
            forward::forward(exchange, work).await
        }
        Outcome::Reject(reject) => respond::reject(exchange, &snapshot, &reject),
        Outcome::HttpsRedirect => respond::https_redirect(exchange, &snapshot),
        Outcome::Redirect(to, operations) => respond::redirect(exchange, &snapshot, to, operations),
        Outcome::Respond(content) => respond::direct(exchange, &snapshot, content),
        Outcome::Preflight(headers) => respond::preflight(exchange, &snapshot, headers),
    }
}

/// What is to be done with a request, whose head is ready for it.
struct Decided<'a> {
    outcome: Outcome<'a>,
    delay: Option<Duration>,
    plan: Plan,
}

fn decided<'a>(
    exchange: &mut Exchange,
    snapshot: &'a Snapshot,
    serving: &'a Serving,
    random: u32,
) -> Decided<'a> {
    let Exchange { request, head, connection, extra, .. } = &mut *exchange;
    let uri = request.uri();
    let facts = RequestFacts {
        connection: connection.facts(),
        trusted: head.trusted_ip,
        head: head.for_routing(request.method(), request.headers(), uri.query()),
        path_and_query: uri.path_and_query().map_or("/", PathAndQuery::as_str),
        tokens: &connection.registered.worker.tokens,
        now: unix_now(),
        random,
    };
    let Decision { outcome, verdict, delay, route, .. } =
        decide(snapshot, &serving.listener, &serving.block, &facts);
    let mut plan = Plan::default();
    match (&outcome, &snapshot.authentication) {
        (Outcome::Forward(rule, _), _) => {
            let cors = rule.cors.as_ref().and_then(|cors| cors.answer(request.headers()));
            if let Some(cors) = cors {
                extra.get_or_insert_default().extend(cors);
            }
            plan = head::prepare(snapshot, head, request, &verdict);
        }
        // Templates of the answer see what routes saw.
        (Outcome::Redirect(..) | Outcome::Respond(_), Some(authenticator)) => {
            authenticator.fill(&verdict, request.headers_mut());
        }
        _ => {}
    }
    if let Some(route) = route {
        exchange.decided_by(&route.name, &route.origin);
    }
    Decided { outcome, delay, plan }
}

/// Unix time in seconds, for tokens.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
