//! Clients' bodies: counted, kept for another try as far as that is allowed, copied to mirrors.
//!
//! **Invariant:** a byte of the client's body is taken from it once, and only the latest try gets it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::body::BodyError;
use super::grpc_web::Decoder;
use super::request_body::RequestBody;
use super::tee::{BodyCopy, CopyState, Piece};
use crate::auth::jwt::remove_owned;
use crate::base::limit;
use crate::decide::reject::{BadRequest, Reject};
use crate::decide::sanitize::sanitize_trailers;
use crate::telemetry::messages::MessageMeter;

/// A client's body, shared by what sends it on and by the exchange it belongs to.
#[derive(Debug, Default)]
pub struct Upload {
    incoming: RefCell<Option<Incoming>>,
    /// Bytes that came.
    pub bytes: Cell<u64>,
    /// What went wrong with it.
    pub fault: Cell<Option<Fault>>,
    pub(super) ended: Cell<bool>,
    /// Headers that its trailers may not have, besides those that no client may say.
    withheld: RefCell<Option<Arc<[HeaderName]>>>,
    /// Counts its gRPC messages.
    messages: RefCell<Option<Box<MessageMeter>>>,
    /// Makes a body in base64 what it stands for.
    decoder: RefCell<Option<Box<Decoder>>>,
    /// Its length, when the client told it.
    length: Cell<Option<u64>>,
    sender: RefCell<Option<Waker>>,
    end: Notify,
    /// Which try sends it on; earlier ones get nothing more.
    pub(super) turn: Cell<u32>,
    /// What was passed on, for another try.
    kept: RefCell<Kept>,
    /// What was read before it is passed on.
    early: RefCell<VecDeque<Piece>>,
    early_bytes: Cell<usize>,
    /// Reading early met the body's end.
    read: Cell<bool>,
    /// Mirrors of it.
    copies: RefCell<SmallVec<[Rc<BodyCopy>; 1]>>,
}

/// What went wrong with a client's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing came for [`limit::STALL_TIME`].
    Stalled,
    /// It is not what its framing says (RFC 9112 section 7.1).
    Malformed,
    /// The client went away, or took it back.
    Gone,
}

impl Fault {
    /// Why a request with such a body is refused.
    pub fn reject(self) -> Reject {
        match self {
            Self::Stalled => Reject::RequestTimeout,
            Self::Malformed => Reject::BadRequest(BadRequest::Body),
            Self::Gone => Reject::ClientGone,
        }
    }

    /// What an error of the client's connection means.
    pub fn of(error: &hyper::Error) -> Self {
        use io::ErrorKind::{InvalidData, InvalidInput};
        let source = std::error::Error::source(error);
        let kind = source.and_then(|inner| inner.downcast_ref::<io::Error>()).map(io::Error::kind);
        if matches!(kind, Some(InvalidData | InvalidInput)) { Self::Malformed } else { Self::Gone }
    }
}

/// The beginning of a body, as far as it is kept for another try.
#[derive(Debug, Default)]
enum Kept {
    /// Nothing is kept.
    #[default]
    Off,
    /// All that came, and how many bytes.
    All(Vec<Piece>, usize),
}

impl Upload {
    /// Takes a body in.
    pub fn begin(incoming: Incoming) -> Rc<Self> {
        let upload = Self::default();
        upload.length.set(incoming.size_hint().exact());
        upload.ended.set(incoming.is_end_stream());
        upload.incoming.replace(Some(incoming));
        Rc::new(upload)
    }

    /// Keeps headers out of its trailers.
    pub fn withhold(&self, names: &Arc<[HeaderName]>) {
        if !names.is_empty() {
            self.withheld.replace(Some(names.clone()));
        }
    }

    /// Counts gRPC messages from here on.
    pub fn count_messages(&self, meter: MessageMeter) {
        self.messages.replace(Some(Box::new(meter)));
    }

    /// Passes on what the body of a call of gRPC-Web stands for.
    pub fn translate(&self, text: bool) {
        self.length.set(None);
        self.decoder.replace(text.then(Box::default));
    }

    /// Reads a frame before the body is passed on, for those that look at it first; nothing at its end.
    pub async fn read_early(&self) -> Option<Result<(), hyper::Error>> {
        let next = poll_fn(|cx| match self.incoming.borrow_mut().as_mut() {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        });
        let Some(frame) = next.await else {
            self.read.set(true);
            return None;
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Some(Err(error)),
        };
        if let Some(piece) = Piece::of(&frame) {
            self.early_bytes.set(self.early_bytes.get() + piece.size());
            self.early.borrow_mut().push_back(piece);
        }
        Some(Ok(()))
    }

    /// Whether all that is to come was read early.
    pub fn is_read(&self) -> bool {
        self.read.get() || self.incoming.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    /// The body's length, as far as it was told.
    pub fn told_length(&self) -> Option<u64> {
        self.length.get()
    }

    /// Bytes read before the body is passed on.
    pub fn early_bytes(&self) -> usize {
        self.early_bytes.get()
    }

    /// Looks at what was read before the body is passed on.
    pub fn each_early(&self, look: impl FnMut(&Piece)) {
        self.early.borrow().iter().for_each(look);
    }

    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        self.ended.get() && self.bytes.get() == 0
    }

