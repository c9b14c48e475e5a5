use proptest::prelude::*;

use super::*;
use crate::balance::Strategy;

struct Fixed<'a> {
    active: &'a [u32],
    rng: std::cell::RefCell<fastrand::Rng>,
}

impl Load for Fixed<'_> {
    fn active(&self, index: usize) -> u32 {
        self.active.get(index).copied().unwrap_or(0)
    }

    fn random(&self) -> u32 {
        self.rng.borrow_mut().u32(..)
    }
}

fn load(active: &[u32]) -> Fixed<'_> {
    Fixed { active, rng: fastrand::Rng::with_seed(1).into() }
}

const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// Endpoints as weight, level, locality and whether they are usable.
fn candidates(list: &[(u32, u8, u16, bool)]) -> Vec<Candidate<'static>> {
    let candidate =
        |(name, (weight, level, locality, usable)): (&&'static str, &(u32, u8, u16, bool))| {
            let member = Member { weight: *weight, level: *level, locality: *locality };
            Candidate { name, member, factor: 1.0, usable: *usable }
        };
    NAMES.iter().zip(list).map(candidate).collect()
}

fn count(plan: &Plan, load: &Fixed<'_>, endpoints: usize, rounds: u32) -> Vec<u32> {
    let mut counts = vec![0; endpoints];
    for _ in 0..rounds {
        if let Some(index) = plan.choose(load, None) {
            counts[index] += 1;
        }
    }
    counts
}

fn policy(strategy: Strategy) -> Policy {
    Policy { strategy, ..Policy::default() }
}

/// Shares in percent, each off by at most 2.
fn check(policy: &Policy, list: &[(u32, u8, u16, bool)], expected: &[u32]) {
    let plan = Plan::new(policy, &candidates(list), 7);
    let counts = count(&plan, &load(&[]), list.len(), 20_000);
    for (got, wanted) in counts.iter().zip(expected) {
        assert!((got / 200).abs_diff(*wanted) <= 2, "{counts:?} for {list:?}, not {expected:?}");
    }
}

#[test]
fn round_robin_is_exact_with_and_without_weights() {
    let check = |weights: &[u32], rounds: u32, expected: &[u32]| {
        let list: Vec<_> = weights.iter().map(|w| (*w, 0, 0, true)).collect();
        let plan = Plan::new(&policy(Strategy::RoundRobin), &candidates(&list), 7);
        assert_eq!(count(&plan, &load(&[]), list.len(), rounds), expected);
    };
    check(&[1, 1, 1], 300, &[100, 100, 100]);
    check(&[1, 3], 400, &[100, 300]);
    check(&[5, 5], 10, &[5, 5]);
    check(&[40_000_000, 5_000_000], 9, &[8, 1]);
    check(&[3_000_000_000, 1_000_000_000], 4, &[3, 1]);
}

#[test]
fn least_request_follows_weights_and_avoids_the_busy() {
    let equal = [(1, 0, 0, true); 3];
    let plan = Plan::new(&policy(Strategy::LeastRequest), &candidates(&equal), 0);
    let counts = count(&plan, &load(&[50, 0, 0]), 3, 3000);
    assert!(counts[0] < 450, "{counts:?}");
    check(&policy(Strategy::LeastRequest), &[(1, 0, 0, true), (9, 0, 0, true)], &[10, 90]);
}

#[test]
fn random_follows_weights() {
    check(&policy(Strategy::Random), &[(1, 0, 0, true), (9, 0, 0, true)], &[10, 90]);
    for unit in [1_000_000, 10_000_000, 400_000_000] {
        let list = [(unit, 0, 0, true), (unit * 9, 0, 0, true)];
        check(&policy(Strategy::Random), &list, &[10, 90]);
    }
    let heaviest = [(u32::MAX, 0, 0, true), (u32::MAX / 4, 0, 0, true), (1, 0, 0, true)];
    check(&policy(Strategy::Random), &heaviest, &[80, 20, 0]);
}

#[test]
fn what_is_not_usable_gets_nothing_until_panic() {
    let list = [(1, 0, 0, false), (1, 0, 0, true), (1, 0, 0, true)];
    check(&policy(Strategy::Random), &list, &[0, 50, 50]);
    let panic = |percent| Policy { panic_percent: percent, ..policy(Strategy::Random) };
    check(&panic(50), &list, &[0, 50, 50]);
    check(&panic(80), &list, &[33, 33, 33]);
    let none = [(1, 0, 0, false), (1, 0, 0, false)];
    check(&panic(0), &none, &[0, 0]);
    check(&panic(1), &none, &[50, 50]);
}

#[test]
fn a_level_spills_over_when_its_usable_endpoints_cannot_take_all() {
    let list = |usable: usize| -> Vec<_> {
        (0..10).map(|n| (1, 0, 0, n < usable)).chain([(1, 1, 0, true)]).collect()
    };
    let spilled = |usable: usize, expected: u32| {
        let list = list(usable);
        let plan = Plan::new(&policy(Strategy::Random), &candidates(&list), 0);
        let counts = count(&plan, &load(&[]), 11, 20_000);
        assert!((counts[10] / 200).abs_diff(expected) <= 2, "{usable}: {counts:?}");
    };
    spilled(10, 0);
    spilled(8, 0);
    spilled(5, 30);
    spilled(0, 100);
}

