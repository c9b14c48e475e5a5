//! Metrics that are not counted per request, in a `prometheus` registry of their own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use prometheus::core::Collector;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::metrics::{ConnectionKind, ReloadResult, ReloadSample};
use super::series::lock;
use crate::base::limit;

/// The registry and the metrics in it.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) registry: Registry,
    pub(super) connections_active: Arc<[IntGauge; ConnectionKind::ALL.len()]>,
    pub(super) connections_total: IntCounter,
    pub(super) connections_refused: IntCounterVec,
    pub(super) handshakes: IntCounterVec,
    pub(super) rejections: IntCounterVec,
    pub(super) access_log_dropped: IntCounter,
    pub(super) reload: ReloadMetrics,
    servers: Mutex<HashSet<Box<str>>>,
}

/// Metrics of the configuration.
#[derive(Debug)]
pub(super) struct ReloadMetrics {
    reloads: IntCounterVec,
    seconds: HistogramVec,
    generation: IntGauge,
    hash: IntGaugeVec,
    diagnostics: IntGaugeVec,
    last_success: Gauge,
}

impl Registered {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters =
            |name: &str, help: &str, labels: &[&str]| counters(&registry, (name, help), labels);
        let active = gauges(
            &registry,
            ("portcullis_connections_active", "Client connections open now."),
            &["kind"],
        )?;
        let build =
            gauges(&registry, ("istio_build", "Version of the proxy."), &["component", "tag"])?;
        build.with_label_values(&["proxy", env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            connections_active: Arc::new(
                ConnectionKind::ALL.map(|kind| active.with_label_values(&[kind.as_str()])),
            ),
            connections_total: register(
                &registry,
                IntCounter::new("portcullis_connections_total", "Client connections accepted.")?,
            )?,
            connections_refused: counters(
                "portcullis_connections_refused_total",
                "Client connections closed at once.",
                &["reason"],
            )?,
            handshakes: counters(
                "portcullis_tls_handshakes_total",
                "Client TLS handshakes by how they ended.",
                &["outcome", "server"],
            )?,
            rejections: counters(
                "portcullis_rejections_total",
                "Answers made by the gateway itself.",
                &["reason"],
            )?,
            access_log_dropped: register(
                &registry,
                IntCounter::new(
                    "portcullis_access_log_dropped_total",
                    "Access log lines dropped: the output was too slow or failed.",
                )?,
            )?,
            servers: Mutex::default(),
            reload: ReloadMetrics::new(&registry)?,
            registry,
        })
    }

    /// The server label, or `other` once there were too many different ones.
    pub(super) fn server_label<'a>(&self, server: &'a str) -> &'a str {
        let mut servers = lock(&self.servers);
        if servers.contains(server) {
            return server;
        }
        if servers.len() >= limit::METRIC_SERIES {
            return "other";
        }
        servers.insert(server.into());
        server
    }
}

impl ReloadMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = "portcullis_config_generation";
        let generation = IntGauge::new(name, "Number of the live snapshot.")?;
        let name = "portcullis_config_last_success_timestamp_seconds";
        let last_success = Gauge::new(name, "Unix time of the last reload that did not fail.")?;
        let name = "portcullis_reload_duration_seconds";
        let help = "Time from a change being seen to the end of the reload.";
        let seconds = HistogramOpts::new(name, help)
            .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]);
        let reloads = ("portcullis_reloads_total", "Configuration reloads by how they ended.");
        let hash = ("portcullis_config_hash_info", "Hash of the live configuration.");
        let diagnostics =
            ("portcullis_config_diagnostics", "Diagnostics of the configuration read last.");
        Ok(Self {
            reloads: counters(registry, reloads, &["result"])?,
            seconds: register(registry, HistogramVec::new(seconds, &[])?)?,
            generation: register(registry, generation)?,
            hash: gauges(registry, hash, &["hash"])?,
            diagnostics: gauges(registry, diagnostics, &["severity"])?,
            last_success: register(registry, last_success)?,
        })
    }

    /// Records a reload.
    pub(super) fn record(&self, sample: &ReloadSample<'_>) {
        self.reloads.with_label_values(&[sample.result.as_str()]).inc();
        self.seconds.with_label_values::<&str>(&[]).observe(sample.duration.as_secs_f64());
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.generation.set(i64::try_from(sample.generation.0).unwrap_or(i64::MAX));
        self.hash.reset();
        self.hash.with_label_values(&[sample.hash]).set(1);
        self.diagnostics.with_label_values(&["error"]).set(gauge(sample.errors));
        self.diagnostics.with_label_values(&["warning"]).set(gauge(sample.warnings));
        if sample.result != ReloadResult::Failed {
            #[expect(clippy::cast_precision_loss, reason = "a Unix time is far below 2^53")]
            self.last_success.set(sample.finished_unix_seconds as f64);
        }
    }
}

/// Registers counters; their description is name and help.
fn counters(
    registry: &Registry,
    (name, help): (&str, &str),
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// Registers gauges; their description is name and help.
fn gauges(
    registry: &Registry,
    (name, help): (&str, &str),
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
