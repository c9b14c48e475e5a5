//! One bounded HTTP GET for a key set: resolve, connect, ask, follow a few redirects.
//!
//! **Invariant:** every fetch ends within its deadline and reads at most [`limit::JWKS_BYTES`] per
//! answer. Dropping a fetch closes its connection.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, AGE, AUTHORIZATION, CACHE_CONTROL, EXPIRES, HOST, HeaderMap, HeaderValue, LOCATION,
    PROXY_AUTHORIZATION, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::access::KeyAccess;
use super::connect::{self, Way};
use super::location::Target;
use super::proxies::{Proxies, Proxy};
use crate::auth::jwt::{InvalidAddress, InvalidKeySet, KeyLocation, KeySet, printable};
use crate::base::limit;

/// Why a key set could not be had. Addresses are printed without credentials and query.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an address that can be fetched; it is told without what may be secret in it.
    #[error("\"{0}\" cannot be fetched: {1}")]
    Address(String, InvalidAddress),
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
    /// A file with roots or a token cannot be used.
    #[error("\"{}\" cannot be used", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
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
    /// A redirect, or a discovery document, leads from `https` to `http`.
    #[error("the answer leads from https to \"{0}\"")]
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
    /// The proxy cannot be reached.
    #[error("no connection to the proxy {proxy}")]
    Proxy {
        /// Its host and port.
        proxy: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The proxy does not connect on.
    #[error("the proxy {0} answers CONNECT with status {status}", status = .1.as_u16())]
    ProxyStatus(String, StatusCode),
    /// The discovery document is of somebody else (OpenID Connect Discovery 1.0, section 4.3).
    #[error("the discovery document is of the issuer \"{0}\"")]
    DiscoveryIssuer(String),
    /// The discovery document names no key set.
    #[error("the discovery document has no text \"jwks_uri\"")]
    Discovery,
    /// The document is no usable key set.
    #[error("the answer is not a usable key set")]
    KeySet(#[source] InvalidKeySet),
}

impl FetchError {
    /// One word for metrics and the admin port.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Address(..) => "address",
            Self::Resolve { .. } => "resolve",
            Self::AddressRefused { .. } => "address_refused",
            Self::Connect { .. } => "connect",
            Self::Proxy { .. } | Self::ProxyStatus(..) => "proxy",
            Self::File { .. } => "file",
            Self::Tls(_) | Self::Handshake { .. } => "tls",
            Self::Http(_) | Self::Body => "http",
            Self::Status(_) => "status",
            Self::Redirects | Self::Downgrade(_) => "redirect",
            Self::TooLarge => "too_large",
            Self::Timeout(_) => "timeout",
            Self::DiscoveryIssuer(_) | Self::Discovery => "discovery",
            Self::KeySet(_) => "key_set",
        }
    }
}

/// A fetched key set.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    /// The answer that `keys` were read from.
    pub(super) document: Bytes,
    /// How long it is fresh (RFC 9111, section 4.2.1).
    pub(super) max_age: Option<Duration>,
}

/// Fetches key sets; shared by all fetchers.
pub(super) struct Client {
    extra_roots: Vec<CertificateDer<'static>>,
    access: KeyAccess,
    proxies: Proxies,
    tls: OnceCell<TlsConnector>,
}

impl Client {
    /// Trusts the system's roots and some more.
    pub(super) fn new(extra_roots: Vec<CertificateDer<'static>>, proxies: Proxies) -> Self {
        Self { extra_roots, access: KeyAccess::default(), proxies, tls: OnceCell::new() }
    }

    /// Asks as somebody, or trusts others.
    pub(super) fn with_access(self, access: KeyAccess) -> Self {
        Self { access, ..self }
    }

