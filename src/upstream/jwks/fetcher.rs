//! The life of one key set: fetched at the start, again when it is old, and when a token asks.
//!
//! **Invariant:** good keys are replaced only by good keys; two fetches are never closer than the
//! pace allows, whatever tokens ask for.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::connect::Way;
use super::fetch::{Client, FetchError, Fetched};
use super::store::Store;
use super::telling::Telling;
use crate::auth::jwt::{DeclaredEndpoints, InvalidKeySet, IssuerKeys, KeyLocation, KeyState};
use crate::base::limit;
use crate::telemetry::keys::JwksMetrics;

/// How often a key set may be fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// First wait after a failure; doubles with each further one.
    pub(super) retry_first: Duration,
    /// Longest wait while keys were never had.
    pub(super) retry_missing: Duration,
    /// Longest wait while old keys are in use.
    pub(super) retry_stale: Duration,
    /// Least time between two fetches for tokens, while keys were never had.
    pub(super) asked_missing: Duration,
    /// Least time between two fetches for unknown key ids.
    pub(super) asked_unknown: Duration,
    /// Age at which a set is fetched anew, at least and at most.
    pub(super) refresh: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_first: Duration::from_millis(250),
            retry_missing: limit::JWKS_RETRY_TIME,
            retry_stale: limit::JWKS_REFRESH_MIN_TIME,
            asked_missing: limit::JWKS_MISSING_TIME,
            asked_unknown: limit::JWKS_UNKNOWN_KEY_TIME,
            refresh: (limit::JWKS_REFRESH_MIN_TIME, limit::JWKS_REFRESH_TIME),
        }
    }
}

/// What a fetcher has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) fetches: u64,
    pub(super) failures: u64,
    pub(super) last_success_unix: Option<u64>,
    /// Class and text.
    pub(super) last_error: Option<(&'static str, String)>,
    pub(super) next_fetch_unix: Option<u64>,
}

/// What the rules that use a key set ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) timeout: Duration,
    pub(super) endpoints: Option<DeclaredEndpoints>,
}

/// Keeps one key set fresh.
pub(super) struct Fetcher {
    pub(super) location: KeyLocation,
    pub(super) keys: Arc<IssuerKeys>,
    pub(super) client: Arc<Client>,
    pub(super) store: Option<Arc<Store>>,
    pub(super) pace: Pace,
    pub(super) asked: Arc<Notify>,
    pub(super) terms: watch::Receiver<Terms>,
    pub(super) progress: Arc<watch::Sender<Progress>>,
    pub(super) metrics: JwksMetrics,
}

impl Fetcher {
    /// Runs until dropped; dropping it ends a fetch under way and leaves the keys as they are.
    pub(super) async fn run(mut self) {
        let mut failures_in_a_row = 0;
        let mut telling = Telling::default();
        loop {
            let started = Instant::now();
            let Terms { timeout, endpoints } = self.terms.borrow_and_update().clone();
            let way = Way { declared: endpoints.as_ref(), attempt: failures_in_a_row };
            let age = match self.client.fetch(&self.location, way, timeout).await {
                Ok(fetched) => {
                    failures_in_a_row = 0;
                    if telling.succeeded() {
                        tracing::info!(uri = %self.location, "a key set can be fetched again");
                    }
                    let document = fetched.document.clone();
                    let age = self.accept(fetched);
                    self.keep(document).await;
                    age
                }
                Err(error) => {
                    failures_in_a_row += 1;
                    self.refuse(&error, failures_in_a_row, &mut telling);
                    retry_after(&self.pace, self.is_ready(), failures_in_a_row, fastrand::f64())
                }
            };
            let asked_pause =
                if self.is_ready() { self.pace.asked_unknown } else { self.pace.asked_missing };
            self.told_next(age);
            // Tokens that need keys, and endpoints that changed, hasten the next fetch.
            let asked = Arc::clone(&self.asked);
            let hastened = async {
                tokio::select! {
                    () = asked.notified() => {}
                    Ok(()) = self.terms.changed() => {}
                }
                tokio::time::sleep_until(started + asked_pause).await;
            };
            tokio::select! {
                () = tokio::time::sleep(age) => {}
                () = hastened => {}
            }
        }
    }

    /// Keys that were read from disk count as those of their fetch.
    pub(super) fn restored(&self) {
        let fetched = self.progress.borrow().last_success_unix;
        if let (KeyState::Ready(keys), Some(fetched)) = (&**self.keys.current(), fetched) {
            self.metrics.fetched(keys.usable(), fetched);
        }
    }

    /// Writes a good document to disk, off the runtime's threads.
    async fn keep(&self, document: Bytes) {
        if let Some(store) = self.store.clone() {
            let location = self.location.clone();
            let save = move || store.save(&location, &document, unix_seconds());
            // It tells by itself what goes wrong.
            let _ = tokio::task::spawn_blocking(save).await;
        }
    }

