//! The services behind `gateways/shop/`, on one thread of their own.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::token::token;
use crate::base::header::X_FORWARDED_CLIENT_CERT;
use crate::cli::issuer::Issuer;

/// One service: what it is called, where it listens, and how its connections begin.
struct Backend {
    name: &'static str,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

/// Ports as `gateways/shop/` names them; the cart is behind its sidecar.
const ISSUER: u16 = 9400;
pub(super) const CART: u16 = 9404;
const LEGACY: u16 = 9402;
const CATALOGUE: u16 = 9403;

/// Starts them all; they live as long as the process.
pub(super) fn start(certs: &Path) -> anyhow::Result<()> {
    let legacy = certs.join("legacy");
    let legacy = server(&legacy.join("tls.crt"), &legacy.join("tls.key"))
        .context("the certificate of legacy.example.com")?;
    let backends = [
        backend("issuer", ISSUER, None)?,
        backend("cart", CART, None)?,
        backend("legacy", LEGACY, Some(legacy))?,
        backend("catalogue", CATALOGUE, None)?,
    ];
    let issuer = Arc::new(Issuer::new()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("backends".into()).spawn(move || {
        runtime.block_on(async {
            let serving = backends.map(|backend| serve(backend, issuer.clone()));
            futures_util::future::join_all(serving).await;
        });
    })?;
    Ok(())
}

fn backend(
    name: &'static str,
    port: u16,
    tls: Option<Arc<ServerConfig>>,
) -> anyhow::Result<Backend> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address)
        .with_context(|| format!("the sample backend \"{name}\" cannot listen at {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(Backend { name, listener, tls })
}

fn server(chain: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let builder = ServerConfig::builder().with_no_client_auth();
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

async fn serve(backend: Backend, issuer: Arc<Issuer>) {
    let Backend { name, listener, tls } = backend;
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        // What fails here is a connection, or files run out: either is over soon.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (tls, issuer) = (tls.clone(), issuer.clone());
        tokio::spawn(async move {
            let Some(config) = tls else { return answer(name, stream, issuer).await };
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            answer(name, stream, issuer).await;
        });
    }
}

async fn answer<S>(name: &'static str, stream: S, issuer: Arc<Issuer>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let response = match name {
            "issuer" => issued(&issuer, &request),
            "catalogue" if request.uri().path() == "/" => page(),
            _ => told(name, &request),
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // A client that goes away is no concern of ours.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn issued(issuer: &Issuer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/jwks" => response("application/json", issuer.key_set().to_owned()),
        "/token" => match token(issuer, query, crate::app::unix_seconds()) {
            Ok(token) => response("text/plain", token),
            Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => failed(StatusCode::NOT_FOUND, "ask for /jwks or /token\n".to_owned()),
    }
}

/// What a service learns about a request and its caller.
fn told(name: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut text = format!("{name} got {} {}\n", request.method(), request.uri());
    let known =
        request.headers().get(X_FORWARDED_CLIENT_CERT).and_then(|value| value.to_str().ok());
    let caller =
        known.and_then(|parts| parts.split(';').find_map(|part| part.strip_prefix("URI=")));
    if let Some(caller) = caller {
        let _ = writeln!(text, "  from the workload {caller}");
    }
    for (name, value) in request.headers() {
        if ![AUTHORIZATION, X_FORWARDED_CLIENT_CERT].contains(name) {
            let _ = writeln!(text, "  {name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
    }
    response("text/plain; charset=utf-8", text)
}

fn page() -> Response<Full<Bytes>> {
    response("text/html; charset=utf-8", PAGE.to_owned())
}

fn failed(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = response("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

fn response(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const PAGE: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<title>The shop</title>
<style>body { font: 1.1rem/1.6 system-ui; margin: 4rem auto; max-width: 40rem }</style>
<h1>The shop</h1>
<p>This page came through portcullis from the catalogue, a plain HTTP service.</p>
<ul>
<li><a href=/cart>The cart</a>, a workload of the mesh behind its sidecar</li>
<li><a href=/products>An old address</a>, redirected by the gateway</li>
<li><a href=/robots.txt>robots.txt</a>, answered by the gateway</li>
</ul>
";
