//! Long streams of a worker, judged again while they live: what would be refused now ends.
//!
//! Each stream's turn comes every [`limit::JUDGED_AGAIN_TIME`]. At its turn it is judged when the snapshot
//! is another one, or when it has a token, whose time and keys end by themselves. Of other requests nothing
//! is noted here: each looks after itself when more of its answer is there ([`Judged`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::SystemTime;

use foldhash::fast::RandomState;
use http::Request;
use http::uri::PathAndQuery;
use rustls::pki_types::CertificateDer;

use super::http::HttpConnection;
use super::worker::Worker;
use crate::auth::authz::Peer;
use crate::base::hash::Fingerprint;
use crate::base::id::Generation;
use crate::base::limit;
use crate::decide::connection::ConnectionFacts;
use crate::decide::head::Head;
use crate::decide::reject::Reject;
use crate::decide::request::RequestFacts;
use crate::decide::standing::{Admission, Tightened, request, stream};
use crate::snapshot::Snapshot;
use crate::snapshot::listener::ListenAddress;

/// The long streams of a worker.
#[derive(Default)]
pub struct Standings {
    all: RefCell<HashMap<u64, Weak<Standing>, RandomState>>,
    next: Cell<u64>,
}

/// A long stream, as it was let in.
pub struct Standing {
    worker: Rc<Worker>,
    id: u64,
    subject: Subject,
    generation: Cell<Generation>,
    /// The worker's tick at which it was judged last.
    judged: Cell<u32>,
    refused: RefCell<Option<Reject>>,
    waker: RefCell<Option<Waker>>,
}

/// What is judged again.
pub enum Subject {
    /// A request and its answer.
    Request(Rc<HttpConnection>, Box<Asked>),
    /// A stream of bytes.
    Stream(Box<Passed>),
}

/// A request as policies saw it.
pub struct Asked {
    /// Its head before it was made ready for the backend.
    pub request: Request<()>,
    /// What was read from it.
    pub head: Head,
    /// Whether it has a token.
    pub has_token: bool,
}

/// A connection whose bytes are passed on.
pub struct Passed {
    /// Where it was accepted.
    pub address: ListenAddress,
    /// The peer.
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
    /// Name in its ClientHello.
    pub server_name: Option<Arc<str>>,
    /// What was asked of its certificate.
    pub client_rule: Option<Fingerprint>,
    /// Who the client is by its certificate.
    pub client: Option<Box<Peer>>,
    /// Its certificate, and its intermediates.
    pub chain: Box<[CertificateDer<'static>]>,
}

impl Standings {
    /// Judges the streams whose turn it is at a tick of the worker's clock.
    pub fn judge(&self, snapshot: &Snapshot, tick: u32) {
        let is_due = |standing: &Rc<Standing>| is_turn(standing.judged.get(), tick);
        // Collected first: one that ends takes itself out.
        let due: Vec<_> =
            self.all.borrow().values().filter_map(Weak::upgrade).filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        let now = unix_now();
        for standing in due {
            standing.judged.set(tick);
            standing.judge(snapshot, now);
        }
    }
}

impl Standing {
    /// Watches a stream that was let in by a snapshot of this generation.
    pub fn watch(worker: &Rc<Worker>, generation: Generation, subject: Subject) -> Rc<Self> {
        let standings = &worker.standings;
        let id = standings.next.replace(standings.next.get().wrapping_add(1));
        let standing = Rc::new(Self {
            worker: worker.clone(),
            id,
            subject,
            generation: Cell::new(generation),
            judged: Cell::new(worker.ticks.now()),
            refused: RefCell::default(),
            waker: RefCell::default(),
        });
        standings.all.borrow_mut().insert(id, Rc::downgrade(&standing));
        standing
    }

    /// The reason why the stream has to end; waits for it.
    pub async fn refused(&self) -> Reject {
        std::future::poll_fn(|cx| {
            if let Some(reject) = self.refused.borrow_mut().take() {
                return Poll::Ready(reject);
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    fn judge(&self, snapshot: &Snapshot, now: i64) {
        let has_token = matches!(&self.subject, Subject::Request(_, asked) if asked.has_token);
        if self.generation.replace(snapshot.generation) == snapshot.generation && !has_token {
            return;
        }
        let Err(why) = self.subject.judge(snapshot, now) else { return };
        self.refused.replace(Some(Reject::Tightened(Box::new(why))));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.worker.standings.all.borrow_mut().remove(&self.id);
    }
}

/// When a request was judged last whose turn comes when more of its answer is there.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    generation: Generation,
    tick: u32,
    has_token: bool,
}

impl Judged {
    /// It was let in by a snapshot of this generation.
    pub fn now(worker: &Worker, generation: Generation, has_token: bool) -> Self {
        Self { generation, tick: worker.ticks.now(), has_token }
    }

    /// Whether it is to be judged again; if so it counts as judged.
    pub fn is_due(&mut self, worker: &Worker) -> bool {
        let (generation, tick) = (worker.generation(), worker.ticks.now());
        let is_due = self.generation != generation || (self.has_token && is_turn(self.tick, tick));
        if is_due {
            *self = Self { generation, tick, ..*self };
        }
        is_due
    }
}

/// Whether what was judged at one tick of the worker's clock is to be judged at another.
fn is_turn(judged: u32, now: u32) -> bool {
    u64::from(now.saturating_sub(judged)) >= limit::JUDGED_AGAIN_TIME.as_secs()
}

/// Judges a request again, as policies saw it; `now` in Unix seconds.
pub fn judge(
    connection: &HttpConnection,
    (sent, head): (&Request<()>, &Head),
    snapshot: &Snapshot,
    now: i64,
) -> Result<(), Tightened> {
    let uri = sent.uri();
    let facts = RequestFacts {
        connection: connection.facts(),
        trusted: head.trusted_ip,
        head: head.for_routing(sent.method(), sent.headers(), uri.query()),
        path_and_query: uri.path_and_query().map_or("/", PathAndQuery::as_str),
        tokens: &connection.registered.worker.tokens,
        now,
        random: 0,
    };
    request(snapshot, &connection.admission(now), &facts)
}

impl Subject {
    fn judge(&self, snapshot: &Snapshot, now: i64) -> Result<(), Tightened> {
        match self {
            Self::Request(connection, asked) => {
                judge(connection, (&asked.request, &asked.head), snapshot, now)
            }
            Self::Stream(passed) => {
                let admission = Admission {
                    address: &passed.address,
                    client_rule: passed.client_rule,
                    chain: &passed.chain,
                    now,
                };
                let facts = ConnectionFacts {
                    client: passed.client.as_deref(),
                    source: passed.peer.ip(),
                    local: passed.local,
                    server_name: passed.server_name.as_deref(),
                };
                stream(snapshot, &admission, &facts)
            }
        }
    }
}

/// Unix time in seconds, for tokens and certificates.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
