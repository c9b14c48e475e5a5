//! Bodies on their way through: counted, with a deadline on a client that stalls.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::service::Exchange;
use crate::base::limit;
use crate::upstream::pool::lease::Lease;

/// What went wrong with a body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer's side failed.
    #[error("body failed")]
    Peer(#[from] hyper::Error),
    /// No byte came for [`limit::STALL_TIME`].
    #[error("body stalled")]
    Stalled,
    /// The backend's answer is complete: nobody waits for the rest.
    #[error("body abandoned")]
    Abandoned,
}

/// A client's body, shared by what sends it on and by the exchange it belongs to.
#[derive(Debug, Default)]
pub struct Upload {
    incoming: RefCell<Option<Incoming>>,
    /// Bytes that came.
    pub bytes: Cell<u64>,
    /// The client stalled.
    pub stalled: Cell<bool>,
    ended: Cell<bool>,
    sender: RefCell<Option<Waker>>,
}

impl Upload {
    /// Takes the body in; what sends it on gets the handle.
    pub fn begin(self: &Rc<Self>, incoming: Incoming, gate: Option<Arc<Gate>>) -> RequestBody {
        let empty = incoming.is_end_stream();
        let size = incoming.size_hint();
        self.ended.set(empty);
        self.incoming.replace(Some(incoming));
        RequestBody { upload: self.clone(), gate, size, stall: None }
    }

    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        self.ended.get() && self.bytes.get() == 0
    }

    /// Another handle for what sends the request a second time.
    pub fn again(self: &Rc<Self>) -> RequestBody {
        RequestBody { upload: self.clone(), gate: None, size: SizeHint::with_exact(0), stall: None }
    }

    /// Gives up what has not come yet: the client is told to stop, the backend's connection ends.
    fn abandon(&self) {
        drop(self.incoming.take());
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut slot = self.incoming.borrow_mut();
        let Some(incoming) = slot.as_mut() else {
            let rest = (!self.ended.get()).then_some(Err(BodyError::Abandoned));
            return Poll::Ready(rest);
        };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
            self.sender.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        };
        if let Some(Ok(frame)) = &frame {
            let count = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.bytes.set(self.bytes.get() + count);
        }
        if frame.is_none() || incoming.is_end_stream() {
            self.ended.set(true);
        }
        Poll::Ready(frame.map(|result| result.map_err(BodyError::Peer)))
    }
}

/// Holds a body back until the backend asks for it (`Expect: 100-continue`), or for
/// [`limit::EXPECT_TIME`]: many a backend never asks (RFC 9110 section 10.1.1).
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    /// The backend wants the body.
    pub fn open(&self) {
        self.open.store(true, Relaxed);
        self.waker.wake();
    }

    fn is_shut(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        !self.open.load(Relaxed)
    }
}

/// A client's body on its way to the backend.
#[derive(Debug)]
pub struct RequestBody {
    upload: Rc<Upload>,
    gate: Option<Arc<Gate>>,
    /// As it was before the first byte.
    size: SizeHint,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.gate.as_ref().is_some_and(|gate| gate.is_shut(cx)) {
            let patience = self.stall.get_or_insert_with(|| Box::pin(sleep(limit::EXPECT_TIME)));
            ready!(patience.as_mut().poll(cx));
        }
        if self.gate.take().is_some() {
            self.stall = None;
        }
        let Poll::Ready(frame) = self.upload.poll_frame(cx) else {
            let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit::STALL_TIME)));
            ready!(stall.as_mut().poll(cx));
            self.upload.stalled.set(true);
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        };
        if let Some(stall) = &mut self.stall {
            stall.as_mut().reset(Instant::now() + limit::STALL_TIME);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.upload.ended.get()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// A response's body; when it ends, or is dropped, the exchange is over.
pub struct ResponseBody {
    content: Content,
    exchange: Option<Box<Exchange>>,
    /// An HTTP/2 client is still sending: once the answer is out it is told to stop
    /// (RFC 9113 section 8.1). HTTP/1.1 has no word for that.
    unfinished: Option<Rc<Upload>>,
    handed: bool,
}

enum Content {
    Own(Bytes),
    Backend(Incoming, Option<Box<Lease<RequestBody>>>),
}

impl ResponseBody {
    /// A body of our own making; empty for none.
    pub fn own(content: Bytes, exchange: Box<Exchange>) -> Self {
        let content = Content::Own(content);
        Self { content, exchange: Some(exchange), unfinished: None, handed: false }
    }

    /// No body, and nothing that ends with it.
    pub fn none() -> Self {
        let content = Content::Own(Bytes::new());
        Self { content, exchange: None, unfinished: None, handed: false }
    }

    /// A backend's body and the connection it comes over.
    pub fn backend(incoming: Incoming, lease: Lease<RequestBody>, exchange: Box<Exchange>) -> Self {
        let content = Content::Backend(incoming, Some(Box::new(lease)));
        let unfinished =
            (exchange.is_http2() && !exchange.upload.ended.get()).then(|| exchange.upload.clone());
        let mut body = Self { content, exchange: Some(exchange), unfinished, handed: false };
        if body.is_end_stream() {
            body.complete();
        }
        body
    }

    /// The last byte was handed over: the connection can be used again, unless the client is still
    /// sending over it.
    fn complete(&mut self) {
        if let Content::Backend(_, lease) = &mut self.content
            && let Some(lease) = lease.take()
            && self.exchange.as_ref().is_some_and(|one| one.upload.ended.get())
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
        if let Some(upload) = &self.unfinished {
            upload.abandon();
        }
    }
}
