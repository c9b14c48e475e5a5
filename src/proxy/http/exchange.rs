//! A request and its answer, and what is logged and counted of them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{HeaderMap, SERVER};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::HttpConnection;
use super::attempt::head_of;
use super::external::Change;
use super::head::{self};
use super::request_body::{Gate, RequestBody};
use super::upload::Upload;
use crate::auth::authz::Remark;
use crate::base::header::{GRPC_STATUS, X_FORWARDED_FOR, X_REQUEST_ID};
use crate::base::id::Origin;
use crate::decide::grpc_web::Call;
use crate::decide::head::Head;
use crate::decide::reject::Reject;
use crate::decide::reply::Dialect;
use crate::decide::request::{is_grpc, serving_block};
use crate::decide::sanitize::{Arrival, sanitize};
use crate::decide::standing::may_last;
use crate::decide::websocket;
use crate::net::liveness::Liveness;
use crate::proxy::serving::Serving;
use crate::proxy::standing::{Asked, Judged, Standing, Subject, judge, unix_now};
use crate::snapshot::forwarded::Forwarded;
use crate::snapshot::listener::{Listener, ServerBlock, Servers};
use crate::snapshot::route::Route;
use crate::snapshot::{EdgeSettings, Snapshot};
use crate::telemetry::downstream::ActiveRequest;
use crate::telemetry::messages::{Direction, MessageMeter};
use crate::telemetry::{Destination, Protocol, RequestRecord};

/// The flag of a request that was made to wait.
pub(super) const DELAYED: &str = "DI";

/// A request and its answer: ends once, as a metrics sample and an access log line. One that is dropped
/// before its answer was there was given up by its client.
pub struct Exchange {
    pub(super) connection: Rc<HttpConnection>,
    /// What will be logged and counted.
    pub record: RequestRecord,
    /// The request: as it came, then as it is to be sent.
    pub request: Request<()>,
    /// The request as policies saw it, once it is made ready for the backend.
    pub asked: Request<()>,
    /// What was read from its head.
    pub head: Head,
    /// Its body.
    pub upload: Rc<Upload>,
    /// What holds the body back.
    pub gate: Option<Arc<Gate>>,
    /// What its answer says besides (CORS).
    pub extra: Option<Box<HeaderMap>>,
    /// What providers change of its answer.
    pub changes: Vec<Change>,
    /// When it was judged.
    judged: Option<Judged>,
    /// Whether it would be let in now, where its answer may take long.
    pub standing: Option<Rc<Standing>>,
    /// It is a call of gRPC-Web, translated.
    pub web: Option<Call>,
    /// Counts the answer's gRPC messages.
    messages: Option<Box<MessageMeter>>,
    http2: bool,
    /// A `HEAD` request: its answer has no body, whatever its length says.
    bodiless: bool,
    answered: bool,
    _active: ActiveRequest,
}

