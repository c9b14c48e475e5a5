//! What a worker counts of its connections to one cluster (`portcullis_upstream_*`).

use std::sync::Arc;

use super::series::{Count, Level};

/// One worker's copy of a cluster's connection counts.
#[derive(Debug, Default)]
pub(super) struct UpstreamSeries {
    pub(super) active: Level,
    pub(super) idle: Level,
    pub(super) connects: [Count; ConnectOutcome::ALL.len()],
    pub(super) overflows: [Count; BOUNDS.len()],
    pub(super) ejections: Count,
    pub(super) ejected: Level,
    pub(super) spared: Count,
}

/// What a cluster bounds, as labels of `portcullis_upstream_overflows_total`.
pub(super) const BOUNDS: [&str; 4] = ["connections", "pending", "requests", "retries"];

/// How an attempt to connect to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// Connected, TLS included.
    Ok,
    /// Refused, reset or unreachable.
    Refused,
    /// Not done in time.
    Timeout,
    /// The TLS handshake failed, or the peer's identity is not the expected one.
    Tls,
}

impl ConnectOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Timeout, Self::Tls];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
        }
    }
}

/// Connections of one worker to one cluster. Hold it as long as the pool lives: the cluster's series
/// go when the last holder does. Each method is for the worker it was made for.
#[derive(Debug)]
pub struct UpstreamMetrics(pub(super) Arc<UpstreamSeries>);

impl UpstreamMetrics {
    /// Counts one attempt to connect.
    pub fn connect(&self, outcome: ConnectOutcome) {
        if let Some(count) = self.0.connects.get(outcome as usize) {
            count.add(1);
        }
    }

    /// Changes the number of connections in use.
    pub fn active(&self, change: i64) {
        self.0.active.add(change);
    }

    /// Changes the number of unused connections kept.
    pub fn idle(&self, change: i64) {
        self.0.idle.add(change);
    }

    /// Counts what was not done because of a bound: connections, pending requests, requests, retries.
    pub fn overflow(&self, bound: usize) {
        if let Some(count) = self.0.overflows.get(bound) {
            count.add(1);
        }
    }

    /// Counts an endpoint ejected by outlier detection.
    pub fn ejected(&self) {
        self.0.ejections.add(1);
        self.0.ejected.add(1);
    }

    /// Counts an endpoint that outlier detection would eject, were there not too many already.
    pub fn spared(&self) {
        self.0.spared.add(1);
    }

    /// Counts ejected endpoints that are back, or gone.
    pub fn returned(&self, count: usize) {
        if count > 0 {
            self.0.ejected.add(-i64::try_from(count).unwrap_or(0));
        }
    }
}
