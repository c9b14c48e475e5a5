//! Which endpoints take how much of the load, made anew whenever endpoints or their state change.
//!
//! Levels (priorities) come first: a level takes as much as its usable endpoints can, the rest spills
//! over to the next (Envoy's priority levels with an overprovisioning factor of 1.4). Within a level,
//! localities may have shares of their own; within a locality, endpoints have weights.
//!
//! **Invariant:** a choice reads what was prepared and allocates nothing.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::hash_table::{Entry, HashTable};
use super::weights::Weights;
use super::{Member, Policy, Strategy};

/// A part of unhealthy endpoints that the others of their level make up for.
const OVERPROVISIONING: f64 = 1.4;

/// An endpoint as a plan is made of it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name, for hash tables.
    pub name: &'a str,
    /// Its share by configuration.
    pub member: Member,
    /// Part of its weight that it gets, from 0 to 1: less while it warms up.
    pub factor: f64,
    /// Whether it may be used.
    pub usable: bool,
}

/// What a choice may look at.
pub trait Load {
    /// Requests in flight at an endpoint, by its index.
    fn active(&self, index: usize) -> u32;
    /// A uniformly random number.
    fn random(&self) -> u32;
}

/// Prepared choices over a list of endpoints.
#[derive(Debug, Default)]
pub struct Plan {
    /// Those that have a share of the load first.
    groups: Vec<Group>,
    /// How many have one.
    shared: usize,
    /// Each level, and which part of the load it could take.
    levels: Vec<(u8, f64)>,
}

/// Endpoints among which one is chosen by the strategy.
#[derive(Debug)]
struct Group {
    level: u8,
    /// Its share of the level.
    within: f64,
    /// End of its share of the numbers below 2^32.
    upto: u64,
    /// Indices into the list.
    hosts: Box<[usize]>,
    weights: Weights,
    choice: Choice,
}

#[derive(Debug)]
enum Choice {
    LeastRequest,
    RoundRobin(Cell<u32>),
    Random,
    Hash(HashTable),
}

/// One locality of a level, or a level as a whole.
struct Part {
    level: u8,
    /// Its share of the level.
    within: f64,
    /// Its share of the load.
    share: f64,
    /// Index and weight.
    hosts: Vec<(usize, f64)>,
}

impl Plan {
    /// Prepares. `start` is random, so that workers do not take turns in step.
    pub fn new(policy: &Policy, candidates: &[Candidate<'_>], start: u32) -> Self {
        let mut levels: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            levels.entry(candidate.member.level).or_default().push(index);
        }
        let loads = loads(policy, &levels, candidates);
        let mut parts: Vec<Part> = loads
            .iter()
            .zip(&levels)
            .flat_map(|(load, level)| localities(policy, candidates, level, load))
            .filter(|part| !part.hosts.is_empty())
            .collect();
        parts.sort_by_key(|part| part.share == 0.0);
        let shared = parts.iter().take_while(|part| part.share > 0.0).count();
        let total: f64 = parts.iter().map(|part| part.share).sum();
        let mut sum = 0.0;
        let group = |part: &Part| {
            sum += part.share;
            Group::new(policy.strategy, candidates, part, (scaled(sum / total), start))
        };
        let groups = parts.iter().filter_map(group).collect();
        let able = |(load, (level, _)): (&LevelLoad, (&u8, &Vec<usize>))| (*level, load.able);
        Self { groups, shared, levels: loads.iter().zip(&levels).map(able).collect() }
    }

    fn shared(&self) -> &[Group] {
        self.groups.get(..self.shared).unwrap_or_default()
    }

    /// Every endpoint that may be chosen when some levels are left out.
    pub fn hosts(&self, left_out: &[u8]) -> impl Iterator<Item = usize> {
        let groups = if left_out.is_empty() { self.shared() } else { &self.groups };
        let others = groups.iter().filter(|group| !left_out.contains(&group.level));
        others.flat_map(|group| group.hosts.iter().copied())
    }

    /// As [`Self::choose`], when some levels are left out and the others take what they can of all
    /// load; nothing when they can take none.
    pub fn choose_beyond(
        &self,
        load: &impl Load,
        hash: Option<u64>,
        left_out: &[u8],
    ) -> Option<usize> {
        let able = |(level, able): &(u8, f64)| if left_out.contains(level) { 0.0 } else { *able };
        let able = self.levels.iter().map(able);
        if able.clone().sum::<f64>() == 0.0 {
            return None;
        }
        let levels = self.levels.iter().map(|(level, _)| *level).zip(spill(able));
        let level = at(point(load, hash), levels)?;
        let groups = self.groups.iter().filter(|group| group.level == level);
        at(point(load, None), groups.map(|group| (group, group.within)))?.choose(load, hash)
    }

