//! Series split by worker: each worker writes its own copy, a scrape adds the copies up.
//!
//! **Invariant:** a copy has one writer, so a plain load and store is enough to count.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

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

/// A number that goes up and down, with one writer; the sum of all workers' is what is shown.
#[derive(Debug, Default)]
pub(super) struct Level(AtomicI64);

impl Level {
    /// Changes it; call it from the owning worker only.
    #[inline]
    pub(super) fn add(&self, change: i64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(change), Ordering::Relaxed);
    }

    /// The value now.
    pub(super) fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Text fixed in the program, told apart by where it lies: never hashed, never compared byte by byte.
/// Equal texts in two places are two keys, which a [`SeriesTable`] makes one series of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fixed(usize, usize);

impl Fixed {
    pub(super) fn new(text: &'static str) -> Self {
        Self(text.as_ptr().addr(), text.len())
    }
}

/// What one worker found before, sorted by a small key.
#[derive(Debug)]
pub(super) struct Found<K, S>(RefCell<Vec<(K, Arc<S>)>>);

impl<K, S> Default for Found<K, S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Ord, S> Found<K, S> {
    /// Uses the series of a key, which `find` gives when it is new.
    #[inline]
    pub(super) fn with<R>(
        &self,
        key: K,
        find: impl FnOnce() -> Arc<S>,
        then: impl FnOnce(&Arc<S>) -> R,
    ) -> R {
        let mut known = self.0.borrow_mut();
        match known.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(place) => match known.get(place) {
                Some((_, series)) => then(series),
                None => then(&find()),
            },
            Err(place) => {
                let series = find();
                let result = then(&series);
                known.insert(place, (key, series));
                result
            }
        }
    }
}

/// A series and its copies, one for each worker that uses it.
#[derive(Debug)]
struct Entry<S> {
    copies: Vec<(WorkerId, Arc<S>)>,
    /// Since when nobody outside was seen to hold a copy.
    unheld: Option<Instant>,
}

impl<S> Default for Entry<S> {
    fn default() -> Self {
        Self { copies: Vec::new(), unheld: None }
    }
}

impl<S> Entry<S> {
    /// Whether nobody has held a copy for so long. Without a holder nothing is counted either.
    fn is_over(&mut self, now: Instant, grace: Duration) -> bool {
        if self.copies.iter().any(|(_, series)| Arc::strong_count(series) > 1) {
            self.unheld = None;
            return false;
        }
        now.duration_since(*self.unheld.get_or_insert(now)) >= grace
    }
}

/// A key and the copies of all workers.
pub(super) type Copies<K, S> = (K, Vec<Arc<S>>);

/// Series by key, with one copy per worker that uses it.
#[derive(Debug)]
pub(super) struct SeriesTable<K, S> {
    entries: Mutex<HashMap<K, Entry<S>>>,
    bound: usize,
    grace: Duration,
}

impl<K: Eq + Hash + Clone + Ord, S: Default> SeriesTable<K, S> {
    /// An empty table; `bound` is the number of keys before `overflow` takes over. A series that
    /// nobody holds any more is shown for as long as `grace`, so that its last counts are seen.
    pub(super) fn new(bound: usize, grace: Duration) -> Self {
        Self { entries: Mutex::default(), bound, grace }
    }

    /// The worker's copy of a series, to be held as long as it is configured. A new key beyond the
    /// bound is replaced by `overflow(key)`.
    pub(super) fn series(&self, key: K, worker: WorkerId, overflow: impl FnOnce(K) -> K) -> Arc<S> {
        let mut entries = lock(&self.entries);
        if entries.len() >= self.bound && !entries.contains_key(&key) {
            let now = Instant::now();
            entries.retain(|_, entry| !entry.is_over(now, self.grace));
        }
        let key = if entries.len() < self.bound || entries.contains_key(&key) {
            key
        } else {
            overflow(key)
        };
        let copies = &mut entries.entry(key).or_default().copies;
        if let Some((_, series)) = copies.iter().find(|(owner, _)| *owner == worker) {
            return series.clone();
        }
        let series = Arc::<S>::default();
        copies.push((worker, series.clone()));
        series
    }

    /// Keys with the copies of all workers, sorted by key.
    pub(super) fn all(&self) -> Vec<Copies<K, S>> {
        let mut all: Vec<_> = lock(&self.entries)
            .iter()
            .map(|(key, entry)| {
                (key.clone(), entry.copies.iter().map(|(_, series)| series.clone()).collect())
            })
            .collect();
        all.sort_by(|(a, _): &Copies<K, S>, (b, _)| a.cmp(b));
        all
    }

    /// Forgets series that nobody outside has held for the grace time.
    pub(super) fn forget_unused(&self) {
        let now = Instant::now();
        lock(&self.entries).retain(|_, entry| !entry.is_over(now, self.grace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(table: &SeriesTable<u32, Count>) -> Vec<u32> {
        table.all().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn keys_beyond_the_bound_share_one_series() {
        let table = SeriesTable::<u32, Count>::new(2, Duration::MAX);
        for key in 0..10 {
            table.series(key, 0, |_| 99).add(1);
        }
        let counts: Vec<_> =
            table.all().into_iter().map(|(key, copies)| (key, copies[0].value())).collect();
        assert_eq!(counts, [(0, 1), (1, 1), (99, 8)]);
    }

    #[tokio::test(start_paused = true)]
    async fn series_without_holders_are_forgotten_after_a_grace() {
        let table = SeriesTable::<u32, Count>::new(2, Duration::from_mins(5));
        let kept = table.series(1, 0, |key| key);
        drop(table.series(2, 0, |key| key));
        table.forget_unused();
        tokio::time::advance(Duration::from_mins(4)).await;
        table.forget_unused();
        assert_eq!(keys(&table), [1, 2]);
        tokio::time::advance(Duration::from_mins(1)).await;
        table.forget_unused();
        assert_eq!(keys(&table), [1]);
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn a_series_that_is_held_again_is_not_forgotten() {
        let table = SeriesTable::<u32, Count>::new(2, Duration::from_mins(5));
        table.series(1, 0, |key| key).add(3);
        table.forget_unused();
        tokio::time::advance(Duration::from_mins(4)).await;
        let held = table.series(1, 0, |key| key);
        table.forget_unused();
        drop(held);
        tokio::time::advance(Duration::from_mins(4)).await;
        table.forget_unused();
        tokio::time::advance(Duration::from_mins(4)).await;
        table.forget_unused();
        assert_eq!(table.series(1, 0, |key| key).value(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_makes_room_for_what_is_new() {
        let table = SeriesTable::<u32, Count>::new(1, Duration::from_mins(5));
        drop(table.series(1, 0, |key| key));
        table.forget_unused();
        tokio::time::advance(Duration::from_mins(5)).await;
        let _new = table.series(2, 0, |_| 99);
        assert_eq!(keys(&table), [2]);
    }

    #[test]
    fn fixed_texts_are_told_apart_by_place_and_length() {
        let text = "UF,URX";
        assert_eq!(Fixed::new(text), Fixed::new(text));
        assert_ne!(Fixed::new(text), Fixed::new(text.get(..2).unwrap()));
    }
}
