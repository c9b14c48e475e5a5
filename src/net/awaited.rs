//! An HTTP/1.1 backend's bytes until the head of its answer: the library takes informational answers
//! (1xx) for as long as they come, and this bounds them.
//!
//! A backend that has sent too much without an answer is fed to the library as one that does not speak
//! HTTP, so that the request ends.
//!
//! **Invariant**: no byte is touched while no answer is awaited. The allowance is more than the library reads
//! ahead of an answer's body before the answer is handed over, so that no body is cut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::base::limit;

/// How much may come still; shared with who sends requests. Atomic only because upgrades want streams to be
/// `Send`.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<AtomicUsize>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Allowance {
    /// A request goes out.
    pub fn asked(&self) {
        self.0.store(limit::ANSWER_HEAD_BYTES, Relaxed);
    }

    /// The head of its answer is there.
    pub fn answered(&self) {
        self.0.store(usize::MAX, Relaxed);
    }

    fn take(&self, bytes: usize) {
        let left = self.0.load(Relaxed);
        if left != usize::MAX {
            self.0.store(left.saturating_sub(bytes), Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// A backend's stream.
#[derive(Debug)]
pub struct Awaited<S> {
    stream: S,
    allowance: Allowance,
}

impl<S> Awaited<S> {
    /// A stream of which no more than the allowance is read.
    pub fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Awaited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.allowance.is_over() {
            // No part of a head.
            buf.put_slice(&[0]);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.allowance.take(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

write_through!(Awaited);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// What is read of so many bytes.
    async fn check(allowance: &Allowance, sent: usize, expected: &[u8]) {
        let sent = vec![b'x'; sent];
        let mut awaited = Awaited::new(&*sent, allowance.clone());
        let mut read = vec![0; sent.len()];
        awaited.read_exact(&mut read).await.unwrap();
        assert!(read.ends_with(expected), "{:?}", read.last_chunk::<2>());
    }

    #[tokio::test]
    async fn an_answer_that_is_awaited_for_too_much_is_none() {
        let allowance = Allowance::default();
        check(&allowance, 2 * limit::ANSWER_HEAD_BYTES, b"x").await;
        allowance.asked();
        check(&allowance, limit::ANSWER_HEAD_BYTES, b"x").await;
        check(&allowance, 1, b"\0").await;
        allowance.answered();
        check(&allowance, 2 * limit::ANSWER_HEAD_BYTES, b"x").await;
    }
}