    /// Fetches a key set, its discovery document first where only the issuer is known.
    pub(super) async fn fetch(
        &self,
        location: &KeyLocation,
        way: Way<'_>,
        timeout: Duration,
    ) -> Result<Fetched, FetchError> {
        tokio::time::timeout(timeout, self.fetch_unbounded(location, way))
            .await
            .unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn fetch_unbounded(
        &self,
        location: &KeyLocation,
        way: Way<'_>,
    ) -> Result<Fetched, FetchError> {
        let first = Target::parse(&location.first_address())?;
        let named = first.authority();
        let (mut body, mut headers) = self.get(first.clone(), named, way).await?;
        if let KeyLocation::Discovery { issuer } = location {
            let second = discovered(&first, issuer, &body)?;
            (body, headers) = self.get(second, named, way).await?;
        }
        let keys = KeySet::parse_published(&body).map_err(FetchError::KeySet)?;
        Ok(Fetched { keys, max_age: freshness(&headers, SystemTime::now()), document: body })
    }

    async fn get(
        &self,
        mut target: Target,
        named: &str,
        way: Way<'_>,
    ) -> Result<(Bytes, HeaderMap), FetchError> {
        for _ in 0..=limit::JWKS_REDIRECTS {
            let mut driver = JoinSet::new();
            let own = self.access.authorization(&target, named)?;
            let response = self.ask(&target, own, way, &mut driver).await?;
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

    /// Sends one request on a connection of its own; `driver` holds the connection's tasks.
    async fn ask(
        &self,
        target: &Target,
        own: Option<HeaderValue>,
        way: Way<'_>,
        driver: &mut JoinSet<()>,
    ) -> Result<Response<Incoming>, FetchError> {
        let proxy = self.proxies.between(target).filter(|_| way.declares(target).is_none());
        let Some(proxy) = proxy else {
            let stream = connect::direct(target, way).await?;
            if target.is_https() {
                let stream = self.secured(stream, target).await?;
                return exchange(stream, target, (None, own), driver).await;
            }
            return exchange(stream, target, (None, own), driver).await;
        };
        connect::check_literal(target)?;
        let stream = connect::to_proxy(proxy, way.attempt).await?;
        if target.is_https() {
            let stream = connect::tunnel(stream, proxy, target, driver).await?;
            let stream = self.secured(stream, target).await?;
            return exchange(stream, target, (None, own), driver).await;
        }
        exchange(stream, target, (Some(proxy), own), driver).await
    }

    async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        target: &Target,
    ) -> Result<TlsStream<S>, FetchError> {
        let handshake = |source| FetchError::Handshake { host: target.host().to_owned(), source };
        let name = ServerName::try_from(target.host().to_owned())
            .map_err(|error| handshake(io::Error::other(error)))?;
        let tls = match self.access.roots()? {
            Some(roots) => connector(roots)?,
            None => self.tls.get_or_try_init(|| self.public()).await?.clone(),
        };
        tls.connect(name, stream).await.map_err(handshake)
    }

    /// Reads the system's roots, off the runtime's threads: it takes milliseconds.
    async fn public(&self) -> Result<TlsConnector, FetchError> {
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
        connector(roots)
    }
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, FetchError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(FetchError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The key set's address in a discovery document, which must be the issuer's own.
fn discovered(from: &Target, issuer: &str, document: &[u8]) -> Result<Target, FetchError> {
    let document: Value = serde_json::from_slice(document).map_err(|_| FetchError::Discovery)?;
    let said = |name: &str| document.get(name).and_then(Value::as_str);
    if said("issuer") != Some(issuer) {
        return Err(FetchError::DiscoveryIssuer(printable(said("issuer").unwrap_or_default())));
    }
    from.linked(said("jwks_uri").ok_or(FetchError::Discovery)?)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &Target,
    (proxy, own): (Option<&Proxy>, Option<HeaderValue>),
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
    let mut request = match proxy {
        Some(_) => Request::get(target.uri().clone()),
        None => Request::get(target.path_and_query()),
    };
    if let Some(value) = proxy.and_then(Proxy::authorization) {
        request = request.header(PROXY_AUTHORIZATION, value);
    }
    if let Some(own) = own {
        request = request.header(AUTHORIZATION, own);
    }
    let request = request
        .header(HOST, target.authority())
        .header(USER_AGENT, "portcullis")
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| target.unusable())?;
    sender.send_request(request).await.map_err(FetchError::Http)
}

/// How long an answer is fresh: `max-age` less `Age`, else until `Expires`; nothing when it does not
/// say.
fn freshness(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let seconds = |text: &str| text.trim_matches('"').parse().map(Duration::from_secs).ok();
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut most = None;
    for directive in directives.flat_map(|value| value.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") && most.is_none() {
            most = seconds(value);
        }
    }
    if let Some(most) = most {
        return Some(most.saturating_sub(text(AGE).and_then(seconds).unwrap_or_default()));
    }
    let expires = httpdate::parse_http_date(text(EXPIRES)?).ok()?;
    Some(expires.duration_since(now).unwrap_or_default())
}

/// Largest head of an answer.
const HEAD_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests;