impl Exchange {
    /// Takes a request in.
    pub(super) fn begin(connection: Rc<HttpConnection>, request: Request<Incoming>) -> Box<Self> {
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
            asked: Request::default(),
            head: Head::default(),
            upload: Upload::begin(incoming),
            gate: None,
            extra: None,
            changes: Vec::new(),
            answered: false,
            judged: None,
            standing: None,
            messages: None,
            web: None,
            _active: active,
        })
    }

    /// Makes a call of gRPC-Web one of gRPC.
    pub(super) fn translate(&mut self) {
        self.web = Call::begin(self.request.headers_mut());
        if let Some(call) = self.web {
            self.record.protocol = Protocol::Grpc;
            self.upload.translate(call.text);
        }
    }

    /// The request, to be sent.
    pub fn outgoing(&mut self) -> Request<RequestBody> {
        let body = self.upload.again().gated(self.gate.take());
        std::mem::take(&mut self.request).map(|()| body)
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

    /// What the client reads answers as.
    pub(super) fn dialect(&self) -> Dialect {
        match (self.is_grpc(), self.web) {
            (_, Some(_)) => Dialect::GrpcWeb,
            (true, None) => Dialect::Grpc,
            (false, None) => Dialect::Http,
        }
    }

    /// Whether the client speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.http2
    }

    /// Reads the head, and takes out of it what the client may not say to the server that the connection
    /// has for it; nothing when it has none.
    pub(super) fn read<'a>(
        &mut self,
        snapshot: &Snapshot,
        serving: Option<&'a Serving>,
    ) -> Result<Option<&'a ServerBlock>, Reject> {
        websocket::arrived(&mut self.request);
        self.head = Head::read(&self.request)?;
        let server = serving.and_then(|Serving { listener, block, .. }| {
            serving_block(listener, block, &self.head.authority)
        });
        let believing = server.or_else(|| serving.map(|serving| &*serving.block));
        let how = believing.map_or(snapshot.edge.normalization, |block| {
            block.normalization.of(&self.head.authority).value
        });
        self.head.read_path(&self.request, how)?;
        let Forwarded { proxies, client_cert } = believing
            .map_or(&*snapshot.edge.forwarded, |block| block.forwarded.of(&self.head.authority));
        let sender = self.connection.sender();
        self.head.believe(&proxies.value, sender, self.request.headers());
        let client = &self.connection.client;
        let arrival = Arrival {
            peer: &self.connection.peer_ip,
            certificate: if client_cert.value.asks() { client.xfcc() } else { None },
            request_id: head::request_id(),
            workload: sender.workload,
        };
        sanitize(&mut self.request, &self.head, client_cert.value, arrival);
        if let Some(log) = &mut self.record.log {
            let headers = self.request.headers();
            log.downstream_remote = Some(self.head.client(self.connection.peer));
            log.forwarded_for = headers.get(X_FORWARDED_FOR).cloned();
            log.request_id = headers.get(X_REQUEST_ID).cloned();
        }
        Ok(server)
    }

    /// Makes an answer's head say what it says besides, then what providers want of it, and who serves it
    /// whatever they and its rule want.
    pub(super) fn say_besides(&mut self, headers: &mut HeaderMap, edge: &EdgeSettings) {
        if let Some(extra) = self.extra.take() {
            headers.extend(*extra);
        }
        for change in std::mem::take(&mut self.changes) {
            change.make(headers);
        }
        if let Some(server) = &edge.server_header {
            headers.insert(SERVER, server.clone());
        }
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
        self.record.rejected(reject.details(), reject.origin());
        if let Some(log) = &mut self.record.log {
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

    /// Counts and notes what policies say that are not enforced.
    pub fn remarked(&mut self, remarks: &[Remark<'_>]) {
        let telemetry = &self.connection.registered.worker.telemetry;
        for Remark { action, result, by } in remarks {
            self.record.shadow(telemetry, (action, result), *by);
        }
    }

    /// Notes which rule decided.
    pub fn decided_by(&mut self, Route { name, counted, origin, .. }: &Route) {
        self.record.route.clone_from(counted);
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

    /// Notes on whose way to its application the request has come, whatever becomes of it.
    pub(super) fn arrived(&mut self, snapshot: &Snapshot, listener: &Listener) {
        let Servers::Inbound(inbound) = &listener.servers else { return };
        let Some(cluster) = snapshot.cluster(inbound.application) else { return };
        let worker = &self.connection.registered.worker;
        let destination = worker.upstreams.pool(cluster, &worker.telemetry.metrics).destination();
        self.record.destination = Some(self.connection.counted(destination));
    }

    /// Notes where the request goes.
    pub fn goes_to(&mut self, destination: Rc<Destination>) {
        let destination = self.connection.counted(destination);
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

    /// Judges it again from now on: by the worker's clock where it may take long and nothing may pass
    /// meanwhile, else when more of its answer is there.
    pub fn stand(&mut self, snapshot: &Snapshot, has_token: bool) {
        let worker = &self.connection.registered.worker;
        if may_last(&self.head, self.request.headers()) || self.upload.may_last() {
            let request = head_of(&self.request);
            let asked = Asked { request, head: self.head.clone(), has_token };
            let subject = Subject::Request(self.connection.clone(), Box::new(asked));
            self.standing = Some(Standing::watch(worker, snapshot.generation, subject));
        } else {
            self.judged = Some(Judged::now(worker, snapshot.generation, has_token));
        }
    }

    /// Why it would be refused by now.
    pub fn tightened(&mut self) -> Option<Reject> {
        let worker = &self.connection.registered.worker;
        if !self.judged.as_mut()?.is_due(worker) {
            return None;
        }
        let (snapshot, now) = (worker.snapshot(), unix_now());
        let judged = judge(&self.connection, (&self.asked, &self.head), &snapshot, now);
        judged.err().map(|why| Reject::Tightened(Box::new(why)))
    }

    /// It was ended after the answer's head was sent.
    pub fn ended_midway(&mut self, reject: &Reject) {
        if let Reject::Tightened(_) = reject {
            self.rejected(reject);
        } else {
            self.record.flags = "UT";
            self.record.reason = Some("timeout_midway");
        }
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
