//! Where choices come from: chance, or bytes that somebody else chose.

use std::ops::{Bound, RangeBounds};

use fastrand::Rng;

/// A source of choices.
pub enum Choices<'a> {
    /// Chance.
    Random(Rng),
    /// A byte for each choice; each is the least when there are no more.
    Bytes(std::slice::Iter<'a, u8>),
}

impl<'a> Choices<'a> {
    /// Chance that is the same for a seed.
    #[allow(dead_code, reason = "the fuzz targets share this file")]
    pub fn random(seed: u64) -> Self {
        Self::Random(Rng::with_seed(seed))
    }

    /// What bytes say.
    #[allow(dead_code, reason = "the fuzz targets share this file")]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes.iter())
    }

    /// A number of a range that is not empty and ends.
    pub fn usize(&mut self, range: impl RangeBounds<usize>) -> usize {
        let bytes = match self {
            Self::Random(rng) => return rng.usize(range),
            Self::Bytes(bytes) => bytes,
        };
        let least = match range.start_bound() {
            Bound::Included(least) => *least,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let past = match range.end_bound() {
            Bound::Included(most) => most + 1,
            Bound::Excluded(past) => *past,
            Bound::Unbounded => usize::MAX,
        };
        least + usize::from(bytes.next().copied().unwrap_or(0)) % (past - least)
    }

    /// One of two.
    pub fn bool(&mut self) -> bool {
        self.usize(..2) == 1
    }
}
