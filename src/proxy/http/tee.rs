//! A copy of what goes through a body, for a mirror that takes it at its own pace.
//!
//! **Invariant:** what waits is bounded; a mirror that lags too far gets no more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::body::BodyError;
use crate::base::limit;

/// A frame of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// What follows the last of them.
    Trailers(HeaderMap),
}

impl Piece {
    /// A frame's copy.
    pub fn of(frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().cloned().map(Self::Data);
        data.or_else(|| frame.trailers_ref().cloned().map(Self::Trailers))
    }

    /// The frame again.
    pub fn frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(bytes) => Frame::data(bytes),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    /// Bytes in it.
    pub fn size(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Trailers(_) => 0,
        }
    }
}

/// What went through of a body, waiting for a mirror to take it.
#[derive(Debug, Default)]
pub struct BodyCopy {
    pieces: RefCell<VecDeque<Piece>>,
    bytes: Cell<usize>,
    state: Cell<CopyState>,
    reader: RefCell<Option<Waker>>,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyState {
    /// More may come.
    #[default]
    Open,
    /// All has come.
    Ended,
    /// The rest is missing.
    Broken,
}

impl BodyCopy {
    /// Adds what went through.
    pub fn push(&self, piece: &Piece) {
        if self.state.get() != CopyState::Open {
            return;
        }
        self.bytes.set(self.bytes.get() + piece.size());
        let mut pieces = self.pieces.borrow_mut();
        if self.bytes.get() > limit::MIRROR_BODY_BYTES || pieces.len() >= limit::RETRY_BODY_FRAMES {
            pieces.clear();
            drop(pieces);
            self.becomes(CopyState::Broken);
            return;
        }
        pieces.push_back(piece.clone());
        drop(pieces);
        self.wake();
    }

    /// Nothing more comes.
    pub fn becomes(&self, state: CopyState) {
        if self.state.get() == CopyState::Open {
            self.state.set(state);
            self.wake();
        }
    }

    /// Whether nothing is left to take.
    pub fn is_over(&self) -> bool {
        self.state.get() == CopyState::Ended && self.pieces.borrow().is_empty()
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// The next frame.
    pub fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.pieces.borrow_mut().pop_front() {
            self.bytes.set(self.bytes.get().saturating_sub(piece.size()));
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        match self.state.get() {
            CopyState::Ended => Poll::Ready(None),
            CopyState::Broken => Poll::Ready(Some(Err(BodyError::Abandoned))),
            CopyState::Open => {
                self.reader.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}
