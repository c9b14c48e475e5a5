//! One endpoint of a pool, and the connections to it that can be used again.
//!
//! **Invariant:** a connection is used again only for the purpose it was made for, and never beyond
//! its rules.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use rustls::pki_types::ServerName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::coming::Coming;
use super::lease::Sender;
use crate::base::limit;
use crate::net::awaited::Allowance;
use crate::snapshot::cluster::{Address, ConnectionRules};
use crate::upstream::bounds::Permit;
use crate::upstream::health::Watch;

/// One endpoint.
pub(super) struct Host<B> {
    /// Its name: the address, or what is resolved to it.
    pub(super) name: Arc<str>,
    /// Where to connect; changes when one name stands for changing addresses.
    pub(super) address: RefCell<Address>,
    /// As [`crate::snapshot::cluster::Endpoint::tls`].
    pub(super) tls: bool,
    /// When it appeared.
    pub(super) since: Instant,
    /// Outlier detection, where there is any.
    pub(super) watch: RefCell<Option<Watch>>,
    /// What is going on.
    pub(super) room: Rc<Room>,
    /// HTTP/2 connections that are being opened.
    pub(super) coming: Rc<Coming>,
    idle: RefCell<Vec<Idle<B>>>,
    shared: RefCell<Vec<Shared<B>>>,
}

/// What is going on at an endpoint.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Requests, or streams of bytes, in flight.
    pub(super) active: Cell<u32>,
    /// Connections open or being opened.
    open: Cell<u32>,
    waiting: Cell<u32>,
    freed: Notify,
}

/// A connection that is open, or being opened; ends with it.
#[derive(Debug)]
pub(super) struct Open {
    room: Rc<Room>,
    permit: Option<Permit>,
}

/// What a connection may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Purpose {
    /// The server name, where it is the request's own.
    pub(super) name: Option<ServerName<'static>>,
    /// The client's connection, where a PROXY header told of it.
    pub(super) client: Option<(SocketAddr, SocketAddr)>,
}

/// A connection that can carry a request.
pub(super) type Connection<B> = (Sender<B>, Rc<Facts>);

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) purpose: Purpose,
    /// The endpoint's address; none for a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// This end's address.
    pub(super) local: Option<SocketAddr>,
    /// Whether an HTTP/2 connection takes an extended CONNECT.
    pub(super) connects: Connects,
    /// What may come over HTTP/1.1 until an answer.
    pub(super) allowance: Allowance,
    pub(super) born: Instant,
    /// Requests it was taken for.
    pub(super) served: Cell<u32>,
    /// Requests on it now.
    pub(super) streams: Cell<u32>,
}

/// Whether an HTTP/2 connection takes an extended CONNECT: known once the other end has said its settings
/// (RFC 8441 section 3).
#[derive(Debug, Default)]
pub(super) struct Connects {
    taken: OnceCell<bool>,
    told: Notify,
}

impl Connects {
    pub(super) fn is_told(&self) -> bool {
        self.taken.get().is_some()
    }

    pub(super) fn tell(&self, taken: bool) {
        if self.taken.set(taken).is_ok() {
            self.told.notify_waiters();
        }
    }

    pub(super) async fn taken(&self) -> bool {
        loop {
            if let Some(taken) = self.taken.get() {
                return *taken;
            }
            self.told.notified().await;
        }
    }
}

struct Idle<B> {
    sender: http1::SendRequest<B>,
    facts: Rc<Facts>,
    since: Instant,
}

struct Shared<B> {
    sender: http2::SendRequest<B>,
    facts: Rc<Facts>,
}

impl Facts {
    /// Whether it has served its time or its number of requests.
    fn is_worn(&self, rules: &ConnectionRules) -> bool {
        self.is_spent(rules) || rules.age.is_some_and(|most| self.born.elapsed() >= most)
    }

    /// Whether it has served its number of requests.
    pub(super) fn is_spent(&self, rules: &ConnectionRules) -> bool {
        rules.requests.is_some_and(|most| self.served.get() >= most.get())
    }
}

impl Room {
    /// Whether a connection is open or being opened.
    pub(super) fn is_open(&self) -> bool {
        self.open.get() > 0
    }

    /// Counts a connection.
    pub(super) fn enter(self: &Rc<Self>, permit: Option<Permit>) -> Open {
        self.open.set(self.open.get() + 1);
        Open { room: self.clone(), permit }
    }

