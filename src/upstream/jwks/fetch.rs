//! One bounded HTTP GET for a key set: resolve, connect, ask, follow a few redirects.
//!
//! **Invariant:** every fetch ends within its deadline and reads at most [`limit::JWKS_BYTES`] per
//! answer. Dropping a fetch closes its connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::address;
use super::location::Target;
use crate::auth::jwt::{InvalidKeySet, KeyLocation, KeySet};
use crate::base::limit;

/// Why a key set could not be had. Addresses are printed without credentials and query.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an `http` or `https` address.
    #[error("\"{0}\" is not an http or https address")]
    Address(String),
    /// User and password in the address.
    #[error("\"{0}\" is written with a user and password; remove them")]
    Credentials(String),
    /// The name has no address.
    #[error("host \"{host}\" cannot be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// All addresses are link-local or metadata services.
    #[error(
        "host \"{host}\" leads to {address}, a link-local or metadata address, which is refused"
    )]
    AddressRefused {
        /// The name.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// No address accepts connections.
    #[error("no connection to \"{host}\" port {port}")]
    Connect {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// Failure of the last address.
        #[source]
        source: io::Error,
    },
    /// The system's root certificates cannot be used.
    #[error("no TLS client configuration")]
    Tls(#[source] rustls::Error),
    /// The handshake failed, the certificate was not trusted for example.
    #[error("TLS handshake with \"{host}\" failed")]
    Handshake {
        /// The name.
        host: String,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
    /// The answer was cut or is not HTTP.
    #[error("no HTTP answer")]
    Http(#[source] hyper::Error),
    /// Any status but 200.
    #[error("the answer has status {}", .0.as_u16())]
    Status(StatusCode),
    /// A redirect without a usable `Location`, or more than [`limit::JWKS_REDIRECTS`].
    #[error("more than {max} redirects, or one that leads nowhere", max = limit::JWKS_REDIRECTS)]
    Redirects,
    /// A redirect from `https` to `http`.
    #[error("a redirect leads from https to \"{0}\"")]
    Downgrade(String),
    /// The body is longer than [`limit::JWKS_BYTES`].
    #[error("the answer is longer than {max} bytes", max = limit::JWKS_BYTES)]
    TooLarge,
    /// The body was cut.
    #[error("the answer broke off")]
    Body,
    /// The deadline passed.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The discovery document names no key set.
    #[error("the discovery document has no text \"jwks_uri\"")]
    Discovery,
    /// The document is no usable key set.
    #[error("the answer is not a usable key set")]
    KeySet(#[source] InvalidKeySet),
}

/// A fetched key set.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    /// The answer that `keys` were read from.
    pub(super) document: Bytes,
    /// `Cache-Control: max-age`.
    pub(super) max_age: Option<Duration>,
}

/// Fetches key sets; shared by all fetchers.
pub(super) struct Client {
    extra_roots: Vec<CertificateDer<'static>>,
    tls: OnceCell<TlsConnector>,
}

impl Client {
    /// Trusts the system's roots and some more.
    pub(super) fn new(extra_roots: Vec<CertificateDer<'static>>) -> Self {
        Self { extra_roots, tls: OnceCell::new() }
    }

    /// Fetches a key set, its discovery document first where only the issuer is known.
    pub(super) async fn fetch(
        &self,
        location: &KeyLocation,
        timeout: Duration,
    ) -> Result<Fetched, FetchError> {
        tokio::time::timeout(timeout, self.fetch_unbounded(location))
            .await
            .unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn fetch_unbounded(&self, location: &KeyLocation) -> Result<Fetched, FetchError> {
        let first = Target::parse(&location.first_address())?;
        let (mut body, mut headers) = self.get(first).await?;
        if matches!(location, KeyLocation::Discovery { .. }) {
            let document: serde_json::Value =
                serde_json::from_slice(&body).map_err(|_| FetchError::Discovery)?;
            let uri = document.get("jwks_uri").and_then(serde_json::Value::as_str);
            let second = Target::parse(uri.ok_or(FetchError::Discovery)?)?;
            (body, headers) = self.get(second).await?;
        }
        let keys = KeySet::parse(&body).map_err(FetchError::KeySet)?;
        Ok(Fetched { keys, max_age: max_age(&headers), document: body })
    }

    async fn get(&self, mut target: Target) -> Result<(Bytes, HeaderMap), FetchError> {
        for _ in 0..=limit::JWKS_REDIRECTS {
            let mut driver = JoinSet::new();
            let response = self.ask(&target, &mut driver).await?;
            match response.status() {
                StatusCode::OK => {
                    let (head, body) = response.into_parts();
                    let body = Limited::new(body, limit::JWKS_BYTES).collect().await;
                    let body = body.map_err(|error| {
                        if error.is::<LengthLimitError>() {
                            FetchError::TooLarge
                        } else {
                            FetchError::Body
                        }
                    })?;
                    return Ok((body.to_bytes(), head.headers));
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location = response.headers().get(LOCATION);
                    let location = location.and_then(|value| value.to_str().ok());
                    target = target.redirected(location.ok_or(FetchError::Redirects)?)?;
                }
                other => return Err(FetchError::Status(other)),
            }
        }
        Err(FetchError::Redirects)
    }

    /// Sends one request on a connection of its own; `driver` holds the connection's task.
    async fn ask(
        &self,
        target: &Target,
        driver: &mut JoinSet<()>,
    ) -> Result<Response<Incoming>, FetchError> {
        let stream = connect(target).await?;
        if !target.is_https() {
            return exchange(stream, target, driver).await;
        }
        let handshake = |source| FetchError::Handshake { host: target.host().to_owned(), source };
        let name = ServerName::try_from(target.host().to_owned())
            .map_err(|error| handshake(io::Error::other(error)))?;
        let tls = self.tls.get_or_try_init(|| self.connector()).await?;
        let stream = tls.connect(name, stream).await.map_err(handshake)?;
        exchange(stream, target, driver).await
    }

    /// Reads the system's roots, off the runtime's threads: it takes milliseconds.
    async fn connector(&self) -> Result<TlsConnector, FetchError> {
        let mut roots = RootCertStore::empty();
        if let Ok(native) =
            tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await
        {
            for error in native.errors {
                tracing::warn!(%error, "a system root certificate cannot be read");
            }
            roots.add_parsable_certificates(native.certs);
        }
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(FetchError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

async fn connect(target: &Target) -> Result<TcpStream, FetchError> {
    let host = || target.host().to_owned();
    let resolved = tokio::net::lookup_host((target.host(), target.port()))
        .await
        .map_err(|source| FetchError::Resolve { host: host(), source })?;
    let (refused, allowed): (Vec<SocketAddr>, Vec<SocketAddr>) =
        resolved.take(limit::DNS_ADDRESSES).partition(|socket| address::is_refused(socket.ip()));
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    if allowed.is_empty() {
        return Err(match refused.first() {
            Some(socket) => FetchError::AddressRefused { host: host(), address: socket.ip() },
            None => FetchError::Resolve { host: host(), source: last },
        });
    }
    for socket in allowed {
        match TcpStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(FetchError::Connect { host: host(), port: target.port(), source: last })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &Target,
    driver: &mut JoinSet<()>,
) -> Result<Response<Incoming>, FetchError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    driver.spawn(async {
        // The request's own future reports what goes wrong on the connection.
        let _ = connection.await;
    });
    let request = Request::get(target.path_and_query())
        .header(HOST, target.authority())
        .header(USER_AGENT, "portcullis")
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Address(target.authority().to_owned()))?;
    sender.send_request(request).await.map_err(FetchError::Http)
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    directives
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("max-age"))
        .and_then(|(_, seconds)| seconds.trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}

/// Largest head of an answer.
const HEAD_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], seconds: Option<u64>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CACHE_CONTROL, value.parse().unwrap());
        }
        assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{values:?}");
    }

    #[test]
    fn max_age_is_read_from_any_directive_list() {
        check(&["public, Max-Age=300, must-revalidate"], Some(300));
        check(&["no-transform", "max-age=\"5\""], Some(5));
        check(&["s-maxage=5"], None);
        check(&["max-age=-1"], None);
        check(&["max-age=99999999999999999999999"], None);
        check(&[], None);
    }
}
