//! How a WebSocket is asked for and granted in each version of HTTP: by `Upgrade` and `101` (RFC 6455),
//! or by an extended CONNECT and a 2xx (RFC 8441).
//!
//! Within the gateway every such request is the one of HTTP/1.1 ([`crate::decide::websocket`]).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::ext::Protocol as ConnectProtocol;

use crate::decide::reject::Reject;
use crate::decide::websocket::WEBSOCKET;
use crate::snapshot::cluster::Protocol;

/// What has to be kept of a request for a WebSocket to know the answer.
#[derive(Debug, Default)]
pub struct Handshake {
    /// What the backend's answer must prove that it understood; nothing where the client looks itself.
    expected: Option<HeaderValue>,
    /// What a client of HTTP/1.1 is to be told; nothing where the backend tells it.
    told: Option<HeaderValue>,
    /// The key that the backend is asked with, where the client has none.
    key: Option<HeaderValue>,
    connect: bool,
    /// The client speaks HTTP/2.
    http2: bool,
}

impl Handshake {
    /// That of a request as its client sent it, for a backend of this protocol; `http2` is the client's
    /// version.
    pub fn of(request: &Request<()>, protocol: Protocol, http2: bool) -> Self {
        let mut handshake = Self { http2, ..Self::default() };
        if protocol == Protocol::Http2 {
            let key = request.headers().get(SEC_WEBSOCKET_KEY);
            handshake.told = key.map(|key| accept(key.as_bytes()));
            handshake.connect = true;
        } else if http2 {
            let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
            handshake.expected = Some(accept(key.as_bytes()));
            handshake.key = HeaderValue::try_from(key).ok();
        }
        handshake
    }

    /// Makes the request what its backend understands.
    pub fn ask(&self, request: &mut Request<()>) {
        let headers = request.headers_mut();
        if self.connect {
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY] {
                headers.remove(name);
            }
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(ConnectProtocol::from_static(WEBSOCKET));
        } else if self.http2 {
            if let Some(key) = &self.key {
                headers.insert(SEC_WEBSOCKET_KEY, key.clone());
            }
            headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
    }

    /// Makes a backend's answer what the client understands; whether both may speak freely from here on.
    pub fn answer<B>(&self, response: &mut Response<B>) -> Result<bool, Reject> {
        let status = response.status();
        let granted = if self.connect {
            status.is_success()
        } else {
            status == StatusCode::SWITCHING_PROTOCOLS
        };
        if !granted {
            // A client of HTTP/2 would take any other success for the WebSocket's.
            let misread = self.http2 && status.is_success();
            let unasked = status == StatusCode::SWITCHING_PROTOCOLS;
            return if misread || unasked { Err(Reject::UpstreamProtocol) } else { Ok(false) };
        }
        let headers = response.headers_mut();
        if let Some(expected) = &self.expected
            && headers.remove(SEC_WEBSOCKET_ACCEPT).as_ref() != Some(expected)
        {
            return Err(Reject::UpstreamProtocol);
        }
        headers.remove(CONTENT_LENGTH);
        if let Some(told) = &self.told {
            headers.insert(SEC_WEBSOCKET_ACCEPT, told.clone());
        }
        *response.status_mut() =
            if self.http2 { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        Ok(true)
    }
}

/// What proves that a key was understood (RFC 6455 section 4.2.2).
fn accept(key: &[u8]) -> HeaderValue {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let proof = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    HeaderValue::try_from(proof).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_proved_as_the_rfc_has_it() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    /// What becomes of an answer with this status and proof; `None` for a refusal.
    fn check(
        (http2, protocol): (bool, Protocol),
        (status, proved): (u16, bool),
        expected: Option<(u16, bool)>,
    ) {
        let mut request = Request::new(());
        if !http2 {
            let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
            request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
        }
        let handshake = Handshake::of(&request, protocol, http2);
        handshake.ask(&mut request);
        let mut response = Response::builder().status(status).body(()).unwrap();
        if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY)
            && proved
        {
            let proof = accept(key.as_bytes());
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, proof);
        }
        let switched = handshake.answer(&mut response).ok();
        let seen = switched.map(|switched| (response.status().as_u16(), switched));
        assert_eq!(seen, expected, "{http2} {protocol:?} {status} {proved}");
        if let Some((_, true)) = seen {
            let told = response.headers().get(SEC_WEBSOCKET_ACCEPT).is_some();
            assert_eq!(told, !http2, "a client of HTTP/1.1 is told, and no other");
        }
    }

    #[test]
    fn every_pair_of_versions_understands_the_other() {
        use Protocol::{Http1, Http2};
        check((false, Http1), (101, true), Some((101, true)));
        check((false, Http1), (200, true), Some((200, false)));
        check((false, Http1), (403, true), Some((403, false)));
        check((true, Http1), (101, true), Some((200, true)));
        check((true, Http1), (101, false), None);
        check((true, Http1), (200, true), None);
        check((true, Http1), (403, true), Some((403, false)));
        check((true, Http1), (302, true), Some((302, false)));
        check((false, Http2), (200, true), Some((101, true)));
        check((false, Http2), (404, true), Some((404, false)));
        check((false, Http2), (101, true), None);
        check((true, Http2), (200, true), Some((200, true)));
        check((true, Http2), (503, true), Some((503, false)));
    }
}
