//! Sockets and streams that know nothing of routes: binding, the coarse clock that ends stuck
//! connections, replaying what was read to look at it, judging HTTP/1.1 before it is parsed and HTTP/2
//! by its frames' headers, and passing bytes on without copying them.
//!
//! **Invariant:** nothing here knows a snapshot.

/// Passes what is written to a wrapper on to its `stream`. A lone slice is written as such: `send` costs
/// the kernel less than a `writev` of one.
macro_rules! write_through {
    ($wrapper:ident) => {
        impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for $wrapper<S> {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.stream).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let stream = std::pin::Pin::new(&mut self.stream);
                match bufs {
                    [one] => stream.poll_write(cx, one),
                    _ => stream.poll_write_vectored(cx, bufs),
                }
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
            }
        }
    };
}

pub mod awaited;
pub mod coalesce;
pub mod copy;
pub mod executor;
pub mod flood;
pub mod frames;
pub mod guarded;
pub mod heads;
pub mod listener;
pub mod liveness;
pub mod lone;
pub mod proxy_protocol;
pub mod rewind;
pub mod strict;
pub mod unanswered;
