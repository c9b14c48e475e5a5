//! An HTTP/2 connection whose peer may not flood it: frames that carry nothing cost credit, which
//! streams, content and time give.
//!
//! The library behind this bounds the memory that such frames take, but answers each of them as long as
//! they come. A peer without credit is fed to the library as one that never ends a head: that is
//! answered by GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 section 7), and the connection ends.
//!
//! **Invariant:** what a peer that keeps within its credit sends is never touched.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frames::{Header, Kind, PREFACE, Walk};
use super::heads::Heads;
use super::liveness::Liveness;
use super::unanswered::Unanswered;
use crate::base::limit;

/// Credit that is earned, also by time, up to a bound.
#[derive(Debug)]
struct Credit {
    left: u32,
    most: u32,
    per_second: u32,
    since: Instant,
}

impl Credit {
    fn new(most: u32, per_second: u32) -> Self {
        Self { left: most, most, per_second, since: Instant::now() }
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.most);
    }

    /// Pays; the clock is asked only when all or nothing is left: time gives nothing to who has all.
    fn spend(&mut self, cost: u32) -> bool {
        if self.left == self.most {
            self.since = Instant::now();
        }
        if self.left < cost {
            let now = Instant::now();
            let millis = now.saturating_duration_since(self.since).as_millis();
            let earned = millis.saturating_mul(self.per_second.into()) / 1000;
            if earned > 0 {
                self.since = now;
                self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
            }
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// What a connection's frames tell of its peer.
#[derive(Debug)]
struct Account {
    control: Credit,
    resets: Credit,
    /// The highest stream that was opened, by the peer or by this end.
    opened: u32,
    by_peer: bool,
    /// The stream whose head has begun and not ended.
    block: Option<u32>,
    /// Where heads are counted that open a stream.
    heads: Option<Heads>,
    /// What is read is such a head, or its last frame.
    opening: bool,
    unanswered: Option<Unanswered>,
}

impl Account {
    fn new(heads: Option<Heads>, unanswered: Option<Unanswered>) -> Self {
        Self {
            control: Credit::new(limit::HTTP2_CONTROL_FRAMES, limit::HTTP2_CONTROL_FRAMES_RATE),
            resets: Credit::new(2 * limit::HTTP2_RESETS, 2 * limit::HTTP2_RESETS_RATE),
            opened: 0,
            by_peer: false,
            block: None,
            heads,
            opening: false,
            unanswered,
        }
    }

    fn opens(&mut self, header: Header, by_peer: bool) -> bool {
        let new = header.kind == Kind::Headers && header.stream > self.opened;
        if new {
            self.opened = header.stream;
            self.by_peer = by_peer;
            self.control.earn(limit::HTTP2_CONTROL_FRAMES_EARNED);
            self.resets.earn(1);
        }
        new
    }

    /// The frame before has ended: a head may have, with it.
    fn frame_ended(&mut self) {
        if self.opening && self.block.is_none() {
            self.opening = false;
            if let Some(heads) = &self.heads {
                heads.ended();
            }
        }
    }

    /// A frame of the peer's; whether it has the credit for it.
    fn read(&mut self, header: Header) -> bool {
        self.frame_ended();
        let opens = self.opens(header, true);
        self.opening |= opens;
        if self.opening
            && let Some(heads) = &self.heads
        {
            heads.more(header.length);
        }
        if let Some(unanswered) = &mut self.unanswered {
            match header.kind {
                Kind::Headers if opens => unanswered.opened(header.stream),
                Kind::Reset => unanswered.ended(header.stream),
                _ => {}
            }
        }
        if matches!(header.kind, Kind::Headers | Kind::Push | Kind::Continuation) {
            self.block = (!header.ends_head()).then_some(header.stream);
        }
        match header.kind {
            Kind::Data => header.has_content() || header.ends_stream() || self.control.spend(1),
            Kind::Headers => opens || self.control.spend(1),
            // A backend may end every stream that it was asked for, a client every other of its own.
            Kind::Reset => self.resets.spend(if self.by_peer { 2 } else { 1 }),
            _ => self.control.spend(1),
        }
    }

    /// A frame of ours.
    fn wrote(&mut self, header: Header) {
        self.opens(header, false);
        if let Some(unanswered) = &mut self.unanswered {
            let answers = matches!(header.kind, Kind::Headers | Kind::Data);
            if answers {
                unanswered.progressed();
            }
            if header.kind == Kind::Reset || (answers && header.ends_stream()) {
                unanswered.ended(header.stream);
            }
        }
        if header.kind == Kind::Data && header.length > 0 {
            self.control.earn(limit::HTTP2_CONTROL_FRAMES_EARNED);
        }
    }
}

/// Which kind of frames a peer has no more credit for; before that the last of those that the library
/// has bounds of its own for.
pub type Flooded = Rc<Cell<Option<Kind>>>;

/// Whether the peer has said its settings.
#[derive(Clone, Debug, Default)]
pub struct Greeted(Rc<Greeting>);

#[derive(Debug, Default)]
struct Greeting {
    said: Cell<bool>,
    told: Notify,
}

impl Greeted {
    /// Waits until the peer has said its settings; what waits runs after they were taken in.
    pub async fn wait(&self) {
        while !self.0.said.get() {
            self.0.told.notified().await;
        }
    }

    fn said(&self) {
        self.0.said.set(true);
        self.0.told.notify_waiters();
    }
}

/// A stream of HTTP/2 frames whose peer is kept within its credit.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    read: Walk,
    written: Walk,
    account: Account,
    last: Kind,
    flooded: Flooded,
    greeted: Option<Greeted>,
    /// Bytes fed instead of the peer's, once it has no credit.
    fed: Option<usize>,
    /// Told of frames that take their time.
    liveness: Option<Arc<Liveness>>,
}

impl<S> Metered<S> {
    /// A client's connection; `liveness` is told of its frames that take their time.
    pub fn client(stream: S, liveness: Arc<Liveness>) -> Self {
        Self::new(stream, (PREFACE.len(), 0), Some((liveness, Heads::default())))
    }

    /// A connection to a backend, that tells when the backend has said its settings.
    pub fn backend(stream: S, greeted: Greeted) -> Self {
        let metered = Self::new(stream, (0, PREFACE.len()), None);
        Self { greeted: Some(greeted), ..metered }
    }

    fn new(
        stream: S,
        (read, written): (usize, usize),
        client: Option<(Arc<Liveness>, Heads)>,
    ) -> Self {
        let (liveness, heads) = client.unzip();
        Self {
            stream,
            read: Walk::after(read),
            written: Walk::after(written),
            account: Account::new(heads, liveness.clone().map(Unanswered::new)),
            last: Kind::Settings,
            flooded: Flooded::default(),
            greeted: None,
            fed: None,
            liveness,
        }
    }

    /// Tells later what the peer flooded.
    pub fn flooded(&self) -> Flooded {
        self.flooded.clone()
    }

    /// Counts the heads of a client's streams.
    pub fn heads(&self) -> Heads {
        self.account.heads.clone().unwrap_or_default()
    }

    /// Looks at what was read; how much of it may pass.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let Self { read, account, last, flooded, greeted, fed, liveness, .. } = self;
        let mut began = false;
        let passed = read.pass(bytes, |header| {
            began |= account.block.is_none();
            *last = header.kind;
            if let Kind::Data | Kind::Reset | Kind::Continuation = header.kind {
                flooded.set(Some(header.kind));
            }
            let paid = account.read(header);
            if !paid {
                *fed = Some(0);
                flooded.set(Some(header.kind));
            }
            !paid
        });
        if !read.is_in_payload() {
            account.frame_ended();
        }
        // Settings are what comes first.
        if passed > 0
            && read.is_between()
            && let Some(greeted) = greeted.take()
        {
            greeted.said();
        }
        if let Some(liveness) = liveness {
            let inside = !read.is_between() && (*last != Kind::Data || read.is_in_header());
            liveness.frames_read(began, inside || account.block.is_some());
        }
        passed
    }

    /// Feeds a head without end.
    fn feed(&mut self, fed: usize, buf: &mut ReadBuf<'_>) {
        let stream = self.account.block.unwrap_or(1);
        let first = Header::empty(if self.account.block.is_some() { 9 } else { 1 }, stream);
        let next = Header::empty(9, stream);
        let bytes = first.into_iter().chain(next.into_iter().cycle()).skip(fed);
        let count = buf.remaining();
        bytes.take(count).for_each(|byte| buf.put_slice(&[byte]));
        let fed = fed + count;
        self.fed = Some(if fed < first.len() { fed } else { first.len() + fed % next.len() });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(fed) = this.fed
            && this.read.is_between()
        {
            this.feed(fed, buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(heads) = &this.account.heads {
            heads.asked(polled.is_pending());
        }
        ready!(polled)?;
        let passed = this.judge(buf.filled().get(before..).unwrap_or_default());
        buf.set_filled(before + passed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        let Self { written, account, .. } = this;
        note(written, account, buf.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        let mut left = count;
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            left -= part.len();
            note(&mut this.written, &mut this.account, part);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn note(written: &mut Walk, account: &mut Account, bytes: &[u8]) {
    written.pass(bytes, |header| {
        account.wrote(header);
        false
    });
}

#[cfg(test)]
mod tests;
