//! When a certificate is replaced: about halfway through its life.

use std::time::Duration;

/// Share of a life by which renewals are spread, both ways.
const JITTER: f64 = 0.01;

/// Time until the renewal of a certificate that was just had and is good for `life`; `random` is
/// from 0 to 1 and spreads callers that started together.
pub fn renew_after(life: Duration, random: f64) -> Duration {
    life.mul_f64(0.5 + JITTER * (2.0 * random.clamp(0.0, 1.0) - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_lie_around_the_middle() {
        let day = Duration::from_hours(24);
        assert_eq!(renew_after(day, 0.5), Duration::from_hours(12));
        assert_eq!(renew_after(day, 0.0), day.mul_f64(0.49));
        assert_eq!(renew_after(day, 7.0), day.mul_f64(0.51));
        assert_eq!(renew_after(Duration::ZERO, 1.0), Duration::ZERO);
    }
}
