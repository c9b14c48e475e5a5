//! A server of key sets.

use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::Leaf;

/// What is said to who may ask.
enum Reply {
    Keys(String),
    Redirect(String),
}

/// Answers one request: as it shall when it has the token, or none is asked for. Gives the request's head.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: &Reply,
    token: &str,
) -> String {
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    let known = token.is_empty() || head.contains(&format!("authorization: bearer {token}\r\n"));
    let (status, body) = match reply {
        _ if !known => ("401 Unauthorized", ""),
        Reply::Keys(keys) => ("200 OK", keys.as_str()),
        Reply::Redirect(to) => (&*format!("302 Found\r\nlocation: {to}"), ""),
    };
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    head
}

/// Answers every request with one key set.
pub struct KeyServer {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl KeyServer {
    pub async fn start(keys: String) -> Self {
        Self::start_at(0, keys).await
    }

    /// The same at a port that was kept free.
    pub async fn start_at(port: u16, keys: String) -> Self {
        let reply = Reply::Keys(keys);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let head = answer(stream, &reply, "").await;
                seen.lock().unwrap().push(head);
            }
        });
        Self { port, heads, task }
    }

    /// As a Kubernetes API server does: over TLS, to who shows a token.
    pub async fn secure(keys: String, own: &Leaf, token: &'static str) -> Self {
        Self::over_tls(Reply::Keys(keys), own, token).await
    }

    /// Sends who shows a token elsewhere, over TLS.
    pub async fn redirecting(to: &str, own: &Leaf, token: &'static str) -> Self {
        Self::over_tls(Reply::Redirect(to.to_owned()), own, token).await
    }

    async fn over_tls(reply: Reply, own: &Leaf, token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    let head = answer(stream, &reply, token).await;
                    seen.lock().unwrap().push(head);
                }
            }
        });
        Self { port, heads, task }
    }

    /// Answers no more: connections are refused.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub fn fetches(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// Whether a request came with this in its head, in lower case.
    pub fn saw(&self, text: &str) -> bool {
        self.heads.lock().unwrap().iter().any(|head| head.contains(text))
    }
}
