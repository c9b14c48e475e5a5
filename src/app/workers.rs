//! The worker threads and the sockets they accept on.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};

use crate::net::listener::{BindError, bind, bind_any, bind_unix, explained};
use crate::proxy::worker::{self, Command, Parts, Socket};
use crate::snapshot::Snapshot;
use crate::snapshot::listener::{ListenAddress, Listener};

/// Commands waiting for one worker.
const QUEUE: usize = 4096;

/// The workers.
pub(super) struct Workers {
    commands: Vec<mpsc::Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
    ended: watch::Receiver<usize>,
    bound: BTreeSet<ListenAddress>,
}

/// Tells that a worker's thread is over, however it ended.
struct Ending(watch::Sender<usize>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_modify(|ended| *ended += 1);
    }
}

/// Sockets bound and not yet handed over: one for each worker and address.
pub(super) type Fresh = BTreeMap<ListenAddress, Vec<Socket>>;

impl Workers {
    /// Starts `count` threads.
    pub(super) fn start(count: NonZeroUsize, parts: impl Fn() -> Parts) -> std::io::Result<Self> {
        let (ending, ended) = watch::channel(0);
        let mut workers =
            Self { commands: Vec::new(), threads: Vec::new(), ended, bound: BTreeSet::new() };
        for index in 0..count.get() {
            let (sender, commands) = mpsc::channel(QUEUE);
            let runtime = Builder::new_current_thread();
            let (parts, ending) = (parts(), Ending(ending.clone()));
            let thread = thread::Builder::new().name(format!("worker-{index}"));
            workers.threads.push(thread.spawn(move || serve(runtime, parts, commands, ending))?);
            workers.commands.push(sender);
        }
        Ok(workers)
    }

    /// Binds what a snapshot listens on and nobody listens on yet.
    pub(super) fn bind<'s>(
        &self,
        snapshot: &'s Snapshot,
    ) -> (Fresh, Vec<(&'s Listener, BindError)>) {
        let mut fresh = Fresh::new();
        let mut failed = Vec::new();
        for listener in &snapshot.listeners {
            let address = &listener.address;
            if self.bound.contains(address) || fresh.contains_key(address) {
                continue;
            }
            match sockets(address, self.commands.len()) {
                Ok(sockets) => {
                    fresh.insert(address.clone(), sockets);
                }
                Err(error) => failed.push((&**listener, error)),
            }
        }
        (fresh, failed)
    }

    /// Hands sockets over, and gives up those that a snapshot no longer listens on.
    pub(super) fn adopt(&mut self, fresh: Fresh, snapshot: &Snapshot) {
        for (address, sockets) in fresh {
            for (worker, socket) in self.commands.iter().zip(sockets) {
                let _ = worker.blocking_send(Command::Listen(address.clone(), socket));
            }
            self.bound.insert(address);
        }
        let wanted: BTreeSet<_> = snapshot.listeners.iter().map(|l| &l.address).collect();
        let gone: Vec<_> =
            self.bound.iter().filter(|address| !wanted.contains(address)).cloned().collect();
        for address in gone {
            for worker in &self.commands {
                let _ = worker.blocking_send(Command::Unlisten(address.clone()));
            }
            self.bound.remove(&address);
        }
        for worker in &self.commands {
            let _ = worker.blocking_send(Command::Adopt);
        }
    }

    /// Senders of every worker's commands.
    pub(super) fn commands(&self) -> Commands {
        Commands(self.commands.clone())
    }

    /// How many workers have ended.
    pub(super) fn ended(&self) -> watch::Receiver<usize> {
        self.ended.clone()
    }

    /// Waits for the threads.
    pub(super) fn join(self) {
        drop(self.commands);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread failed");
            }
        }
    }
}

/// Tells every worker the same.
#[derive(Clone, Debug)]
pub(super) struct Commands(Vec<mpsc::Sender<Command>>);

impl Commands {
    /// Tells without waiting; a worker with a full queue has ended or will never read it.
    pub(super) fn send(&self, command: impl Fn() -> Command) {
        for worker in &self.0 {
            let _ = worker.try_send(command());
        }
    }

    /// Number of workers.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

fn serve(mut runtime: Builder, parts: Parts, commands: mpsc::Receiver<Command>, _ending: Ending) {
    match runtime.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime.block_on(worker::run(parts, commands)),
        Err(error) => tracing::error!(error = explained(&error), "a worker cannot start"),
    }
}

fn sockets(address: &ListenAddress, count: usize) -> Result<Vec<Socket>, BindError> {
    let tcp = |sockets: Vec<std::net::TcpListener>| sockets.into_iter().map(Socket::Tcp).collect();
    match address {
        ListenAddress::Socket(address) => bind(*address, count).map(tcp),
        ListenAddress::Any(port) => bind_any(*port, count).map(tcp),
        ListenAddress::Unix(path) => {
            let socket = std::sync::Arc::new(bind_unix(path)?);
            Ok((0..count).map(|_| Socket::Unix(socket.clone())).collect())
        }
    }
}
