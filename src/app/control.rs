//! The control thread: loads, adopts, publishes, reports; then waits for the next change.

use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::time::Instant;

use crate::base::id::Generation;
use crate::base::{limit, memory};
use crate::compile::Output;
use crate::compile::server_tls::CertificateFact;
use crate::diag::{Diagnostic, Location, Severity, catalog, count};
use crate::net::listener::BindError;
use crate::reload::{Loaded, Loader, RootError};
use crate::snapshot::Snapshot;
use crate::snapshot::cell::SnapshotCell;
use crate::snapshot::listener::{Listener, Written};
use crate::source::watch::{Wake, Watch};
use crate::telemetry::config::{ReloadResult, ReloadSample};
use crate::telemetry::keys::{CertificateExpiry, JwksMetrics};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::jwks::JwksEngine;
use crate::upstream::resolve::{Addresses, Resolver};

use super::identity::IdentityLife;
use super::key_sets;
use super::workers::{Fresh, Workers};

/// Findings written to the program's log for one load.
const LOGGED_FINDINGS: usize = 50;

/// What the admin port shows of the last load.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) certificates: Vec<CertificateFact>,
    /// Metrics of the key sets that rules hold themselves, kept for as long as they do.
    pub(super) _written_keys: Vec<JwksMetrics>,
}

/// The report, shared with the admin port.
pub(super) type SharedReport = Arc<Mutex<Report>>;

/// Loads and publishes.
pub(super) struct Control {
    pub(super) loader: Loader,
    pub(super) cell: SnapshotCell,
    pub(super) workers: Workers,
    pub(super) jwks: Arc<JwksEngine>,
    pub(super) resolver: Resolver,
    /// The names of the live snapshot, so that they are resolved before they are used.
    pub(super) names: Vec<Arc<Addresses>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access_log: Arc<AccessLog>,
    pub(super) report: SharedReport,
    pub(super) generation: Generation,
    /// Former snapshots that a request may still look at; the last to let go frees all of it, and
    /// that is no work for a worker.
    pub(super) retired: Vec<Arc<Snapshot>>,
    /// Whether some listener of the live snapshot could not be bound.
    pub(super) unbound: bool,
    /// Until when the mesh identity keeps the gateway ready.
    pub(super) identity: IdentityLife,
}

/// Why serving cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("nothing can be served: {}{}", one.brief(), more(*others))]
    Unbound {
        /// Of the first listener.
        one: Box<Diagnostic>,
        /// How many are like it.
        others: usize,
    },
}

/// What else there is, at the end of a sentence.
fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(" ({others} more; each is told above)"),
    }
}

impl Control {
    /// Loads, then follows changes, both on one thread of its own: the allocator gives memory back only on the
    /// thread that took it. Returns when the first load is live.
    pub(super) fn start(self, watch: Watch) -> anyhow::Result<JoinHandle<Workers>> {
        let (tell, loaded) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("control".into());
        let thread = thread.spawn(move || self.work(watch, &tell));
        let thread = thread.context("the control thread cannot start")?;
        loaded.recv().context("the control thread ended")??;
        Ok(thread)
    }

    fn work(mut self, watch: Watch, tell: &SyncSender<Result<(), StartError>>) -> Workers {
        let loaded = self.first();
        let failed = loaded.is_err();
        // Who started this thread waits for it.
        let _ = tell.send(loaded);
        if failed { self.workers } else { self.follow(watch) }
    }

    /// The first load. It ends the start that there are listeners and none can be bound.
    fn first(&mut self) -> Result<(), StartError> {
        let started = Instant::now();
        if let Some(loaded) = self.load()? {
            let bound = Bound::of(&self.workers, &loaded.output.snapshot);
            if let (true, [one, others @ ..]) = (bound.fresh.is_empty(), &*bound.failed) {
                log_findings(&loaded.diagnostics);
                log_findings(others);
                return Err(StartError::Unbound {
                    one: Box::new(one.clone()),
                    others: others.len(),
                });
            }
            self.publish(loaded, bound, started);
        }
        self.let_go();
        memory::give_back();
        Ok(())
    }

