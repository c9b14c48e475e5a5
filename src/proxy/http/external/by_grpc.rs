//! A check by gRPC (`envoyExtAuthzGrpc`): Envoy's `Authorization/Check`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, TE};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use prost::Message as _;

use super::body::Beginning;
use super::changes::{Change, Changes, How};
use super::{Answer, Denied, Failure, Said};
use crate::base::header::{GRPC_STATUS, X_ENVOY_AUTH_PARTIAL_BODY, X_REQUEST_ID};
use crate::base::limit;
use crate::decide::head::Head;
use crate::grpc::ext_authz::{
    Address, AttributeContext, CHECK, CheckRequest, CheckResponse, DeniedHttpResponse,
    HeaderValueOption, HttpRequest, OkHttpResponse, Peer, Request as Asked, SocketAddress,
    Timestamp,
};
use crate::proxy::http::HttpConnection;
use crate::snapshot::external::Provider;
use crate::tls::identity::PeerIdentity;

/// Bytes before each message: whether it is compressed, and its length (gRPC over HTTP/2).
const PREFIX_BYTES: usize = 5;

/// The check for a request.
pub(super) fn check<B>(
    provider: &Provider,
    connection: &HttpConnection,
    head: &Head,
    request: &Request<B>,
    body: Option<Beginning>,
) -> Option<Request<Bytes>> {
    let client = connection.client.identity.as_deref().map_or("", principal);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let message = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(head.client(connection.peer), client)),
            destination: Some(peer(connection.local, "")),
            request: Some(Asked {
                time: Some(Timestamp {
                    seconds: i64::try_from(since.as_secs()).ok()?,
                    nanos: i32::try_from(since.subsec_nanos()).ok()?,
                }),
                http: Some(attributes(head, request, body)),
            }),
            tls_session: None,
        }),
    };
    framed(provider, &message)
}

/// One end of a connection.
pub(super) fn peer(address: SocketAddr, principal: &str) -> Peer {
    Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_string(),
                port_value: address.port().into(),
            }),
        }),
        principal: principal.to_owned(),
    }
}

/// A message as the body of a call.
pub(super) fn framed(provider: &Provider, message: &CheckRequest) -> Option<Request<Bytes>> {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).ok()?);
    message.encode(&mut framed).ok()?;
    let mut check = Request::new(framed.freeze());
    *check.method_mut() = Method::POST;
    *check.uri_mut() = Uri::from_static(CHECK);
    let headers = check.headers_mut();
    headers.insert(HOST, provider.authority.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    Some(check)
}

/// A URI of the certificate, else a DNS name, else the subject.
pub(super) fn principal(identity: &PeerIdentity) -> &str {
    identity.uri_sans.first().or(identity.dns_sans.first()).unwrap_or(&identity.subject)
}

fn attributes<B>(head: &Head, request: &Request<B>, body: Option<Beginning>) -> HttpRequest {
    let path = match request.uri().query() {
        Some(query) => format!("{}?{query}", head.path),
        None => head.path.clone(),
    };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in request.headers().iter().filter(|(name, _)| **name != HOST) {
        let line = text(value);
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all| all.extend([",", &line]))
            .or_insert(line);
    }
    for (name, value) in [
        (":method", request.method().as_str()),
        (":path", &path),
        (":authority", &head.authority),
        (":scheme", head.scheme),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    if let Some(body) = &body {
        let name = X_ENVOY_AUTH_PARTIAL_BODY.as_str().to_owned();
        headers.insert(name, body.partial.to_string());
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let (mut as_text, mut as_bytes) = (String::new(), Vec::new());
    match body {
        Some(body) if body.as_bytes => as_bytes = body.bytes.into(),
        Some(body) => as_text = String::from_utf8_lossy(&body.bytes).into_owned(),
        None => {}
    }
    let http2 = request.version() == Version::HTTP_2;
    HttpRequest {
        id: request.headers().get(X_REQUEST_ID).map(text).unwrap_or_default(),
        method: request.method().as_str().to_owned(),
        headers,
        path,
        host: head.authority.clone(),
        scheme: head.scheme.to_owned(),
        size: length.and_then(|length| length.parse().ok()).unwrap_or(-1),
        protocol: if http2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body: as_text,
        raw_body: as_bytes,
    }
}

/// What an answer says.
pub(super) fn said(answer: &Answer) -> Result<Said, Failure> {
    let answer = response(answer)?;
    if is_allowed(&answer) {
        return allowed(answer.ok_response.unwrap_or_default()).map(Said::Allowed);
    }
    denied(answer.denied_response.unwrap_or_default()).map(Said::Denied)
}

/// Whether an answer allows.
pub(super) fn is_allowed(answer: &CheckResponse) -> bool {
    answer.status.as_ref().is_none_or(|status| status.code == 0)
}

/// The message of an answer.
pub(super) fn response((head, body, trailers): &Answer) -> Result<CheckResponse, Failure> {
    if head.status != StatusCode::OK {
        return Err(Failure("an answer that is not gRPC's"));
    }
    let status = trailers.as_ref().and_then(|trailers| trailers.get(GRPC_STATUS));
    let status = status.or_else(|| head.headers.get(GRPC_STATUS));
    if status.is_none_or(|status| status.as_bytes() != b"0") {
        return Err(Failure("a call that failed"));
    }
    decode(body).ok_or(Failure("an answer that is no CheckResponse"))
}

/// The one message of an answer, not compressed.
fn decode(body: &Bytes) -> Option<CheckResponse> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES)?;
    let (compressed, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let whole = *compressed == 0 && usize::try_from(length).is_ok_and(|n| n == message.len());
    if whole { CheckResponse::decode(message).ok() } else { None }
}

