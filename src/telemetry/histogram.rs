//! Histograms with Istio's buckets.

use super::series::Count;

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
}
