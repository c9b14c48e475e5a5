//! Bounds on what the whole process does at a time for one cluster (`connectionPool`).
//!
//! **Invariant:** what a permit stands for is counted exactly as long as the permit lives; a cluster
//! without bounds has none of this.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::snapshot::cluster::{Limits, RetryBudget};

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Connections (`tcp.maxConnections`).
    Connections,
    /// Requests that wait for a connection (`http.http1MaxPendingRequests`).
    Pending,
    /// Requests (`http.http2MaxRequests`).
    Requests,
    /// Retries (`http.maxRetries`).
    Retries,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("overflow")]
pub struct Overflow;

/// The bounds of one cluster, and what is in use.
#[derive(Debug, Default)]
pub struct Bounds {
    counters: [Counter; 4],
    budget: Mutex<Option<RetryBudget>>,
}

#[derive(Debug)]
struct Counter {
    used: AtomicU32,
    most: AtomicU32,
}

impl Default for Counter {
    fn default() -> Self {
        Self { used: AtomicU32::new(0), most: AtomicU32::new(UNBOUNDED) }
    }
}

const UNBOUNDED: u32 = u32::MAX;
/// Bounded by nothing that can be reached, and counted.
const COUNTED: NonZeroU32 = NonZeroU32::new(u32::MAX - 1).unwrap();

/// One of a bounded number; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    bounds: Arc<Bounds>,
    of: Bound,
}

impl Bounds {
    /// Goes on by other bounds; what is in use stays so.
    pub fn adopt(&self, limits: &Limits) {
        *self.budget() = limits.budget;
        // A budget needs to know the number of requests, whether or not that is bounded.
        let counted = limits.budget.map(|_| COUNTED);
        for (of, most) in [
            (Bound::Connections, limits.connections),
            (Bound::Pending, limits.pending),
            (Bound::Requests, limits.requests.or(counted)),
            (Bound::Retries, limits.retries.or(counted)),
        ] {
            if let Some(counter) = self.counter(of) {
                counter.most.store(most.map_or(UNBOUNDED, u32::from), Relaxed);
            }
        }
    }

    fn budget(&self) -> MutexGuard<'_, Option<RetryBudget>> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of them there may be now.
    fn most(&self, of: Bound, counter: &Counter) -> u32 {
        let most = counter.most.load(Relaxed);
        if of != Bound::Retries || most == UNBOUNDED {
            return most;
        }
        let Some(budget) = *self.budget() else { return most };
        let requests = self.counter(Bound::Requests).map_or(0, |all| all.used.load(Relaxed));
        let share = u64::from(requests) * u64::from(budget.parts) / 10_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(budget.least)
    }

    /// One more; nothing to hold where there is no bound.
    pub fn take(self: &Arc<Self>, of: Bound) -> Result<Option<Permit>, Overflow> {
        let Some(counter) = self.counter(of) else { return Ok(None) };
        let most = self.most(of, counter);
        if most == UNBOUNDED {
            return Ok(None);
        }
        let more = |used: u32| (used < most).then_some(used + 1);
        counter.used.fetch_update(Relaxed, Relaxed, more).map_err(|_| Overflow)?;
        Ok(Some(Permit { bounds: self.clone(), of }))
    }

    fn counter(&self, of: Bound) -> Option<&Counter> {
        self.counters.get(of as usize)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(counter) = self.bounds.counter(self.of) {
            counter.used.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: u32) -> Limits {
        Limits { requests: NonZeroU32::new(requests), ..Limits::default() }
    }

    #[test]
    fn permits_are_bounded_until_given_back() {
        let bounds = Arc::new(Bounds::default());
        bounds.adopt(&limits(2));
        let first = bounds.take(Bound::Requests).unwrap();
        let _second = bounds.take(Bound::Requests).unwrap();
        assert_eq!(bounds.take(Bound::Requests).unwrap_err(), Overflow);
        drop(first);
        assert!(bounds.take(Bound::Requests).unwrap().is_some());
    }

    #[test]
    fn what_has_no_bound_is_not_counted() {
        let bounds = Arc::new(Bounds::default());
        bounds.adopt(&limits(1));
        assert!((0..9).all(|_| bounds.take(Bound::Retries).unwrap().is_none()));
    }

    #[test]
    fn a_budget_lets_retries_grow_with_requests() {
        let bounds = Arc::new(Bounds::default());
        let budget = Some(RetryBudget { parts: 5_000, least: 1 });
        bounds.adopt(&Limits { budget, ..Limits::default() });
        let take = |of, count: usize| -> Vec<_> {
            std::iter::from_fn(|| bounds.take(of).ok()).take(count).collect()
        };
        let least = take(Bound::Retries, 9);
        assert_eq!(least.len(), 1);
        let _requests = take(Bound::Requests, 8);
        let more = take(Bound::Retries, 9);
        assert_eq!(least.len() + more.len(), 4);
    }

    #[test]
    fn a_bound_can_change_while_permits_are_out() {
        let bounds = Arc::new(Bounds::default());
        bounds.adopt(&limits(3));
        let held: Vec<_> = (0..3).map(|_| bounds.take(Bound::Requests).unwrap()).collect();
        bounds.adopt(&limits(1));
        drop(held);
        let _one = bounds.take(Bound::Requests).unwrap();
        assert!(bounds.take(Bound::Requests).is_err());
    }
}