fn allowed(answer: OkHttpResponse) -> Result<Changes, Failure> {
    let OkHttpResponse { headers, headers_to_remove, response_headers_to_add } = answer;
    let names = headers_to_remove.iter();
    Ok(Changes {
        remove: names.filter_map(|name| HeaderName::try_from(name.as_str()).ok()).collect(),
        request: changes(headers, of_request)?,
        answer: changes(response_headers_to_add, of_answer)?,
    })
}

/// How a header of the request is changed. What says nothing takes the place of the client's, as the API's
/// documentation has it; Envoy's newest version would let the client's stand beside it.
fn of_request(option: &HeaderValueOption) -> How {
    match (&option.append, option.append_action) {
        (Some(append), _) if append.value => How::AddIfPresent,
        (None, ADD_IF_ABSENT) => How::SetIfAbsent,
        (None, OVERWRITE_IF_EXISTS) => How::SetIfPresent,
        _ => How::Set,
    }
}

/// How a header of the answer is changed.
fn of_answer(option: &HeaderValueOption) -> How {
    match (&option.append, option.append_action) {
        (Some(append), _) if append.value => How::Add,
        (None, APPEND_IF_EXISTS_OR_ADD) => How::Add,
        (None, ADD_IF_ABSENT) => How::SetIfAbsent,
        (None, OVERWRITE_IF_EXISTS) => How::SetIfPresent,
        _ => How::Set,
    }
}

/// Those that can be made; others are left out.
fn changes(
    options: Vec<HeaderValueOption>,
    how: impl Fn(&HeaderValueOption) -> How,
) -> Result<Vec<Change>, Failure> {
    if options.len() > limit::EXTERNAL_CHANGES {
        return Err(Failure("an answer that changes too many headers"));
    }
    let change = |option: HeaderValueOption| {
        let how = how(&option);
        let header = option.header?;
        let value =
            if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
        let name = HeaderName::try_from(header.key).ok()?;
        Change::new(name, HeaderValue::try_from(value).ok()?, how)
    };
    Ok(options.into_iter().filter_map(change).collect())
}

fn denied(answer: DeniedHttpResponse) -> Result<Denied, Failure> {
    let status = match answer.status.map_or(0, |status| status.code) {
        0 => StatusCode::FORBIDDEN,
        code => u16::try_from(code)
            .ok()
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or(Failure("a status that is none"))?,
    };
    let mut headers = HeaderMap::new();
    for change in changes(answer.headers, of_answer)? {
        change.make(&mut headers);
    }
    Ok(Denied { status, headers, body: answer.body.into() })
}

/// Values of `HeaderValueOption.append_action`; `OVERWRITE_IF_EXISTS_OR_ADD` and unknown ones are the rest.
const APPEND_IF_EXISTS_OR_ADD: i32 = 0;
const ADD_IF_ABSENT: i32 = 1;
const OVERWRITE_IF_EXISTS: i32 = 3;
