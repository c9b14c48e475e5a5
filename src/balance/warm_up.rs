//! Warm-up: a new endpoint's share grows with its age.
//!
//! **Invariant:** an endpoint that is warm has its whole weight.

use std::fmt;
use std::time::Duration;

/// `loadBalancer.warmup`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUp {
    /// From an endpoint's appearance to its whole share.
    pub duration: Duration,
    /// Smallest part of its weight, from 0 to 1 (`minimumPercent`).
    pub least: f64,
    /// How fast it grows: 1 linearly, above 1 faster at the beginning, below 1 slower (`aggression`).
    pub aggression: f64,
}

impl fmt::Display for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.least * 100.0;
        write!(
            f,
            "new endpoints have their whole share after {:?}, {percent} % first",
            self.duration
        )
    }
}

impl WarmUp {
    /// Part of its weight that an endpoint of an age gets, from 0 to 1.
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.duration {
            return 1.0;
        }
        let part = age.as_secs_f64() / self.duration.as_secs_f64();
        part.powf(1.0 / self.aggression).clamp(self.least, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_the_least_to_the_whole() {
        let check = |aggression: f64, age: u64, expected: f64| {
            let warm_up = WarmUp { duration: Duration::from_secs(100), least: 0.1, aggression };
            let factor = warm_up.factor(Duration::from_secs(age));
            assert!((factor - expected).abs() < 1e-9, "{aggression} {age}: {factor}");
        };
        check(1.0, 0, 0.1);
        check(1.0, 5, 0.1);
        check(1.0, 50, 0.5);
        check(2.0, 25, 0.5);
        check(1.0, 100, 1.0);
        check(1.0, 1000, 1.0);
    }
}
