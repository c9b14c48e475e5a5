//! A probe by HTTP, judged as kubelet judges it: redirects within the application are followed, others
//! are good.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Failure, Health};
use crate::base::limit;

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// What to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    pub(super) address: SocketAddr,
    pub(super) path: PathAndQuery,
}

/// Gets what a probe names; `head` is the probe as it came, to the port `status`.
pub(super) async fn get(
    first: Target,
    tls: &Arc<ClientConfig>,
    (head, status): (&request::Parts, u16),
) -> Result<Health, Failure> {
    let host = head.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = Authority::try_from(host).ok();
    let mut target = first;
    for _ in 0..=REDIRECTS {
        let request = request(&target, (host.as_ref(), status), head);
        let stream = TcpStream::connect(target.address).await?;
        let response = if target.tls {
            let name = ServerName::IpAddress(target.address.ip().into());
            exchange(TlsConnector::from(tls.clone()).connect(name, stream).await?, request).await?
        } else {
            exchange(stream, request).await?
        };
        if !response.status().is_redirection() {
            let status = response.status();
            return Ok(Health { status, body: beginning(response.into_body()).await });
        }
        match followed(&response, &target, host.as_ref()) {
            Some(next) => target = next,
            None => return Ok(Health::good()),
        }
    }
    Err(Failure::Redirects(REDIRECTS))
}

/// The request for the application: what kubelet said, with the application's own port.
fn request(
    target: &Target,
    (host, status): (Option<&Authority>, u16),
    head: &request::Parts,
) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from(target.path.clone());
    let headers = request.headers_mut();
    for (name, value) in head.headers.iter().filter(|(name, _)| !OF_THIS_HOP.contains(name)) {
        headers.append(name, value.clone());
    }
    let host = match host {
        Some(host) if host.port_u16() == Some(status) => {
            format!("{}:{}", host.host(), target.address.port())
        }
        Some(host) => host.to_string(),
        None => target.address.to_string(),
    };
    if let Ok(host) = HeaderValue::try_from(host) {
        headers.insert(HOST, host);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    request
}

const OF_THIS_HOP: [HeaderName; 7] =
    [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limit::HTTP1_HEAD_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // Ends with the answer, or when the probe's time is over and `sender` is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// As much of a body as a probe's answer shows.
async fn beginning(mut body: Incoming) -> Bytes {
    let mut seen = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        seen.extend_from_slice(&data);
        if seen.len() >= limit::PROBE_BODY_BYTES {
            seen.truncate(limit::PROBE_BODY_BYTES);
            break;
        }
    }
    seen.freeze()
}

/// Where a redirect leads within the application; nothing when it leads elsewhere.
fn followed<B>(response: &Response<B>, from: &Target, host: Option<&Authority>) -> Option<Target> {
    let followed = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !followed.contains(&response.status()) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if let Some((scheme, _)) = location.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        let tls = scheme.eq_ignore_ascii_case("https");
        let uri = Uri::try_from(location).ok()?;
        let authority = uri.authority()?;
        let name = authority.host().trim_matches(['[', ']']);
        let itself = host.is_some_and(|host| host.host().trim_matches(['[', ']']) == name)
            || name.parse() == Ok(from.address.ip());
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let address = SocketAddr::new(from.address.ip(), port);
        return itself.then_some(Target { tls, address, path });
    }
    if location.starts_with("//") {
        return None;
    }
    let location = location.split('#').next().unwrap_or_default();
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let folder = from.path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{location}")
    };
    Some(Target { path: PathAndQuery::try_from(path).ok()?, ..from.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(tls: bool, port: u16, path: &'static str) -> Target {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Target { tls, address, path: PathAndQuery::from_static(path) }
    }

    fn check(status: u16, location: &str, expected: impl Into<Option<Target>>) {
        let response = Response::builder().status(status).header(LOCATION, location).body(());
        let host = Authority::from_static("10.0.0.7:15020");
        let from = target(false, 8080, "/health/live");
        let next = followed(&response.unwrap(), &from, Some(&host));
        assert_eq!(next, expected.into(), "{status} {location}");
    }

    #[test]
    fn redirects_within_the_application_are_followed_and_others_are_not() {
        check(301, "/ok?a=b", target(false, 8080, "/ok?a=b"));
        check(302, "ok#part", target(false, 8080, "/health/ok"));
        check(307, "https://10.0.0.7:8443/", target(true, 8443, "/"));
        check(308, "http://127.0.0.1/x", target(false, 80, "/x"));
        check(303, "http://169.254.169.254/latest", None);
        check(302, "//elsewhere.example.com/", None);
        check(302, "https://elsewhere.example.com/", None);
        let query = "/login?next=https://x/";
        check(302, query, target(false, 8080, query));
        check(304, "/ok", None);
        check(302, "/a b", None);
    }

    fn sent(host: &str) -> HeaderValue {
        let probe = Request::get("/").header(HOST, host).header("x-a", "b").header(UPGRADE, "h2c");
        let (head, ()) = probe.body(()).unwrap().into_parts();
        let host = Authority::try_from(host).ok();
        let request = request(&target(false, 8080, "/h"), (host.as_ref(), 15020), &head);
        assert_eq!(request.headers()["x-a"], "b");
        assert!(!request.headers().contains_key(UPGRADE));
        request.headers()[HOST].clone()
    }

    #[test]
    fn the_application_sees_its_own_port() {
        assert_eq!(sent("10.0.0.7:15020"), "10.0.0.7:8080");
        assert_eq!(sent("cart.example.com"), "cart.example.com");
        assert_eq!(sent("cart.example.com:99"), "cart.example.com:99");
    }
}
