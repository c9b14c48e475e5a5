//! Builds every part, wires them, owns start and stop order.
//!
//! Threads: one for each worker; `control` loads configuration; a small runtime serves our own ports,
//! DNS and key fetching; `access-log` writes lines. The main thread waits for signals.

pub mod ca;
mod control;
mod endpoint_states;
mod files;
mod identity;
mod key_sets;
mod ports;
pub mod settings;
mod workers;

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rustls::RootCertStore;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::admin::status::Readiness;
use crate::base::id::Generation;
use crate::base::labels::Reporter;
use crate::compile::settings::{CompileSettings, Role};
use crate::identity::{Feed, IdentitySource};
use crate::net::listener::explained;
use crate::probe::Prober;
use crate::proxy::worker::{Command, Parts};
use crate::reload::{Loader, MeshFiles, RootError};
use crate::resources::MeshConfig;
use crate::resources::mesh_config::AccessLogEncoding;
use crate::snapshot::cell::SnapshotCell;
use crate::source::watch::{Teller, Watch};
use crate::telemetry::{AccessLog, LogFormat, Metrics, WorkloadLabels, logs};
use crate::tls::roots::Roots;
use crate::upstream::jwks::JwksEngine;
use crate::upstream::resolve::Resolver;
use crate::upstream::shared::SharedStates;

pub use control::unix_seconds;
use control::{Control, SharedReport};
use endpoint_states::EndpointStates;
use identity::IdentityLife;
use ports::Ports;
use settings::{AccessLogFormat, Inputs, Settings};
use workers::{Commands, Workers};

/// Serves until a signal to stop, drained or cut by then. `ready` runs once everything listens.
pub fn run(settings: &Settings, ready: impl FnOnce()) -> anyhow::Result<()> {
    let level = logs::start(&settings.log_level, settings.log_format)?;
    files::claim(settings.workers.get())?;
    use_small_pages();
    let feed = Feed::default();
    let loader = loader(&settings.inputs)?.with_identity(feed.clone());
    let metrics = Metrics::new(own_labels(&settings.inputs))?;
    let access_log = AccessLog::start(
        log_format(settings.access_log, loader.mesh_config().access_log_encoding),
        io::stdout(),
        metrics.access_log_dropped(),
    )?;
    let access_log = Arc::new(access_log);
    let runtime = control_runtime()?;
    let ports = Ports::open(&settings.inputs.own_ports)?;
    let mut signals = Signals::new(&runtime)?;

    let cell = SnapshotCell::default();
    let (resolver, shared) = (Resolver::new(runtime.handle().clone())?, SharedStates::default());
    let jwks = Arc::new(key_engine(settings, runtime.handle(), &metrics));
    let connections = files::connections_per_worker(settings.workers.get());
    let workers = Workers::start(settings.workers, || Parts {
        cell: cell.clone(),
        resolver: resolver.clone(),
        shared: shared.clone(),
        metrics: metrics.clone(),
        log: access_log.worker(),
        connections,
    })
    .context("the worker threads cannot start")?;
    let commands = workers.commands();
    let ended = workers.ended();
    let readiness = Readiness::default();
    let report = SharedReport::default();
    let endpoints = EndpointStates { shared, resolver: resolver.clone() };
    let shown = (cell.clone(), jwks.clone(), endpoints);
    let hooks = ports::hooks(shown, &report, (commands.clone(), readiness.clone()), level);
    ports.serve(runtime.handle(), (&readiness, prober(settings)?), &metrics, hooks);

    let files = Watch::new(watched(&settings.inputs));
    let stopper = files.stopper();
    runtime.spawn(signals.take_hangups(files.teller()));
    let source = &settings.inputs.identity;
    identity::ask(source, feed, files.teller(), runtime.handle());
    let control = Control {
        loader,
        cell,
        workers,
        jwks,
        resolver,
        names: Vec::new(),
        metrics: metrics.clone(),
        access_log: access_log.clone(),
        report,
        generation: Generation(0),
        retired: Vec::new(),
        unbound: false,
        identity: IdentityLife::new(readiness.clone(), source),
    };
    let control = control.start(files)?;
    readiness.configured();
    readiness.serving();
    ready();

    let stop = Stop { settings, commands, ended, metrics, readiness };
    let outcome = runtime.block_on(stop.run(&mut signals));
    stopper.stop();
    if let Ok(workers) = control.join() {
        workers.join();
    }
    runtime.shutdown_background();
    drop(access_log);
    outcome
}