    /// Keeps what is passed on, up to [`limit::RETRY_BODY_BYTES`].
    pub fn keep(&self) {
        if !self.ended.get() {
            self.kept.replace(Kept::All(Vec::new(), 0));
        }
    }

    /// Whether the body can be sent from its beginning.
    pub fn can_repeat(&self) -> bool {
        let kept = self.is_empty() || matches!(*self.kept.borrow(), Kept::All(..));
        kept && self.fault.get().is_none()
    }

    /// The body from its beginning, for another try; the tries before get nothing more.
    pub fn again(self: &Rc<Self>) -> RequestBody {
        self.turn.set(self.turn.get() + 1);
        RequestBody::of_client(self.clone(), self.turn.get(), self.length.get())
    }

    /// A copy of the body for a mirror.
    pub fn tap(&self) -> RequestBody {
        let copy = Rc::<BodyCopy>::default();
        if self.ended.get() {
            copy.becomes(CopyState::Ended);
        } else {
            self.copies.borrow_mut().push(copy.clone());
        }
        RequestBody::of_copy(copy, self.length.get())
    }

    /// Whether it may take long to come.
    pub fn may_last(&self) -> bool {
        let long = |length: u64| length > limit::LASTING_BODY_BYTES;
        !self.ended.get() && self.length.get().is_none_or(long)
    }

    /// Whether all of it came.
    pub fn is_finished(&self) -> bool {
        self.ended.get()
    }

    /// Waits for the body's end.
    pub async fn finished(&self) {
        while !self.ended.get() {
            self.end.notified().await;
        }
    }

    /// Gives up what has not come yet: the client is told to stop, the backend's connection ends.
    pub fn abandon(&self) {
        drop(self.incoming.take());
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// The next frame, counted and kept as far as that is wanted.
    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut slot = self.incoming.borrow_mut();
        let Some(incoming) = slot.as_mut() else {
            let rest = (!self.ended.get()).then_some(Err(BodyError::Abandoned));
            return Poll::Ready(rest);
        };
        let early = self.early.borrow_mut().pop_front();
        let frame = match early {
            Some(piece) => Some(Ok(piece.frame())),
            None => match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.sender.replace(Some(cx.waker().clone()));
                    return Poll::Pending;
                }
            },
        };
        let over = incoming.is_end_stream() && self.early.borrow().is_empty();
        let ended = frame.is_none() || over;
        let frame = match frame {
            Some(Ok(frame)) => Some(self.take(frame, ended)),
            Some(Err(error)) => {
                self.fault.set(Some(Fault::of(&error)));
                Some(Err(BodyError::Peer(error)))
            }
            None => None,
        };
        if ended {
            self.ended.set(true);
            self.end.notify_waiters();
            self.copies.borrow().iter().for_each(|copy| copy.becomes(CopyState::Ended));
        }
        Poll::Ready(frame)
    }

    /// A frame as it is passed on, counted and kept; whether it is the last.
    fn take(&self, frame: Frame<Bytes>, last: bool) -> Result<Frame<Bytes>, BodyError> {
        let mut frame = frame;
        if let Some(data) = frame.data_ref() {
            self.bytes.set(self.bytes.get() + data.len() as u64);
        }
        if let Some(decoder) = &mut *self.decoder.borrow_mut() {
            let decoded = decoder.decode_frame(frame, last);
            frame = decoded.inspect_err(|_| self.fault.set(Some(Fault::Malformed)))?;
        }
        if let Some(trailers) = frame.trailers_mut() {
            sanitize_trailers(trailers);
            if let Some(names) = &*self.withheld.borrow() {
                remove_owned(names, trailers);
            }
        }
        if let Some(data) = frame.data_ref() {
            self.messages.borrow_mut().iter_mut().for_each(|meter| meter.pass(data));
        }
        self.remember(&frame);
        Ok(frame)
    }

    fn remember(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        let copies = self.copies.borrow();
        if matches!(*kept, Kept::Off) && copies.is_empty() {
            return;
        }
        let Some(piece) = Piece::of(frame) else { return };
        copies.iter().for_each(|copy| copy.push(&piece));
        if let Kept::All(pieces, bytes) = &mut *kept {
            *bytes += piece.size();
            if *bytes > limit::RETRY_BODY_BYTES || pieces.len() >= limit::RETRY_BODY_FRAMES {
                *kept = Kept::Off;
            } else {
                pieces.push(piece);
            }
        }
    }

    /// A kept frame.
    pub(super) fn recall(&self, index: usize) -> Option<Piece> {
        match &*self.kept.borrow() {
            Kept::All(pieces, _) => pieces.get(index).cloned(),
            Kept::Off => None,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.copies.borrow().iter().for_each(|copy| copy.becomes(CopyState::Broken));
    }
}
