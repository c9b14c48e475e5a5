//! Kubelet's probes of an application, asked on its behalf: kubelet has no certificate of the mesh, so
//! its probes are led to the status port (`/app-health/CONTAINER/livez`, as Istio's injection does).
//!
//! **Invariant:** only the application beside this process is asked; what a request says chooses neither
//! its address nor what is asked of it.

mod config;
mod grpc;
mod http;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::uri::PathAndQuery;
use ::http::{StatusCode, request};
use bytes::Bytes;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::client::{ClientTlsError, ClientTlsSpec, Verify, client_config};
use crate::tls::crypto::CryptoProfile;

pub use config::InvalidProbes;

/// The probes by the path they are asked for by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<String, Probe>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Probe {
    question: Question,
    /// Port of the application.
    port: u16,
    time: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Http { tls: bool, path: PathAndQuery },
    Tcp,
    Grpc { service: String },
}

impl Probes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the application said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its own status, or what stands for its answer: 200 or 500.
    pub status: StatusCode,
    /// The beginning of its body.
    pub body: Bytes,
}

impl Health {
    fn good() -> Self {
        Self { status: StatusCode::OK, body: Bytes::new() }
    }

    fn bad() -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, body: Bytes::new() }
    }
}

/// Why the application gave no answer that counts.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it cannot be connected to: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no answer within {0:?} (timeoutSeconds)")]
    Timeout(Duration),
    #[error("no answer that can be read: {0}")]
    Http(#[from] hyper::Error),
    #[error("no gRPC: {0}")]
    Channel(#[from] crate::grpc::client::ConnectError),
    #[error("grpc.health.v1 failed: {0}")]
    Grpc(#[from] tonic::Status),
    #[error("the answer is {0}, which is not SERVING")]
    NotServing(i32),
    #[error("more than {0} redirects")]
    Redirects(usize),
}

/// Asks the application.
pub struct Prober {
    probes: Probes,
    applications: Vec<SocketAddr>,
    /// Port that kubelet asks at.
    status: u16,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").field("probes", &self.probes).finish_non_exhaustive()
    }
}

impl Prober {
    /// For an application that listens at these addresses, asked at the port `status`.
    pub fn new(
        probes: Probes,
        applications: Vec<SocketAddr>,
        status: u16,
    ) -> Result<Self, ClientTlsError> {
        // Kubelet looks at no certificate either.
        let tls = client_config(&ClientTlsSpec {
            identity: None,
            crypto: CryptoProfile::standard(),
            alpn: vec![b"http/1.1".to_vec()],
            send_name: false,
            verify: Verify::Skip,
        })?;
        Ok(Self { probes, applications, status, tls })
    }

    /// How the application is; nothing when there is no such probe.
    pub async fn ask(&self, head: &request::Parts) -> Option<Health> {
        let path = head.uri.path();
        let probe = self.probes.0.get(path)?;
        let asked = timeout(probe.time, self.answer(probe, head)).await;
        let health = asked.unwrap_or(Err(Failure::Timeout(probe.time)));
        Some(health.unwrap_or_else(|error| {
            tracing::warn!(path, port = probe.port, %error, "a probe of the application failed");
            Health::bad()
        }))
    }

    async fn answer(&self, probe: &Probe, head: &request::Parts) -> Result<Health, Failure> {
        let address = self.address(probe.port);
        match &probe.question {
            Question::Http { tls, path } => {
                let first = http::Target { tls: *tls, address, path: path.clone() };
                http::get(first, &self.tls, (head, self.status)).await
            }
            Question::Tcp => {
                TcpStream::connect(address).await.map(|_| Health::good()).map_err(Failure::Connect)
            }
            Question::Grpc { service } => grpc::check(address, service).await,
        }
    }

    /// Where the application's port is: where its callers are led to, else on loopback.
    fn address(&self, port: u16) -> SocketAddr {
        let known = self.applications.iter().find(|address| address.port() == port);
        known.copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
    }
}
