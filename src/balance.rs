//! Pure load balancing: what is known of a cluster's endpoints in, a choice out.
//!
//! [`plan`] is made when endpoints or their state change and chooses for each request; [`outlier`]
//! takes endpoints out that fail; [`previous`] sends retries elsewhere; [`hash_policy`] says what of a request keeps it on one endpoint.
//!
//! **Invariant:** no clock, no sockets and no shared state; the caller keeps the counters.

pub mod hash_policy;
pub mod hash_table;
pub mod outlier;
pub mod plan;
pub mod previous;
pub mod warm_up;
pub mod weights;

use std::fmt;

use warm_up::WarmUp;

/// How an endpoint is chosen (`DestinationRule.spec.trafficPolicy.loadBalancer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The less loaded of two random endpoints; Istio's default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// By hash on a ring of about so many places or more (`consistentHash.ringHash`).
    RingHash(u32),
    /// By hash in a table of so many entries, a prime (`consistentHash.maglev`).
    Maglev(u32),
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeastRequest => f.write_str("LEAST_REQUEST"),
            Self::RoundRobin => f.write_str("ROUND_ROBIN"),
            Self::Random => f.write_str("RANDOM"),
            Self::RingHash(places) => write!(f, "a ring of {places} places"),
            Self::Maglev(entries) => write!(f, "a Maglev table of {entries} entries"),
        }
    }
}

impl Strategy {
    /// Whether a request's hash decides.
    pub fn is_hash(self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }
}

/// How load is spread over a cluster's endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// How one is chosen among those that may be.
    pub strategy: Strategy,
    /// New endpoints get their share bit by bit.
    pub warm_up: Option<WarmUp>,
    /// Share of each locality, by [`Member::locality`] (`localityLbSetting.distribute`); empty when
    /// localities have none of their own.
    pub localities: Box<[u32]>,
    /// A level with a smaller part of its endpoints usable uses all of them
    /// (`outlierDetection.minHealthPercent`); 0 never does.
    pub panic_percent: u8,
}

/// What the configuration says of one endpoint's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Share of traffic within its locality, at least 1.
    pub weight: u32,
    /// Priority: 0 is used first, later ones when those before cannot take all.
    pub level: u8,
    /// Its locality, an index into [`Policy::localities`] when those have shares.
    pub locality: u16,
}

impl Default for Member {
    fn default() -> Self {
        Self { weight: 1, level: 0, locality: 0 }
    }
}
