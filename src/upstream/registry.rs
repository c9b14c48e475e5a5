//! One worker's pools, carried over from snapshot to snapshot.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::pool::Pool;
use super::resolve::Resolver;
use super::shared::SharedStates;
use crate::base::hash::Fingerprint;
use crate::snapshot::Snapshot;
use crate::snapshot::cluster::Cluster;
use crate::telemetry::WorkerMetrics;

/// The pools of one worker.
pub struct Upstreams<B> {
    pools: RefCell<HashMap<Fingerprint, Rc<Pool<B>>, RandomState>>,
    resolver: Resolver,
    shared: SharedStates,
}

impl<B> Upstreams<B>
where
    B: http_body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// No pools yet.
    pub fn new(resolver: Resolver, shared: SharedStates) -> Self {
        Self { pools: RefCell::default(), resolver, shared }
    }

    /// The pool of a cluster, made when it is first used.
    pub fn pool(&self, cluster: &Arc<Cluster>, metrics: &WorkerMetrics) -> Rc<Pool<B>> {
        let make = || {
            let metrics = (metrics.upstream(&cluster.name), metrics.destination(&cluster.labels));
            Pool::new(cluster.clone(), &self.resolver, &self.shared, metrics)
        };
        self.pools.borrow_mut().entry(cluster.key).or_insert_with(make).clone()
    }

    /// Moves on to a new snapshot: pools of clusters with the same key stay with their connections;
    /// the others go when their last request is done.
    pub fn adopt(&self, snapshot: &Snapshot) {
        let mut pools = self.pools.borrow_mut();
        let mut old = std::mem::take(&mut *pools);
        for cluster in &snapshot.clusters {
            if let Some(pool) = old.remove(&cluster.key) {
                pool.adopt(cluster.clone(), &self.resolver, &self.shared);
                pools.insert(cluster.key, pool);
            }
        }
    }

    /// Closes connections that were unused for too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        for pool in self.pools.borrow().values() {
            pool.sweep(now);
        }
    }
}
