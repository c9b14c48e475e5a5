//! Copying between two streams, both ways, until both have ended.
//!
//! A direction that ends is passed on as a half-close; the other goes on. Between two TCP sockets
//! the kernel moves the bytes through a pipe (`splice`) once a direction has shown that it carries
//! more than a few packets, so that a short exchange does not pay for the pipe.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Bytes one direction copies through memory before it moves to a pipe.
const SPLICE_AFTER: u64 = 64 << 10;
/// Bytes asked of one `splice`; the kernel's pipe holds as many.
const SPLICE_CHUNK: usize = 64 << 10;
/// Memory of one direction.
const BUFFER: usize = 16 << 10;

/// Bytes that went each way.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the first stream to the second.
    pub forth: Cell<u64>,
    /// From the second stream to the first.
    pub back: Cell<u64>,
    last: Cell<Option<Instant>>,
}

/// How a copy ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended.
    Closed,
    /// No byte went either way for the idle time.
    Idle,
    /// A stream failed.
    Failed(io::Error),
}

/// Copies between two streams of any kind.
pub async fn streams<A, B>(a: &mut A, b: &mut B, idle: Duration, moved: &Moved) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let forth =
        pump(&mut a_read, &mut b_write, Progress { bytes: &moved.forth, last: &moved.last });
    let back = pump(&mut b_read, &mut a_write, Progress { bytes: &moved.back, last: &moved.last });
    until_done(forth, back, idle, &moved.last).await
}

/// Copies between two TCP sockets, by the kernel where it can.
pub async fn sockets(a: &TcpStream, b: &TcpStream, idle: Duration, moved: &Moved) -> End {
    let forth = relay(a, b, Progress { bytes: &moved.forth, last: &moved.last });
    let back = relay(b, a, Progress { bytes: &moved.back, last: &moved.last });
    until_done(forth, back, idle, &moved.last).await
}

#[derive(Clone, Copy)]
struct Progress<'a> {
    bytes: &'a Cell<u64>,
    last: &'a Cell<Option<Instant>>,
}

impl Progress<'_> {
    fn add(&self, count: usize) {
        self.bytes.set(self.bytes.get() + count as u64);
        self.last.set(None);
    }
}

/// Runs both directions; a watch over idleness looks a few times in the idle time.
async fn until_done(
    forth: impl Future<Output = io::Result<()>>,
    back: impl Future<Output = io::Result<()>>,
    idle: Duration,
    last: &Cell<Option<Instant>>,
) -> End {
    let both = async { tokio::try_join!(forth, back).map(drop) };
    let watch = async {
        loop {
            let now = Instant::now();
            let since = last.get().unwrap_or(now);
            last.set(Some(since));
            if now.duration_since(since) >= idle {
                return;
            }
            sleep_until(now + (idle / 4).max(Duration::from_millis(10))).await;
        }
    };
    tokio::select! {
        result = both => result.map_or_else(End::Failed, |()| End::Closed),
        () = watch => End::Idle,
    }
}

async fn pump<R, W>(from: &mut R, to: &mut W, progress: Progress<'_>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return finish(to.shutdown().await);
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
        to.flush().await?;
        progress.add(count);
    }
}

async fn relay(from: &TcpStream, to: &TcpStream, progress: Progress<'_>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while progress.bytes.get() < SPLICE_AFTER {
        from.readable().await?;
        let count = match from.try_read(&mut buffer) {
            Ok(0) => return finish(half_close(to)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        progress.add(count);
    }
    drop(buffer);
    by_pipe(from, to, progress).await
}

async fn by_pipe(from: &TcpStream, to: &TcpStream, progress: Progress<'_>) -> io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    loop {
        from.readable().await?;
        let moved = from.try_io(Interest::READABLE, || between(from, &into, SPLICE_CHUNK));
        let mut held = match moved {
            Ok(0) => return finish(half_close(to)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        progress.add(held);
        while held > 0 {
            to.writable().await?;
            match to.try_io(Interest::WRITABLE, || drain(&out, to, held)) {
                Ok(count) => held = held.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn between(from: &TcpStream, into: &OwnedFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(splice(from, None, into, None, most, flags)?)
}

fn drain(out: &OwnedFd, to: &TcpStream, held: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(splice(out, None, to, None, held, flags)?)
}

fn half_close(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::shutdown(stream, rustix::net::Shutdown::Write)?)
}

/// The other side may be gone already; then there is nothing left to tell it.
fn finish(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn bulk_and_half_close_pass_both_ways() {
        let (mut client, edge_in) = pair().await;
        let (edge_out, mut backend) = pair().await;
        let data: Vec<u8> = (0..1_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
        let moved = Moved::default();
        let copy = sockets(&edge_in, &edge_out, Duration::from_mins(1), &moved);
        let talk = async {
            let upload = data.clone();
            let send = async {
                client.write_all(&upload).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let echo = async {
                let mut got = Vec::new();
                backend.read_to_end(&mut got).await.unwrap();
                backend.write_all(&got).await.unwrap();
                backend.shutdown().await.unwrap();
            };
            tokio::join!(send, echo).0
        };
        let (end, answer) = tokio::join!(copy, talk);
        assert!(matches!(end, End::Closed), "{end:?}");
        assert!(answer == data);
        assert_eq!((moved.forth.get(), moved.back.get()), (1_000_000, 1_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_copy() {
        let (mut a, _a_end) = tokio::io::duplex(64);
        let (mut b, _b_end) = tokio::io::duplex(64);
        let moved = Moved::default();
        let end = streams(&mut a, &mut b, Duration::from_hours(1), &moved).await;
        assert!(matches!(end, End::Idle));
    }

    #[tokio::test]
    async fn a_failed_direction_ends_the_copy() {
        let (mut a, a_end) = tokio::io::duplex(64);
        let (mut b, b_end) = tokio::io::duplex(64);
        drop((a_end, b_end));
        let end = streams(&mut a, &mut b, Duration::from_mins(1), &Moved::default()).await;
        assert!(matches!(end, End::Closed | End::Failed(_)));
    }
}
