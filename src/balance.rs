//! Pure load balancing: the endpoints, what is known of them and a random number in, choice out.
//!
//! **Invariant:** no clock, no sockets and no shared state; the caller keeps the counters.

use std::cell::Cell;

/// How an endpoint is chosen (`DestinationRule.spec.trafficPolicy.loadBalancer.simple`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The less loaded of two random endpoints; Istio's default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
}

/// An endpoint as balancing sees it.
pub trait Candidate {
    /// Share of traffic, at least 1.
    fn weight(&self) -> u32;
    /// Requests in flight.
    fn active(&self) -> u32;
}

/// State of one balancer.
#[derive(Debug, Default)]
pub struct Turn(Cell<u32>);

impl Turn {
    /// Starts at a random place, so that workers do not move in step.
    pub fn starting_at(random: u32) -> Self {
        Self(Cell::new(random))
    }

    fn next(&self) -> u32 {
        let turn = self.0.get();
        self.0.set(turn.wrapping_add(1));
        turn
    }
}

/// Chooses among candidates; the index of the chosen one, nothing when there is none.
pub fn choose<C: Candidate>(
    strategy: Strategy,
    candidates: &[C],
    turn: &Turn,
    mut random: impl FnMut() -> u32,
) -> Option<usize> {
    let count = u32::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
    if count == 1 {
        return Some(0);
    }
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight())).sum();
    let even = total == u64::from(count);
    let mut any = || {
        let random = random();
        if even {
            scale(random, u64::from(count))
        } else {
            by_weight(candidates, scale(random, total))
        }
    };
    let index = match strategy {
        Strategy::Random => any(),
        Strategy::RoundRobin if even => u64::from(turn.next() % count),
        Strategy::RoundRobin => by_weight(candidates, spread(turn.next(), total)),
        Strategy::LeastRequest => {
            let (first, second) = (any(), any());
            if load(candidates, second) < load(candidates, first) { second } else { first }
        }
    };
    usize::try_from(index).ok()
}

fn scale(random: u32, range: u64) -> u64 {
    (u64::from(random) * range) >> 32
}

/// Turns spread over the weights by a stride coprime to most totals, so that heavy endpoints are
/// not served in one burst.
fn spread(turn: u32, total: u64) -> u64 {
    let stride = (total * 618 / 1000) | 1;
    let stride = (stride..stride + 64).find(|s| gcd(*s, total) == 1).unwrap_or(1);
    (u64::from(turn) * stride) % total.max(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn by_weight<C: Candidate>(candidates: &[C], point: u64) -> u64 {
    let mut upto = 0;
    let found = candidates.iter().position(|candidate| {
        upto += u64::from(candidate.weight());
        point < upto
    });
    found.unwrap_or(0) as u64
}

/// Requests in flight for each unit of weight, in thousandths.
fn load<C: Candidate>(candidates: &[C], index: u64) -> u64 {
    usize::try_from(index)
        .ok()
        .and_then(|index| candidates.get(index))
        .map_or(u64::MAX, |c| (u64::from(c.active()) + 1) * 1000 / u64::from(c.weight().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Endpoint {
        weight: u32,
        active: u32,
    }

    impl Candidate for Endpoint {
        fn weight(&self) -> u32 {
            self.weight
        }
        fn active(&self) -> u32 {
            self.active
        }
    }

    fn check(strategy: Strategy, endpoints: &[(u32, u32)], rounds: u32) -> Vec<u32> {
        let endpoints: Vec<_> =
            endpoints.iter().map(|&(weight, active)| Endpoint { weight, active }).collect();
        let turn = Turn::starting_at(7);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..rounds {
            counts[choose(strategy, &endpoints, &turn, || rng.u32(..)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_exact_with_and_without_weights() {
        assert_eq!(check(Strategy::RoundRobin, &[(1, 0), (1, 0), (1, 0)], 300), [100, 100, 100]);
        assert_eq!(check(Strategy::RoundRobin, &[(1, 0), (3, 0)], 400), [100, 300]);
    }

    #[test]
    fn least_request_avoids_the_busy_endpoint() {
        let counts = check(Strategy::LeastRequest, &[(1, 50), (1, 0), (1, 0)], 3000);
        assert!(counts[0] < 450, "{counts:?}");
    }

    #[test]
    fn random_follows_weights() {
        let counts = check(Strategy::Random, &[(1, 0), (9, 0)], 10_000);
        assert!((800..1200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn no_endpoint_gives_none() {
        assert_eq!(choose::<Endpoint>(Strategy::Random, &[], &Turn::default(), || 0), None);
    }
}