    /// The index of an endpoint, nothing when there is none. `hash` counts for strategies by hash;
    /// without one they choose at random.
    pub fn choose(&self, load: &impl Load, hash: Option<u64>) -> Option<usize> {
        let group = match self.shared() {
            [] => return None,
            [only] => only,
            all @ [first, ..] => {
                let point = point(load, hash);
                all.iter().find(|group| point < group.upto).unwrap_or(first)
            }
        };
        group.choose(load, hash)
    }
}

impl Group {
    fn new(
        strategy: Strategy,
        candidates: &[Candidate<'_>],
        part: &Part,
        (upto, start): (u64, u32),
    ) -> Option<Self> {
        let unit = unit(part.hosts.iter().map(|(_, weight)| *weight));
        let weights = Weights::new(part.hosts.iter().map(|(_, weight)| whole(weight * unit)))?;
        let entries = || -> Vec<Entry<'_>> {
            let entry = |(index, weight): &(usize, f64)| {
                Some(Entry { name: candidates.get(*index)?.name, weight: *weight })
            };
            part.hosts.iter().filter_map(entry).collect()
        };
        let choice = match strategy {
            Strategy::LeastRequest => Choice::LeastRequest,
            Strategy::RoundRobin => Choice::RoundRobin(Cell::new(start)),
            Strategy::Random => Choice::Random,
            Strategy::RingHash(least) => Choice::Hash(HashTable::ring(&entries(), least)),
            Strategy::Maglev(size) => Choice::Hash(HashTable::maglev(&entries(), size)),
        };
        let hosts = part.hosts.iter().map(|(index, _)| *index).collect();
        Some(Self { level: part.level, within: part.within, upto, hosts, weights, choice })
    }

    fn choose(&self, load: &impl Load, hash: Option<u64>) -> Option<usize> {
        if let [only] = &*self.hosts {
            return Some(*only);
        }
        let place = match &self.choice {
            Choice::Random => self.weights.random(load.random()),
            Choice::RoundRobin(turn) => {
                let now = turn.get();
                turn.set(now.wrapping_add(1));
                self.weights.turn(now)
            }
            Choice::LeastRequest => {
                let any = || self.weights.random(load.random());
                let (first, second) = (any(), any());
                let active = |place| self.hosts.get(place).map_or(0, |index| load.active(*index));
                if active(second) < active(first) { second } else { first }
            }
            Choice::Hash(table) => {
                let random = || u64::from(load.random()) << 32 | u64::from(load.random());
                table.get(hash.unwrap_or_else(random))?
            }
        };
        self.hosts.get(place).copied()
    }
}

/// Which endpoints of a level are used.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Usable,
    /// Panic: too few are usable for those to take all.
    Every,
}

/// What a level takes.
struct LevelLoad {
    /// Its share of the load.
    share: f64,
    /// The share that it could take.
    able: f64,
    /// Which of its endpoints carry it.
    of: Of,
}

