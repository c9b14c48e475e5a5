//! Priorities that a request's tries have been at, and when later tries go elsewhere
//! (`retries.retryRemoteLocalities`; Envoy's `previous_priorities`).

use smallvec::SmallVec;

/// Retries after which those tried are left out anew: Istio's `update_frequency`.
const EVERY: u32 = 2;

/// What a request's tries leave to know.
#[derive(Clone, Debug, Default)]
pub struct PreviousLevels {
    retries: u32,
    tried: SmallVec<[u8; 4]>,
    left_out: SmallVec<[u8; 4]>,
}

impl PreviousLevels {
    /// A try goes to an endpoint of this level.
    pub fn at(&mut self, level: u8) {
        if !self.tried.contains(&level) {
            self.tried.push(level);
        }
    }

    /// Another try follows.
    pub fn again(&mut self) {
        self.retries = self.retries.saturating_add(1);
        if self.retries.is_multiple_of(EVERY) {
            self.left_out.clone_from(&self.tried);
        }
    }

    /// Levels that this try goes to only when no other can take it.
    pub fn left_out(&self) -> &[u8] {
        &self.left_out
    }

    /// No other can: it begins anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_retry_leaves_out_what_was_tried_until_nothing_is_left() {
        let mut previous = PreviousLevels::default();
        let mut check = |level: u8, left_out: &[u8]| {
            assert_eq!(previous.left_out(), left_out);
            previous.at(level);
            previous.again();
            previous.clone()
        };
        check(0, &[]);
        check(0, &[]);
        check(1, &[0]);
        check(1, &[0]);
        check(2, &[0, 1]);
        let mut last = check(2, &[0, 1]);
        assert_eq!(last.left_out(), [0, 1, 2]);
        last.reset();
        assert!(last.left_out().is_empty());
        last.at(0);
        last.again();
        assert!(last.left_out().is_empty(), "counting begins anew, too");
    }
}
