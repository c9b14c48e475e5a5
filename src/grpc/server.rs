//! The serving end: one HTTP/2 connection, whose calls a function answers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic_prost::ProstCodec;

use crate::base::limit;

/// A peer that answers no ping for this long is gone.
const PING_TIME: Duration = Duration::from_secs(20);
/// Header list of a call: a token and a few fields.
const HEADER_LIST_BYTES: u32 = 32 << 10;

/// Answers of one streaming call.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers the calls of a connection until it ends, or until it is `most` old and its calls are over.
pub async fn connection<S, A, F>(stream: S, most: Option<Duration>, answer: A)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_TIME)
        .keep_alive_timeout(PING_TIME)
        .max_concurrent_streams(limit::CA_CALLS)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(limit::HTTP2_PENDING_RESETS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    if let Some(most) = most
        && timeout(most, connection.as_mut()).await.is_err()
    {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limit::CA_CALL_TIME, connection).await;
    } else if most.is_none()
        && let Err(error) = connection.await
    {
        tracing::debug!(%error, "a gRPC connection failed");
    }
}

/// Frames the messages of a call; larger ones than [`limit::CA_MESSAGE_BYTES`] are refused.
pub fn call<Q, R>() -> tonic::server::Grpc<ProstCodec<R, Q>>
where
    Q: prost::Message + Default + Send + 'static,
    R: prost::Message + Default + Send + 'static,
{
    tonic::server::Grpc::new(ProstCodec::default())
        .max_decoding_message_size(limit::CA_MESSAGE_BYTES)
}

/// The answer to a path that nobody serves.
pub fn unknown_method() -> Response<Body> {
    Status::unimplemented("there is no such method here").into_http()
}

/// A function as what tonic calls.
pub struct Method<F>(pub F);

impl<F, Q, W, R> tower_service::Service<Q> for Method<F>
where
    F: FnMut(Q) -> W,
    W: Future<Output = Result<R, Status>>,
{
    type Response = R;
    type Error = Status;
    type Future = W;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> W {
        (self.0)(request)
    }
}

/// A method whose answer is at hand.
pub fn at_once<R>(answer: Result<R, Status>) -> Ready<Result<R, Status>> {
    ready(answer)
}

/// Something that gives answers one after the other, until it ends or fails.
pub trait Answering: Send + 'static {
    /// An answer.
    type Answer;

    /// Waits for the next answer; nothing ends the stream.
    fn next(&mut self) -> impl Future<Output = Option<Result<Self::Answer, Status>>> + Send;
}

/// Its answers as a stream, which ends with the first failure.
pub fn answers<A: Answering>(source: A) -> Answers<A::Answer> {
    Box::pin(unfold(Some(source), |source| async {
        let mut source = source?;
        let answer = source.next().await?;
        let rest = answer.is_ok().then_some(source);
        Some((answer, rest))
    }))
}
