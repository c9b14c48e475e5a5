//! Answers of our own making.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::external::{Denied, Refusal};
use super::head::{Answered, RequestValues};
use crate::auth::jwt::challenge;
use crate::base::header::{GRPC_MESSAGE, GRPC_STATUS, X_ENVOY_OVERLOADED};
use crate::decide::reject::Reject;
use crate::decide::reply::Status;
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
    let Status { http, grpc } = reject.reply();
    let mut response = Response::new(());
    *response.status_mut() = http;
    if !body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
    }
    if matches!(reject, Reject::Overflow) {
        response.headers_mut().insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
    }
    if reject.ends_connection() && !exchange.is_http2() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let body = match body {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => text.into(),
    };
    local(exchange, snapshot, response, (grpc, body))
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
    *response.status_mut() = status;
    local(exchange, snapshot, response, (None, body))
}

/// What Envoy escapes in `grpc-message` (gRPC over HTTP/2, `Percent-Encoded`, has `~` as it is).
const GRPC_MESSAGE_SET: &AsciiSet = &CONTROLS.add(b'%').add(b'~');

/// Says in the answer how to prove who one is, without the tokens that the request has in its query.
fn ask_for_token(exchange: &mut Exchange, snapshot: &Snapshot) {
    let head = &exchange.head;
    let path = head.path_and_query(exchange.request.uri());
    let path = match &snapshot.authentication {
        Some(authenticator) => authenticator.loggable(&path),
        None => path,
    };
    let value = challenge(head.scheme, &head.authority, &path);
    exchange.extra.get_or_insert_default().insert(WWW_AUTHENTICATE, value);
}

/// Answers with the same URL under HTTPS.
pub fn https_redirect(exchange: Box<Exchange>, snapshot: &Snapshot) -> Response<ResponseBody> {
    let response = located(&exchange, &Redirect::to_https());
    local(noted(exchange, "https_redirect"), snapshot, response, (None, Bytes::new()))
}

/// Answers a CORS preflight, whatever it says that its content is.
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
    let answer = Answered { status: Some(redirect.status), upstream: None };
    let values = RequestValues::of(&exchange, &exchange.request, answer);
    operations.apply(response.headers_mut(), &values);
    local(noted(exchange, "redirect"), snapshot, response, (None, Bytes::new()))
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
    let answer = Answered { status: Some(content.status), upstream: None };
    let values = RequestValues::of(&exchange, &exchange.request, answer);
    content.response_headers.apply(response.headers_mut(), &values);
    local(noted(exchange, "direct_response"), snapshot, response, (None, content.body.clone()))
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

/// Answers in the client's words: with a gRPC status of its own where it has one, and a body.
fn local(
    exchange: Box<Exchange>,
    snapshot: &Snapshot,
    mut response: Response<()>,
    (grpc, body): (Option<u16>, Bytes),
) -> Response<ResponseBody> {
    let dialect = exchange.dialect();
    let sent = Status { http: response.status(), grpc }.sent(dialect);
    let Some(grpc) = sent.grpc else { return finish(exchange, snapshot, response, body) };
    *response.status_mut() = sent.http;
    let said = !body.is_empty() && !exchange.is_head();
    let message = said.then(|| percent_encode(&body, GRPC_MESSAGE_SET).collect::<String>());
    let message = message.and_then(|message| HeaderValue::try_from(message).ok());
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    match (exchange.web, message) {
        (Some(call), message) => call.fail(headers, sent.http, message),
        (None, message) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            // What a rule writes counts, as in Envoy.
            if headers.get(GRPC_STATUS).is_none_or(HeaderValue::is_empty) {
                headers.insert(GRPC_STATUS, HeaderValue::from(grpc));
            }
            message.map(|message| headers.insert(GRPC_MESSAGE, message));
        }
    }
    finish(exchange, snapshot, response, Bytes::new())
}

fn finish(
    mut exchange: Box<Exchange>,
    snapshot: &Snapshot,
    mut response: Response<()>,
    body: Bytes,
) -> Response<ResponseBody> {
    exchange.upload.abandon();
    exchange.say_besides(response.headers_mut(), &snapshot.edge);
    let mut body = body;
    if exchange.is_head() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        body = Bytes::new();
    }
    exchange.answered(&response);
    response.map(|()| ResponseBody::own(body, exchange))
}
