//! A socket under TLS: nearly always one record leaves at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// A stream that writes a lone slice as such, though it is asked to write several.
#[derive(Debug)]
pub struct Lone<S> {
    stream: S,
}

impl<S> Lone<S> {
    /// Wraps a socket.
    pub fn new(stream: S) -> Self {
        Self { stream }
    }

    /// The socket itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lone<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

write_through!(Lone);
