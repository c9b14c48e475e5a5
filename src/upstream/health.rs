//! Outlier detection for the whole process: workers tell what happened and see who is ejected.
//!
//! A good answer costs one look at a flag; a lock is taken only for failures, and for the first good
//! answer after them.
//!
//! **Invariant:** what one worker ejects, every worker leaves out from its next choice on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::balance::outlier::{Detector, Event, Outcome, Policy};
use crate::telemetry::upstream::UpstreamMetrics;

/// The health of one cluster's endpoints.
#[derive(Debug)]
pub struct Health {
    known: Mutex<Known>,
    /// Changes whenever somebody is ejected or comes back.
    version: AtomicU32,
}

#[derive(Debug)]
struct Known {
    detector: Detector,
    flags: HashMap<Arc<str>, Arc<AtomicBool>>,
}

/// One endpoint, watched.
#[derive(Clone, Debug)]
pub struct Watch {
    health: Arc<Health>,
    name: Arc<str>,
    /// Whether a good answer would change anything.
    counts: Arc<AtomicBool>,
}

impl Health {
    /// Nothing known yet.
    pub fn new(policy: &Policy) -> Self {
        let detector = Detector::new(policy.clone(), Instant::now().into_std());
        let known = Mutex::new(Known { detector, flags: HashMap::new() });
        Self { known, version: AtomicU32::new(0) }
    }

    /// Goes on by another policy.
    pub fn adopt(&self, policy: &Policy) {
        self.lock().detector.adopt(policy);
    }

    /// A number that changes whenever somebody is ejected or comes back.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Says which endpoints there are; gives back a watch over each, whether it is ejected, and how
    /// many ejected ones left.
    pub fn watch(self: &Arc<Self>, names: &[Arc<str>]) -> (Vec<(Watch, bool)>, usize) {
        let mut known = self.lock();
        let left = known.detector.set_hosts(names.iter());
        known.flags.retain(|name, _| names.contains(name));
        let Known { detector, flags } = &mut *known;
        let watch = |name: &Arc<str>| {
            let counts = flags.entry(name.clone()).or_default().clone();
            let watch = Watch { health: self.clone(), name: name.clone(), counts };
            (watch, detector.is_ejected(name))
        };
        (names.iter().map(watch).collect(), left)
    }

    /// Lets back whose time is over; gives back how many those are.
    pub fn sweep(&self, now: Instant) -> usize {
        let returned = self.lock().detector.sweep(now.into_std());
        if returned > 0 {
            self.version.fetch_add(1, Ordering::Release);
        }
        returned
    }

    /// The endpoints that are ejected.
    pub(super) fn ejected(&self) -> Vec<Arc<str>> {
        self.lock().detector.ejected().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Tells what happened at the endpoint.
    pub fn record(&self, event: Event, metrics: &UpstreamMetrics) {
        let good = matches!(event, Event::Answer(..500));
        if good && !self.counts.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.health.lock();
        let outcome = known.detector.record(&self.name, event, Instant::now().into_std());
        self.counts.store(known.detector.counts(&self.name), Ordering::Relaxed);
        drop(known);
        match outcome {
            Outcome::Kept => {}
            Outcome::Spared => metrics.spared(),
            Outcome::Ejected => {
                self.health.version.fetch_add(1, Ordering::Release);
                metrics.ejected();
            }
        }
    }
}