    fn told_next(&self, wait: Duration) {
        let next = unix_seconds().saturating_add(wait.as_secs());
        self.metrics.next_fetch(next);
        self.progress.send_modify(|progress| progress.next_fetch_unix = Some(next));
    }

    fn is_ready(&self) -> bool {
        matches!(**self.keys.current(), KeyState::Ready(_))
    }

    /// Publishes a fetched set; gives the time until the next fetch.
    fn accept(&self, fetched: Fetched) -> Duration {
        for skipped in fetched.keys.skipped() {
            tracing::debug!(
                uri = %self.location, index = skipped.index, reason = %skipped.reason,
                "a key of a key set is not used"
            );
        }
        if fetched.keys.holds_private_key() {
            tracing::warn!(uri = %self.location, "a published key set holds a private key");
        }
        tracing::debug!(uri = %self.location, keys = fetched.keys.usable(), "key set fetched");
        let now = unix_seconds();
        self.metrics.fetched(fetched.keys.usable(), now);
        self.keys.publish(KeyState::Ready(fetched.keys));
        self.progress.send_modify(|progress| {
            progress.fetches += 1;
            progress.last_success_unix = Some(now);
            progress.last_error = None;
        });
        refresh_after(&self.pace, fetched.max_age, fastrand::f64())
    }

    fn refuse(&self, error: &FetchError, failures_in_a_row: u32, telling: &mut Telling) {
        let unusable = matches!(error, FetchError::KeySet(InvalidKeySet::NoUsableKey(_)));
        if unusable && !self.is_ready() {
            self.keys.publish(KeyState::Unusable);
        }
        self.metrics.failed(error.class());
        let class = error.class();
        let error = chain(error);
        if telling.failed(&error, Instant::now()) {
            tracing::warn!(
                uri = %self.location, error, failures_in_a_row, kept = self.is_ready(),
                "a key set cannot be fetched"
            );
        } else {
            tracing::debug!(
                uri = %self.location, error, failures_in_a_row,
                "a key set still cannot be fetched"
            );
        }
        self.progress.send_modify(|progress| {
            progress.fetches += 1;
            progress.failures += 1;
            progress.last_error = Some((class, error));
        });
    }
}

/// When a good set is fetched anew, `chance` (0 to 1) before it is over.
fn refresh_after(pace: &Pace, max_age: Option<Duration>, chance: f64) -> Duration {
    let (least, most) = pace.refresh;
    max_age.unwrap_or(most).clamp(least, most).mul_f64(1.0 - JITTER * chance)
}

/// When a set is tried again after failures, by `chance` (0 to 1) earlier than the last time doubled.
fn retry_after(pace: &Pace, is_ready: bool, failures_in_a_row: u32, chance: f64) -> Duration {
    let longest = if is_ready { pace.retry_stale } else { pace.retry_missing };
    let doubled = 2_u32.saturating_pow(failures_in_a_row.saturating_sub(1));
    let wait = pace.retry_first.saturating_mul(doubled).min(longest);
    wait.mul_f64(1.0 - JITTER_OF_RETRIES * chance)
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An error and its causes, on one line.
fn chain(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Largest part by which a refresh comes early, so that replicas spread.
const JITTER: f64 = 0.1;

/// Largest part by which a retry comes early.
const JITTER_OF_RETRIES: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_fetched_anew_before_it_is_over() {
        let pace = Pace::default();
        let check = |max_age: Option<u64>, chance: f64, expected: f64| {
            let after = refresh_after(&pace, max_age.map(Duration::from_secs), chance);
            assert!((after.as_secs_f64() - expected).abs() < 0.001, "{max_age:?}: {after:?}");
        };
        check(Some(600), 0.0, 600.0);
        check(Some(600), 1.0, 540.0);
        check(None, 0.5, 1_140.0);
        // Neither at once nor never, whatever the issuer says.
        check(Some(0), 0.0, 60.0);
        check(Some(1 << 40), 0.0, 1_200.0);
    }

    #[test]
    fn waits_after_failures_double_up_to_a_bound_and_differ() {
        let pace = Pace::default();
        let wait = |is_ready, failures, chance| retry_after(&pace, is_ready, failures, chance);
        for is_ready in [false, true] {
            let longest = if is_ready { pace.retry_stale } else { pace.retry_missing };
            let mut before = Duration::ZERO;
            for failures in 1..64 {
                let (most, least) = (wait(is_ready, failures, 0.0), wait(is_ready, failures, 1.0));
                assert!(most >= before && most <= longest && least == most / 2, "{failures}");
                before = most;
            }
            assert_eq!(before, longest);
            assert_eq!(wait(is_ready, u32::MAX, 0.0), longest);
        }
        assert!(pace.retry_missing <= limit::JWKS_RETRY_TIME);
    }
}
