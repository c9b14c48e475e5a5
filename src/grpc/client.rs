//! The calling end: one HTTP/2 connection to one server.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tonic::body::Body;

use crate::base::limit;

/// A server that answers no ping for this long is gone.
const PING_TIME: Duration = Duration::from_secs(20);

/// Why a connection cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens, or not for us.
    #[error("it cannot be connected to: {0}")]
    Socket(#[from] std::io::Error),
    /// The server does not speak HTTP/2.
    #[error("it does not speak HTTP/2: {0}")]
    Http(#[from] hyper::Error),
}

/// A connection; dropping it ends its calls.
pub struct Channel {
    sender: SendRequest<Body>,
    driver: AbortHandle,
}

/// Calls over a connection.
pub type Client = tonic::client::Grpc<Channel>;

/// Connects to a Unix socket.
pub async fn connect_unix(path: &Path) -> Result<Client, ConnectError> {
    let stream = UnixStream::connect(path).await?;
    over(stream, Uri::from_static("http://localhost")).await
}

/// Speaks over a stream to the server `origin`.
pub async fn over<S>(stream: S, origin: Uri) -> Result<Client, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING_TIME).keep_alive_timeout(PING_TIME);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a gRPC connection failed");
        }
    });
    let channel = Channel { sender, driver: driver.abort_handle() };
    let client = tonic::client::Grpc::with_origin(channel, origin);
    Ok(client.max_decoding_message_size(limit::IDENTITY_MESSAGE_BYTES))
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
