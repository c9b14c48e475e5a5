//! Bodies of answers on their way to clients: counted, with a deadline.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::exchange::Exchange;
use super::grpc_web::{Encoder, NotBase64};
use super::request_body::RequestBody;
use super::upload::Upload;
use crate::decide::reject::Reject;
use crate::upstream::pool::lease::Lease;

/// What went wrong with a body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer's side failed.
    #[error("body failed")]
    Peer(#[from] hyper::Error),
    /// No byte came for [`crate::base::limit::STALL_TIME`].
    #[error("body stalled")]
    Stalled,
    /// The backend's answer is complete: nobody waits for the rest.
    #[error("body abandoned")]
    Abandoned,
    /// It is not base64, as it should be.
    #[error(transparent)]
    NotBase64(#[from] NotBase64),
    /// The time for the whole answer ran out.
    #[error("response timeout")]
    Late,
    /// The request would be refused now. gRPC clients take this reason for a denied permission.
    #[error("no longer allowed")]
    Refused(#[source] h2::Error),
}

/// Ends, with the reason, when a request has had its time.
pub type Expiry = Pin<Box<dyn Future<Output = Reject>>>;

/// A response's body; when it ends, or is dropped, the exchange is over.
///
/// **Invariant:** it has ended when the exchange is over: with the last byte, or with trailers, after which
/// nobody asks for more.
pub struct ResponseBody {
    content: Content,
    /// Until the end.
    exchange: Option<Box<Exchange>>,
    /// An HTTP/2 client is still sending: once the answer is out it is told to stop
    /// (RFC 9113 section 8.1). HTTP/1.1 has no word for that.
    unfinished: Option<Rc<Upload>>,
    handed: bool,
    /// Writes a call of gRPC-Web's answer.
    encoder: Option<Box<Encoder>>,
    /// When the whole answer must be there.
    expiry: Option<Expiry>,
}

enum Content {
    Own(Bytes),
    Backend(Incoming, Option<Box<Lease<RequestBody>>>),
}

impl Content {
    fn next_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Backend(incoming, _) => Pin::new(incoming).poll_frame(cx),
        }
    }

    /// Whether it is known that nothing comes any more.
    fn is_empty(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::Backend(incoming, _) => incoming.is_end_stream(),
        }
    }
}

impl ResponseBody {
    /// A body of our own making; empty for none.
    pub fn own(content: Bytes, exchange: Box<Exchange>) -> Self {
        let mut body = Self::none();
        body.content = Content::Own(content);
        body.exchange = Some(exchange);
        body.complete_if_empty();
        body
    }

    /// No body, and nothing that ends with it.
    pub fn none() -> Self {
        Self {
            content: Content::Own(Bytes::new()),
            exchange: None,
            unfinished: None,
            handed: false,
            encoder: None,
            expiry: None,
        }
    }

    /// A backend's body and the connection it comes over.
    pub fn backend(
        incoming: Incoming,
        lease: Lease<RequestBody>,
        exchange: Box<Exchange>,
        (expiry, encoder): (Option<Expiry>, Option<Encoder>),
    ) -> Self {
        let content = Content::Backend(incoming, Some(Box::new(lease)));
        let unfinished = (exchange.is_http2() && !exchange.upload.is_finished())
            .then(|| exchange.upload.clone());
        let encoder = encoder.map(Box::new);
        let mut body =
            Self { content, exchange: Some(exchange), unfinished, handed: false, encoder, expiry };
        body.complete_if_empty();
        body
    }

    /// What comes next, as it is sent; with the last of it the exchange is over.
    fn next_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while self.exchange.is_some() {
            let frame = match ready!(self.content.next_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.fail();
                    return Poll::Ready(Some(Err(BodyError::Peer(error))));
                }
                None => {
                    self.complete();
                    break;
                }
            };
            if let Some(exchange) = &mut self.exchange {
                exchange.sent(&frame);
            }
            if frame.is_trailers() {
                self.complete();
            } else {
                self.complete_if_empty();
            }
            let frame = match &mut self.encoder {
                Some(encoder) => encoder.encode(frame),
                None => Some(frame),
            };
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        Poll::Ready(None)
    }

    /// Why it ends before its time.
    fn over(&mut self, cx: &mut Context<'_>) -> Option<Reject> {
        if let Some(expiry) = &mut self.expiry
            && let Poll::Ready(reject) = expiry.as_mut().poll(cx)
        {
            return Some(reject);
        }
        match (&self.content, &mut self.exchange) {
            (Content::Backend(..), Some(exchange)) => exchange.tightened(),
            _ => None,
        }
    }

    fn complete_if_empty(&mut self) {
        if self.content.is_empty() {
            self.complete();
        }
    }

    /// The last of it is handed over: the connection can be used again, unless the client is still
    /// sending over it.
    fn complete(&mut self) {
        if let Content::Backend(_, lease) = &mut self.content
            && let Some(lease) = lease.take()
            && self.exchange.as_ref().is_some_and(|one| one.upload.is_finished())
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
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.hand(false);
        if let Some(reject) = self.over(cx) {
            self.expiry = None;
            self.content = Content::Own(Bytes::new());
            if let Some(mut exchange) = self.exchange.take() {
                exchange.ended_midway(&reject);
                exchange.finish();
            }
            let refused = h2::Reason::INADEQUATE_SECURITY;
            return Poll::Ready(Some(Err(match reject {
                Reject::Tightened(_) => BodyError::Refused(refused.into()),
                _ => BodyError::Late,
            })));
        }
        let frame = ready!(self.next_frame(cx));
        let more = frame.is_some() && self.exchange.is_some();
        self.hand(more);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Backend(..) if self.encoder.is_some() => SizeHint::default(),
            Content::Backend(incoming, _) => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.hand(false);
        if let Some(mut exchange) = self.exchange.take() {
            if exchange.expects_body() {
                exchange.client_left();
            }
            exchange.finish();
        }
        if let Some(upload) = &self.unfinished {
            upload.abandon();
        }
    }
}
