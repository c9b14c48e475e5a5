//! Streams of an HTTP/2 client whose answers are not out: what a client that gives no window holds, when
//! the requests behind them are done with.

use std::sync::Arc;

use smallvec::SmallVec;

use super::liveness::Liveness;
use crate::base::limit;

/// Those of one connection, told to its [`Liveness`].
#[derive(Debug)]
pub struct Unanswered {
    streams: SmallVec<[u32; 4]>,
    liveness: Arc<Liveness>,
}

impl Unanswered {
    /// None yet.
    pub fn new(liveness: Arc<Liveness>) -> Self {
        Self { streams: SmallVec::new(), liveness }
    }

    /// The client opened a stream.
    pub fn opened(&mut self, stream: u32) {
        // A connection that drains leaves streams without a word.
        if self.streams.len() < MOST && !self.liveness.is_draining() {
            self.streams.push(stream);
            self.tell();
        }
    }

    /// A stream is answered to its end, or given up by either side.
    pub fn ended(&mut self, stream: u32) {
        if let Some(index) = self.streams.iter().position(|open| *open == stream) {
            self.streams.swap_remove(index);
            self.tell();
        }
    }

    /// Part of an answer was written.
    pub fn progressed(&self) {
        self.liveness.answer_progressed();
    }

    fn tell(&self) {
        self.liveness.unanswered(u32::try_from(self.streams.len()).unwrap_or(u32::MAX));
    }
}

/// More than a connection may have, with some that are refused.
const MOST: usize = 2 * limit::HTTP2_STREAMS as usize;
