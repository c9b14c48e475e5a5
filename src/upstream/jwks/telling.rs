//! When a key set's failures are told in the log.
//!
//! **Invariant:** two failures are never told within [`limit::JWKS_TOLD_TIME`], and what was told to fail
//! is told once it works again.

use tokio::time::Instant;

use crate::base::limit;

/// What was told of one key set.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// The failure told last, and when.
    told: Option<(Instant, Box<str>)>,
    failing: bool,
}

impl Telling {
    /// Whether a failure is told: one after a success, one for another reason, and now and then one that
    /// lasts.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) -> bool {
        if let Some((at, last)) = &self.told {
            let passed = now.saturating_duration_since(*at);
            let known = self.failing && **last == *reason;
            let pause = if known { limit::JWKS_REMINDER_TIME } else { limit::JWKS_TOLD_TIME };
            if passed < pause {
                return false;
            }
        }
        self.told = Some((now, reason.into()));
        self.failing = true;
        true
    }

    /// Whether a success is told: one after a failure that was.
    pub(super) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failing)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Fetches at seconds, with why they fail, and whether each is told.
    fn check(fetches: &[(u64, Option<&str>, bool)]) {
        let (start, mut telling) = (Instant::now(), Telling::default());
        for (second, reason, told) in fetches {
            let now = start + Duration::from_secs(*second);
            let said = match reason {
                Some(reason) => telling.failed(reason, now),
                None => telling.succeeded(),
            };
            assert_eq!(said, *told, "{second} of {fetches:?}");
        }
    }

    #[test]
    fn changes_are_told_and_what_lasts_now_and_then() {
        let (a, b) = (Some("a"), Some("b"));
        check(&[(0, None, false), (1, a, true), (2, a, false), (3, None, true), (4, None, false)]);
        check(&[(0, a, true), (599, a, false), (600, a, true), (601, a, false)]);
        // Another reason, and another failure, are told when the last is a while ago.
        check(&[(0, a, true), (30, b, false), (60, b, true), (61, a, false), (120, a, true)]);
        check(&[(0, a, true), (1, None, true), (2, a, false), (3, None, false), (60, a, true)]);
    }
}
