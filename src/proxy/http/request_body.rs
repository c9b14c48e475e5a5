//! Bodies of requests on their way to backends: a client's, a mirror's copy, or our own, with a deadline
//! on a client that stalls.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::body::BodyError;
use super::tee::BodyCopy;
use super::upload::{Fault, Upload};
use crate::base::limit;

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
    source: Source,
    gate: Option<Arc<Gate>>,
    /// As it was before the first byte.
    length: Option<u64>,
    stall: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Source {
    /// What the client sends; `next` is the kept frame to begin with.
    Client { upload: Rc<Upload>, turn: u32, next: usize },
    /// What went through.
    Copy(Rc<BodyCopy>),
    /// Bytes of our own; empty once they are handed over.
    Own(Bytes),
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Copy(copy) => copy.poll_frame(cx),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Client { upload, turn, .. } if *turn != upload.turn.get() => {
                Poll::Ready(Some(Err(BodyError::Abandoned)))
            }
            Self::Client { upload, next, .. } => {
                let kept = upload.recall(*next);
                *next += 1;
                if let Some(piece) = kept {
                    return Poll::Ready(Some(Ok(piece.frame())));
                }
                let frame = upload.poll_frame(cx);
                if frame.is_pending() {
                    *next -= 1;
                }
                frame
            }
        }
    }

    fn stalled(&self) {
        if let Self::Client { upload, .. } = self {
            upload.fault.set(Some(Fault::Stalled));
        }
    }
}

impl RequestBody {
    fn of(source: Source, length: Option<u64>) -> Self {
        Self { source, gate: None, length, stall: None }
    }

    /// What a client sends, from its beginning; nothing more once it is another's turn.
    pub(super) fn of_client(upload: Rc<Upload>, turn: u32, length: Option<u64>) -> Self {
        Self::of(Source::Client { upload, turn, next: 0 }, length)
    }

    /// What went through, for a mirror.
    pub(super) fn of_copy(copy: Rc<BodyCopy>, length: Option<u64>) -> Self {
        Self::of(Source::Copy(copy), length)
    }

    /// A body of our own.
    pub fn own(bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        Self::of(Source::Own(bytes), length)
    }

    /// Held back by a gate, if there is one.
    #[must_use]
    pub fn gated(self, gate: Option<Arc<Gate>>) -> Self {
        Self { gate, ..self }
    }

    /// The gate, of a body that was not sent.
    pub fn into_gate(self) -> Option<Arc<Gate>> {
        self.gate
    }
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
        let Poll::Ready(frame) = self.source.poll_frame(cx) else {
            let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit::STALL_TIME)));
            ready!(stall.as_mut().poll(cx));
            self.source.stalled();
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        };
        if let Some(stall) = &mut self.stall {
            stall.as_mut().reset(Instant::now() + limit::STALL_TIME);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Client { upload, next, .. } => {
                upload.ended.get() && upload.recall(*next).is_none()
            }
            Source::Copy(copy) => copy.is_over(),
            Source::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