    /// Waits until a connection may have become free.
    pub(super) async fn freed(&self) {
        struct Waiting<'a>(&'a Cell<u32>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        self.freed.notified().await;
    }

    /// Wakes one that waits, if anybody does.
    pub(super) fn free(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }

    /// Wakes all that wait: one connection can carry several of them.
    fn free_all(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_waiters();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.room.open.set(self.room.open.get().saturating_sub(1));
        drop(self.permit.take());
        self.room.free();
    }
}

impl<B> Host<B> {
    pub(super) fn new(name: Arc<str>, address: Address, tls: bool) -> Rc<Self> {
        Rc::new(Self {
            name,
            address: RefCell::new(address),
            tls,
            since: Instant::now(),
            watch: RefCell::default(),
            room: Rc::default(),
            coming: Rc::default(),
            idle: RefCell::default(),
            shared: RefCell::default(),
        })
    }

    /// Where it listens, as an IP address and port.
    pub(super) fn socket(&self) -> Option<SocketAddr> {
        match &*self.address.borrow() {
            Address::Socket(socket) => Some(*socket),
            Address::Unix(_) => None,
        }
    }

    /// An HTTP/2 connection with room for a stream.
    pub(super) fn shared(
        &self,
        purpose: &Purpose,
        rules: &ConnectionRules,
    ) -> Option<Connection<B>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|one| !one.sender.is_closed() && !one.facts.is_worn(rules));
        let free = |one: &&Shared<B>| {
            one.facts.purpose == *purpose && one.facts.streams.get() < rules.streams.get()
        };
        let found = shared.iter().find(free)?;
        Some((Sender::Http2(found.sender.clone()), found.facts.clone()))
    }

    /// An HTTP/1.1 connection that lies idle, and how many were found closed or worn.
    pub(super) fn idle(
        &self,
        purpose: &Purpose,
        rules: &ConnectionRules,
    ) -> (Option<Connection<B>>, i64) {
        let mut idle = self.idle.borrow_mut();
        let mut taken = 0;
        while let Some(index) = idle.iter().rposition(|one| one.facts.purpose == *purpose) {
            let Idle { sender, facts, .. } = idle.remove(index);
            taken += 1;
            if !sender.is_closed() && !facts.is_worn(rules) {
                return (Some((Sender::Http1(sender), facts)), taken);
            }
        }
        (None, taken)
    }

    /// Keeps an HTTP/2 connection for others.
    pub(super) fn share(&self, sender: http2::SendRequest<B>, facts: Rc<Facts>) {
        self.shared.borrow_mut().push(Shared { sender, facts });
        self.room.free_all();
    }

    /// Keeps an HTTP/1.1 connection for the next request; says whether it did.
    pub(super) fn keep(&self, sender: http1::SendRequest<B>, facts: Rc<Facts>) -> bool {
        let mut idle = self.idle.borrow_mut();
        let keep = !sender.is_closed() && idle.len() < limit::UPSTREAM_IDLE_CONNECTIONS;
        if keep {
            idle.push(Idle { sender, facts, since: Instant::now() });
        }
        keep
    }

    /// Closes the connection that lies idle the longest, to make room for one of another purpose; says
    /// how many HTTP/1.1 connections that was.
    pub(super) fn evict(&self) -> i64 {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            idle.remove(0);
            return 1;
        }
        let mut shared = self.shared.borrow_mut();
        if let Some(index) = shared.iter().position(|one| one.facts.streams.get() == 0) {
            shared.remove(index);
        }
        0
    }

    /// Closes connections that are worn or were unused for too long; says how many lay idle.
    pub(super) fn sweep(
        &self,
        now: Instant,
        rules: &ConnectionRules,
        most: std::time::Duration,
    ) -> i64 {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|one| {
            let fresh = now.saturating_duration_since(one.since) < most;
            fresh && !one.sender.is_closed() && !one.facts.is_worn(rules)
        });
        let closed = before - idle.len();
        drop(idle);
        let good = |one: &Shared<B>| !one.sender.is_closed() && !one.facts.is_worn(rules);
        self.shared.borrow_mut().retain(good);
        i64::try_from(closed).unwrap_or(0)
    }

    /// Closes what lies idle; says how many connections those were.
    pub(super) fn clear(&self) -> i64 {
        self.shared.borrow_mut().clear();
        i64::try_from(self.idle.take().len()).unwrap_or(0)
    }
}
