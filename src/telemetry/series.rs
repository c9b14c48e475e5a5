//! Series split by worker: each worker writes its own copy, a scrape adds the copies up.
//!
//! **Invariant:** a copy has one writer, so a plain load and store is enough to count.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Number of a worker; each has one [`super::WorkerMetrics`].
pub(super) type WorkerId = u32;

/// Takes a lock whose data stays sound when a holder panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds; call it from the owning worker only.
    #[inline]
    pub(super) fn add(&self, amount: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(amount), Ordering::Relaxed);
    }

    /// Replaces the value; call it from the owner only.
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Istio's buckets; the last one, `+Inf`, is implied.
pub(super) const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// [`BUCKETS`] in bytes: the bound 0.5 holds only zero.
pub(super) const BYTES: [u64; 19] = [
    0, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000,
    1_800_000, 3_600_000,
];

/// [`BUCKETS`], read as milliseconds, in microseconds.
pub(super) const MICROSECONDS: [u64; 19] = [
    500,
    1000,
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// A histogram with one writer, in whole units.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [Count; 20],
    sum: Count,
}

impl Histogram {
    /// Counts one value; `bounds` is [`BYTES`] or [`MICROSECONDS`].
    #[inline]
    pub(super) fn observe(&self, value: u64, bounds: &[u64; 19]) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.add(1);
        }
        self.sum.add(value);
    }
}

/// Histograms of several workers added up; counts are per bucket, not cumulative.
#[derive(Debug, Default)]
pub(super) struct HistogramTotal {
    pub(super) counts: [u64; 20],
    pub(super) sum: u64,
}

impl HistogramTotal {
    /// Adds one worker's copy.
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (total, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *total = total.wrapping_add(count.value());
        }
        self.sum = self.sum.wrapping_add(histogram.sum.value());
    }
}

type Copies<S> = Vec<(WorkerId, Arc<S>)>;

/// Series by key, with one copy per worker that uses it.
#[derive(Debug)]
pub(super) struct SeriesTable<K, S> {
    entries: Mutex<HashMap<K, Copies<S>>>,
    bound: usize,
}

impl<K: Eq + Hash + Clone + Ord, S: Default> SeriesTable<K, S> {
    /// An empty table; `bound` is the number of keys before `overflow` takes over.
    pub(super) fn new(bound: usize) -> Self {
        Self { entries: Mutex::default(), bound }
    }

    /// The worker's copy of a series. A new key beyond the bound is replaced by `overflow(key)`.
    pub(super) fn series(&self, key: K, worker: WorkerId, overflow: impl FnOnce(K) -> K) -> Arc<S> {
        let mut entries = lock(&self.entries);
        let key = if entries.len() < self.bound || entries.contains_key(&key) {
            key
        } else {
            overflow(key)
        };
        let copies = entries.entry(key).or_default();
        if let Some((_, series)) = copies.iter().find(|(owner, _)| *owner == worker) {
            return series.clone();
        }
        let series = Arc::<S>::default();
        copies.push((worker, series.clone()));
        series
    }

    /// Keys with the copies of all workers, sorted by key.
    pub(super) fn all(&self) -> Vec<(K, Vec<Arc<S>>)> {
        let mut all: Vec<_> = lock(&self.entries)
            .iter()
            .map(|(key, copies)| {
                (key.clone(), copies.iter().map(|(_, series)| series.clone()).collect())
            })
            .collect();
        all.sort_by(|(a, _): &(K, _), (b, _)| a.cmp(b));
        all
    }

    /// Forgets series that nobody outside holds any more.
    pub(super) fn forget_unused(&self) {
        lock(&self.entries)
            .retain(|_, copies| copies.iter().any(|(_, series)| Arc::strong_count(series) > 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_bounds_are_istios_buckets() {
        for (bound, (bytes, micros)) in BUCKETS.iter().zip(BYTES.iter().zip(&MICROSECONDS)) {
            assert_eq!(bytes.to_string(), bound.floor().to_string());
            assert_eq!(micros.to_string(), (bound * 1000.0).to_string());
        }
    }

    #[test]
    fn a_value_on_a_bound_falls_under_it() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3_600_000, 3_600_001] {
            histogram.observe(value, &BYTES);
        }
        let mut total = HistogramTotal::default();
        total.add(&histogram);
        assert_eq!(total.counts[..3], [1, 1, 1]);
        assert_eq!(total.counts[18..], [1, 1]);
        assert_eq!(total.sum, 7_200_004);
    }

    #[test]
    fn keys_beyond_the_bound_share_one_series() {
        let table = SeriesTable::<u32, Count>::new(2);
        for key in 0..10 {
            table.series(key, 0, |_| 99).add(1);
        }
        let counts: Vec<_> =
            table.all().into_iter().map(|(key, copies)| (key, copies[0].value())).collect();
        assert_eq!(counts, [(0, 1), (1, 1), (99, 8)]);
    }

    #[test]
    fn series_without_holders_are_forgotten() {
        let table = SeriesTable::<u32, Count>::new(2);
        let kept = table.series(1, 0, |key| key);
        drop(table.series(2, 0, |key| key));
        table.forget_unused();
        assert_eq!(table.all().len(), 1);
        drop(kept);
    }
}
