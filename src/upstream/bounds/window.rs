//! How many requests began within the last while (`retryBudget.budgetInterval`).
//!
//! **Invariant:** counting one is one step for any number of workers, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts of the interval that are forgotten one by one, as in Envoy.
const PARTS: u64 = 10;
/// Those and the one that is going on.
const SLOTS: usize = 11;

/// Requests of the last interval, to a tenth of it.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Milliseconds of a part, at least one; nothing is counted when 0.
    part: AtomicU64,
    /// Each has the number of its part in the upper half, and the requests begun in it in the lower.
    slots: [AtomicU64; SLOTS],
}

impl Window {
    /// Goes on by another interval, from nothing when it differs; counts nothing when it is zero.
    pub(super) fn adopt(&self, interval: Duration) {
        let part = match u64::try_from(interval.as_millis()).unwrap_or(u64::MAX) {
            0 => 0,
            whole => (whole / PARTS).max(1),
        };
        if self.part.swap(part, Relaxed) != part {
            for slot in &self.slots {
                slot.store(0, Relaxed);
            }
        }
    }

    /// Whether requests are counted.
    pub(super) fn counts(&self) -> bool {
        self.part.load(Relaxed) > 0
    }

    /// A request begins; `now` is the time since any fixed moment.
    pub(super) fn add(&self, now: Duration) {
        let Some(number) = self.number(now) else { return };
        let Some(slot) = self.slots.get(number as usize % SLOTS) else { return };
        let more = |old: u64| {
            let count = if old >> 32 == u64::from(number) { old & 0xffff_ffff } else { 0 };
            Some(u64::from(number) << 32 | (count + 1).min(0xffff_ffff))
        };
        let _ = slot.fetch_update(Relaxed, Relaxed, more);
    }

    /// Requests that began within the interval.
    pub(super) fn requests(&self, now: Duration) -> u64 {
        let Some(number) = self.number(now) else { return 0 };
        let slots = self.slots.iter().map(|slot| slot.load(Relaxed));
        let recent = |old: &u64| u64::from(number).wrapping_sub(old >> 32) <= PARTS;
        slots.filter(recent).map(|slot| slot & 0xffff_ffff).sum()
    }

    /// The number of the part that is going on, from 1 on.
    fn number(&self, now: Duration) -> Option<u32> {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let number = millis.checked_div(self.part.load(Relaxed))?;
        #[expect(clippy::cast_possible_truncation, reason = "49 days of milliseconds, then anew")]
        let number = number as u32;
        Some(number.wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Requests begin at these times; how many count at others.
    fn check(interval: u64, begin: &[u64], counted: &[(u64, u64)]) {
        let window = Window::default();
        window.adopt(at(interval));
        for time in begin {
            window.add(at(*time));
        }
        for (time, count) in counted {
            assert_eq!(window.requests(at(*time)), *count, "{begin:?} at {time}");
        }
    }

    #[test]
    fn a_request_counts_for_the_interval() {
        check(1000, &[0, 50, 150], &[(150, 3), (999, 3), (1099, 3), (1100, 1), (1200, 0)]);
        check(1000, &[5000], &[(5000, 1), (6000, 1), (6100, 0), (1_000_000, 0)]);
        check(3, &[0, 1, 2], &[(2, 3), (10, 3), (12, 1), (13, 0)]);
    }

    #[test]
    fn a_slot_is_used_again_from_nothing() {
        check(1000, &[0, 0, 1100], &[(1100, 1)]);
    }

    #[test]
    fn without_an_interval_nothing_counts_and_another_begins_anew() {
        check(0, &[0, 1], &[(1, 0)]);
        let window = Window::default();
        window.adopt(at(1000));
        window.add(at(10));
        window.adopt(at(1000));
        assert_eq!(window.requests(at(20)), 1);
        window.adopt(at(2000));
        assert_eq!(window.requests(at(20)), 0);
    }

    #[test]
    fn workers_count_together() {
        let window = Window::default();
        window.adopt(at(1000));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1000 {
                        window.add(at(n / 10));
                    }
                });
            }
        });
        assert_eq!(window.requests(at(100)), 4000);
    }
}
