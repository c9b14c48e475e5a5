//! What a connection waits for, and since when: the state behind every downstream deadline.
//!
//! No connection owns a timer. It stores the coarse time of what it waits for with plain stores,
//! and its worker looks at all connections once a second ([`Liveness::verdict`]). All stores come
//! from the worker's thread; the atomics only let streams be `Send`, as upgrades want it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::base::limit;

/// Seconds since the worker started, advanced by the worker once a second; starts at 1.
#[derive(Clone, Debug)]
pub struct Ticks(Arc<AtomicU32>);

impl Default for Ticks {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }
}

impl Ticks {
    /// The current tick.
    pub fn now(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// One second passes.
    pub fn advance(&self) {
        self.0.store(self.now() + 1, Relaxed);
    }
}

/// What runs over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing yet, or bytes: their own loops keep their deadlines.
    Stream = 0,
    /// HTTP/1.1.
    Http1 = 1,
    /// HTTP/2.
    Http2 = 2,
}

/// What the worker asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    Serve = 0,
    /// Finish what is under way and take nothing new.
    Drain = 1,
    /// End at once.
    Cut = 2,
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// No request for too long; drained rather than cut.
    Idle,
    /// A request head does not end.
    Head,
    /// The client does not read.
    Write,
}

/// One connection's state.
#[derive(Debug)]
pub struct Liveness {
    ticks: Ticks,
    kind: AtomicU8,
    order: AtomicU8,
    active: AtomicU32,
    idle_since: AtomicU32,
    head_since: AtomicU32,
    frame_since: AtomicU32,
    blocked_since: AtomicU32,
    unread_responses: AtomicU32,
    response_progress: AtomicU32,
    unanswered: AtomicU32,
    answer_progress: AtomicU32,
    asked: AtomicBool,
    switched: AtomicBool,
    waker: AtomicWaker,
}

impl Liveness {
    /// State of a connection accepted now.
    pub fn new(ticks: Ticks) -> Arc<Self> {
        let now = ticks.now();
        Arc::new(Self {
            ticks,
            kind: AtomicU8::new(Kind::Stream as u8),
            order: AtomicU8::new(Order::Serve as u8),
            active: AtomicU32::new(0),
            idle_since: AtomicU32::new(now),
            head_since: AtomicU32::new(0),
            frame_since: AtomicU32::new(0),
            blocked_since: AtomicU32::new(0),
            unread_responses: AtomicU32::new(0),
            response_progress: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            answer_progress: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    /// HTTP begins; idle time counts from now.
    pub fn begin(&self, kind: Kind) {
        self.kind.store(kind as u8, Relaxed);
        self.idle_since.store(self.ticks.now(), Relaxed);
    }

    /// Bytes came in.
    pub fn bytes_read(&self) {
        if self.active.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.ticks.now(), Relaxed);
        }
    }

    /// HTTP/2 frames were read; whether a head, or a frame that is no content, `began` among them, and
    /// whether the last is `open` still.
    pub fn frames_read(&self, began: bool, open: bool) {
        let since = self.frame_since.load(Relaxed);
        if !open && since != 0 {
            self.frame_since.store(0, Relaxed);
        } else if open && (began || since == 0) {
            self.frame_since.store(self.ticks.now(), Relaxed);
        }
    }

    /// A write could not proceed (`true`) or did.
    pub fn write_blocked(&self, blocked: bool) {
        let since = self.blocked_since.load(Relaxed);
        if blocked && since == 0 {
            self.blocked_since.store(self.ticks.now(), Relaxed);
        } else if !blocked && since != 0 {
            self.blocked_since.store(0, Relaxed);
        }
    }

    /// A whole request head is there.
    pub fn request_began(&self) {
        self.head_since.store(0, Relaxed);
        self.active.store(self.active.load(Relaxed) + 1, Relaxed);
    }

    /// A request and its response are done.
    pub fn request_ended(&self) {
        let left = self.active.load(Relaxed).saturating_sub(1);
        self.active.store(left, Relaxed);
        if left == 0 {
            self.idle_since.store(self.ticks.now(), Relaxed);
        }
        self.answer_progressed();
    }

    /// So many HTTP/2 streams of the client are not answered to their ends on the wire.
    pub fn unanswered(&self, streams: u32) {
        self.unanswered.store(streams, Relaxed);
    }

    /// Part of an answer went out, or the last of one was handed over.
    pub fn answer_progressed(&self) {
        self.answer_progress.store(self.ticks.now(), Relaxed);
    }

    /// Part of a response was handed over to be sent.
    pub fn response_handed(&self) {
        self.unread_responses.store(self.unread_responses.load(Relaxed) + 1, Relaxed);
        self.response_progress.store(self.ticks.now(), Relaxed);
    }

    /// What was handed over went out, or its stream ended.
    pub fn response_taken(&self) {
        self.unread_responses.store(self.unread_responses.load(Relaxed).saturating_sub(1), Relaxed);
        self.response_progress.store(self.ticks.now(), Relaxed);
    }

    /// The client asks for another protocol (RFC 9110 section 7.8): what it sends next is held back
    /// until that is answered.
    pub fn ask(&self) {
        self.asked.store(true, Relaxed);
    }

    /// What was asked for is answered; wakes the connection, as it may hold bytes.
    pub fn answer(&self) {
        self.asked.store(false, Relaxed);
        self.waker.wake();
    }

    /// Whether the client waits to hear which protocol it may speak.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// The client asked for another protocol and gets it: what it sends is HTTP/1.1 no more.
    pub fn switch(&self) {
        self.switched.store(true, Relaxed);
    }

    /// Whether another protocol is spoken by now.
    pub fn is_switched(&self) -> bool {
        self.switched.load(Relaxed)
    }

    /// Requests in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Whether the connection finishes what is under way and takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.order.load(Relaxed) >= Order::Drain as u8
    }

