//! What one worker counts into: label sets resolved once, then plain stores.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::access_log::WorkerLog;
use super::metrics::Metrics;
use super::series::{BYTES, Count, Histogram, MICROSECONDS, WorkerId};
use crate::base::labels::DestinationLabels;
use crate::base::limit;

/// `request_protocol` of Istio's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    #[default]
    Http,
    /// HTTP whose content type is gRPC's.
    Grpc,
    /// Bytes: passthrough or a TCP route.
    Tcp,
}

impl Protocol {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct RequestSample<'a> {
    /// Where it went; labels of the cluster, or default labels when nothing matched.
    pub destination: &'a Arc<DestinationLabels>,
    /// Response code; 0 when the client left before there was one.
    pub code: u16,
    /// Response flags, `-` for none.
    pub flags: &'static str,
    /// HTTP or gRPC.
    pub protocol: Protocol,
    /// `grpc-status` of a gRPC answer.
    pub grpc_status: Option<u16>,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of the request, head included.
    pub request_bytes: u64,
    /// Bytes of the response, head included.
    pub response_bytes: u64,
}

/// What tells one request series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RequestKey {
    pub(super) destination: Arc<DestinationLabels>,
    pub(super) code: u16,
    pub(super) flags: &'static str,
    pub(super) protocol: Protocol,
    pub(super) grpc_status: Option<u16>,
}

impl RequestKey {
    /// Where a request beyond the bound on series is counted.
    fn other(self) -> Self {
        Self {
            destination: DestinationLabels::other().into(),
            code: self.code / 100 * 100,
            grpc_status: None,
            ..self
        }
    }
}

/// What tells one TCP series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TcpKey {
    pub(super) destination: Arc<DestinationLabels>,
    pub(super) flags: &'static str,
}

impl TcpKey {
    fn other(self) -> Self {
        Self { destination: DestinationLabels::other().into(), ..self }
    }
}

/// One worker's copy of a request series.
#[derive(Debug, Default)]
pub(super) struct RequestSeries {
    pub(super) requests: Count,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

/// One worker's copy of a TCP series.
#[derive(Debug, Default)]
pub(super) struct TcpSeries {
    pub(super) opened: Count,
    pub(super) closed: Count,
    pub(super) sent: Count,
    pub(super) received: Count,
}

/// One worker's copy of a cluster's connection counts.
#[derive(Debug, Default)]
pub(super) struct UpstreamSeries {
    pub(super) active: AtomicI64,
    pub(super) idle: AtomicI64,
    pub(super) connects: [Count; ConnectOutcome::ALL.len()],
    pub(super) overflows: [Count; BOUNDS.len()],
    pub(super) ejections: Count,
    pub(super) ejected: AtomicI64,
    pub(super) spared: Count,
}

/// What a cluster bounds, as labels of `portcullis_upstream_overflows_total`.
pub(super) const BOUNDS: [&str; 4] = ["connections", "pending", "requests", "retries"];

/// How an attempt to connect to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// Connected, TLS included.
    Ok,
    /// Refused, reset or unreachable.
    Refused,
    /// Not done in time.
    Timeout,
    /// The TLS handshake failed, or the peer's identity is not the expected one.
    Tls,
}

impl ConnectOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Timeout, Self::Tls];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
        }
    }
}

/// Connections of one worker to one cluster (`portcullis_upstream_*`). Hold it as long as the pool
/// lives: the cluster's series go when the last holder does.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics(Arc<UpstreamSeries>);

impl UpstreamMetrics {
    /// Counts one attempt to connect; call it on the worker it was made for.
    pub fn connect(&self, outcome: ConnectOutcome) {
        if let Some(count) = self.0.connects.get(outcome as usize) {
            count.add(1);
        }
    }

    /// Changes the number of connections in use.
    pub fn active(&self, change: i64) {
        self.0.active.fetch_add(change, Ordering::Relaxed);
    }

    /// Counts what was not done because of a bound: connections, pending requests, requests, retries.
    pub fn overflow(&self, bound: usize) {
        if let Some(count) = self.0.overflows.get(bound) {
            count.add(1);
        }
    }

