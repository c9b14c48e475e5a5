//! Streams of bytes through a proxy at the endpoint (`trafficPolicy.tunnel`): asked by CONNECT, after
//! which the connection is the target's, or by POST, whose two bodies are the two directions.
//!
//! **Invariant:** a stream that breaks off is never a body that ends in good order, nor the other way
//! round.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connect::{ConnectError, Stream};
use crate::base::limit;
use crate::net::executor::LocalExecutor;
use crate::net::flood::{Greeted, Metered};
use crate::snapshot::cluster::{Tunnel, TunnelMethod};

/// Asks the proxy at the other end to connect on; from there on the stream is the target's.
pub async fn tunnel(
    stream: Stream,
    tunnel: &Tunnel,
    within: Duration,
) -> Result<Stream, ConnectError> {
    timeout(within, ask(stream, tunnel)).await.map_err(|_| ConnectError::Timeout)?
}

async fn ask(stream: Stream, tunnel: &Tunnel) -> Result<Stream, ConnectError> {
    let local = stream.local_address();
    let scheme = if stream.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
    let (body, up) = match tunnel.method {
        TunnelMethod::Connect => (Upload::default(), None),
        TunnelMethod::Post => {
            let (up, body) = upload();
            (body, Some(up))
        }
    };
    let request = request(tunnel, scheme, body).map_err(failed)?;
    let response = if tunnel.http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.max_header_list_size(limit::HTTP2_HEADER_LIST_BYTES);
        let stream = TokioIo::new(Metered::backend(stream, Greeted::default()));
        let (mut sender, connection) = builder.handshake(stream).await.map_err(failed)?;
        spawn_local(connection);
        sender.send_request(request).await
    } else {
        let mut builder = http1::Builder::new();
        builder.max_header_size(limit::HTTP1_HEAD_BYTES);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
        spawn_local(connection.with_upgrades());
        sender.send_request(request).await
    };
    let response: Response<Incoming> = response.map_err(failed)?;
    if !response.status().is_success() {
        return Err(failed(format!("the proxy answers {}", response.status())));
    }
    Ok(match up {
        None => {
            let upgraded = hyper::upgrade::on(response).await.map_err(failed)?;
            Stream::Tunnel(TokioIo::new(upgraded), local)
        }
        Some(up) => {
            let down = response.into_body();
            Stream::Posted(Box::new(Posted { up, down, left: Bytes::new() }), local)
        }
    })
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ConnectError {
    ConnectError::Refused(io::Error::other(why))
}

fn request(tunnel: &Tunnel, scheme: Scheme, body: Upload) -> Result<Request<Upload>, http::Error> {
    let target = &tunnel.target;
    let (method, uri) = match (tunnel.method, tunnel.http2) {
        (TunnelMethod::Connect, _) => (Method::CONNECT, Uri::from(target.clone())),
        (TunnelMethod::Post, false) => (Method::POST, Uri::from_static("/")),
        (TunnelMethod::Post, true) => {
            let uri = Uri::builder().scheme(scheme).authority(target.clone());
            (Method::POST, uri.path_and_query("/").build()?)
        }
    };
    let mut request = Request::builder().method(method).uri(uri);
    if !tunnel.http2 {
        request = request.header(HOST, HeaderValue::try_from(target.as_str())?);
    }
    request.body(body)
}

/// The two bodies of a POST as one stream.
#[derive(Debug)]
pub struct Posted {
    up: Up,
    down: Incoming,
    /// What was received and not read yet.
    left: Bytes,
}

/// The end of an upload that is written to.
#[derive(Debug)]
struct Up {
    pipe: DuplexStream,
    ended: Arc<AtomicBool>,
}

/// The body of the question; empty for CONNECT.
#[derive(Debug, Default)]
struct Upload(Option<Sent>);

/// The end of an upload that is read.
#[derive(Debug)]
struct Sent {
    pipe: DuplexStream,
    ended: Arc<AtomicBool>,
    /// Room for what is read next.
    room: BytesMut,
}

fn upload() -> (Up, Upload) {
    let (pipe, other) = duplex(limit::TUNNEL_BYTES);
    let ended = Arc::<AtomicBool>::default();
    let sent = Sent { pipe: other, ended: ended.clone(), room: BytesMut::new() };
    (Up { pipe, ended }, Upload(Some(sent)))
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(Sent { pipe, ended, room }) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        if room.is_empty() {
            *room = BytesMut::zeroed(limit::TUNNEL_BYTES);
        }
        let mut buffer = ReadBuf::new(room);
        ready!(Pin::new(pipe).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        Poll::Ready(match count {
            0 if ended.load(Relaxed) => None,
            0 => Some(Err(io::ErrorKind::BrokenPipe.into())),
            _ => Some(Ok(Frame::data(room.split_to(count).freeze()))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

impl AsyncRead for Posted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(Pin::new(&mut self.down).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(frame)) => self.left = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Posted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.up.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.up.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.up.ended.store(true, Relaxed);
        Pin::new(&mut self.up.pipe).poll_shutdown(cx)
    }
}
