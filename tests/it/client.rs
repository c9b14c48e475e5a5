//! HTTP and TLS clients over loopback.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::gateway::PATIENCE;
use crate::pki::{Authority, Leaf};

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// What an echoing backend saw.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Whom a TLS client trusts and what it shows.
pub fn tls(trusted: &Authority, own: Option<&Leaf>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).map(Result::unwrap).collect(),
                PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// As [`tls`], for a client that verifies signatures of one scheme alone.
pub fn tls_with(trusted: &Authority, scheme: SignatureScheme) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&tls(trusted, None, &[]));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
    let inner = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.into());
    let verifier = OneScheme { inner: inner.build().unwrap(), scheme };
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    Arc::new(config)
}

#[derive(Debug)]
struct OneScheme {
    inner: Arc<WebPkiServerVerifier>,
    scheme: SignatureScheme,
}

impl ServerCertVerifier for OneScheme {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![self.scheme]
    }
}

pub async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// A TLS connection, or why there is none.
pub async fn shake(
    config: &Arc<ClientConfig>,
    port: u16,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = connect(port).await;
    timeout(PATIENCE, TlsConnector::from(config.clone()).connect(name, stream)).await.unwrap()
}

/// A TLS connection that is proven to work: with TLS 1.3 a server refuses a client's certificate
/// only after the client's side of the handshake is done.
pub async fn proven(config: &Arc<ClientConfig>, port: u16, name: &str) -> std::io::Result<()> {
    let mut stream = shake(config, port, name).await?;
    stream.write_all(b"GET /proof HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap()?;
    assert!(!answer.is_empty());
    Ok(())
}

/// A connection that speaks HTTP.
pub enum Http {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Http {
    pub async fn plain(port: u16) -> Self {
        Self::one(connect(port).await).await
    }

    /// HTTP/2 with prior knowledge.
    pub async fn plain2(port: u16) -> Self {
        Self::two(connect(port).await).await
    }

    /// HTTP/2 or HTTP/1.1 as the handshake says.
    pub async fn secure(config: &Arc<ClientConfig>, port: u16, name: &str) -> Self {
        let stream = shake(config, port, name).await.unwrap();
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Self::two(stream).await
        } else {
            Self::one(stream).await
        }
    }

    /// HTTP/1.1 over a stream.
    pub async fn over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        Self::one(stream).await
    }

    pub async fn two<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Two(sender)
    }

    async fn one<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self::One(sender)
    }

    pub async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        let exchange = async {
            let response = match self {
                Self::One(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Self::Two(sender) => sender.send_request(request).await?,
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await?;
            let trailers = body.trailers().cloned();
            let (status, headers) = (head.status, head.headers);
            Ok(Reply { status, headers, body: body.to_bytes(), trailers })
        };
        timeout(PATIENCE, exchange).await.unwrap()
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        self.try_send(request).await.unwrap()
    }

    /// A GET; `url` is `http://host/path` or `https://host/path`.
    pub async fn get(&mut self, url: &str) -> Reply {
        self.ask(url, &[]).await
    }

    pub async fn ask(&mut self, url: &str, headers: &[(&str, &str)]) -> Reply {
        let request = self.request("GET", url, headers, "");
        self.send(request).await
    }

    /// A request in the form of the connection's version.
    pub fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Request<Full<Bytes>> {
        let uri: http::Uri = url.parse().unwrap();
        let mut request = Request::builder().method(method);
        if let Self::One(_) = self {
            request = request
                .header("host", uri.authority().unwrap().as_str())
                .uri(uri.path_and_query().map_or("/", |path| path.as_str()));
        } else {
            request = request.uri(uri);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
    }
}

/// Sends bytes and reads until the other side ends.
pub async fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

/// As [`tls`], with TLS 1.2 alone.
pub fn tls12(trusted: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12]);
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// As [`tls`], for a mesh workload that expects the gateway's SPIFFE identity.
pub fn mesh_tls(mesh: &Authority, own: Option<&Leaf>) -> Arc<ClientConfig> {
    mesh_tls_of(mesh.pem(), own)
}

/// The same with the mesh's roots as PEM.
pub fn mesh_tls_of(roots: &str, own: Option<&Leaf>) -> Arc<ClientConfig> {
    use portcullis::tls::client::{ClientTlsSpec, HostCheck, Verify, client_config};
    use portcullis::tls::crypto::CryptoProfile;
    use portcullis::tls::material::Material;
    use portcullis::tls::revocation::Crls;
    use portcullis::tls::roots::Roots;

    let identity = own
        .map(|leaf| Arc::new(Material::parse(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap()));
    client_config(&ClientTlsSpec {
        identity,
        crypto: CryptoProfile::standard(),
        alpn: Vec::new(),
        send_name: true,
        verify: Verify::Chain {
            roots: Roots::parse(roots.as_bytes()).unwrap(),
            crls: Crls::default(),
            names: ["spiffe://cluster.local/ns/istio-system/sa/gateway"].into_iter().collect(),
            host: HostCheck::Off,
        },
    })
    .unwrap()
}

/// A relay to a port of loopback that passes on what clients write in single bytes.
pub async fn byte_by_byte(port: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = connect(port).await;
        server.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        while let Ok(byte) = from_client.read_u8().await {
            if to_server.write_u8(byte).await.is_err() {
                break;
            }
        }
    });
    own
}
