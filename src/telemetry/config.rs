//! Metrics of the process as a whole: its configuration, its build, its access log. They change
//! seldom and are kept in a `prometheus` registry.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::catalog::{self, Family};
use crate::base::id::Generation;

/// How a reload ended (`portcullis_reloads_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// A new snapshot is live.
    Published,
    /// The old snapshot was kept.
    Failed,
}

impl ReloadResult {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Failed => "failed",
        }
    }
}

/// One reload.
#[derive(Clone, Copy, Debug)]
pub struct ReloadSample<'a> {
    /// How it ended.
    pub result: ReloadResult,
    /// From the change being seen to its end.
    pub duration: Duration,
    /// Generation that is live now.
    pub generation: Generation,
    /// Hash of the configuration that is live now.
    pub hash: &'a str,
    /// Error diagnostics of the configuration just read.
    pub errors: usize,
    /// Warning diagnostics of the configuration just read.
    pub warnings: usize,
    /// When it ended, in seconds since 1970.
    pub finished_unix_seconds: i64,
}

/// The registry and the metrics in it.
#[derive(Debug)]
pub(super) struct ConfigMetrics {
    pub(super) registry: Registry,
    pub(super) access_log_dropped: IntCounter,
    reloads: IntCounterVec,
    seconds: HistogramVec,
    generation: IntGauge,
    hash: IntGaugeVec,
    diagnostics: IntGaugeVec,
    last_success: Gauge,
}

impl ConfigMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = gauges(&registry, &catalog::BUILD, &["component", "tag"])?;
        build.with_label_values(&["proxy", env!("CARGO_PKG_VERSION")]).set(1);
        let seconds = HistogramOpts::from(options(&catalog::RELOAD_SECONDS))
            .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]);
        let (dropped, reloads) =
            (options(&catalog::ACCESS_LOG_DROPPED), options(&catalog::RELOADS));
        Ok(Self {
            access_log_dropped: register(&registry, IntCounter::with_opts(dropped)?)?,
            reloads: register(&registry, IntCounterVec::new(reloads, &["result"])?)?,
            seconds: register(&registry, HistogramVec::new(seconds, &[])?)?,
            generation: register(&registry, IntGauge::with_opts(options(&catalog::GENERATION))?)?,
            hash: gauges(&registry, &catalog::CONFIG_HASH, &["hash"])?,
            diagnostics: gauges(&registry, &catalog::DIAGNOSTICS, &["severity"])?,
            last_success: register(&registry, Gauge::with_opts(options(&catalog::LAST_SUCCESS))?)?,
            registry,
        })
    }

    /// Records a reload.
    pub(super) fn record(&self, sample: &ReloadSample<'_>) {
        self.reloads.with_label_values(&[sample.result.as_str()]).inc();
        self.seconds.with_label_values::<&str>(&[]).observe(sample.duration.as_secs_f64());
        self.generation.set(i64::try_from(sample.generation.0).unwrap_or(i64::MAX));
        self.hash.reset();
        self.hash.with_label_values(&[sample.hash]).set(1);
        self.count(sample.errors, sample.warnings);
        if sample.result != ReloadResult::Failed {
            #[expect(clippy::cast_precision_loss, reason = "a Unix time is far below 2^53")]
            self.last_success.set(sample.finished_unix_seconds as f64);
        }
    }

    /// Sets how many findings there are.
    pub(super) fn count(&self, errors: usize, warnings: usize) {
        for (severity, count) in [("error", errors), ("warning", warnings)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.diagnostics.with_label_values(&[severity]).set(count);
        }
    }
}

fn options(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

fn gauges(
    registry: &Registry,
    family: &Family,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(options(family), labels)?)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
