//! Bounds on what the whole process does at a time for one cluster (`connectionPool`).
//!
//! **Invariant:** what a permit stands for is counted exactly as long as the permit lives; a cluster
//! without bounds has none of this.

mod window;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::snapshot::cluster::{Limits, RetryBudget};
use window::Window;

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
#[derive(Debug)]
pub struct Bounds {
    counters: [Counter; 4],
    budget: Mutex<Option<RetryBudget>>,
    /// Requests that a budget with an interval goes by.
    begun: Window,
    /// What its times are counted from.
    since: Instant,
}

impl Default for Bounds {
    fn default() -> Self {
        let (counters, budget, begun) = Default::default();
        Self { counters, budget, begun, since: Instant::now() }
    }
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
        self.begun.adopt(limits.budget.map_or(Duration::ZERO, |budget| budget.interval));
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
        let active = || self.counter(Bound::Requests).map_or(0, |all| all.used.load(Relaxed));
        let requests = match budget.interval {
            Duration::ZERO => active().into(),
            _ => self.begun.requests(self.since.elapsed()),
        };
        let share = requests.saturating_mul(budget.parts.into()) / 10_000;
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
        if of == Bound::Requests && self.begun.counts() {
            self.begun.add(self.since.elapsed());
        }
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

    /// Half as many retries as there are requests, at least one.
    fn budget(interval: Duration) -> Limits {
        let budget = Some(RetryBudget { parts: 5_000, least: 1, interval });
        Limits { budget, ..Limits::default() }
    }

    fn take(bounds: &Arc<Bounds>, of: Bound, count: usize) -> Vec<Option<Permit>> {
        std::iter::from_fn(|| bounds.take(of).ok()).take(count).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_with_an_interval_goes_by_the_requests_of_that_time() {
        let bounds = Arc::new(Bounds::default());
        bounds.adopt(&budget(Duration::from_secs(10)));
        drop(take(&bounds, Bound::Requests, 8));
        assert_eq!(take(&bounds, Bound::Retries, 9).len(), 4, "they are over, and count");
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(take(&bounds, Bound::Retries, 9).len(), 1);
        bounds.adopt(&budget(Duration::ZERO));
        drop(take(&bounds, Bound::Requests, 8));
        assert_eq!(take(&bounds, Bound::Retries, 9).len(), 1, "only those in flight count");
    }

    #[test]
    fn a_budget_lets_retries_grow_with_requests() {
        let bounds = Arc::new(Bounds::default());
        bounds.adopt(&budget(Duration::ZERO));
        let take = |of, count| take(&bounds, of, count);
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
