//! A WebSocket asked for by an extended CONNECT (RFC 8441) is the GET with an upgrade of HTTP/1.1:
//! policies and routes see the same of both, as they do in Envoy.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request};
use hyper::ext::Protocol;

/// The only protocol that is switched to.
pub const WEBSOCKET: &str = "websocket";

/// Makes an extended CONNECT for a WebSocket the request that HTTP/1.1 has for it; whether it was one.
/// Any other CONNECT stays what it is.
pub fn arrived(request: &mut Request<()>) -> bool {
    let asked = request.extensions().get::<Protocol>();
    if *request.method() != Method::CONNECT
        || !asked.is_some_and(|asked| asked.as_ref().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
    {
        return false;
    }
    request.extensions_mut().remove::<Protocol>();
    *request.method_mut() = Method::GET;
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    true
}