/// Each level's share of the load.
fn loads(
    policy: &Policy,
    levels: &BTreeMap<u8, Vec<usize>>,
    candidates: &[Candidate<'_>],
) -> Vec<LevelLoad> {
    let usable = |level: &Vec<usize>| {
        let count = level.iter().filter(|i| candidates.get(**i).is_some_and(|c| c.usable)).count();
        part(count, level.len())
    };
    let healthy: Vec<f64> = levels.values().map(usable).collect();
    let able: Vec<f64> = healthy.iter().map(|part| (part * OVERPROVISIONING).min(1.0)).collect();
    let total = able.iter().sum::<f64>().min(1.0);
    let panic = |part: f64| total < 1.0 && part * 100.0 < f64::from(policy.panic_percent);
    let shares: Vec<f64> = if healthy.iter().all(|part| panic(*part)) {
        let all: usize = levels.values().map(Vec::len).sum();
        levels.values().map(|level| part(level.len(), all)).collect()
    } else if total == 0.0 {
        vec![0.0; able.len()]
    } else {
        spill(able.iter().copied()).collect()
    };
    let load = |((share, able), healthy): ((f64, f64), f64)| {
        let of = if panic(healthy) { Of::Every } else { Of::Usable };
        LevelLoad { share, able, of }
    };
    shares.into_iter().zip(able).zip(healthy).map(load).collect()
}

/// What each takes of a load, by what it can: the first as much as it can, the next of the rest.
fn spill(able: impl Iterator<Item = f64> + Clone) -> impl Iterator<Item = f64> {
    let total = able.clone().sum::<f64>().min(1.0);
    let mut left = 1.0_f64;
    able.map(move |able| {
        let share = left.min(able / total);
        left -= share;
        share
    })
}

/// A uniformly random place among the numbers below 2^32, or a hash's.
fn point(load: &impl Load, hash: Option<u64>) -> u64 {
    // The low half: a ring looks at the high one first.
    hash.map_or_else(|| load.random().into(), |hash| hash & 0xffff_ffff)
}

/// What stands at a place when each takes its part of the numbers below 2^32.
fn at<T>(point: u64, parts: impl Iterator<Item = (T, f64)>) -> Option<T> {
    let mut begin = 0.0;
    let before = |(_, part): &(T, f64)| {
        let starts = scaled(begin) <= point;
        begin += part;
        starts
    };
    parts.filter(|(_, part)| *part > 0.0).take_while(before).last().map(|(one, _)| one)
}

/// The localities of a level, each with its part of the level's share; the level as one when
/// localities have no shares of their own, or when one table has to hold them all.
fn localities(
    policy: &Policy,
    candidates: &[Candidate<'_>],
    (level, indices): (&u8, &Vec<usize>),
    LevelLoad { share, of, .. }: &LevelLoad,
) -> Vec<Part> {
    let whole = |hosts| Part { level: *level, within: 1.0, share: *share, hosts };
    let hosts = |list: &[usize]| -> Vec<(usize, f64)> {
        let host = |index: &usize| {
            let candidate = candidates.get(*index)?;
            let weight = f64::from(candidate.member.weight) * candidate.factor;
            (*of == Of::Every || candidate.usable).then_some((*index, weight))
        };
        list.iter().filter_map(host).collect()
    };
    if policy.localities.is_empty() {
        return vec![whole(hosts(indices))];
    }
    let mut by_place: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for index in indices {
        let place = candidates.get(*index).map_or(0, |candidate| candidate.member.locality);
        by_place.entry(place).or_default().push(*index);
    }
    let mut parts: Vec<(f64, Vec<(usize, f64)>)> = Vec::new();
    for (place, list) in by_place {
        let own = policy.localities.get(usize::from(place)).copied().unwrap_or(0);
        let hosts = hosts(&list);
        if own == 0 || hosts.is_empty() {
            continue;
        }
        let able = (part(hosts.len(), list.len()) * OVERPROVISIONING).min(1.0);
        parts.push((f64::from(own) * able, hosts));
    }
    let total: f64 = parts.iter().map(|(part, _)| part).sum();
    for (part, _) in &mut parts {
        *part /= total;
    }
    if !policy.strategy.is_hash() {
        let one = |(within, hosts)| Part { level: *level, within, share: within * share, hosts };
        return parts.into_iter().map(one).collect();
    }
    let weighed = |(part, hosts): (f64, Vec<(usize, f64)>)| {
        let sum: f64 = hosts.iter().map(|(_, weight)| weight).sum();
        hosts.into_iter().map(move |(index, weight)| (index, weight / sum * part))
    };
    vec![whole(parts.into_iter().flat_map(weighed).collect())]
}

#[expect(clippy::cast_precision_loss, reason = "counts of endpoints are small")]
fn part(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

/// What weights are multiplied by to be whole numbers: a thousand, so that what warms up has a share
/// below 1, or as many tens as the heaviest leaves room for.
fn unit(weights: impl Iterator<Item = f64>) -> f64 {
    let heaviest = weights.fold(0.0, f64::max);
    let fits = |unit: &f64| heaviest * unit <= f64::from(u32::MAX);
    [1000.0, 100.0, 10.0].into_iter().find(fits).unwrap_or(1.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn whole(weight: f64) -> u64 {
    weight.round().clamp(1.0, f64::from(u32::MAX)) as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1")]
fn scaled(part: f64) -> u64 {
    (part * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests;
