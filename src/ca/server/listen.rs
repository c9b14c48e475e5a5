//! Accepting on the CA's port and sockets.
//!
//! **Invariant:** who has not proven an identity holds a connection for a bounded time, and no user of a
//! socket takes the room of the others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Request, Response};
use hyper::body::Incoming;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;

use super::certificates;
use super::holder::Holder;
use super::secrets::SecretStream;
use super::shares::Shares;
use super::state::Ca;
use super::workload_api::{BundleStream, SvidStream, meant};
use crate::base::limit;
use crate::ca::Caller;
use crate::grpc::authority::Mended;
use crate::grpc::sds::{DiscoveryRequest, STREAM_SECRETS};
use crate::grpc::server::{Answering, Method, answers, at_once, call, connection, unknown_method};
use crate::grpc::workload::{Empty, FETCH_X509_BUNDLES, FETCH_X509_SVID};
use crate::tls::crypto::CryptoProfile;

/// Wait after a failed accept, for lack of file descriptors most likely.
const ACCEPT_RETRY_TIME: Duration = Duration::from_millis(100);

/// Users with too many connections are told of so often at most.
const SHARE_TOLD_TIME: Duration = Duration::from_mins(1);

/// What a socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// `--sds`.
    Secrets,
    /// `--workload-api`.
    WorkloadApi,
}

/// The certificate of the CA's own server, as it is now.
#[derive(Debug, Default)]
struct OwnCertificate(ArcSwapOption<CertifiedKey>);

impl OwnCertificate {
    fn renew(&self, holder: &mut Holder) {
        let standing = holder.standing();
        match holder.issue(&standing) {
            Ok(svid) => {
                let key = PrivateKeyDer::try_from(svid.key.der().expose().clone());
                let key = key.ok().and_then(|key| any_supported_type(&key).ok());
                self.0.store(key.map(|key| Arc::new(CertifiedKey::new(svid.chain, key))));
            }
            Err(status) => tracing::error!(%status, "the CA has no certificate for its own port"),
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Serves CreateCertificate over TLS with a certificate of the CA's own.
pub async fn port(ca: Arc<Ca>, listener: TcpListener) -> Result<(), rustls::Error> {
    let own = Arc::<OwnCertificate>::default();
    let mut holder = Holder::new(ca.clone(), Caller::Own);
    own.renew(&mut holder);
    tokio::spawn(renew_own(holder, own.clone()));
    let crypto = CryptoProfile::standard();
    let mut config = ServerConfig::builder_with_provider(crypto.provider.clone())
        .with_protocol_versions(crypto.versions)?
        .with_no_client_auth()
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let room = Arc::new(Semaphore::new(limit::CA_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let Some(stream) = accepted(listener.accept().await).await else { continue };
        let (ca, acceptor) = (ca.clone(), acceptor.clone());
        tokio::spawn(async move {
            call_over(ca, acceptor, stream).await;
            drop(permit);
        });
    }
}

async fn accepted<S, A>(result: io::Result<(S, A)>) -> Option<S> {
    match result {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be accepted");
            sleep(ACCEPT_RETRY_TIME).await;
            None
        }
    }
}

async fn call_over(ca: Arc<Ca>, acceptor: TlsAcceptor, stream: TcpStream) {
    match timeout(limit::HANDSHAKE_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let answer = |request| certificates::answer(ca.clone(), request);
            connection(stream, Some(limit::CA_CONNECTION_TIME), answer).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
        Err(_) => tracing::debug!("a handshake took too long"),
    }
}

/// Has the server's own certificate renewed in time.
async fn renew_own(mut holder: Holder, own: Arc<OwnCertificate>) {
    loop {
        holder.due().await;
        own.renew(&mut holder);
    }
}

/// Serves one interface on a Unix socket.
pub async fn socket(ca: Arc<Ca>, listener: UnixListener, interface: Interface) {
    let room = Arc::new(Semaphore::new(limit::CA_CONNECTIONS));
    let (shares, mut told) = (Shares::default(), None::<Instant>);
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Some(stream) = accepted(listener.accept().await).await else { continue };
        let user = match stream.peer_cred() {
            Ok(credentials) => credentials.uid(),
            Err(error) => {
                tracing::warn!(%error, "a caller's user is not known");
                continue;
            }
        };
        let Some(share) = shares.take(user) else {
            if told.is_none_or(|at| at.elapsed() >= SHARE_TOLD_TIME) {
                told = Some(Instant::now());
                let most = limit::CA_USER_CONNECTIONS;
                tracing::warn!(user, most, "a user has as many connections as it may");
            }
            continue;
        };
        let ca = ca.clone();
        tokio::spawn(async move {
            speak(ca, stream, user, interface).await;
            drop((share, permit));
        });
    }
}

async fn speak(ca: Arc<Ca>, stream: UnixStream, user: u32, interface: Interface) {
    let caller = Caller::User(user);
    let known = ca.standing().borrow().workloads.user(user).is_some();
    let most = (!known).then_some(limit::CA_CALL_TIME);
    let answer = |request| answer(ca.clone(), caller, interface, request);
    connection(Mended::new(stream), most, answer).await;
}

async fn answer(
    ca: Arc<Ca>,
    caller: Caller,
    interface: Interface,
    request: Request<Incoming>,
) -> Response<Body> {
    match (interface, request.uri().path()) {
        (Interface::Secrets, STREAM_SECRETS) => {
            let method = Method(|request: tonic::Request<tonic::Streaming<DiscoveryRequest>>| {
                let stream = SecretStream::new(ca.clone(), caller, request.into_inner());
                at_once(Ok(tonic::Response::new(answers(stream))))
            });
            call().streaming(method, request).await
        }
        (Interface::WorkloadApi, FETCH_X509_SVID) => {
            stream(SvidStream::new(ca, caller), request).await
        }
        (Interface::WorkloadApi, FETCH_X509_BUNDLES) => {
            stream(BundleStream::new(ca, caller), request).await
        }
        _ => unknown_method(),
    }
}

async fn stream<A>(source: A, request: Request<Incoming>) -> Response<Body>
where
    A: Answering,
    A::Answer: prost::Message + Default + Send + 'static,
{
    if let Err(status) = meant(request.headers()) {
        return status.into_http();
    }
    let mut source = Some(source);
    let method = Method(move |_: tonic::Request<Empty>| {
        let answer = source.take().map(|source| tonic::Response::new(answers(source)));
        at_once(answer.ok_or_else(|| Status::internal("a call is answered once")))
    });
    call().server_streaming(method, request).await
}
