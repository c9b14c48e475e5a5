//! The process's metrics: one [`Metrics`], shared by every part.
//!
//! **Invariant:** every label value is fixed in the program, comes from configuration, or is an identity
//! that the mesh's CA gave a caller; nothing else a client sends becomes one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::IntCounter;

use super::config::{ConfigMetrics, ReloadSample};
use super::destination::{RequestKey, RequestSeries, TcpKey, TcpSeries};
use super::downstream::HandshakeOutcome;
use super::exposition::Exposition;
use super::keys::{CertificateExpiry, JwksMetrics, JwksSeries};
use super::messages::MessageSeries;
use super::series::{Count, Level, SeriesTable, lock};
use super::upstream::UpstreamSeries;
use super::worker::{WorkerMetrics, WorkerSeries};
use crate::base::labels::{DestinationLabels, Reporter};
use crate::base::limit;

/// Metrics that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be registered")]
pub struct MetricsError(#[from] prometheus::Error);

/// This process in labels of Istio's standard metrics: the source at a gateway, the destination before
/// an application. An empty text is shown as `unknown` (an empty revision as `latest`).
#[derive(Clone, Debug, Default)]
pub struct WorkloadLabels {
    /// Which end this process reports as.
    pub reporter: Reporter,
    /// `*_workload`.
    pub workload: Box<str>,
    /// `*_canonical_service`.
    pub canonical_service: Box<str>,
    /// `*_canonical_revision`.
    pub canonical_revision: Box<str>,
    /// `*_workload_namespace`.
    pub workload_namespace: Box<str>,
    /// `*_app`.
    pub app: Box<str>,
    /// `*_version`.
    pub version: Box<str>,
    /// `*_cluster`.
    pub cluster: Box<str>,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    pub(super) own: WorkloadLabels,
    pub(super) requests: SeriesTable<RequestKey, RequestSeries>,
    pub(super) tcp: SeriesTable<TcpKey, TcpSeries>,
    pub(super) messages: SeriesTable<Arc<DestinationLabels>, MessageSeries>,
    pub(super) upstreams: SeriesTable<Box<str>, UpstreamSeries>,
    pub(super) handshakes: SeriesTable<(Box<str>, HandshakeOutcome), Count>,
    pub(super) routes: SeriesTable<(Arc<str>, u16), Count>,
    pub(super) rejections: SeriesTable<&'static str, Count>,
    pub(super) shadow: SeriesTable<(&'static str, &'static str), Count>,
    pub(super) jwks: SeriesTable<(Box<str>, Box<str>), JwksSeries>,
    pub(super) certificates: Mutex<Vec<CertificateExpiry>>,
    pub(super) config: ConfigMetrics,
    workers: Mutex<Vec<Arc<WorkerSeries>>>,
    worker_count: AtomicU32,
}

impl Metrics {
    /// Sets up every metric.
    pub fn new(own: WorkloadLabels) -> Result<Arc<Self>, MetricsError> {
        let grace = limit::METRIC_GRACE_TIME;
        Ok(Arc::new(Self {
            own,
            requests: SeriesTable::new(limit::METRIC_SERIES, grace),
            tcp: SeriesTable::new(limit::METRIC_SERIES, grace),
            messages: SeriesTable::new(limit::METRIC_SERIES, grace),
            upstreams: SeriesTable::new(limit::CONFIG_FILES, Duration::ZERO),
            handshakes: SeriesTable::new(limit::METRIC_SERIES, grace),
            routes: SeriesTable::new(limit::METRIC_SERIES, grace),
            rejections: SeriesTable::new(limit::METRIC_SERIES, Duration::MAX),
            shadow: SeriesTable::new(limit::METRIC_SERIES, Duration::MAX),
            jwks: SeriesTable::new(limit::METRIC_SERIES, Duration::ZERO),
            certificates: Mutex::default(),
            config: ConfigMetrics::new()?,
            workers: Mutex::default(),
            worker_count: AtomicU32::new(0),
        }))
    }

    /// Metrics for one more worker, to be made on its thread.
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let series = Arc::<WorkerSeries>::default();
        lock(&self.workers).push(series.clone());
        let number = self.worker_count.fetch_add(1, Ordering::Relaxed);
        WorkerMetrics::new(self.clone(), number, series)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> i64 {
        self.total(|worker| worker.connections_active.iter().map(Level::value).sum())
    }

    /// Adds up what the workers have.
    pub(super) fn total<N: std::iter::Sum>(&self, of: impl Fn(&WorkerSeries) -> N) -> N {
        lock(&self.workers).iter().map(|worker| of(worker)).sum()
    }

    /// Records a reload.
    pub fn reload(&self, sample: &ReloadSample<'_>) {
        self.config.record(sample);
    }

    /// Findings that are left of the last reload.
    pub fn diagnostics(&self, errors: usize, warnings: usize) {
        self.config.count(errors, warnings);
    }

    /// Replaces the set of certificates in use.
    pub fn set_certificates(&self, mut certificates: Vec<CertificateExpiry>) {
        certificates.sort();
        certificates.dedup();
        *lock(&self.certificates) = certificates;
    }

    /// State of one issuer's key set; `uri` is empty for inline keys.
    pub fn jwks(&self, issuer: &str, uri: &str) -> JwksMetrics {
        let other = |_| ("other".into(), "other".into());
        JwksMetrics(self.jwks.series((issuer.into(), uri.into()), 0, other))
    }

    /// Counter of access log lines that were dropped.
    pub fn access_log_dropped(&self) -> IntCounter {
        self.config.access_log_dropped.clone()
    }

    /// Forgets the series of what was removed from the configuration: of destinations and servers
    /// [`limit::METRIC_GRACE_TIME`] after it was first seen to be gone. Call it now and then.
    pub fn forget_unused(&self) {
        self.requests.forget_unused();
        self.tcp.forget_unused();
        self.messages.forget_unused();
        self.handshakes.forget_unused();
        self.routes.forget_unused();
        self.upstreams.forget_unused();
        self.jwks.forget_unused();
    }

    /// Everything in Prometheus' text format 0.0.4, piece by piece. Reads `/proc/self`; use it off the
    /// workers.
    pub fn exposition(self: &Arc<Self>) -> Exposition {
        self.forget_unused();
        Exposition::new(self.clone())
    }
}

#[cfg(test)]
mod tests;
