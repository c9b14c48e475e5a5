//! One worker thread: a current-thread runtime with its own listening sockets, connections and
//! pools; nothing a request needs is on another thread.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::connection::{self, Accepted};
use super::http::request_body::RequestBody;
use super::serving::ServingCell;
use super::standing::Standings;
use crate::auth::jwt::TokenCache;
use crate::base::id::Generation;
use crate::base::limit;
use crate::net::listener::explained;
use crate::net::liveness::{Liveness, Order, Stuck, Ticks};
use crate::snapshot::Snapshot;
use crate::snapshot::cell::{SnapshotCell, SnapshotReader};
use crate::snapshot::listener::ListenAddress;
use crate::telemetry::{Metrics, WorkerLog, WorkerTelemetry};
use crate::upstream::registry::Upstreams;
use crate::upstream::resolve::Resolver;
use crate::upstream::shared::SharedStates;

/// What the control half tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept on a socket.
    Listen(ListenAddress, Socket),
    /// Stop accepting on an address, after what already waits in its queue.
    Unlisten(ListenAddress),
    /// Move on to the live snapshot, so that the last one can go.
    Adopt,
    /// Finish requests under way; answer new ones and close their connections.
    Drain,
    /// Stop accepting altogether.
    Close,
    /// End every connection.
    Cut,
}

/// A bound socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix domain.
    Unix(Arc<std::os::unix::net::UnixListener>),
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where snapshots appear.
    pub cell: SnapshotCell,
    /// Names of backends.
    pub resolver: Resolver,
    /// What the workers share of clusters.
    pub shared: SharedStates,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The worker's access log.
    pub log: WorkerLog,
    /// Connections this worker may hold.
    pub connections: usize,
}

/// A worker's hold on a snapshot: cloned for each request without touching a shared counter.
#[derive(Debug)]
pub struct View(pub Arc<Snapshot>);

impl std::ops::Deref for View {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// What a worker holds of a connection.
struct Held {
    liveness: Arc<Liveness>,
    serving: Weak<ServingCell>,
}

/// The state of one worker, shared by its tasks.
pub struct Worker {
    reader: RefCell<SnapshotReader>,
    view: RefCell<Rc<View>>,
    /// Its pools.
    pub upstreams: Upstreams<RequestBody>,
    /// Tokens it has verified.
    pub tokens: TokenCache,
    /// Its metrics and log.
    pub telemetry: WorkerTelemetry,
    /// Its clock of seconds.
    pub ticks: Ticks,
    /// Its long streams.
    pub standings: Standings,
    /// Held by each mirrored request under way.
    pub mirrors: Rc<()>,
    connections: RefCell<HashMap<u64, Held>>,
    most_connections: usize,
    told_full: Cell<Option<Instant>>,
    next_connection: Cell<u64>,
    draining: Cell<bool>,
}

impl Worker {
    fn new(parts: Parts) -> Rc<Self> {
        let mut reader = parts.cell.reader();
        let view = Rc::new(View(reader.load().clone()));
        Rc::new(Self {
            reader: RefCell::new(reader),
            view: RefCell::new(view),
            upstreams: Upstreams::new(parts.resolver, parts.shared),
            tokens: TokenCache::default(),
            telemetry: WorkerTelemetry { metrics: parts.metrics.worker(), log: parts.log },
            ticks: Ticks::default(),
            standings: Standings::default(),
            mirrors: Rc::default(),
            connections: RefCell::default(),
            most_connections: parts.connections,
            told_full: Cell::new(None),
            next_connection: Cell::new(0),
            draining: Cell::new(false),
        })
    }

    /// The live snapshot; pools move on with it.
    pub fn snapshot(&self) -> Rc<View> {
        let mut reader = self.reader.borrow_mut();
        let live = reader.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(live, &view.0) {
            self.upstreams.adopt(live);
            let servers: HashSet<_> =
                live.listeners.iter().flat_map(|listener| listener.servers.tls_keys()).collect();
            self.telemetry.metrics.keep_servers(|server| servers.contains(server));
            let connections = self.connections.borrow();
            for Held { liveness, serving } in connections.values() {
                let Some(serving) = serving.upgrade() else { continue };
                serving.forget();
                if !serving.is_served(live) {
                    liveness.order(Order::Drain);
                }
            }
            *view = Rc::new(View(live.clone()));
        }
        view.clone()
    }

    /// The generation of the live snapshot.
    pub fn generation(&self) -> Generation {
        self.reader.borrow_mut().load().generation
    }

    /// Registers a connection until the returned guard is dropped.
    pub fn register(self: &Rc<Self>) -> Registered {
        let liveness = Liveness::new(self.ticks.clone());
        if self.draining.get() {
            liveness.order(Order::Drain);
        }
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let held = Held { liveness: liveness.clone(), serving: Weak::new() };
        self.connections.borrow_mut().insert(id, held);
        Registered { worker: self.clone(), id, liveness }
    }