    /// Follows changes until the watch is stopped; gives the workers back.
    fn follow(mut self, mut watch: Watch) -> Workers {
        self.loader.heed(watch.writing(), watch.touched());
        loop {
            while watch.include(self.loader.wanted()) {
                // It may have changed between being read and being watched.
                self.reload(Instant::now());
            }
            let look_again = self.loader.look_again().unwrap_or(Duration::MAX);
            let bind_again = if self.unbound { limit::BIND_RETRY_TIME } else { Duration::MAX };
            match watch.wait(self.until_time_changes().min(look_again).min(bind_again)) {
                Wake::Stopped => return self.workers,
                Wake::Changed(seen) => {
                    self.bind_again();
                    self.reload(seen);
                }
                Wake::Scan => {
                    self.bind_again();
                    self.reload(Instant::now());
                    self.metrics.forget_unused();
                }
            }
        }
    }

    /// Time until a load gives something else by itself.
    fn until_time_changes(&self) -> Duration {
        let left = self.loader.changes_at().map(|end| end.saturating_sub(unix_seconds()));
        left.map_or(Duration::MAX, |left| {
            Duration::from_secs(u64::try_from(left).unwrap_or_default())
        })
    }

    fn load(&mut self) -> Result<Option<Loaded>, RootError> {
        let jwks = self.jwks.clone();
        let generation = Generation(self.generation.0 + 1);
        self.loader.load(&|source| jwks.keys(source), generation, unix_seconds())
    }

    fn reload(&mut self, seen: Instant) {
        match self.load() {
            Ok(Some(loaded)) => {
                let bound = Bound::of(&self.workers, &loaded.output.snapshot);
                self.publish(loaded, bound, seen);
                self.let_go();
            }
            Ok(None) => tracing::debug!("the files hold what is live already"),
            Err(error) => {
                tracing::error!(%error, "the configuration cannot be read; the last one goes on");
                self.sample(ReloadResult::Failed, seen, (1, 0));
            }
        }
        memory::give_back();
    }

    /// Publishes, then hands over what was bound, so that no connection meets a socket without its
    /// configuration. Readiness goes before the identity does, and comes after it.
    fn publish(&mut self, loaded: Loaded, bound: Bound, since: Instant) {
        let Loaded { output, mut diagnostics } = loaded;
        let identity = output.identity().cloned();
        if identity.is_none() {
            self.identity.update(None, unix_seconds());
        }
        let Output { snapshot, certificates, key_sources, token_parameters, .. } = output;
        let snapshot = Arc::new(snapshot);
        self.access_log.set_token_parameters(token_parameters);
        self.retired.push(self.cell.load());
        self.cell.publish(snapshot.clone());
        self.workers.adopt(bound.fresh, &snapshot);
        self.identity.update(identity.as_ref(), unix_seconds());
        self.jwks.update(&key_sources);
        let written_keys = key_sets::measured(&self.metrics, &snapshot);
        self.names = snapshot.names().map(|name| self.resolver.addresses(name)).collect();
        self.generation = snapshot.generation;
        self.unbound = !bound.failed.is_empty();
        self.metrics.set_certificates(certificates.iter().map(expiry).collect());
        diagnostics.extend(bound.failed.into_iter().map(tried_again));
        let counts = count(&diagnostics);
        log_findings(&diagnostics);
        *self.report() = Report { diagnostics, certificates, _written_keys: written_keys };
        self.sample(ReloadResult::Published, since, counts);
        log_published(&snapshot, since, counts);
    }

    /// Frees former snapshots that nobody looks at any more.
    fn let_go(&mut self) {
        let asked = Instant::now();
        let in_use = |snapshot: &Arc<Snapshot>| Arc::strong_count(snapshot) > 1;
        while self.retired.iter().any(in_use) && asked.elapsed() < limit::SNAPSHOT_HANDOVER_TIME {
            thread::sleep(Duration::from_millis(1));
        }
        self.retired.retain(in_use);
    }

