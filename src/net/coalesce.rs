//! A stream that gathers small writes, for a protocol that writes every frame by itself.
//!
//! HTTP/2 flushes after each DATA frame; with TLS each flush is a record and a system call. What is
//! written here waits until its owner calls [`Drain::poll_drain`], once for each turn of the
//! connection, so that the answers of one turn leave together.
//!
//! **Invariant:** at most one TLS record waits; what is larger is written at once.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most that waits: what one TLS record can hold (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 << 10;

/// The protocol's end.
#[derive(Debug)]
pub struct Coalesced<S>(Rc<RefCell<Inner<S>>>);

/// The owner's end.
#[derive(Debug)]
pub struct Drain<S>(Rc<RefCell<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    waiting: Vec<u8>,
    /// How much of `waiting` is written already.
    written: usize,
}

/// Both ends of a stream.
pub fn coalesce<S>(stream: S) -> (Coalesced<S>, Drain<S>) {
    let inner = Rc::new(RefCell::new(Inner { stream, waiting: Vec::new(), written: 0 }));
    (Coalesced(inner.clone()), Drain(inner))
}

impl<S: AsyncWrite + Unpin> Drain<S> {
    /// Writes what waits. Pending when the peer does not read; call again with the next turn.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_drain(cx)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest @ [_, ..]) = self.waiting.get(self.written..) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.written = 0;
        // An idle connection holds no buffer.
        self.waiting = Vec::new();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes room for `more` bytes; whether they may wait.
    fn poll_room(&mut self, cx: &mut Context<'_>, more: usize) -> Poll<io::Result<bool>> {
        if self.waiting.len() + more > RECORD_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(more < RECORD_BYTES))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let more = bufs.iter().map(|buf| buf.len()).sum();
        if !ready!(inner.poll_room(cx, more))? {
            return Pin::new(&mut inner.stream).poll_write_vectored(cx, bufs);
        }
        if inner.waiting.capacity() == 0 {
            inner.waiting.reserve_exact(RECORD_BYTES);
        }
        for buf in bufs {
            inner.waiting.extend_from_slice(buf);
        }
        Poll::Ready(Ok(more))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves the rest to [`Drain::poll_drain`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// A stream that counts how often it is written to.
    struct Counted<S>(S, Rc<RefCell<Vec<usize>>>);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = ready!(Pin::new(&mut self.0).poll_write(cx, buf))?;
            self.1.borrow_mut().push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Writes pieces, draining at the end; expects these writes below.
    async fn check(pieces: &[usize], expected: &[usize]) {
        let (own, mut peer) = duplex(1 << 20);
        let writes = Rc::new(RefCell::new(Vec::new()));
        let (mut stream, drain) = coalesce(Counted(own, writes.clone()));
        for (number, length) in (b'a'..).zip(pieces) {
            stream.write_all(&vec![number; *length]).await.unwrap();
            stream.flush().await.unwrap();
        }
        poll_fn(|cx| drain.poll_drain(cx)).await.unwrap();
        assert_eq!(*writes.borrow(), expected);
        let mut all = vec![0; pieces.iter().sum()];
        peer.read_exact(&mut all).await.unwrap();
        let wanted = (b'a'..).zip(pieces).flat_map(|(number, length)| vec![number; *length]);
        assert!(all.into_iter().eq(wanted));
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_large_ones_at_once() {
        check(&[], &[]).await;
        check(&[10, 1000, 20], &[1030]).await;
        check(&[10_000, 6_000, 1_000], &[16_000, 1_000]).await;
        check(&[10, 20_000, 10], &[10, 20_000, 10]).await;
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_the_writer_back() {
        let (own, mut peer) = duplex(4);
        let (mut stream, drain) = coalesce(own);
        stream.write_all(&[7; RECORD_BYTES - 1]).await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(drain.poll_drain(cx).is_pending())).await);
        let mut write = |cx: &mut Context<'_>| Pin::new(&mut stream).poll_write(cx, &[8, 8]);
        assert!(poll_fn(|cx| Poll::Ready(write(cx).is_pending())).await);
        let (read, ()) = tokio::join!(
            async {
                let mut all = Vec::new();
                peer.read_to_end(&mut all).await.unwrap();
                all
            },
            async {
                stream.shutdown().await.unwrap();
                drop((stream, drain));
            }
        );
        assert_eq!(read, [7; RECORD_BYTES - 1]);
    }
}
