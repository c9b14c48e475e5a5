//! HTTP backends on loopback.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Leaf};

/// A backend that answers with what it saw, as JSON.
pub struct Backend {
    pub port: u16,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    port: u16,
    connections: AtomicUsize,
    requests: AtomicUsize,
    failing: AtomicBool,
    refusals: AtomicUsize,
}

/// TLS that can be replaced while a backend runs.
pub type SharedTls = Arc<ArcSwap<ServerConfig>>;

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    pub async fn http1() -> Self {
        Self::start(None, false).await
    }

    /// HTTP/1.1 on a port of loopback that nobody has.
    pub async fn http1_at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        Self::on(listener, None, false, false)
    }

    /// HTTP/1.1; a connection that it ends is reset.
    pub async fn resetting() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, None, false, true)
    }

    pub async fn http2() -> Self {
        Self::start(None, true).await
    }

    /// Mutual TLS: shows `own`, asks for certificates of `clients`.
    pub async fn mutual(own: &Leaf, clients: &Authority) -> Self {
        Self::start(Some(mutual(own, clients.pem())), false).await
    }

    /// Mutual TLS that can be replaced.
    pub async fn shared(tls: SharedTls) -> Self {
        Self::serving(Some(tls), false).await
    }

    /// Handshakes that failed so far.
    pub fn failed_handshakes(&self) -> usize {
        self.counts.refusals.load(Ordering::Relaxed)
    }

    pub async fn tls(own: &Leaf) -> Self {
        Self::start(Some(config(own, None)), false).await
    }

    /// Closes the listening socket; connections go on.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Requests received so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Answers 503 to everything, or as usual again.
    pub fn fail(&self, failing: bool) {
        self.counts.failing.store(failing, Ordering::Relaxed);
    }

    /// Listens on a Unix socket.
    pub fn unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let counts = Arc::<Counts>::default();
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, false, Value::Null, shared.clone()));
            }
        });
        Self { port: 0, counts, task }
    }

    async fn start(tls: Option<Arc<ServerConfig>>, http2: bool) -> Self {
        Self::serving(tls.map(|config| Arc::new(ArcSwap::new(config))), http2).await
    }

    async fn serving(tls: Option<SharedTls>, http2: bool) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, http2, false)
    }

    fn on(listener: TcpListener, tls: Option<SharedTls>, http2: bool, resets: bool) -> Self {
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::new(Counts { port, ..Counts::default() });
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if resets {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let tls = tls.as_ref().map(|tls| tls.load_full());
                tokio::spawn(accept(stream, tls, http2, shared.clone()));
            }
        });
        Self { port, counts, task }
    }
}

async fn accept(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    http2: bool,
    counts: Arc<Counts>,
) {
    let Some(config) = tls else { return serve(stream, http2, Value::Null, counts).await };
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        counts.refusals.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let session = stream.get_ref().1;
    let alpn = session.alpn_protocol().map(String::from_utf8_lossy);
    let seen = json!({
        "sni": session.server_name(),
        "alpn": alpn,
        "client_certificate": session.peer_certificates().is_some(),
        "client_leaf": session.peer_certificates().map(|chain| chain[0].to_vec()),
    });
    serve(stream, http2, seen, counts).await;
}

/// Shows `own` and asks for certificates below `roots`.
pub fn mutual(own: &Leaf, roots: &str) -> Arc<ServerConfig> {
    config(own, Some(roots))
}

fn config(own: &Leaf, roots: Option<&str>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder();
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(root.unwrap()).unwrap();
            }
            let verifier = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"istio".to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn serve<S>(stream: S, http2: bool, tls: Value, counts: Arc<Counts>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let failing = counts.failing.load(Ordering::Relaxed);
        let (port, tls) = (counts.port, tls.clone());
        async move {
            if failing {
                let body = Full::default();
                return Ok(Response::builder().status(503).body(body).unwrap());
            }
            echo(request, port, tls).await
        }
    });
    let stream = TokioIo::new(stream);
    if http2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(stream, service).await;
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(stream, service).await;
    }
}

/// Paths with a meaning: `/status/NNN`, `/never` (no answer), `/abort` (the connection ends),
/// `/close` (it ends after the answer).
async fn echo(
    request: Request<Incoming>,
    port: u16,
    tls: Value,
) -> Result<Response<Full<Bytes>>, Aborted> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/never" {
        std::future::pending::<()>().await;
    }
    if head.uri.path() == "/abort" {
        return Err(Aborted);
    }
    let body = body.collect().await.map_err(|_| Aborted)?.to_bytes();
    let headers: serde_json::Map<String, Value> = head
        .headers
        .keys()
        .map(|name| {
            let values: Vec<_> =
                head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
            (name.to_string(), Value::String(values.join(", ")))
        })
        .collect();
    let seen = json!({
        "port": port,
        "version": format!("{:?}", head.version),
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(http::uri::PathAndQuery::as_str),
        "authority": head.uri.authority().map(http::uri::Authority::as_str),
        "headers": headers,
        "body_bytes": body.len(),
        "tls": tls,
    });
    let status = head.uri.path().strip_prefix("/status/").and_then(|code| code.parse().ok());
    let mut response =
        Response::builder().status(status.unwrap_or(200)).header("x-backend", "echo");
    if head.uri.path() == "/close" {
        response = response.header("connection", "close");
    }
    let body = if status.is_some_and(|code: u16| [204, 304].contains(&code)) {
        String::new()
    } else {
        seen.to_string()
    };
    Ok(response.body(Full::new(body.into())).unwrap())
}

/// Makes hyper end the connection.
#[derive(Debug)]
struct Aborted;

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("aborted")
    }
}

impl std::error::Error for Aborted {}

/// Answers with the number of bytes it got before the half-close.
pub async fn counter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                let _ = stream.write_all(all.len().to_string().as_bytes()).await;
            });
        }
    });
    port
}
