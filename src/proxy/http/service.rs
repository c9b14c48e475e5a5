//! One request, from its head to the last byte of its answer: the list of phases.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use http::header::UPGRADE;
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::attempt::is_flood;
use super::body::ResponseBody;
use super::exchange::{DELAYED, Exchange};
use super::{HttpConnection, external, forward, respond};
use crate::auth::jwt::Verdict;
use crate::decide::reject::{BadRequest, Reject};
use crate::decide::request::{Decision, Outcome, RequestFacts, decide};
use crate::net::frames::Kind;
use crate::net::heads::Refusal;
use crate::proxy::standing::unix_now;
use crate::snapshot::Snapshot;
use crate::snapshot::listener::ServerBlock;
use crate::telemetry::{Protocol, RequestRecord};

/// A connection ended before its time, `flooded` with HTTP/2 frames of a kind. A head that cannot be read
/// was answered by the codec, and a flood by the end of the connection; they are counted and logged
/// here, as every answer of our own is.
pub fn ended(connection: &HttpConnection, error: &hyper::Error, flooded: Option<Kind>) {
    tracing::debug!(peer = %connection.peer, %error, "connection ended");
    let reject = if is_flood(error) {
        Reject::Flood(flooded.unwrap_or(Kind::Headers).flood())
    } else if error.is_parse_too_large() {
        Reject::TooManyHeaders
    } else if error.is_parse() {
        Reject::BadRequest(BadRequest::Unreadable)
    } else {
        return;
    };
    tell(connection, &reject);
}

/// The codec refused the head of an HTTP/2 stream.
pub fn refused(connection: &HttpConnection, why: Refusal) {
    tell(
        connection,
        &match why {
            Refusal::TooLarge => Reject::TooManyHeaders,
            Refusal::Other => Reject::Http2Head,
        },
    );
}

/// Counts and logs an answer that the codec gave.
fn tell(connection: &HttpConnection, reject: &Reject) {
    let telemetry = &connection.registered.worker.telemetry;
    let mut log = telemetry.log.fields();
    if let Some(log) = &mut log {
        log.start_time = Some(SystemTime::now());
        log.downstream_local = Some(connection.local);
        log.downstream_remote = Some(connection.peer);
        log.server_name.clone_from(&connection.server_name);
    }
    let mut record = RequestRecord::new(Instant::now(), Protocol::Http, log);
    record.code = reject.answer().status;
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
    let serving = exchange.connection.serving.resolve(&snapshot);
    let server = match exchange.read(&snapshot, serving.as_deref()) {
        Ok(server) => server,
        Err(reject) => return respond::reject(exchange, &snapshot, &reject),
    };
    let (Some(serving), Some(server)) = (&serving, server) else {
        return respond::reject(exchange, &snapshot, &Reject::Misdirected);
    };
    exchange.arrived(&snapshot, &serving.listener);
    if snapshot.authorization.asks() {
        // Boxed: most gateways ask nobody.
        let asking = external::consult(&mut exchange, &snapshot);
        if let Err(refusal) = Box::pin(asking).await {
            return respond::refusal(exchange, &snapshot, refusal);
        }
    }
    let random = fastrand::u32(..);
    let Decided { outcome, delay, verdict } = decided(&mut exchange, &snapshot, server, random);
    if let Some(delay) = delay {
        exchange.record.flags = DELAYED;
        // Boxed: most requests need no room for a timer.
        Box::pin(tokio::time::sleep(delay)).await;
    }
    if serving.block.grpc_web && outcome.is_routed() {
        exchange.translate();
    }
    match outcome {
        Outcome::Forward(rule, destination) => {
            let client_cert = server.tls.as_ref().is_some_and(|tls| tls.client_cert_headers);
            let (snapshot, verdict) = (&snapshot, &verdict);
            let work = forward::Work { snapshot, rule, destination, verdict, client_cert, random };
            forward::forward(exchange, work).await
        }
        Outcome::Reject(reject) => respond::reject(exchange, &snapshot, &reject),
        Outcome::HttpsRedirect => respond::https_redirect(exchange, &snapshot),
        Outcome::Redirect(to, operations) => respond::redirect(exchange, &snapshot, to, operations),
        Outcome::Respond(content) => respond::direct(exchange, &snapshot, content),
        Outcome::Preflight(headers) => respond::preflight(exchange, &snapshot, headers),
    }
}

/// What is to be done with a request.
struct Decided<'a> {
    outcome: Outcome<'a>,
    delay: Option<Duration>,
    verdict: Verdict,
}

fn decided<'a>(
    exchange: &mut Exchange,
    snapshot: &'a Snapshot,
    server: &'a ServerBlock,
    random: u32,
) -> Decided<'a> {
    let Exchange { request, head, connection, .. } = &*exchange;
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
    let Decision { outcome, verdict, delay, route, remarks, .. } = decide(snapshot, server, &facts);
    if let Outcome::Forward(..) = outcome {
        exchange.stand(snapshot, matches!(verdict, Verdict::Verified(_)));
    }
    let Exchange { request, extra, upload, .. } = &mut *exchange;
    match (&outcome, &snapshot.authentication) {
        (Outcome::Forward(rule, _), authenticator) => {
            if let Some(authenticator) = authenticator {
                upload.withhold(authenticator.owned_headers());
            }
            let cors = rule.cors.as_ref().and_then(|cors| cors.answer(request.headers()));
            if let Some(cors) = cors {
                extra.get_or_insert_default().extend(cors);
            }
        }
        // Templates of the answer see what routes saw.
        (Outcome::Redirect(..) | Outcome::Respond(_), Some(authenticator)) => {
            authenticator.fill(&verdict, request.headers_mut());
        }
        _ => {}
    }
    exchange.remarked(&remarks);
    if let Some(route) = route {
        exchange.decided_by(route);
    }
    Decided { outcome, delay, verdict }
}