    /// Counts an endpoint ejected by outlier detection.
    pub fn ejected(&self) {
        self.0.ejections.add(1);
        self.0.ejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an endpoint that outlier detection would eject, were there not too many already.
    pub fn spared(&self) {
        self.0.spared.add(1);
    }

    /// Counts ejected endpoints that are back, or gone.
    pub fn returned(&self, count: usize) {
        if count > 0 {
            let count = i64::try_from(count).unwrap_or(0);
            self.0.ejected.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Changes the number of unused connections kept.
    pub fn idle(&self, change: i64) {
        self.0.idle.fetch_add(change, Ordering::Relaxed);
    }
}

/// A request being served; counted in `portcullis_requests_active` until dropped.
#[derive(Debug)]
pub struct ActiveRequest(Arc<AtomicI64>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Cache<K, S> =
    RefCell<HashMap<K, (Arc<DestinationLabels>, Arc<S>), foldhash::fast::RandomState>>;
type RequestCacheKey = (usize, u16, &'static str, Protocol, Option<u16>);
type TcpCacheKey = (usize, &'static str);

/// The metrics of one worker thread; make one per worker, with [`Metrics::worker`].
#[derive(Debug)]
pub struct WorkerMetrics {
    shared: Arc<Metrics>,
    worker: WorkerId,
    active: Arc<AtomicI64>,
    requests: Cache<RequestCacheKey, RequestSeries>,
    tcp: Cache<TcpCacheKey, TcpSeries>,
}

impl WorkerMetrics {
    pub(super) fn new(shared: Arc<Metrics>, worker: WorkerId, active: Arc<AtomicI64>) -> Self {
        Self { shared, worker, active, requests: Cache::default(), tcp: Cache::default() }
    }

    /// The process's metrics, for what is not counted per request.
    pub fn process(&self) -> &Arc<Metrics> {
        &self.shared
    }

    /// Counts a request as being served.
    pub fn request_started(&self) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.active.clone())
    }

    /// Counts one finished request.
    pub fn request(&self, sample: &RequestSample<'_>) {
        let grpc_status = sample.grpc_status.map(known_grpc_status);
        let destination = Arc::as_ptr(sample.destination).addr();
        let key = (destination, sample.code, sample.flags, sample.protocol, grpc_status);
        cached(
            &self.requests,
            key,
            sample.destination,
            || {
                let key = RequestKey {
                    destination: sample.destination.clone(),
                    code: sample.code,
                    flags: sample.flags,
                    protocol: sample.protocol,
                    grpc_status,
                };
                self.shared.requests.series(key, self.worker, RequestKey::other)
            },
            |series| {
                let micros = u64::try_from(sample.duration.as_micros()).unwrap_or(u64::MAX);
                series.requests.add(1);
                series.duration.observe(micros, &MICROSECONDS);
                series.request_bytes.observe(sample.request_bytes, &BYTES);
                series.response_bytes.observe(sample.response_bytes, &BYTES);
            },
        );
    }

    /// Counts a TCP stream that was connected to its destination.
    pub fn tcp_opened(&self, destination: &Arc<DestinationLabels>) {
        self.tcp(destination, "-", |series| series.opened.add(1));
    }

    /// Counts the end of a TCP stream; `flags` is `-` for none.
    pub fn tcp_closed(&self, destination: &Arc<DestinationLabels>, flags: &'static str) {
        self.tcp(destination, flags, |series| series.closed.add(1));
    }

    /// Counts bytes of a TCP stream: `sent` to the client, `received` from it, since the last call.
    pub fn tcp_bytes(&self, destination: &Arc<DestinationLabels>, sent: u64, received: u64) {
        self.tcp(destination, "-", |series| {
            series.sent.add(sent);
            series.received.add(received);
        });
    }

    /// This worker's connection counts for a cluster; resolve it once per pool.
    pub fn upstream(&self, cluster: &str) -> UpstreamMetrics {
        UpstreamMetrics(
            self.shared.upstreams.series(cluster.into(), self.worker, |_| "other".into()),
        )
    }

    fn tcp(
        &self,
        destination: &Arc<DestinationLabels>,
        flags: &'static str,
        count: impl FnOnce(&TcpSeries),
    ) {
        let key = (Arc::as_ptr(destination).addr(), flags);
        let resolve = || {
            let key = TcpKey { destination: destination.clone(), flags };
            self.shared.tcp.series(key, self.worker, TcpKey::other)
        };
        cached(&self.tcp, key, destination, resolve, count);
    }
}

/// Metrics and access log of one worker.
#[derive(Debug)]
pub struct WorkerTelemetry {
    /// The worker's metrics.
    pub metrics: WorkerMetrics,
    /// The worker's part of the access log.
    pub log: WorkerLog,
}

/// Finds a series by the address of its labels. The labels are kept beside the series, so that an
/// address is not reused; old ones go when the cache is full, a while after a reload.
fn cached<K: std::hash::Hash + Eq, S>(
    cache: &Cache<K, S>,
    key: K,
    destination: &Arc<DestinationLabels>,
    resolve: impl FnOnce() -> Arc<S>,
    count: impl FnOnce(&S),
) {
    let mut cache = cache.borrow_mut();
    if let Some((_, series)) = cache.get(&key) {
        return count(series);
    }
    if cache.len() >= limit::METRIC_SERIES {
        cache.clear();
    }
    let series = resolve();
    count(&series);
    cache.insert(key, (destination.clone(), series));
}

/// Backends choose the status freely; what gRPC does not define counts as `UNKNOWN`.
fn known_grpc_status(status: u16) -> u16 {
    if status <= 16 { status } else { 2 }
}
