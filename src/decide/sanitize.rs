//! A request's headers as everything behind this point may believe them: policies, routes, logs and
//! the backend (Envoy's connection manager does the same before its filters).

use http::header::{
    CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Request};
use smallvec::SmallVec;

use super::head::{Head, nominated};
use super::trusted;
use crate::base::header::{
    CLIENT_CERT, CLIENT_CERT_CHAIN, CONTROL_PREFIX, KEEP_ALIVE, PROXY_CONNECTION,
    X_ENVOY_EXTERNAL_ADDRESS, X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_PROTO,
    X_REQUEST_ID, is_imitation, is_own,
};
use crate::snapshot::forwarded::ClientCertForwarding;

/// What this hop knows of a request that the client cannot be believed about.
#[derive(Clone, Debug)]
pub struct Arrival<'a> {
    /// The peer's address.
    pub peer: &'a HeaderValue,
    /// `x-forwarded-client-cert` element of its certificate.
    pub certificate: Option<&'a HeaderValue>,
    /// A new id for the request.
    pub request_id: HeaderValue,
    /// The sender is a workload of the mesh that is believed about the client.
    pub workload: bool,
}

/// Most headers that [`sanitize`] and the forwarding of a request add.
const ADDED_HEADERS: usize = 8;

/// Removes what a client may not say, and says it instead.
pub fn sanitize<B>(
    request: &mut Request<B>,
    head: &Head,
    forwarding: ClientCertForwarding,
    arrival: Arrival<'_>,
) {
    let named = request.uri().authority().is_some();
    let headers = request.headers_mut();
    let found = strip_hop_by_hop(headers, head.upgrade);
    if found.has(Noticed::IMITATION) {
        remove_each(headers, is_imitation);
    }
    headers.reserve(ADDED_HEADERS);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(head.scheme));
    if arrival.workload {
        headers.entry(X_REQUEST_ID).or_insert(arrival.request_id);
    } else {
        of_a_client(headers, found, head, arrival.peer);
        headers.insert(X_REQUEST_ID, arrival.request_id);
    }
    if found.has(Noticed::FORWARDED_CLIENT_CERT) || arrival.certificate.is_some() {
        client_certificate(headers, forwarding, arrival.certificate);
    }
    if found.has(Noticed::COOKIE) {
        join_cookies(headers);
    }
    // A target with an authority overrides `Host` (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1).
    if named && let Ok(host) = HeaderValue::from_str(&head.authority) {
        headers.insert(HOST, host);
    }
}

/// Removes what no sender may say after a body: a backend may take a trailer for a header.
pub fn sanitize_trailers(trailers: &mut HeaderMap) {
    remove_each(trailers, is_own);
}

