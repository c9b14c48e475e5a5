//! Outlier detection: endpoints that fail again and again are ejected for a while
//! (`DestinationRule.spec.trafficPolicy.outlierDetection`, Envoy's consecutive kinds).
//!
//! One [`Detector`] for a cluster takes what happened and the time, and says who is ejected and who
//! is back.
//!
//! **Invariant:** never more of the endpoints are ejected than the policy allows; an ejected endpoint
//! comes back at a sweep after its time, whatever happens in between.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What ejects, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Answers of 500 and above in a row (`consecutive5xxErrors`).
    pub server_errors: Option<u32>,
    /// Answers of 502, 503 and 504 in a row (`consecutiveGatewayErrors`).
    pub gateway_errors: Option<u32>,
    /// What failures without an answer count as (`splitExternalLocalOriginErrors`).
    pub local: Local,
    /// Time between two sweeps (`interval`).
    pub interval: Duration,
    /// Time of a first ejection; each further one is longer by as much (`baseEjectionTime`).
    pub base_time: Duration,
    /// Longest time of an ejection.
    pub most_time: Duration,
    /// Part of the endpoints that may be ejected at once, in percent (`maxEjectionPercent`).
    pub most_percent: u32,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("those that fail in a row:")?;
        let split = match self.local {
            Local::AsAnswers => None,
            Local::Split(count) => Some(count),
        };
        for (count, what) in [
            (self.server_errors, "of 500 and above"),
            (self.gateway_errors, "of 502, 503 or 504"),
            (split, "without an answer"),
        ] {
            if let Some(count) = count {
                write!(f, " {count} {what},")?;
            }
        }
        write!(f, " for {:?} and at most {} % of them", self.base_time, self.most_percent)
    }
}

/// What failures without an answer count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// As answers: 504 for a timeout, else 503.
    AsAnswers,
    /// By themselves; so many in a row eject (`consecutiveLocalOriginFailures`).
    Split(u32),
}

/// What happened at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer; for gRPC the status that its code stands for. A stream of bytes counts as 200.
    Answer(u16),
    /// It could not be reached, or ended the exchange without an answer.
    Failed,
    /// It did not answer in time.
    TimedOut,
}

/// What an event led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Kept,
    /// The endpoint is ejected from now on.
    Ejected,
    /// The endpoint would be ejected, but too many are already.
    Spared,
}

#[derive(Clone, Debug, Default)]
struct State {
    server_errors: u32,
    gateway_errors: u32,
    failures: u32,
    ejected: Option<Instant>,
    /// Ejections that count towards the next one's time.
    ejections: u32,
}

/// What is known of a cluster's endpoints.
#[derive(Debug)]
pub struct Detector {
    policy: Policy,
    hosts: BTreeMap<Arc<str>, State>,
    swept: Instant,
}

impl Detector {
    /// Nothing known yet.
    pub fn new(policy: Policy, now: Instant) -> Self {
        Self { policy, hosts: BTreeMap::new(), swept: now }
    }

    /// Goes on by another policy; what is known stays.
    pub fn adopt(&mut self, policy: &Policy) {
        self.policy.clone_from(policy);
    }

    /// Says which endpoints there are; gives back how many of those that left were ejected.
    pub fn set_hosts<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) -> usize {
        let mut old = std::mem::take(&mut self.hosts);
        self.hosts =
            names.map(|name| (name.clone(), old.remove(name).unwrap_or_default())).collect();
        old.values().filter(|state| state.ejected.is_some()).count()
    }

    /// Whether an endpoint is ejected.
    pub fn is_ejected(&self, name: &str) -> bool {
        self.hosts.get(name).is_some_and(|state| state.ejected.is_some())
    }

    /// The endpoints that are ejected, by name.
    pub fn ejected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.iter().filter(|(_, state)| state.ejected.is_some()).map(|(name, _)| name)
    }

    /// Whether a good answer of an endpoint would change anything.
    pub fn counts(&self, name: &str) -> bool {
        self.hosts
            .get(name)
            .is_some_and(|s| s.server_errors > 0 || s.gateway_errors > 0 || s.failures > 0)
    }

    /// Takes note of an event.
    pub fn record(&mut self, name: &str, event: Event, now: Instant) -> Outcome {
        let Self { policy, hosts, .. } = self;
        let Some(state) = hosts.get_mut(name) else { return Outcome::Kept };
        if !state.reaches_a_bound(policy, event) || state.ejected.is_some() {
            return Outcome::Kept;
        }
        let ejected = self.hosts.values().filter(|state| state.ejected.is_some()).count();
        if (ejected + 1) * 100 > self.hosts.len() * self.policy.most_percent as usize {
            return Outcome::Spared;
        }
        if let Some(state) = self.hosts.get_mut(name) {
            state.ejected = Some(now);
            state.ejections = state.ejections.saturating_add(1).min(self.policy.most_ejections());
        }
        Outcome::Ejected
    }

    /// Lets endpoints back whose time is over, and forgives one ejection of those that were good since
    /// the last sweep; does nothing before the interval is over. Gives back how many returned.
    pub fn sweep(&mut self, now: Instant) -> usize {
        if now.saturating_duration_since(self.swept) < self.policy.interval {
            return 0;
        }
        self.swept = now;
        let mut returned = 0;
        for state in self.hosts.values_mut() {
            match state.ejected {
                None => state.ejections = state.ejections.saturating_sub(1),
                Some(since) if self.policy.is_over(since, state.ejections, now) => {
                    *state = State { ejections: state.ejections, ..State::default() };
                    returned += 1;
                }
                Some(_) => {}
            }
        }
        returned
    }
}

impl State {
    /// Counts an event; whether a count reached its bound, which starts it anew.
    fn reaches_a_bound(&mut self, policy: &Policy, event: Event) -> bool {
        let code = match (event, policy.local) {
            (Event::Answer(code), _) => {
                self.failures = 0;
                code
            }
            (Event::Failed | Event::TimedOut, Local::Split(bound)) => {
                return reached(&mut self.failures, Some(bound));
            }
            (Event::Failed, Local::AsAnswers) => 503,
            (Event::TimedOut, Local::AsAnswers) => 504,
        };
        if code < 500 {
            (self.server_errors, self.gateway_errors) = (0, 0);
            return false;
        }
        let gateway = matches!(code, 502..=504);
        if !gateway {
            self.gateway_errors = 0;
        }
        let by_gateway = gateway && reached(&mut self.gateway_errors, policy.gateway_errors);
        let by_server = reached(&mut self.server_errors, policy.server_errors);
        by_gateway || by_server
    }
}

/// Counts one more; at the bound the count starts anew.
fn reached(count: &mut u32, bound: Option<u32>) -> bool {
    let Some(bound) = bound else { return false };
    *count += 1;
    let reached = *count >= bound;
    if reached {
        *count = 0;
    }
    reached
}

impl Policy {
    fn is_over(&self, since: Instant, ejections: u32, now: Instant) -> bool {
        let time = self.base_time.saturating_mul(ejections).min(self.longest());
        now.saturating_duration_since(since) >= time
    }

    fn longest(&self) -> Duration {
        self.most_time.max(self.base_time)
    }

    /// Ejections after which the time grows no further.
    fn most_ejections(&self) -> u32 {
        let base = self.base_time.as_millis().max(1);
        u32::try_from(self.longest().as_millis().div_ceil(base)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