    /// Says once in a while that connections are refused.
    fn tell_full(&self) {
        if self.told_full.get().is_none_or(|told| told.elapsed() > limit::STALL_TIME) {
            self.told_full.set(Some(Instant::now()));
            tracing::warn!(
                most = self.most_connections,
                "a worker has as many connections as it may, and closes new ones; raise the limit on open \
                 files (ulimit -n), half of which they may take, or run more replicas"
            );
        }
    }

    /// Looks after deadlines: once a second.
    fn tick(&self) {
        self.ticks.advance();
        let snapshot = self.snapshot();
        self.standings.judge(&snapshot, self.ticks.now());
        for Held { liveness, .. } in self.connections.borrow().values() {
            match liveness.verdict() {
                Some(Stuck::Idle) => liveness.order(Order::Drain),
                Some(Stuck::Head | Stuck::Write) => liveness.order(Order::Cut),
                None => {}
            }
        }
        self.upstreams.sweep();
    }

    async fn emptied(&self) {
        while !self.connections.borrow().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn order_all(&self, order: Order) {
        for held in self.connections.borrow().values() {
            held.liveness.order(order);
        }
    }
}

/// A registered connection.
pub struct Registered {
    /// Its worker.
    pub worker: Rc<Worker>,
    /// Its state.
    pub liveness: Arc<Liveness>,
    id: u64,
}

impl Registered {
    /// Says that the connection looks its block up there.
    pub fn serves(&self, serving: &Rc<ServingCell>) {
        if let Some(held) = self.worker.connections.borrow_mut().get_mut(&self.id) {
            held.serving = Rc::downgrade(serving);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
    }
}

/// Runs a worker until it is drained (or cut) after [`Command::Close`], or its commands end.
pub async fn run(parts: Parts, mut commands: mpsc::Receiver<Command>) {
    let worker = Worker::new(parts);
    let mut listeners: HashMap<ListenAddress, AbortHandle> = HashMap::new();
    let mut ticker = interval(Duration::from_secs(1));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker.tick().await;
    let mut closing = false;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(address, socket)) => {
                    let task = spawn_local(accept(worker.clone(), address.clone(), socket));
                    if let Some(old) = listeners.insert(address, task.abort_handle()) {
                        old.abort();
                    }
                }
                Some(Command::Unlisten(address)) => {
                    if let Some(task) = listeners.remove(&address) {
                        task.abort();
                    }
                }
                Some(Command::Adopt) => _ = worker.snapshot(),
                Some(Command::Drain) => {
                    worker.draining.set(true);
                    worker.order_all(Order::Drain);
                }
                Some(Command::Close) => {
                    // One turn of the runtime accepts what still waits in the sockets' queues.
                    sleep(Duration::from_millis(1)).await;
                    for (_, task) in listeners.drain() {
                        task.abort();
                    }
                    closing = true;
                }
                Some(Command::Cut) | None => {
                    worker.order_all(Order::Cut);
                    // What is cut is logged.
                    let _ = timeout(limit::CUT_TIME, worker.emptied()).await;
                    return;
                }
            },
            _ = ticker.tick() => worker.tick(),
            () = sleep(Duration::from_millis(5)), if closing => {
                if worker.connections.borrow().is_empty() {
                    return;
                }
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, address: ListenAddress, socket: Socket) {
    let result = match socket {
        Socket::Tcp(socket) => accept_tcp(&worker, &address, socket).await,
        Socket::Unix(socket) => accept_unix(&worker, &address, &socket).await,
    };
    if let Err(error) = result {
        tracing::error!(?address, %error, "listener ended");
    }
}

async fn accept_tcp(
    worker: &Rc<Worker>,
    address: &ListenAddress,
    socket: std::net::TcpListener,
) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let mut patience = Patience::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let local = stream.local_addr().unwrap_or(peer);
                take(worker, address, Accepted::Tcp(stream, peer, local));
            }
            Err(error) => patience.after(&error).await,
        }
    }
}

async fn accept_unix(
    worker: &Rc<Worker>,
    address: &ListenAddress,
    socket: &std::os::unix::net::UnixListener,
) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.try_clone()?)?;
    let mut patience = Patience::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => take(worker, address, Accepted::Unix(stream)),
            Err(error) => patience.after(&error).await,
        }
    }
}

fn take(worker: &Rc<Worker>, address: &ListenAddress, accepted: Accepted) {
    if worker.connections.borrow().len() >= worker.most_connections {
        worker.telemetry.metrics.connection_over_limit();
        worker.tell_full();
        return;
    }
    spawn_local(connection::serve(worker.register(), address.clone(), accepted));
}

/// Waits after an accept that failed for want of something, and says so once in a while.
#[derive(Default)]
struct Patience {
    told: Option<Instant>,
}

impl Patience {
    async fn after(&mut self, error: &io::Error) {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        ) {
            return;
        }
        if self.told.is_none_or(|told| told.elapsed() > limit::STALL_TIME) {
            self.told = Some(Instant::now());
            tracing::error!(error = explained(error), "connections cannot be accepted");
        }
        sleep(Duration::from_millis(50)).await;
    }
}
