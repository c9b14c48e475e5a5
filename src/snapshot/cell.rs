//! The one cell in which both halves meet.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::Snapshot;

/// Holds the live snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotCell(Arc<ArcSwap<Snapshot>>);

/// A worker's view of the cell: loading costs one atomic read while nothing changes.
pub type SnapshotReader = Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>;

impl Default for SnapshotCell {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Snapshot::empty())))
    }
}

impl SnapshotCell {
    /// The live snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// A reader for one worker.
    pub fn reader(&self) -> SnapshotReader {
        Cache::new(self.0.clone())
    }

    /// Makes a snapshot the live one: the only swap in the program.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.0.store(snapshot);
    }
}
