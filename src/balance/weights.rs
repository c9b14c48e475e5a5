//! Picks among weighted things, prepared once.
//!
//! **Invariant:** over as many turns as the weights add up to, each thing is picked exactly as often
//! as its weight says.

/// Weights of a list that is not empty, in their smallest whole numbers.
#[derive(Debug)]
pub struct Weights {
    count: u32,
    /// Running sums; empty when all weights are the same.
    sums: Box<[u64]>,
    total: u64,
    stride: u64,
}

impl Weights {
    /// Prepares weights; a weight of 0 counts as 1. Nothing for an empty list.
    pub fn new(weights: impl ExactSizeIterator<Item = u64>) -> Option<Self> {
        let count = u32::try_from(weights.len()).ok().filter(|count| *count > 0)?;
        let weights: Vec<u64> = weights.map(|w| w.clamp(1, u64::from(u32::MAX))).collect();
        let unit = weights.iter().fold(0, |unit, weight| gcd(unit, *weight)).max(1);
        let mut total = 0;
        let sum = |weight: &u64| {
            total += weight / unit;
            total
        };
        let mut sums: Box<[u64]> = weights.iter().map(sum).collect();
        if total == u64::from(count) {
            sums = Box::default();
        }
        Some(Self { count, sums, total, stride: stride(total) })
    }

    /// Whether all weights are the same.
    pub fn even(&self) -> bool {
        self.sums.is_empty()
    }

    /// The index for a uniformly random number.
    pub fn random(&self, random: u32) -> usize {
        if self.even() {
            let index = (u64::from(random) * u64::from(self.count)) >> 32;
            return usize::try_from(index).unwrap_or(0);
        }
        let point = (u128::from(random) * u128::from(self.total)) >> 32;
        self.at(u64::try_from(point).unwrap_or(0))
    }

    /// The index of a turn.
    pub fn turn(&self, turn: u32) -> usize {
        if self.even() {
            return (turn % self.count) as usize;
        }
        let point = (u128::from(turn) * u128::from(self.stride)) % u128::from(self.total);
        self.at(u64::try_from(point).unwrap_or(0))
    }

    fn at(&self, point: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= point)
    }
}

/// A step that spreads turns over the weights, so that heavy things are not picked in one burst: near
/// the golden section, and coprime to the total.
fn stride(total: u64) -> u64 {
    let near = (total / 1000 * 618 + total % 1000 * 618 / 1000) | 1;
    (near..near + 64).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn turns_are_exact(weights in prop::collection::vec(1_u64..50, 1..20), start in 0_u32..1000) {
            let prepared = Weights::new(weights.iter().copied()).unwrap();
            let total = u32::try_from(prepared.total).unwrap();
            let mut counts = vec![0_u64; weights.len()];
            for turn in start..start + total {
                counts[prepared.turn(turn)] += 1;
            }
            let unit = weights.iter().fold(0, |unit, weight| gcd(unit, *weight));
            let expected: Vec<u64> = weights.iter().map(|weight| weight / unit).collect();
            prop_assert_eq!(counts, expected);
        }

        #[test]
        fn random_picks_are_within_bounds(weights in prop::collection::vec(1_u64..50, 1..20)) {
            let prepared = Weights::new(weights.iter().copied()).unwrap();
            let mut counts = vec![0_u64; weights.len()];
            let rounds = 20_000_u32;
            for n in 0..rounds {
                // Evenly spread: exact up to rounding.
                counts[prepared.random(n * (u32::MAX / rounds))] += 1;
            }
            let total: u64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let expected = u64::from(rounds) * weight / total;
                prop_assert!(count.abs_diff(expected) <= 2, "{counts:?} {weights:?}");
            }
        }
    }

    #[test]
    fn nothing_has_no_weights() {
        assert!(Weights::new(std::iter::empty()).is_none());
    }
}