#[test]
fn what_levels_left_out_would_take_goes_to_the_others() {
    // Envoy's example: healths of 100, 50 and 50 percent, without overprovisioning's 1.4 times.
    let list = [(1, 0, 0, true), (1, 3, 0, true), (1, 3, 0, false), (1, 4, 0, true)];
    let plan = Plan::new(&policy(Strategy::Random), &candidates(&list), 0);
    let load = load(&[]);
    let check = |left_out: &[u8], expected: [u32; 4]| {
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            if let Some(index) = plan.choose_beyond(&load, None, left_out) {
                counts[index] += 1;
            }
        }
        for (got, wanted) in counts.iter().zip(expected) {
            assert!((got / 200_u32).abs_diff(wanted) <= 2, "{left_out:?}: {counts:?}");
        }
    };
    check(&[0], [0, 70, 0, 30]);
    check(&[0, 3], [0, 0, 0, 100]);
    check(&[0, 4], [0, 100, 0, 0]);
    check(&[3], [100, 0, 0, 0]);
    check(&[0, 3, 4], [0; 4]);
    assert_eq!(plan.hosts(&[]).collect::<Vec<_>>(), [0], "others have no share otherwise");
    assert_eq!(plan.hosts(&[0]).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_level_left_out_leaves_shares_of_localities_and_hashes_as_they_are() {
    let list = [(1, 0, 0, true), (1, 1, 1, true), (1, 1, 2, true)];
    let beyond = |strategy, hash: &dyn Fn(u64) -> Option<u64>| {
        let policy = Policy { localities: [1, 80, 20].into(), ..policy(strategy) };
        let plan = Plan::new(&policy, &candidates(&list), 0);
        let load = load(&[]);
        let at = |n| plan.choose_beyond(&load, hash(n), &[0]);
        let all: Vec<_> = (0..10_000).map(at).collect();
        assert!(all.iter().all(|one| *one == Some(1) || *one == Some(2)), "{strategy:?}");
        let first = all.iter().filter(|one| **one == Some(1)).count();
        (all, first)
    };
    let (_, first) = beyond(Strategy::RoundRobin, &|_| None);
    assert!((7800..8200).contains(&first), "{first}");
    let key = |n: u64| Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (all, first) = beyond(Strategy::Maglev(5003), &key);
    assert!((7500..8500).contains(&first), "{first}");
    assert_eq!(all, beyond(Strategy::Maglev(5003), &key).0);
}

#[test]
fn levels_may_be_numbered_with_gaps() {
    check(&policy(Strategy::Random), &[(1, 3, 0, true), (1, 9, 0, true)], &[100, 0]);
    check(&policy(Strategy::Random), &[(1, 3, 0, false), (1, 9, 0, true)], &[0, 100]);
}

#[test]
fn localities_have_their_shares_whatever_their_size() {
    let list = [(1, 0, 0, true), (1, 0, 1, true), (1, 0, 1, true), (1, 0, 2, true)];
    for strategy in [Strategy::Random, Strategy::RoundRobin, Strategy::LeastRequest] {
        let policy = Policy { localities: [80, 20, 0].into(), ..policy(strategy) };
        check(&policy, &list, &[80, 10, 10, 0]);
    }
    let gone = [(1, 0, 0, false), (1, 0, 1, true)];
    let policy = Policy { localities: [80, 20].into(), ..policy(Strategy::Random) };
    check(&policy, &gone, &[0, 100]);
}

#[test]
fn one_table_holds_the_localities_of_a_level() {
    let policy = Policy { localities: [75, 25].into(), ..policy(Strategy::Maglev(5003)) };
    let plan = Plan::new(&policy, &candidates(&[(1, 0, 0, true), (7, 0, 1, true)]), 0);
    assert_eq!(plan.groups.len(), 1);
    let first = (0..10_000_u64).filter(|key| plan.choose(&load(&[]), Some(*key)) == Some(0));
    assert!((7000..8000).contains(&first.count()));
}

#[test]
fn a_hash_keeps_its_endpoint_and_only_lost_ones_move() {
    for strategy in [Strategy::RingHash(4096), Strategy::Maglev(5003)] {
        let home = |lost: Option<usize>, key: u64| {
            let list: Vec<_> = (0..8).map(|n| (1, 0, 0, Some(n) != lost)).collect();
            let plan = Plan::new(&policy(strategy), &candidates(&list), 0);
            plan.choose(&load(&[]), Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))).unwrap()
        };
        let moved = (0..100).filter(|key| {
            let before = home(None, *key);
            assert_eq!(before, home(None, *key));
            before != 3 && home(Some(3), *key) != before
        });
        assert!(moved.count() <= 5, "{strategy:?}");
    }
}

#[test]
fn no_endpoint_gives_none() {
    let plan = Plan::new(&policy(Strategy::Random), &[], 0);
    assert_eq!(plan.choose(&load(&[]), Some(1)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever there is, a choice is a usable endpoint, or there is none (no panic allowed).
    #[test]
    fn a_choice_is_usable(
        list in prop::collection::vec((1_u32..9, 0_u8..3, 0_u16..3, any::<bool>()), 0..12),
        strategy in prop_oneof![
            Just(Strategy::LeastRequest), Just(Strategy::RoundRobin), Just(Strategy::Random),
            Just(Strategy::RingHash(64)), Just(Strategy::Maglev(67)),
        ],
        shares in prop_oneof![Just(vec![]), Just(vec![50_u32, 30, 20])],
        hash in prop::option::of(any::<u64>()),
    ) {
        let policy = Policy { localities: shares.into(), ..policy(strategy) };
        let plan = Plan::new(&policy, &candidates(&list), 3);
        let any = list.iter().any(|(.., usable)| *usable);
        let elsewhere = list.iter().any(|(_, level, _, usable)| *usable && *level != 0);
        let load = load(&[]);
        for _ in 0..50 {
            match plan.choose(&load, hash) {
                Some(index) => prop_assert!(list[index].3),
                None => prop_assert!(!any),
            }
            match plan.choose_beyond(&load, hash, &[0]) {
                Some(index) => prop_assert!(list[index].3 && list[index].1 != 0),
                None => prop_assert!(!elsewhere),
            }
        }
    }
}
