//! What the workers share of clusters: bounds on the process and what is known of endpoints' health.
//!
//! A pool looks its cluster up once, when it is made or moves on to another snapshot.
//!
//! **Invariant:** a state lives as long as some worker's pool holds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::bounds::Bounds;
use super::health::Health;
use crate::snapshot::cluster::Cluster;

/// States by the service, port and subset of their cluster: whatever it is used for.
#[derive(Clone, Debug, Default)]
pub struct SharedStates(Arc<Tables>);

/// Namespace of the service, and the cluster's name.
type Key = (Arc<str>, Arc<str>);

fn key(cluster: &Cluster) -> Key {
    (cluster.origin.resource.namespace.clone(), cluster.name.clone())
}

#[derive(Debug, Default)]
struct Tables {
    bounds: Table<Bounds>,
    health: Table<Health>,
}

#[derive(Debug)]
struct Table<T>(Mutex<HashMap<Key, Weak<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Table<T> {
    /// What is known of a cluster.
    fn known(&self, cluster: &Cluster) -> Option<Arc<T>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key(cluster)).and_then(Weak::upgrade)
    }

    fn get(&self, cluster: &Cluster, make: impl FnOnce() -> T) -> Arc<T> {
        let key = key(cluster);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = known.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        known.retain(|_, state| state.strong_count() > 0);
        let state = Arc::new(make());
        known.insert(key, Arc::downgrade(&state));
        state
    }
}

impl SharedStates {
    /// The bounds of a cluster.
    pub(super) fn bounds(&self, cluster: &Cluster) -> Arc<Bounds> {
        self.0.bounds.get(cluster, Bounds::default)
    }

    /// The endpoints of a cluster that are ejected, by name.
    pub fn ejected(&self, cluster: &Cluster) -> Vec<Arc<str>> {
        self.0.health.known(cluster).map(|health| health.ejected()).unwrap_or_default()
    }

    /// The health of a cluster's endpoints.
    pub(super) fn health(&self, cluster: &Cluster, make: impl FnOnce() -> Health) -> Arc<Health> {
        self.0.health.get(cluster, make)
    }
}
