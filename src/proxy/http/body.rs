//! Bodies on their way through: counted, with a deadline on a client that stalls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::service::Exchange;
use crate::base::limit;
use crate::upstream::pool::Lease;

/// What went wrong with a body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer's side failed.
    #[error("body failed")]
    Peer(#[from] hyper::Error),
    /// No byte came for [`limit::STALL_TIME`].
    #[error("body stalled")]
    Stalled,
}

/// Counts of a request body, read when the exchange ends.
#[derive(Debug, Default)]
pub struct Upload {
    /// Bytes that came.
    pub bytes: AtomicU64,
    /// The client stalled.
    pub stalled: AtomicBool,
    /// The whole body came.
    pub ended: AtomicBool,
    /// For `Expect: 100-continue`: the backend wants the body.
    gate: Option<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Upload {
    /// An upload that waits until the backend asks for it.
    pub fn gated() -> Self {
        Self { gate: Some(Gate::default()), ..Self::default() }
    }

    /// The backend wants the body.
    pub fn open(&self) {
        if let Some(gate) = &self.gate {
            gate.open.store(true, Relaxed);
            gate.waker.wake();
        }
    }

    fn is_held(&self, cx: &Context<'_>) -> bool {
        let Some(gate) = &self.gate else { return false };
        gate.waker.register(cx.waker());
        !gate.open.load(Relaxed)
    }
}

/// A client's body on its way to the backend.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    upload: Arc<Upload>,
    stall: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// Wraps a client's body.
    pub fn new(incoming: Incoming, upload: Arc<Upload>) -> Self {
        Self { incoming, upload, stall: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.upload.is_held(cx) {
            return Poll::Pending;
        }
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit::STALL_TIME)));
            ready!(stall.as_mut().poll(cx));
            self.upload.stalled.store(true, Relaxed);
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        };
        if let Some(stall) = &mut self.stall {
            stall.as_mut().reset(Instant::now() + limit::STALL_TIME);
        }
        match &frame {
            Some(Ok(frame)) => {
                let count = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.upload.bytes.store(self.upload.bytes.load(Relaxed) + count, Relaxed);
            }
            None => self.upload.ended.store(true, Relaxed),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame.map(|result| result.map_err(BodyError::Peer)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A response's body; when it ends, or is dropped, the exchange is over.
pub struct ResponseBody {
    content: Content,
    exchange: Option<Box<Exchange>>,
    handed: bool,
}

enum Content {
    Own(Bytes),
    Backend(Incoming, Option<Box<Lease<RequestBody>>>),
}

impl ResponseBody {
    /// A body of our own making; empty for none.
    pub fn own(content: Bytes, exchange: Box<Exchange>) -> Self {
        Self { content: Content::Own(content), exchange: Some(exchange), handed: false }
    }

    /// No body, and nothing that ends with it.
    pub fn none() -> Self {
        Self { content: Content::Own(Bytes::new()), exchange: None, handed: false }
    }

    /// A backend's body and the connection it comes over.
    pub fn backend(incoming: Incoming, lease: Lease<RequestBody>, exchange: Box<Exchange>) -> Self {
        let content = Content::Backend(incoming, Some(Box::new(lease)));
        let mut body = Self { content, exchange: Some(exchange), handed: false };
        if body.is_end_stream() {
            body.complete();
        }
        body
    }

    /// The last byte was handed over: the connection can be used again.
    fn complete(&mut self) {
        if let Content::Backend(_, lease) = &mut self.content
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.finish();
        }
    }

    fn fail(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.backend_failed_midway();
            exchange.finish();
        }
    }

    /// Tells the connection's watch whether the client has something of ours to read.
    fn hand(&mut self, handed: bool) {
        if self.handed == handed {
            return;
        }
        self.handed = handed;
        if let Some(exchange) = &self.exchange {
            if handed {
                exchange.liveness().response_handed();
            } else {
                exchange.liveness().response_taken();
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.hand(false);
        let frame = match &mut self.content {
            Content::Own(bytes) if bytes.is_empty() => None,
            Content::Own(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Content::Backend(incoming, _) => ready!(Pin::new(incoming).poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                let sent = frame.data_ref().map_or(0, Bytes::len) as u64;
                if let Some(exchange) = &mut self.exchange {
                    exchange.sent(sent, frame.trailers_ref());
                }
                self.hand(true);
                if self.is_end_stream() {
                    self.hand(false);
                    self.complete();
                }
            }
            Some(Err(_)) => self.fail(),
            None => self.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_empty(),
            Content::Backend(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Backend(incoming, _) => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.hand(false);
        let unread = !self.is_end_stream();
        if let Some(mut exchange) = self.exchange.take() {
            if unread && exchange.expects_body() {
                exchange.client_left();
            }
            exchange.finish();
        }
    }
}