fn remove_each(headers: &mut HeaderMap, which: impl Fn(&str) -> bool) {
    let names: SmallVec<[HeaderName; 2]> =
        headers.keys().filter(|name| which(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// What this hop knows of a client, instead of what the client says.
fn of_a_client(headers: &mut HeaderMap, found: Noticed, head: &Head, peer: &HeaderValue) {
    if found.has(Noticed::CONTROL) {
        remove_each(headers, |name| name.starts_with(CONTROL_PREFIX));
    }
    if found.has(Noticed::CLIENT_CERT) {
        headers.remove(CLIENT_CERT);
        headers.remove(CLIENT_CERT_CHAIN);
    }
    let forwarded = found.has(Noticed::FORWARDED_FOR).then(|| forwarded_for(headers, peer));
    headers.insert(X_FORWARDED_FOR, forwarded.unwrap_or_else(|| peer.clone()));
    let client = head.trusted.as_ref().unwrap_or(peer);
    headers.insert(X_ENVOY_EXTERNAL_ADDRESS, client.clone());
}

/// Removes hop-by-hop headers (RFC 9110 section 7.6.1); a WebSocket's upgrade stays. Says what was there.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) -> Noticed {
    let found = Noticed::of(headers);
    if found.has(Noticed::CONNECTION) {
        let nominated: SmallVec<[HeaderName; 2]> = headers
            .get_all(CONNECTION)
            .iter()
            .filter(|line| !is_known(line.as_bytes()))
            .flat_map(nominated)
            .filter(|name| !is_known(name))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect();
        for name in nominated {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for (one, name) in [
        (Noticed::KEEP_ALIVE, KEEP_ALIVE),
        (Noticed::PROXY_CONNECTION, PROXY_CONNECTION),
        (Noticed::TRANSFER_ENCODING, TRANSFER_ENCODING),
        (Noticed::UPGRADE, UPGRADE),
    ] {
        if found.has(one) {
            headers.remove(name);
        }
    }
    if found.has(Noticed::TE)
        && let Some(te) = headers.remove(TE)
        && te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    found
}

/// What a `Connection` header may nominate that is no other header, or is taken out in any case.
fn is_known(name: &[u8]) -> bool {
    [&b"keep-alive"[..], b"close", b"upgrade", b"te"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// Which headers are there that concern one hop, or that a client may not say as they are: one look at
/// the names costs less than a search for each, which is usually not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noticed(u16);

impl Noticed {
    pub(super) const CONNECTION: Self = Self(1);
    pub(super) const KEEP_ALIVE: Self = Self(1 << 1);
    pub(super) const PROXY_CONNECTION: Self = Self(1 << 2);
    pub(super) const TRANSFER_ENCODING: Self = Self(1 << 3);
    pub(super) const TE: Self = Self(1 << 4);
    pub(super) const UPGRADE: Self = Self(1 << 5);
    pub(super) const CLIENT_CERT: Self = Self(1 << 6);
    pub(super) const FORWARDED_FOR: Self = Self(1 << 7);
    pub(super) const FORWARDED_CLIENT_CERT: Self = Self(1 << 8);
    pub(super) const COOKIE: Self = Self(1 << 9);
    /// One of Envoy's control headers.
    pub const CONTROL: Self = Self(1 << 10);
    /// A backend may take it for a header of ours.
    pub(super) const IMITATION: Self = Self(1 << 11);
    pub(super) const CONTENT_LENGTH: Self = Self(1 << 12);

    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self(0), |found, name| {
            let one = match name.as_str() {
                "connection" => Self::CONNECTION,
                "keep-alive" => Self::KEEP_ALIVE,
                "proxy-connection" => Self::PROXY_CONNECTION,
                "transfer-encoding" => Self::TRANSFER_ENCODING,
                "te" => Self::TE,
                "content-length" => Self::CONTENT_LENGTH,
                "upgrade" => Self::UPGRADE,
                "client-cert" | "client-cert-chain" => Self::CLIENT_CERT,
                "x-forwarded-for" => Self::FORWARDED_FOR,
                "x-forwarded-client-cert" => Self::FORWARDED_CLIENT_CERT,
                "cookie" => Self::COOKIE,
                name if is_imitation(name) => Self::IMITATION,
                name if name.starts_with(CONTROL_PREFIX) => Self::CONTROL,
                _ => return found,
            };
            Self(found.0 | one.0)
        })
    }

    /// Whether one was there.
    pub fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }
}

/// What was said of the addresses before, and the peer.
fn forwarded_for(headers: &HeaderMap, peer: &HeaderValue) -> HeaderValue {
    let mut all = Vec::new();
    for line in trusted::lines(headers) {
        all.extend_from_slice(line);
        all.push(b',');
    }
    all.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&all).unwrap_or_else(|_| peer.clone())
}

/// HTTP/2 clients may send each cookie in a line of its own (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut all = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(line.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, value);
    }
}

fn client_certificate(
    headers: &mut HeaderMap,
    forwarding: ClientCertForwarding,
    own: Option<&HeaderValue>,
) {
    use ClientCertForwarding::{
        AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet,
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_added_to_what_was_said_of_addresses() {
        let check = |lines: &[&'static str], expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let peer = HeaderValue::from_static("10.0.0.1");
            assert_eq!(forwarded_for(&headers, &peer), expected, "{lines:?}");
        };
        check(&["192.0.2.1, 192.0.2.2", "192.0.2.3"], "192.0.2.1, 192.0.2.2,192.0.2.3,10.0.0.1");
        check(&[""], "10.0.0.1");
        check(&["", "192.0.2.1", " "], "192.0.2.1,10.0.0.1");
        // What stands in a line is the client's word.
        check(&[",192.0.2.1"], ",192.0.2.1,10.0.0.1");
    }
}