/// What serves our own ports, DNS, key fetching and asking for the mesh identity.
fn control_runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control-io")
        .enable_all()
        .build()
        .map_err(|error| anyhow!("the control runtime cannot start: {}", explained(&error)))
}

/// What fetches the key sets of token issuers.
fn key_engine(settings: &Settings, runtime: &Handle, metrics: &Arc<Metrics>) -> JwksEngine {
    let engine = JwksEngine::new(runtime.clone(), Vec::new(), metrics.clone());
    engine.with_state(settings.state.as_deref())
}

/// What asks the application on kubelet's behalf, where there is something to ask.
fn prober(settings: &Settings) -> anyhow::Result<Option<Prober>> {
    let inputs = &settings.inputs;
    let (Role::Sidecar(ports), Some(status)) = (&inputs.role, inputs.own_ports.status) else {
        return Ok(None);
    };
    if settings.probes.is_empty() {
        return Ok(None);
    }
    let applications = ports.iter().map(|port| port.application).collect();
    let prober = Prober::new(settings.probes.clone(), applications, status.port());
    prober.map(Some).context("probes cannot be asked")
}

/// What stopping needs.
struct Stop<'a> {
    settings: &'a Settings,
    commands: Commands,
    ended: watch::Receiver<usize>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

impl Stop<'_> {
    /// Waits for a signal, then stops; a worker that ends before is a failure.
    async fn run(mut self, signals: &mut Signals) -> anyhow::Result<()> {
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "draining"),
            _ = self.ended.wait_for(|ended| *ended > 0) => anyhow::bail!("a worker thread ended"),
        }
        self.readiness.draining();
        self.drain(signals).await;
        Ok(())
    }

    /// Finishes what is under way; what is left at the deadline, or at a second signal, is cut.
    async fn drain(&mut self, signals: &mut Signals) {
        let (settings, workers, count) = (self.settings, &self.commands, self.commands.count());
        let ended = &mut self.ended;
        let orderly = async {
            sleep(settings.drain_delay).await;
            workers.send(|| Command::Drain);
            workers.send(|| Command::Close);
            timeout(settings.drain_deadline, ended.wait_for(|ended| *ended >= count)).await.is_ok()
        };
        let why = tokio::select! {
            done = orderly => {
                if done {
                    tracing::info!("drained");
                    return;
                }
                "the drain deadline"
            }
            name = signals.next() => name,
        };
        match self.metrics.open_connections() {
            0 => tracing::info!(why, "stopped; no connection was open"),
            open => {
                tracing::warn!(why, connections = open, "connections that were still open are cut");
            }
        }
        workers.send(|| Command::Cut);
    }
}

/// Signals to stop, and the one to look at the files.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Held, so that a terminal that closes ends nobody.
    hangup: Option<Signal>,
}

