//! A server of key sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::Leaf;

/// Answers one request: with the keys when it has the token, or none is asked for.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, keys: &str, token: &str) {
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    let known = token.is_empty() || head.contains(&format!("authorization: bearer {token}\r\n"));
    let (status, body) = if known { ("200 OK", keys) } else { ("401 Unauthorized", "") };
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Answers every request with one key set.
pub struct KeyServer {
    pub port: u16,
    fetches: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl KeyServer {
    pub async fn start(keys: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fetches = Arc::<AtomicUsize>::default();
        let count = fetches.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                answer(stream, &keys, "").await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { port, fetches, task }
    }

    /// As a Kubernetes API server does: over TLS, to who shows a token.
    pub async fn secure(keys: String, own: &Leaf, token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fetches = Arc::<AtomicUsize>::default();
        let count = fetches.clone();
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
                    answer(stream, &keys, token).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { port, fetches, task }
    }

    /// Answers no more: connections are refused.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}
