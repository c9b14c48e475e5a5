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

use crate::telemetry::destination::StreamBytes;

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
    counted: Option<StreamBytes>,
}

impl Moved {
    /// Bytes that the metrics of a destination count as they go; the first stream is the client's.
    pub fn counted(counted: StreamBytes) -> Self {
        Self { counted: Some(counted), ..Self::default() }
    }

    /// Counts what was sent to the second stream before the copy.
    pub fn sent_before(&self, count: usize) {
        Progress { moved: self, way: Way::Forth }.add(count);
    }
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

/// How a copy ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended.
    Closed,
    /// No byte went either way for the idle time.
    Idle,
    /// A stream failed.
    Failed(Side, io::Error),
}

/// Copies between two streams of any kind.
pub async fn streams<A, B>(a: &mut A, b: &mut B, idle: Duration, moved: &Moved) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let forth = pump(&mut a_read, &mut b_write, Progress { moved, way: Way::Forth });
    let back = pump(&mut b_read, &mut a_write, Progress { moved, way: Way::Back });
    until_done(forth, back, idle, &moved.last).await
}

/// Copies between two TCP sockets, by the kernel where it can.
pub async fn sockets(a: &TcpStream, b: &TcpStream, idle: Duration, moved: &Moved) -> End {
    let forth = relay(a, b, Progress { moved, way: Way::Forth });
    let back = relay(b, a, Progress { moved, way: Way::Back });
    until_done(forth, back, idle, &moved.last).await
}

#[derive(Clone, Copy)]
enum Way {
    Forth,
    Back,
}

#[derive(Clone, Copy)]
struct Progress<'a> {
    moved: &'a Moved,
    way: Way,
}

impl Progress<'_> {
    fn bytes(&self) -> &Cell<u64> {
        match self.way {
            Way::Forth => &self.moved.forth,
            Way::Back => &self.moved.back,
        }
    }

    fn add(&self, count: usize) {
        let count = count as u64;
        self.bytes().set(self.bytes().get() + count);
        self.moved.last.set(None);
        match (&self.moved.counted, self.way) {
            (None, _) => {}
            (Some(counted), Way::Forth) => counted.received(count),
            (Some(counted), Way::Back) => counted.sent(count),
        }
    }

    /// The failure of the stream that is read.
    fn source(&self, error: io::Error) -> Failure {
        let side = match self.way {
            Way::Forth => Side::First,
            Way::Back => Side::Second,
        };
        (side, error)
    }

    /// The failure of the stream that is written.
    fn target(&self, error: io::Error) -> Failure {
        let side = match self.way {
            Way::Forth => Side::Second,
            Way::Back => Side::First,
        };
        (side, error)
    }
}

type Failure = (Side, io::Error);

/// Runs both directions; a watch over idleness looks a few times in the idle time.
async fn until_done(
    forth: impl Future<Output = Result<(), Failure>>,
    back: impl Future<Output = Result<(), Failure>>,
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
        result = both => match result {
            Ok(()) => End::Closed,
            Err((side, error)) => End::Failed(side, error),
        },
        () = watch => End::Idle,
    }
}

async fn pump<R, W>(from: &mut R, to: &mut W, progress: Progress<'_>) -> Result<(), Failure>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await.map_err(|error| progress.source(error))?;
        let written = async {
            if count == 0 {
                return finish(to.shutdown().await);
            }
            to.write_all(buffer.get(..count).unwrap_or_default()).await?;
            to.flush().await
        };
        written.await.map_err(|error| progress.target(error))?;
        if count == 0 {
            return Ok(());
        }
        progress.add(count);
    }
}

async fn relay(from: &TcpStream, to: &TcpStream, progress: Progress<'_>) -> Result<(), Failure> {
    let mut buffer = vec![0; BUFFER];
    let mut splice_after = SPLICE_AFTER;
    loop {
        if progress.bytes().get() >= splice_after {
            match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
                Ok(pipe) => {
                    drop(buffer);
                    return by_pipe(from, to, pipe, progress).await;
                }
                // Out of file descriptors: memory will do.
                Err(_) => splice_after = u64::MAX,
            }
        }
        let count = take(from, || from.try_read(&mut buffer)).await;
        let count = count.map_err(|error| progress.source(error))?;
        if count == 0 {
            return finish(half_close(to)).map_err(|error| progress.target(error));
        }
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let written = give(to, || to.try_write(rest)).await;
            let written = written.map_err(|error| progress.target(error))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        progress.add(count);
    }
}

async fn by_pipe(
    from: &TcpStream,
    to: &TcpStream,
    (out, into): (OwnedFd, OwnedFd),
    progress: Progress<'_>,
) -> Result<(), Failure> {
    loop {
        let read = || from.try_io(Interest::READABLE, || between(from, &into, SPLICE_CHUNK));
        let mut held = take(from, read).await.map_err(|error| progress.source(error))?;
        if held == 0 {
            return finish(half_close(to)).map_err(|error| progress.target(error));
        }
        while held > 0 {
            let write = || to.try_io(Interest::WRITABLE, || drain(&out, to, held));
            let count = give(to, write).await.map_err(|error| progress.target(error))?;
            progress.add(count);
            held = held.saturating_sub(count);
        }
    }
}

/// Reads once there is something to read.
async fn take(from: &TcpStream, mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match read() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Writes once there is room.
async fn give(to: &TcpStream, mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        to.writable().await?;
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
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
        assert!(matches!(end, End::Closed | End::Failed(..)));
    }

    /// Copies between two pairs of sockets; one end is reset after it had a byte.
    async fn reset(side: Side) -> End {
        let (mut client, edge_in) = pair().await;
        let (edge_out, mut backend) = pair().await;
        let moved = Moved::default();
        let copy = sockets(&edge_in, &edge_out, Duration::from_mins(1), &moved);
        let break_off = async {
            client.write_all(b"x").await.unwrap();
            assert_eq!(backend.read_u8().await.unwrap(), b'x');
            let (gone, stays) = match side {
                Side::First => (client, backend),
                Side::Second => (backend, client),
            };
            socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            stays
        };
        let (end, _stays) = tokio::join!(copy, break_off);
        end
    }

    #[tokio::test]
    async fn a_failure_is_told_of_the_stream_that_failed() {
        for side in [Side::First, Side::Second] {
            let end = reset(side).await;
            assert!(matches!(end, End::Failed(of, _) if of == side), "{side:?}: {end:?}");
        }
    }
}