impl Signals {
    fn new(runtime: &Runtime) -> io::Result<Self> {
        let _guard = runtime.enter();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: Some(signal(SignalKind::hangup())?),
        })
    }

    /// From now on SIGHUP says that files may have changed.
    fn take_hangups(&mut self, files: Teller) -> impl Future<Output = ()> + use<> {
        let hangup = self.hangup.take();
        async move {
            let Some(mut hangup) = hangup else { return };
            while hangup.recv().await.is_some() {
                tracing::info!(signal = "SIGHUP", "files are looked at");
                files.tell();
            }
        }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Loads what the operator named, as `run` and `check` do.
pub fn loader(inputs: &Inputs) -> Result<Loader, RootError> {
    let config = inputs.config.clone();
    let files =
        MeshFiles { config: inputs.mesh_config.clone(), networks: inputs.mesh_networks.clone() };
    let (inputs, system_roots) = (inputs.clone(), system_roots());
    let settle = move |mesh: &MeshConfig| compile_settings(&inputs, mesh, system_roots.clone());
    Loader::new(config, files, Box::new(settle))
}

/// What compiling needs to know: defaults, then MeshConfig, then what the operator said.
fn compile_settings(
    inputs: &Inputs,
    mesh: &MeshConfig,
    system_roots: Option<Roots>,
) -> CompileSettings {
    let mut settings = CompileSettings {
        role: inputs.role.clone(),
        namespace: inputs.namespace.clone(),
        root_namespace: settings::DEFAULT_ROOT_NAMESPACE.into(),
        labels: inputs.labels.clone(),
        trust_domain: settings::DEFAULT_TRUST_DOMAIN.into(),
        locality: inputs.locality.as_ref().map_or_else(String::new, ToString::to_string),
        bind: inputs.bind,
        port_map: inputs.port_map.iter().copied().collect(),
        own_ports: inputs.own_ports.clone(),
        certs: inputs.certs.clone(),
        identity: match &inputs.identity {
            IdentitySource::Folder(folder) => folder.clone(),
            source => source.to_string().into(),
        },
        identity_is_sent: !matches!(inputs.identity, IdentitySource::Folder(_)),
        identity_crl: match &inputs.identity {
            IdentitySource::CertificateService(service) => Some(service.lists.clone()),
            _ => None,
        },
        system_roots,
        ..CompileSettings::default()
    }
    .with_mesh(mesh);
    if matches!(settings.role, Role::Sidecar(_)) {
        // The application says what it is.
        settings.edge.server_header = None;
    }
    if let Some(namespace) = &inputs.root_namespace {
        settings.root_namespace.clone_from(namespace);
    }
    if let Some(domain) = &inputs.trust_domain {
        settings.trust_domain.clone_from(domain);
    }
    settings
}

/// The operating system's trust anchors; nothing when it has none that can be read.
fn system_roots() -> Option<Roots> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    (added > 0).then(|| Roots::from_store(Arc::new(store)))
}

/// What a reload may depend on.
fn watched(inputs: &Inputs) -> Vec<std::path::PathBuf> {
    let mut roots = inputs.config.clone();
    roots.push(inputs.certs.clone());
    if let IdentitySource::Folder(folder) = &inputs.identity
        && !folder.starts_with(&inputs.certs)
    {
        roots.push(folder.clone());
    }
    roots.extend(inputs.mesh_config.iter().chain(&inputs.mesh_networks).cloned());
    roots
}

/// This process in the words of Istio's metrics.
fn own_labels(inputs: &Inputs) -> WorkloadLabels {
    let label = |names: &[&str]| {
        let found = names.iter().find_map(|name| inputs.labels.get(*name));
        found.map_or_else(Box::default, |value| value.as_str().into())
    };
    WorkloadLabels {
        reporter: match inputs.role {
            Role::Gateway => Reporter::Source,
            Role::Sidecar(_) => Reporter::Destination,
        },
        workload: label(&["app", "istio"]),
        canonical_service: label(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
            "istio",
        ]),
        canonical_revision: label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]),
        workload_namespace: inputs.namespace.as_str().into(),
        app: label(&["app", "istio"]),
        version: label(&["version"]),
        cluster: Box::default(),
    }
}

fn log_format(said: Option<AccessLogFormat>, mesh: AccessLogEncoding) -> LogFormat {
    match (said, mesh) {
        (Some(AccessLogFormat::Text), _) | (None, AccessLogEncoding::Text) => LogFormat::Text,
        (Some(AccessLogFormat::Json), _) | (None, AccessLogEncoding::Json) => LogFormat::Json,
        (Some(AccessLogFormat::Off), _) => LogFormat::Off,
    }
}

/// Huge pages hold many times what connections and snapshots use of them: a third of the memory of
/// 2,000 hosts.
fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay");
    }
}