    /// Tries what could not be bound; says what is served since.
    fn bind_again(&mut self) {
        if !self.unbound {
            return;
        }
        let snapshot = self.cell.load();
        let Bound { fresh, failed } = Bound::of(&self.workers, &snapshot);
        if fresh.is_empty() {
            return;
        }
        for address in fresh.keys() {
            tracing::info!(%address, "the listener could be bound and is served now");
        }
        self.workers.adopt(fresh, &snapshot);
        self.unbound = !failed.is_empty();
        let mut report = self.report();
        let diagnostics = &mut report.diagnostics;
        diagnostics.retain(|finding| *finding.code != catalog::PORT_NOT_BOUND);
        diagnostics.extend(failed.into_iter().map(tried_again));
        let (errors, warnings) = count(diagnostics);
        drop(report);
        self.metrics.diagnostics(errors, warnings);
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self, result: ReloadResult, since: Instant, (errors, warnings): (usize, usize)) {
        let hash = self.cell.load().hash.to_string();
        self.metrics.reload(&ReloadSample {
            result,
            duration: since.elapsed(),
            generation: self.generation,
            hash: &hash,
            errors,
            warnings,
            finished_unix_seconds: unix_seconds(),
        });
    }
}

/// What came of binding the listeners of a snapshot that nobody listens at yet.
struct Bound {
    fresh: Fresh,
    /// Why the others are not served.
    failed: Vec<Diagnostic>,
}

impl Bound {
    fn of(workers: &Workers, snapshot: &Snapshot) -> Self {
        let (fresh, failed) = workers.bind(snapshot);
        Self { fresh, failed: failed.into_iter().map(not_bound).collect() }
    }
}

fn not_bound((listener, error): (&Listener, BindError)) -> Diagnostic {
    let finding = Diagnostic::new(&catalog::PORT_NOT_BOUND, error.what()).help(error.advice());
    match listener.written.clone() {
        Some(Written { origin, column, field }) => finding
            .at(Location::new(origin.file, origin.line, column))
            .resource(origin.resource)
            .field(field),
        None => finding,
    }
}

fn tried_again(finding: Diagnostic) -> Diagnostic {
    let help = format!("{}; binding is tried again", finding.help);
    finding.help(help)
}

/// Seconds since 1970.
pub fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn expiry(fact: &CertificateFact) -> CertificateExpiry {
    CertificateExpiry {
        kind: fact.kind,
        name: fact.name.as_str().into(),
        serial: fact.serial.as_str().into(),
        not_after_unix_seconds: fact.not_after,
    }
}

fn log_published(snapshot: &Snapshot, since: Instant, (errors, warnings): (usize, usize)) {
    tracing::info!(
        generation = snapshot.generation.0,
        hash = %snapshot.hash,
        milliseconds = since.elapsed().as_millis(),
        listeners = snapshot.listeners.len(),
        clusters = snapshot.clusters.len(),
        errors,
        warnings,
        "configuration published"
    );
}

fn log_findings(diagnostics: &[Diagnostic]) {
    let told = |d: &&Diagnostic| d.severity != Severity::Info;
    for diagnostic in diagnostics.iter().filter(told).take(LOGGED_FINDINGS) {
        let place = diagnostic.location.as_ref().map(ToString::to_string).unwrap_or_default();
        let Diagnostic { message, help, .. } = diagnostic;
        let code = diagnostic.code.id;
        if diagnostic.severity == Severity::Error {
            tracing::error!(code, place, help, "{message}");
        } else {
            tracing::warn!(code, place, help, "{message}");
        }
    }
    let more = diagnostics.iter().filter(told).count().saturating_sub(LOGGED_FINDINGS);
    if more > 0 {
        tracing::warn!(more, "further findings: see /diagnostics on the admin port, or run check");
    }
}
