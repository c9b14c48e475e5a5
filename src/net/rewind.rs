//! A stream that remembers what was read from it, so that it can be read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// A stream under inspection. While it records, every byte read is kept, up to a bound; afterwards
/// kept bytes are read first.
#[derive(Debug)]
pub struct Rewind<S> {
    stream: S,
    kept: Vec<u8>,
    mode: Mode,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Reads are kept, up to this many bytes; what is kept from here on is read first.
    Record { most: usize, from: usize },
    /// Kept bytes are read again from here.
    Replay { from: usize },
    /// Only the stream is left.
    Through,
}

impl<S> Rewind<S> {
    /// Records what is read; reading more than `most` bytes fails.
    pub fn record(stream: S, most: usize) -> Self {
        Self { stream, kept: Vec::new(), mode: Mode::Record { most, from: 0 } }
    }

    /// What was read is read again, and goes on being recorded.
    pub fn again(&mut self) {
        if let Mode::Record { most, .. } = self.mode {
            self.mode = Mode::Record { most, from: 0 };
        }
    }

    /// Stops recording and forgets: whoever read the bytes has used them.
    pub fn consume(&mut self) {
        self.kept = Vec::new();
        self.mode = Mode::Through;
    }

    /// Stops recording; what was read is read again.
    pub fn replay(&mut self) {
        let nothing = self.kept.is_empty();
        self.mode = if nothing { Mode::Through } else { Mode::Replay { from: 0 } };
    }

    /// The bytes read so far.
    pub fn recorded(&self) -> &[u8] {
        &self.kept
    }

    /// The stream and what was read from it.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.kept)
    }

    /// The stream itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> Rewind<S> {
    /// Records until at least `wanted` bytes are there, the stream ends, or `enough` says so.
    pub async fn peek(
        &mut self,
        wanted: usize,
        enough: impl Fn(&[u8]) -> bool,
    ) -> io::Result<&[u8]> {
        let mut scratch = [0; 256];
        while self.kept.len() < wanted && !enough(&self.kept) {
            if self.read(&mut scratch).await? == 0 {
                break;
            }
        }
        Ok(&self.kept)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.mode {
            Mode::Through => Pin::new(&mut self.stream).poll_read(cx, buf),
            Mode::Record { most, from } if from < self.kept.len() => {
                let rest = self.kept.get(from..).unwrap_or_default();
                let count = rest.len().min(buf.remaining());
                buf.put_slice(rest.get(..count).unwrap_or_default());
                self.mode = Mode::Record { most, from: from + count };
                Poll::Ready(Ok(()))
            }
            Mode::Record { most, .. } => {
                let before = buf.filled().len();
                ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
                let new = buf.filled().get(before..).unwrap_or_default();
                if self.kept.len() + new.len() > most {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "more bytes than a ClientHello may have",
                    )));
                }
                self.kept.extend_from_slice(new);
                let from = self.kept.len();
                self.mode = Mode::Record { most, from };
                Poll::Ready(Ok(()))
            }
            Mode::Replay { from } => {
                let rest = self.kept.get(from..).unwrap_or_default();
                let count = rest.len().min(buf.remaining());
                buf.put_slice(rest.get(..count).unwrap_or_default());
                if count == rest.len() {
                    self.consume();
                } else {
                    self.mode = Mode::Replay { from: from + count };
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

write_through!(Rewind);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let mut rewind = Rewind::record(&b"hello world"[..], 64);
        assert_eq!(rewind.peek(5, |_| false).await.unwrap(), b"hello world");
        rewind.replay();
        let mut text = String::new();
        rewind.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }

    #[tokio::test]
    async fn replaying_nothing_is_not_the_end() {
        let mut rewind = Rewind::record(&b"hello"[..], 64);
        rewind.replay();
        let mut text = String::new();
        rewind.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn what_is_read_again_is_still_recorded() {
        let mut rewind = Rewind::record(&b"hello world"[..], 64);
        let mut five = [0; 5];
        rewind.read_exact(&mut five).await.unwrap();
        rewind.again();
        let mut three = [0; 3];
        rewind.read_exact(&mut three).await.unwrap();
        assert_eq!((&three, rewind.recorded()), (b"hel", &b"hello"[..]));
        let mut eight = [0; 8];
        rewind.read_exact(&mut eight).await.unwrap();
        assert_eq!((&eight, rewind.recorded()), (b"lo world", &b"hello world"[..]));
    }

    #[tokio::test]
    async fn consumed_bytes_are_gone() {
        let (client, server) = tokio::io::duplex(64);
        let mut rewind = Rewind::record(server, 64);
        tokio::io::AsyncWriteExt::write_all(&mut { client }, b"ab").await.unwrap();
        rewind.peek(2, |_| false).await.unwrap();
        rewind.consume();
        assert_eq!(rewind.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn too_many_bytes_are_an_error() {
        let mut rewind = Rewind::record(&b"hello world"[..], 4);
        assert!(rewind.peek(5, |_| false).await.is_err());
    }

    #[tokio::test]
    async fn a_stream_that_ends_early_gives_what_there_was() {
        let mut rewind = Rewind::record(&b"PRI"[..], 64);
        assert_eq!(rewind.peek(24, |_| false).await.unwrap(), b"PRI");
    }
}
