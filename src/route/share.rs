//! Shares of requests: a percentage with the precision of one in a million.

use std::fmt;

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

const WHOLE: u32 = 1_000_000;

impl Share {
    /// Every request.
    pub const ALL: Self = Self(WHOLE);

    /// So many of a hundred; what lies outside 0 to 100 is cut off.
    pub fn percent(value: f64) -> Self {
        let parts = (value.clamp(0.0, 100.0) * f64::from(WHOLE / 100)).round();
        // A number between 0 and a million.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
        Self(parts as u32)
    }

    /// Whether no request is meant.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether a request with this uniformly random number is meant.
    pub fn takes(self, random: u32) -> bool {
        (u64::from(random) * u64::from(WHOLE)) >> 32 < u64::from(self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / f64::from(WHOLE / 100))
    }
}

/// Another random number from one, so that two draws of a request do not go together.
pub fn another(random: u32, salt: u32) -> u32 {
    let mut mixed = random ^ salt.wrapping_mul(0x9e37_79b9);
    for factor in [0x85eb_ca6b, 0xc2b2_ae35] {
        mixed = (mixed ^ (mixed >> 16)).wrapping_mul(factor);
    }
    mixed ^ (mixed >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(percent: f64, expected: u32) {
        let share = Share::percent(percent);
        let taken = (0..100_000_u32).filter(|n| share.takes(another(n * 42_949, 1))).count();
        let taken = u32::try_from(taken).unwrap();
        assert!(taken.abs_diff(expected) <= expected / 10 + 20, "{percent}: {taken}");
    }

    #[test]
    fn shares_are_kept() {
        check(0.0, 0);
        check(0.1, 100);
        check(50.0, 50_000);
        check(100.0, 100_000);
        assert!(Share::percent(0.0).is_none() && Share::percent(-1.0).is_none());
        assert!(Share::ALL.takes(u32::MAX) && !Share::percent(0.0).takes(0));
        assert_eq!(Share::percent(0.0001), Share(1));
        assert_eq!(Share::percent(12.5).to_string(), "12.5 %");
    }

    #[test]
    fn two_draws_do_not_go_together() {
        let half = Share::percent(50.0);
        let draws = (0..10_000_u32).map(|n| n * 429_496);
        let both = draws.filter(|n| half.takes(another(*n, 1)) && half.takes(another(*n, 2)));
        let both = both.count();
        assert!((2_300..2_700).contains(&both), "{both}");
    }
}
