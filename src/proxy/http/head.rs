//! Request heads, made fit for the backend before they go out.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Version};
use hyper::body::Incoming;
use uuid::Uuid;

use super::HttpConnection;
use crate::auth::jwt::Verdict;
use crate::base::header::{
    CONTROL_PREFIX, KEEP_ALIVE, PROXY_CONNECTION, STRIPPED_FROM_CLIENTS, X_ENVOY_ATTEMPT_COUNT,
    X_ENVOY_EXTERNAL_ADDRESS, X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_PROTO,
    X_REQUEST_ID,
};
use crate::decide::head::{Head, nominated};
use crate::route::headers::{Values, Variable};
use crate::snapshot::{ClientCertForwarding, Snapshot};

/// What a prepared request still needs to know.
#[derive(Debug)]
pub struct Plan {
    /// Path and query for the backend, when they differ from what was sent.
    pub path_and_query: Option<String>,
}

/// Most headers that [`prepare`] adds.
const ADDED_HEADERS: usize = 7;

/// Makes a request's head what the backend shall see, apart from the route's own operations.
pub fn prepare(
    connection: &HttpConnection,
    snapshot: &Snapshot,
    head: &Head,
    request: &mut Request<Incoming>,
    verdict: &Verdict,
) -> Plan {
    let mut cut = None;
    if let Some(authenticator) = &snapshot.authentication {
        let sent = request.uri().path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        cut = authenticator.apply(verdict, request.headers_mut(), &sent);
    }
    let path_and_query = head.target(request.uri(), cut);
    let named = request.uri().authority().is_some();
    let headers = request.headers_mut();
    strip_hop_by_hop(headers, head.upgrade);
    if headers.keys().any(|name| name.as_str().starts_with(CONTROL_PREFIX)) {
        for name in &STRIPPED_FROM_CLIENTS {
            headers.remove(name);
        }
    }
    headers.reserve(ADDED_HEADERS);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(head.scheme));
    forwarded_for(headers, &connection.peer_ip);
    let client = head.trusted.as_ref().unwrap_or(&connection.peer_ip);
    headers.insert(X_ENVOY_EXTERNAL_ADDRESS, client.clone());
    headers.insert(X_REQUEST_ID, request_id());
    headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
    client_certificate(headers, snapshot.edge.client_cert, connection);
    // A target with an authority overrides `Host` (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1).
    if named && let Ok(host) = HeaderValue::from_str(&head.authority) {
        headers.insert(HOST, host);
    }
    Plan { path_and_query }
}

/// Removes hop-by-hop headers (RFC 9110 section 7.6.1); a WebSocket's upgrade stays.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    // One look at the names costs less than a search for each that is usually not there.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(nominated)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .filter(|name| !(upgrade && name == UPGRADE))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if let Some(te) = headers.get(TE) {
        let trailers = te.as_bytes().eq_ignore_ascii_case(b"trailers");
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "te" | "upgrade"
    )
}

fn forwarded_for(headers: &mut HeaderMap, peer: &HeaderValue) {
    let Some(first) = headers.get(X_FORWARDED_FOR) else {
        headers.insert(X_FORWARDED_FOR, peer.clone());
        return;
    };
    let mut all = first.as_bytes().to_vec();
    for line in headers.get_all(X_FORWARDED_FOR).iter().skip(1) {
        all.push(b',');
        all.extend_from_slice(line.as_bytes());
    }
    all.push(b',');
    all.extend_from_slice(peer.as_bytes());
    let value = HeaderValue::from_bytes(&all).unwrap_or_else(|_| peer.clone());
    headers.insert(X_FORWARDED_FOR, value);
}

fn request_id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn client_certificate(
    headers: &mut HeaderMap,
    forwarding: ClientCertForwarding,
    connection: &HttpConnection,
) {
    use ClientCertForwarding::{
        AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet,
    };
    let own = &connection.client.xfcc;
    match (forwarding, own) {
        (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
        (Sanitize, _) | (_, None) => {
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
        (AppendForward, Some(own)) => {
            let mut all: Vec<u8> = Vec::new();
            for line in headers.get_all(X_FORWARDED_CLIENT_CERT) {
                all.extend_from_slice(line.as_bytes());
                all.push(b',');
            }
            all.extend_from_slice(own.as_bytes());
            let value = HeaderValue::from_bytes(&all).unwrap_or_else(|_| own.clone());
            headers.insert(X_FORWARDED_CLIENT_CERT, value);
        }
        (SanitizeSet, Some(own)) => {
            headers.insert(X_FORWARDED_CLIENT_CERT, own.clone());
        }
    }
}

/// Values for the header templates of a request that is not sent on.
pub fn values<'a>(
    head: &'a Head,
    connection: &'a HttpConnection,
    request: &'a Request<Incoming>,
) -> RequestValues<'a> {
    RequestValues {
        head,
        connection,
        method: request.method(),
        headers: Cow::Borrowed(request.headers()),
        query: request.uri().query(),
        version: request.version(),
        upstream: None,
    }
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
    pub headers: Cow<'a, HeaderMap>,
    /// Its query.
    pub query: Option<&'a str>,
    /// Its version.
    pub version: Version,
    /// The endpoint that answered it.
    pub upstream: Option<SocketAddr>,
}

impl Values for RequestValues<'_> {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, str>> {
        let text = |value: String| Some(Cow::Owned(value));
        match variable {
            Variable::RemoteAddress => text(self.connection.peer.to_string()),
            Variable::RemoteIp => text(self.connection.peer.ip().to_string()),
            Variable::LocalAddress => text(self.connection.local.to_string()),
            Variable::LocalPort => text(self.connection.local.port().to_string()),
            Variable::ServerName => self.connection.server_name.as_deref().map(Cow::Borrowed),
            Variable::Protocol => Some(Cow::Borrowed(if self.version == Version::HTTP_2 {
                "HTTP/2"
            } else {
                "HTTP/1.1"
            })),
            Variable::StartTime => time::OffsetDateTime::now_utc()
                .format(&time::format_description::well_known::Rfc3339)
                .ok()
                .map(Cow::Owned),
            Variable::RequestHeader(name) => {
                self.headers.get(name).and_then(|value| value.to_str().ok()).map(Cow::Borrowed)
            }
            Variable::RequestPseudo(":method") => Some(self.method.as_str().into()),
            Variable::RequestPseudo(":scheme") => Some(self.head.scheme.into()),
            Variable::RequestPseudo(":authority") => Some(self.head.authority.as_str().into()),
            Variable::RequestPseudo(_) => Some(match self.query {
                Some(query) => format!("{}?{query}", self.head.path).into(),
                None => self.head.path.as_str().into(),
            }),
            Variable::PeerUriSan => {
                let names = self.connection.client.identity.as_ref().map(|peer| &peer.uri_sans)?;
                (!names.is_empty()).then(|| names.join(",").into())
            }
            Variable::PeerSubject => {
                let subject = self.connection.client.identity.as_ref().map(|peer| &peer.subject)?;
                (!subject.is_empty()).then(|| subject.as_str().into())
            }
            Variable::UpstreamHost => text(self.upstream?.to_string()),
        }
    }
}
