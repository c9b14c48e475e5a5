//! `trafficPolicy.loadBalancer` and `trafficPolicy.outlierDetection` as what balancing goes by.
//!
//! **Invariant:** Istio's defaults are applied here and nowhere else.

use std::time::Duration;

use http::HeaderName;

use crate::balance::hash_policy::{Cookie, HashPolicy};
use crate::balance::outlier::{self, Local};
use crate::balance::warm_up::WarmUp;
use crate::balance::{Policy, Strategy};
use crate::base::limit;
use crate::resources::destination_rule::{
    ConsistentHash, LoadBalancer, OutlierDetection, SimpleLoadBalancer,
};

/// Places of a ring unless `ringHash.minimumRingSize` says otherwise.
const RING_PLACES: u64 = 1024;
/// Slots of a Maglev table unless `maglev.tableSize` says otherwise.
const MAGLEV_SLOTS: u64 = 65_537;

/// How endpoints are chosen; nothing for `PASSTHROUGH`, which has none at a gateway. `localities` are
/// the shares of those that have some.
pub(super) fn balance(
    balancer: Option<&LoadBalancer>,
    outliers: Option<&OutlierDetection>,
    localities: Box<[u32]>,
) -> Option<Policy> {
    let strategy = strategy(balancer)?;
    let panic = outliers.map_or(0, |outliers| outliers.min_health_percent.clamp(0, 100));
    let panic_percent = u8::try_from(panic).unwrap_or(0);
    let slow = matches!(strategy, Strategy::RoundRobin | Strategy::LeastRequest);
    let warm_up = balancer.filter(|_| slow).and_then(warm_up);
    Some(Policy { strategy, warm_up, localities, panic_percent })
}

fn strategy(balancer: Option<&LoadBalancer>) -> Option<Strategy> {
    let Some(balancer) = balancer else { return Some(Strategy::LeastRequest) };
    if let Some(hash) = &balancer.consistent_hash {
        return Some(table(hash));
    }
    match balancer.simple.unwrap_or_default() {
        SimpleLoadBalancer::Unspecified
        | SimpleLoadBalancer::LeastConn
        | SimpleLoadBalancer::LeastRequest => Some(Strategy::LeastRequest),
        SimpleLoadBalancer::RoundRobin => Some(Strategy::RoundRobin),
        SimpleLoadBalancer::Random => Some(Strategy::Random),
        SimpleLoadBalancer::Passthrough => None,
    }
}

fn table(hash: &ConsistentHash) -> Strategy {
    let size = |written: u64, usual: u64| {
        let size = if written == 0 { usual } else { written };
        u32::try_from(size).unwrap_or(u32::MAX).min(limit::HASH_TABLE_ENTRIES)
    };
    if let Some(maglev) = hash.maglev {
        return Strategy::Maglev(size(maglev.table_size, MAGLEV_SLOTS));
    }
    let ring = hash.ring_hash.map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    Strategy::RingHash(size(ring, RING_PLACES))
}

fn warm_up(balancer: &LoadBalancer) -> Option<WarmUp> {
    let warm_up = balancer.warmup.as_ref();
    let written = warm_up.and_then(|warm_up| warm_up.duration).or(balancer.warmup_duration_secs);
    let duration = written.map(|time| time.0).filter(|time| !time.is_zero())?;
    let percent = warm_up.and_then(|warm_up| warm_up.minimum_percent).unwrap_or(10.0);
    let aggression = warm_up.and_then(|warm_up| warm_up.aggression).unwrap_or(1.0);
    let least = (percent / 100.0).clamp(0.0, 1.0);
    Some(WarmUp { duration, least, aggression })
}

/// What of a request keeps it on one endpoint.
pub(super) fn hash(balancer: Option<&LoadBalancer>) -> Option<HashPolicy> {
    let hash = balancer?.consistent_hash.as_ref()?;
    if let Some(name) = &hash.http_header_name {
        return HeaderName::try_from(name).ok().map(HashPolicy::Header);
    }
    if let Some(cookie) = &hash.http_cookie {
        let attributes: Vec<(&str, &str)> =
            cookie.attributes.iter().map(|a| (a.name.as_str(), a.value.as_str())).collect();
        let ttl = cookie.ttl.map(|ttl| ttl.0);
        return Some(HashPolicy::Cookie(Cookie::new(&cookie.name, ttl, &cookie.path, &attributes)));
    }
    if let Some(name) = &hash.http_query_parameter_name {
        return Some(HashPolicy::Query(name.as_str().into()));
    }
    (hash.use_source_ip == Some(true)).then_some(HashPolicy::SourceIp)
}

/// When endpoints are ejected.
pub(super) fn outliers(written: &OutlierDetection) -> outlier::Policy {
    let or = |time: Option<crate::resources::meta::ProtoDuration>, usual: u64| {
        time.map_or(Duration::from_secs(usual), |time| time.0)
    };
    let positive = |number: u32| Some(number).filter(|number| *number > 0);
    let local = match written.consecutive_local_origin_failures {
        _ if !written.split_external_local_origin_errors => Local::AsAnswers,
        None | Some(0) => Local::Split(5),
        Some(bound) => Local::Split(bound),
    };
    let most_percent = u32::try_from(written.max_ejection_percent).unwrap_or(0);
    outlier::Policy {
        server_errors: positive(written.consecutive_5xx_errors.unwrap_or(5)),
        gateway_errors: written.consecutive_gateway_errors.and_then(positive),
        local,
        interval: or(written.interval, 10),
        base_time: or(written.base_ejection_time, 30),
        most_time: limit::EJECTION_MOST_TIME,
        most_percent: positive(most_percent).unwrap_or(10).min(100),
    }
}
