//! What one worker counts: label sets resolved once, then plain stores.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::access_log::WorkerLog;
use super::destination::Destination;
use super::downstream::{ActiveRequest, ConnectionKind, HandshakeOutcome, OpenConnection};
use super::metrics::Metrics;
use super::series::{Count, Fixed, Found, Level, WorkerId};
use super::upstream::UpstreamMetrics;
use crate::base::labels::DestinationLabels;
use crate::base::limit;

/// One worker's counts that have no label, or few fixed ones.
#[derive(Debug, Default)]
pub(super) struct WorkerSeries {
    pub(super) requests_active: Level,
    pub(super) connections_active: [Level; ConnectionKind::ALL.len()],
    pub(super) connections: Count,
    pub(super) connections_over_limit: Count,
}

/// [`WorkerSeries`], as the worker's own values hold it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) series: Arc<WorkerSeries>,
}

type Handshakes = HashMap<Box<str>, Found<HandshakeOutcome, Count>, foldhash::fast::RandomState>;

/// By `statPrefix`, then by response code.
type Routes = HashMap<Arc<str>, Found<u16, Count>, foldhash::fast::RandomState>;

/// The metrics of one worker thread; make one on each, with [`Metrics::worker`].
#[derive(Debug)]
pub struct WorkerMetrics {
    shared: Arc<Metrics>,
    worker: WorkerId,
    shard: Rc<Shard>,
    nowhere: Rc<Destination>,
    rejections: Found<Fixed, Count>,
    shadow: Found<(Fixed, Fixed), Count>,
    handshakes: RefCell<Handshakes>,
    routes: RefCell<Routes>,
}

impl WorkerMetrics {
    pub(super) fn new(shared: Arc<Metrics>, worker: WorkerId, series: Arc<WorkerSeries>) -> Self {
        let reporter = shared.own.reporter;
        let nowhere = DestinationLabels { reporter, ..DestinationLabels::default() };
        let nowhere = Destination::new(nowhere.into(), shared.clone(), worker);
        Self {
            shared,
            worker,
            shard: Rc::new(Shard { series }),
            nowhere: Rc::new(nowhere),
            rejections: Found::default(),
            shadow: Found::default(),
            handshakes: RefCell::default(),
            routes: RefCell::default(),
        }
    }

    /// Counts a request as being served.
    pub fn request_started(&self) -> ActiveRequest {
        ActiveRequest::new(self.shard.clone())
    }

    /// This worker's counts for a destination; resolve it once per pool.
    pub fn destination(&self, labels: &Arc<DestinationLabels>) -> Rc<Destination> {
        Rc::new(Destination::new(labels.clone(), self.shared.clone(), self.worker))
    }

    /// Where requests are counted that go nowhere.
    pub fn nowhere(&self) -> &Destination {
        &self.nowhere
    }

    /// This worker's connection counts for a cluster; resolve it once per pool.
    pub fn upstream(&self, cluster: &str) -> UpstreamMetrics {
        let other = |_| "other".into();
        UpstreamMetrics(self.shared.upstreams.series(cluster.into(), self.worker, other))
    }

    /// Counts an accepted connection, until the returned value is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.shard.series.connections.add(1);
        OpenConnection::new(self.shard.clone())
    }

    /// Counts a connection closed at once because there are too many.
    pub fn connection_over_limit(&self) {
        self.shard.series.connections_over_limit.add(1);
    }

    /// Counts a client's handshake. `server` names the server block from configuration; empty when
    /// none was chosen.
    pub fn handshake(&self, server: &str, outcome: HandshakeOutcome) {
        let find = || {
            let other = |(_, outcome)| ("other".into(), outcome);
            self.shared.handshakes.series((server.into(), outcome), self.worker, other)
        };
        let mut handshakes = self.handshakes.borrow_mut();
        if let Some(of_server) = handshakes.get(server) {
            return of_server.with(outcome, find, |count| count.add(1));
        }
        if handshakes.len() < limit::METRIC_SERIES {
            let of_server = handshakes.entry(server.into()).or_default();
            of_server.with(outcome, find, |count| count.add(1));
        } else {
            find().add(1);
        }
    }

    /// Counts a request of a route with a `statPrefix`.
    pub fn route_request(&self, route: &Arc<str>, code: u16) {
        let find = || {
            let other = |(_, code): (_, u16)| ("other".into(), code / 100 * 100);
            self.shared.routes.series((route.clone(), code), self.worker, other)
        };
        let mut routes = self.routes.borrow_mut();
        if let Some(of_route) = routes.get(route) {
            return of_route.with(code, find, |count| count.add(1));
        }
        if routes.len() < limit::METRIC_SERIES {
            let of_route = routes.entry(route.clone()).or_default();
            of_route.with(code, find, |count| count.add(1));
        } else {
            find().add(1);
        }
    }

    /// Lets go of server blocks that are no longer configured, and of routes: those that are found
    /// again go on.
    pub fn keep_servers(&self, configured: impl Fn(&str) -> bool) {
        let keep = |server: &str| server.is_empty() || configured(server);
        self.handshakes.borrow_mut().retain(|server, _| keep(server));
        self.routes.borrow_mut().clear();
    }

    /// Counts an answer made here instead of by a backend, or a stream ended here.
    pub fn rejection(&self, reason: &'static str) {
        let find = || self.shared.rejections.series(reason, self.worker, |_| "other");
        self.rejections.with(Fixed::new(reason), find, |count| count.add(1));
    }

    /// Counts what a policy says that is not enforced.
    pub fn shadow(&self, action: &'static str, result: &'static str) {
        let find = || self.shared.shadow.series((action, result), self.worker, |key| key);
        self.shadow.with((Fixed::new(action), Fixed::new(result)), find, |count| count.add(1));
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
