//! A client's HTTP/1.1 bytes, judged before they are parsed: what two readers could take for two
//! different messages is refused (RFC 9112 sections 2.2, 6.1 and 6.3).
//!
//! The parser behind this one takes a bare LF for the end of a line, and hides from its user that a
//! head had both `Content-Length` and `Transfer-Encoding`. Here the lines of heads, chunk sizes and
//! trailers are looked at as they come; a line that is refused loses its LF, and is the last that the
//! parser gets. It answers 400: to that line once its head ends, or to a body that breaks off.
//!
//! What follows a message that asks for another protocol is held back until it is answered: after a
//! `101` it passes as it is, after anything else it is judged as the next message.
//!
//! **Invariant:** bytes of bodies, and of a connection that was switched, are never touched; no byte
//! reaches the parser unjudged before that.

mod framing;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use self::framing::Framing;
use super::liveness::Liveness;

/// Judges bytes as far as the connection's state wants it; how many may pass.
fn judge(liveness: &Liveness, framing: &mut Framing, bytes: &mut [u8]) -> usize {
    if liveness.is_switched() {
        return bytes.len();
    }
    framing.asked = liveness.is_asked();
    let passed = framing.judge(bytes);
    if framing.asked {
        liveness.ask();
    }
    passed
}

/// An HTTP/1.1 client's stream.
#[derive(Debug)]
pub struct Strict<S> {
    stream: S,
    liveness: Arc<Liveness>,
    framing: Framing,
    /// What was read and waits for an answer; less than one read of the parser's.
    held: Vec<u8>,
    /// The parser got the end of a head that was refused.
    ended: bool,
}

impl<S> Strict<S> {
    /// Judges a stream from its beginning, until its connection is switched.
    pub fn new(stream: S, liveness: Arc<Liveness>) -> Self {
        Self { stream, liveness, framing: Framing::new(), held: Vec::new(), ended: false }
    }

    /// Ends what was refused: a head is parsed, and answered, only once it is whole.
    fn refuse(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        const END: &[u8] = b"\r\n\r\n";
        let ends = self.framing.is_in_head() && !self.ended && buf.remaining() >= END.len();
        self.ended = true;
        if !ends {
            return Err(io::ErrorKind::InvalidData.into());
        }
        buf.put_slice(END);
        Ok(())
    }

    /// Passes on of what is held as much as may pass; nothing while an answer is awaited, which wakes
    /// the connection.
    fn pass_held(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.held.len().min(buf.remaining());
        let next = self.held.get_mut(..count).unwrap_or_default();
        let passed = judge(&self.liveness, &mut self.framing, next);
        if passed == 0 {
            return Poll::Pending;
        }
        buf.put_slice(next.get(..passed).unwrap_or_default());
        self.held.drain(..passed);
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.framing.refused {
            return Poll::Ready(this.refuse(buf));
        }
        if !this.held.is_empty() {
            return this.pass_held(buf);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
        let passed = judge(&this.liveness, &mut this.framing, new);
        if passed < new.len() {
            this.held.extend_from_slice(new.get(passed..).unwrap_or_default());
            buf.set_filled(before + passed);
            if passed == 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(Strict);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::net::liveness::Ticks;

    /// A client that sends `head` and `rest` by pieces of `size` and hears the answer after it: what
    /// passes before and after that.
    fn check_held(head: &str, rest: &[u8], size: usize, switched: bool) -> (Vec<u8>, Vec<u8>) {
        let liveness = Liveness::new(Ticks::default());
        let sent = [head.as_bytes(), rest].concat();
        let mut strict = Strict::new(sent.as_slice(), liveness.clone());
        let mut passed = [Vec::new(), Vec::new()];
        for passed in &mut passed {
            let mut piece = vec![0; size];
            while let Some(Ok(count @ 1..)) = strict.read(&mut piece).now_or_never() {
                passed.extend_from_slice(&piece[..count]);
            }
            if switched {
                liveness.switch();
            }
            liveness.answer();
        }
        passed.into()
    }

    #[test]
    fn what_follows_a_wish_for_another_protocol_waits_for_the_answer() {
        let fields = "connection: upgrade\r\nUPGRADE: websocket\r\n";
        let plain = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let sized = format!("PUT / HTTP/1.1\r\n{fields}content-length: 2\r\n\r\n\n\n");
        let chunked = "transfer-encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\n";
        let chunked = format!("PUT / HTTP/1.1\r\n{fields}{chunked}");
        for head in [plain, sized, chunked] {
            for size in 1..200 {
                let (before, after) = check_held(&head, b"\x81\x03a\nb\r\n\n", size, true);
                assert_eq!(before, head.as_bytes(), "by {size}");
                assert_eq!(after, b"\x81\x03a\nb\r\n\n", "by {size}");
                let next = b"GET / HTTP/1.1\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n";
                let (before, after) = check_held(&head, next, size, false);
                assert_eq!(before, head.as_bytes(), "by {size}");
                assert_eq!(after, next, "by {size}");
                let (before, after) = check_held(&head, b"GET / HTTP/1.1\nx", size, false);
                assert_eq!(before, head.as_bytes(), "by {size}");
                let ended = b"GET / HTTP/1.1\0\r\n\r\n";
                assert!(ended.starts_with(&after) && after.contains(&0), "by {size}: {after:?}");
            }
        }
    }
}