    /// Asks something of the connection and wakes it; an order is never taken back.
    pub fn order(&self, order: Order) {
        if order as u8 > self.order.load(Relaxed) {
            self.order.store(order as u8, Relaxed);
            self.waker.wake();
        }
    }

    /// What is asked of the connection; `waker` is woken when that changes.
    pub fn watch(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Relaxed) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Whether the connection waited too long for something.
    pub fn verdict(&self) -> Option<Stuck> {
        let now = self.ticks.now();
        let over = |since: u32, bound: std::time::Duration| {
            since != 0 && u64::from(now.saturating_sub(since)) > bound.as_secs()
        };
        let http2 = match self.kind.load(Relaxed) {
            0 => return None,
            kind => kind == Kind::Http2 as u8,
        };
        let unread = self.unread_responses.load(Relaxed) > 0
            && over(self.response_progress.load(Relaxed), limit::STALL_TIME);
        // Whole answers wait for a window that the client does not give.
        let unsent = self.unanswered.load(Relaxed) > self.active.load(Relaxed)
            && over(self.answer_progress.load(Relaxed), limit::STALL_TIME);
        if unread || unsent || over(self.blocked_since.load(Relaxed), limit::STALL_TIME) {
            return Some(Stuck::Write);
        }
        if over(self.frame_since.load(Relaxed), limit::REQUEST_HEAD_TIME) {
            return Some(Stuck::Head);
        }
        if self.active.load(Relaxed) > 0 {
            return None;
        }
        if !http2 && over(self.head_since.load(Relaxed), limit::REQUEST_HEAD_TIME) {
            return Some(Stuck::Head);
        }
        let bound = if http2 { limit::IDLE_HTTP2_TIME } else { limit::IDLE_HTTP1_TIME };
        let idle = self.idle_since.load(Relaxed);
        if over(idle, bound + limit::STALL_TIME) {
            // It was drained, and does not answer.
            return Some(Stuck::Write);
        }
        over(idle, bound).then_some(Stuck::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, kind: Kind, prepare: impl Fn(&Liveness), expected: Option<Stuck>) {
        let ticks = Ticks::default();
        let liveness = Liveness::new(ticks.clone());
        liveness.begin(kind);
        prepare(&liveness);
        for _ in 0..seconds {
            ticks.advance();
        }
        assert_eq!(liveness.verdict(), expected);
    }

    #[test]
    fn idle_connections_end_after_their_own_time() {
        check(60, Kind::Http1, |_| {}, None);
        check(61, Kind::Http1, |_| {}, Some(Stuck::Idle));
        check(61, Kind::Http2, |_| {}, None);
        check(301, Kind::Http2, |_| {}, Some(Stuck::Idle));
        check(360, Kind::Http2, |_| {}, Some(Stuck::Idle));
        check(361, Kind::Http2, |_| {}, Some(Stuck::Write));
        check(301, Kind::Stream, |_| {}, None);
    }

    #[test]
    fn a_head_that_does_not_end_is_cut_early() {
        check(11, Kind::Http1, Liveness::bytes_read, Some(Stuck::Head));
        check(10, Kind::Http1, Liveness::bytes_read, None);
        let busy = |l: &Liveness| {
            l.request_began();
            l.frames_read(true, true);
        };
        check(10, Kind::Http2, busy, None);
        check(11, Kind::Http2, busy, Some(Stuck::Head));
        let ended = |l: &Liveness| {
            busy(l);
            l.frames_read(false, false);
        };
        check(11, Kind::Http2, ended, None);
    }

    #[test]
    fn a_slow_backend_is_not_the_clients_fault() {
        check(1000, Kind::Http1, Liveness::request_began, None);
    }

    #[test]
    fn a_client_that_does_not_read_is_cut() {
        check(
            61,
            Kind::Http2,
            |l| {
                l.request_began();
                l.response_handed();
            },
            Some(Stuck::Write),
        );
        check(
            61,
            Kind::Http1,
            |l| {
                l.request_began();
                l.write_blocked(true);
            },
            Some(Stuck::Write),
        );
        check(
            1000,
            Kind::Http1,
            |l| {
                l.request_began();
                l.response_handed();
                l.response_taken();
            },
            None,
        );
    }

    #[test]
    fn orders_only_grow() {
        let liveness = Liveness::new(Ticks::default());
        liveness.order(Order::Cut);
        liveness.order(Order::Drain);
        assert_eq!(liveness.watch(Waker::noop()), Order::Cut);
    }
}
