//! Request heads, made fit for the backend before they go out.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::header::HeaderMap;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Version};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::HttpConnection;
use super::exchange::Exchange;
use crate::auth::jwt::Verdict;
use crate::base::hash::Fingerprint;
use crate::base::header::X_ENVOY_ATTEMPT_COUNT;
use crate::decide::head::Head;
use crate::route::headers::Values;
use crate::route::variable::{RequestPart, Variable};
use crate::snapshot::Snapshot;

/// Makes a decided request's head what the backend shall see, apart from the route's own operations; gives
/// path and query for the backend, when they differ from what was sent.
pub fn prepare(
    snapshot: &Snapshot,
    head: &Head,
    request: &mut Request<()>,
    verdict: &Verdict,
) -> Option<String> {
    let mut cut = None;
    if let Some(authenticator) = &snapshot.authentication {
        let sent = request.uri().path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        cut = authenticator.apply(verdict, request.headers_mut(), &sent);
    }
    request.headers_mut().insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
    head.target(request.uri(), cut)
}

/// A new `x-request-id`.
pub fn request_id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Values of header templates for one request.
pub struct RequestValues<'a> {
    /// Its head.
    pub head: &'a Head,
    /// Its connection.
    pub connection: &'a HttpConnection,
    /// Its method.
    pub method: &'a Method,
    /// Its headers as received.
    pub headers: &'a HeaderMap,
    /// Its query.
    pub query: Option<&'a str>,
    /// Its version.
    pub version: Version,
    /// When it came.
    pub began: Instant,
    /// Its answer's status and the endpoint that gave it, as far as there are any.
    pub answer: Answered,
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    /// Its status; nothing for values of requests.
    pub status: Option<StatusCode>,
    /// The endpoint that gave it.
    pub upstream: Option<SocketAddr>,
}

impl<'a> RequestValues<'a> {
    /// Those of a request with this head, and of its answer.
    pub fn of<B>(exchange: &'a Exchange, request: &'a Request<B>, answer: Answered) -> Self {
        Self {
            head: &exchange.head,
            connection: exchange.connection(),
            method: request.method(),
            headers: request.headers(),
            query: request.uri().query(),
            version: request.version(),
            began: exchange.record.start,
            answer,
        }
    }
}

impl RequestValues<'_> {
    fn part(&self, part: &RequestPart) -> Option<Cow<'_, str>> {
        Some(match part {
            RequestPart::Header(name) => self.headers.get(name)?.to_str().ok()?.into(),
            RequestPart::Pseudo(":method") => self.method.as_str().into(),
            RequestPart::Pseudo(":scheme") => self.head.scheme.into(),
            RequestPart::Pseudo(":authority") => self.head.authority.as_str().into(),
            RequestPart::Pseudo(_) => match self.query {
                Some(query) => format!("{}?{query}", self.head.path).into(),
                None => self.head.path.as_str().into(),
            },
        })
    }
}

impl Values for RequestValues<'_> {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, str>> {
        let text = |value: String| Some(Cow::Owned(value));
        match variable {
            Variable::RemoteAddress => text(self.head.client(self.connection.peer).to_string()),
            Variable::RemoteIp => text(self.head.client(self.connection.peer).ip().to_string()),
            Variable::PeerAddress => text(self.connection.peer.to_string()),
            Variable::PeerIp => text(self.connection.peer.ip().to_string()),
            Variable::LocalIp => text(self.connection.local.ip().to_string()),
            Variable::LocalAddress => text(self.connection.local.to_string()),
            Variable::LocalPort => text(self.connection.local.port().to_string()),
            Variable::ServerName => self.connection.server_name.as_deref().map(Cow::Borrowed),
            Variable::Protocol => Some(Cow::Borrowed(if self.version == Version::HTTP_2 {
                "HTTP/2"
            } else {
                "HTTP/1.1"
            })),
            Variable::StartTime(format) => {
                // No clock is read where nothing asks.
                let came = OffsetDateTime::now_utc() - self.began.elapsed();
                format.write(came).map(Cow::Owned)
            }
            Variable::ResponseCode => Some(Cow::Borrowed(self.answer.status.as_ref()?.as_str())),
            Variable::Request { part, other, most } => {
                let value = self
                    .part(part)
                    .or_else(|| other.as_ref().and_then(|other| self.part(other)))?;
                Some(match most {
                    Some(most) if *most < value.len() => {
                        value.get(..value.floor_char_boundary(*most))?.to_owned().into()
                    }
                    _ => value,
                })
            }
            Variable::PeerUriSan => {
                let names = self.connection.client.identity.as_ref().map(|peer| &peer.uri_sans)?;
                (!names.is_empty()).then(|| names.join(",").into())
            }
            Variable::PeerSubject => {
                let subject = self.connection.client.identity.as_ref().map(|peer| &peer.subject)?;
                (!subject.is_empty()).then(|| subject.as_str().into())
            }
            Variable::PeerCertificate => self.connection.client.pem().map(Cow::Owned),
            Variable::PeerFingerprint => {
                let leaf = self.connection.client.chain.first()?;
                text(Fingerprint::of(leaf).to_string())
            }
            Variable::TlsVersion => self.connection.client.version().map(Cow::Borrowed),
            Variable::UpstreamHost => text(self.answer.upstream?.to_string()),
        }
    }
}
