//! Answers of our own making.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, SERVER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::external::{Denied, Refusal};
use super::head::RequestValues;
use crate::auth::jwt::challenge;
use crate::base::header::{GRPC_MESSAGE, GRPC_STATUS, X_ENVOY_OVERLOADED};
use crate::decide::reject::Reject;
use crate::route::fault::Abort;
use crate::route::headers::HeaderOps;
use crate::route::rewrite::Redirect;
use crate::snapshot::Snapshot;
use crate::snapshot::route::DirectResponse;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// Refuses a request: a status and a body, or for gRPC a gRPC status.
pub fn reject(
    mut exchange: Box<Exchange>,
    snapshot: &Snapshot,
    reject: &Reject,
) -> Response<ResponseBody> {
    if matches!(reject, Reject::ClientGone) {
        // A client that only stopped sending may still read.
        let mut response = Response::new(ResponseBody::none());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    exchange.rejected(reject);
    if matches!(reject, Reject::Jwt(_)) {
        ask_for_token(&mut exchange, snapshot);
    }
    let body = reject.body();
    let mut response = Response::new(());
    if let Some(call) = exchange.web {
        *response.status_mut() = reject.status();
        let message = HeaderValue::from_str(&body).ok().filter(|body| !body.is_empty());
        call.fail(response.headers_mut(), reject.status(), message);
        return finish(exchange, snapshot, response, Bytes::new());
    }
    if exchange.is_grpc() {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(reject)));
        if let Ok(message) = HeaderValue::from_str(&body) {
            headers.insert(GRPC_MESSAGE, message);
        }
        return finish(exchange, snapshot, response, Bytes::new());
    }
    *response.status_mut() = reject.status();
    if !body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
    }
    if matches!(reject, Reject::Overflow) {
        response.headers_mut().insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
    }
    if reject.ends_connection() && !exchange.is_http2() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    finish(exchange, snapshot, response, Bytes::from(body.into_owned()))
}

/// Refuses a request that a provider did not let pass, in its words where it has some.
pub fn refusal(
    mut exchange: Box<Exchange>,
    snapshot: &Snapshot,
    refusal: Refusal,
) -> Response<ResponseBody> {
    let (denied, origin) = match refusal {
        Refusal::Own(reason) => return reject(exchange, snapshot, &reason),
        Refusal::Answer(denied, origin) => (denied, origin),
    };
    exchange.denied_by_provider(origin);
    let Denied { status, headers, body } = *denied;
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    if exchange.is_grpc() {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc_of(status)));
        let message: String = percent_encode(&body, GRPC_MESSAGE_SET).collect();
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        return finish(exchange, snapshot, response, Bytes::new());
    }
    *response.status_mut() = status;
    finish(exchange, snapshot, response, body)
}

/// What gRPC's `grpc-message` has to escape (gRPC over HTTP/2, `Percent-Encoded`).
const GRPC_MESSAGE_SET: &AsciiSet = &CONTROLS.add(b'%');

/// Says in the answer how to prove who one is, without the tokens that the request has in its query.
fn ask_for_token(exchange: &mut Exchange, snapshot: &Snapshot) {
    let head = &exchange.head;
    let path = head.path_and_query(exchange.request.uri());
    let path = match &snapshot.authentication {
        Some(authenticator) => authenticator.loggable(&path),
        None => path,
    };
    let value = challenge(head.scheme, &head.authority, &path);
    exchange.say_besides(HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]));
}

/// The status of a call that is refused.
fn grpc_status(reject: &Reject) -> u16 {
    match reject {
        Reject::Jwt(failure) => u16::from(failure.reason.grpc_status()),
        Reject::Fault(Abort::Grpc(status)) => *status,
        Reject::GrpcDeadline => 4,
        _ => grpc_of(reject.status()),
    }
}

/// Envoy's mapping from HTTP to gRPC.
pub(super) fn grpc_of(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Answers with the same URL under HTTPS.
pub fn https_redirect(exchange: Box<Exchange>, snapshot: &Snapshot) -> Response<ResponseBody> {
    let response = located(&exchange, &Redirect::to_https());
    finish(noted(exchange, "https_redirect"), snapshot, response, Bytes::new())
}

/// Answers a CORS preflight.
pub fn preflight(
    exchange: Box<Exchange>,
    snapshot: &Snapshot,
    headers: HeaderMap,
) -> Response<ResponseBody> {
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    finish(noted(exchange, "cors_preflight"), snapshot, response, Bytes::new())
}

/// Answers with a route's redirect.
pub fn redirect(
    exchange: Box<Exchange>,
    snapshot: &Snapshot,
    redirect: &Redirect,
    operations: &HeaderOps,
) -> Response<ResponseBody> {
    let mut response = located(&exchange, redirect);
    operations
        .apply(response.headers_mut(), &RequestValues::of(&exchange, &exchange.request, None));
    finish(noted(exchange, "redirect"), snapshot, response, Bytes::new())
}

/// Answers with a route's fixed content.
pub fn direct(
    exchange: Box<Exchange>,
    snapshot: &Snapshot,
    content: &DirectResponse,
) -> Response<ResponseBody> {
    let mut response = Response::new(());
    *response.status_mut() = content.status;
    if !content.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
    }
    let values = RequestValues::of(&exchange, &exchange.request, None);
    content.response_headers.apply(response.headers_mut(), &values);
    finish(noted(exchange, "direct_response"), snapshot, response, content.body.clone())
}

fn located(exchange: &Exchange, to: &Redirect) -> Response<()> {
    let Exchange { head, request, .. } = exchange;
    let location = to.location(head.scheme, &head.authority, &head.path, request.uri().query());
    let mut response = Response::new(());
    *response.status_mut() = to.status;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn noted(mut exchange: Box<Exchange>, reason: &'static str) -> Box<Exchange> {
    exchange.record.reason = Some(reason);
    exchange.record.details = "direct_response".into();
    exchange
}

fn finish(
    mut exchange: Box<Exchange>,
    snapshot: &Snapshot,
    mut response: Response<()>,
    body: Bytes,
) -> Response<ResponseBody> {
    exchange.upload.abandon();
    if let Some(server) = &snapshot.edge.server_header {
        response.headers_mut().insert(SERVER, server.clone());
    }
    if let Some(extra) = exchange.extra.take() {
        response.headers_mut().extend(*extra);
    }
    let mut body = body;
    if exchange.is_head() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        body = Bytes::new();
    }
    exchange.answered(&response);
    response.map(|()| ResponseBody::own(body, exchange))
}
