use super::*;

fn policy() -> Policy {
    Policy {
        server_errors: Some(3),
        gateway_errors: None,
        local: Local::AsAnswers,
        interval: Duration::from_secs(10),
        base_time: Duration::from_secs(30),
        most_time: Duration::from_mins(5),
        most_percent: 100,
    }
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn names(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|n| format!("h{n}").into()).collect()
}

fn detector(policy: Policy, hosts: usize, now: Instant) -> Detector {
    let mut detector = Detector::new(policy, now);
    detector.set_hosts(names(hosts).iter());
    detector
}

use Event::{Answer, Failed, TimedOut};
use Outcome::{Ejected, Kept, Spared};

fn check(policy: Policy, hosts: usize, events: &[(&str, Event)], expected: &[Outcome]) {
    let now = start();
    let mut detector = detector(policy, hosts, now);
    let outcomes: Vec<_> =
        events.iter().map(|(h, event)| detector.record(h, *event, now)).collect();
    assert_eq!(outcomes, expected, "{events:?}");
}

#[test]
fn server_errors_in_a_row_eject() {
    check(
        policy(),
        1,
        &[("h0", Answer(500)), ("h0", Answer(503)), ("h0", Answer(599))],
        &[Kept, Kept, Ejected],
    );
    check(
        policy(),
        1,
        &[("h0", Answer(500)), ("h0", Answer(500)), ("h0", Answer(404)), ("h0", Answer(500))],
        &[Kept; 4],
    );
}

#[test]
fn failures_without_an_answer_count_as_gateway_errors() {
    let gateway = Policy { server_errors: None, gateway_errors: Some(2), ..policy() };
    check(gateway.clone(), 1, &[("h0", Failed), ("h0", TimedOut)], &[Kept, Ejected]);
    check(gateway, 1, &[("h0", Failed), ("h0", Answer(500)), ("h0", Failed)], &[Kept; 3]);
}

#[test]
fn split_failures_count_by_themselves() {
    let split = Policy { local: Local::Split(2), ..policy() };
    check(split.clone(), 1, &[("h0", Failed), ("h0", TimedOut)], &[Kept, Ejected]);
    check(
        split.clone(),
        1,
        &[("h0", Failed), ("h0", Answer(500)), ("h0", Failed), ("h0", Answer(500))],
        &[Kept; 4],
    );
    let only_local = Policy { server_errors: None, ..split };
    check(only_local, 1, &[("h0", Answer(500)); 9], &[Kept; 9]);
}

#[test]
fn no_more_are_ejected_than_the_policy_allows() {
    let few = |percent| Policy { server_errors: Some(1), most_percent: percent, ..policy() };
    check(few(10), 9, &[("h0", Failed)], &[Spared]);
    check(few(10), 10, &[("h0", Failed), ("h1", Failed)], &[Ejected, Spared]);
    check(few(50), 3, &[("h0", Failed), ("h1", Failed)], &[Ejected, Spared]);
    check(few(100), 1, &[("h0", Failed)], &[Ejected]);
}

#[test]
fn ejections_grow_and_are_forgiven() {
    let begin = start();
    let one = Policy { server_errors: Some(1), ..policy() };
    let mut detector = detector(one, 1, begin);
    let mut now = begin;
    let mut step = |detector: &mut Detector, seconds: u64| {
        now += Duration::from_secs(seconds);
        detector.sweep(now);
        now
    };
    assert_eq!(detector.record("h0", Failed, begin), Ejected);
    step(&mut detector, 20);
    assert!(detector.is_ejected("h0"));
    let now = step(&mut detector, 10);
    assert!(!detector.is_ejected("h0"));
    assert_eq!(detector.record("h0", Failed, now), Ejected);
    step(&mut detector, 50);
    assert!(detector.is_ejected("h0"), "twice the base time");
    step(&mut detector, 10);
    assert!(!detector.is_ejected("h0"));
    step(&mut detector, 10);
    let now = step(&mut detector, 10);
    assert_eq!(detector.record("h0", Failed, now), Ejected);
    step(&mut detector, 30);
    assert!(!detector.is_ejected("h0"), "two healthy intervals forgave two ejections");
}

#[test]
fn an_ejection_never_lasts_longer_than_its_bound() {
    let begin = start();
    let one = Policy { server_errors: Some(1), ..policy() };
    let mut detector = detector(one, 1, begin);
    let mut now = begin;
    for _ in 0..50 {
        assert_eq!(detector.record("h0", Failed, now), Ejected);
        now += Duration::from_mins(5);
        assert_eq!(detector.sweep(now), 1);
    }
}

#[test]
fn endpoints_that_leave_are_forgotten() {
    let now = start();
    let one = Policy { server_errors: Some(1), ..policy() };
    let mut detector = detector(one, 2, now);
    assert_eq!(detector.record("h1", Failed, now), Ejected);
    assert_eq!(detector.set_hosts(names(1).iter()), 1);
    assert_eq!(detector.record("h1", Failed, now), Kept);
    assert_eq!(detector.set_hosts(names(2).iter()), 0);
    assert!(!detector.is_ejected("h1"));
}

/// A few thousand random steps for each of many seeds; after every one the rules hold.
#[test]
fn a_simulation_keeps_the_rules() {
    for seed in 0..60 {
        simulate(&mut fastrand::Rng::with_seed(seed));
    }
}

fn random_policy(rng: &mut fastrand::Rng) -> Policy {
    Policy {
        server_errors: rng.bool().then(|| rng.u32(1..6)),
        gateway_errors: rng.bool().then(|| rng.u32(1..6)),
        local: if rng.bool() { Local::AsAnswers } else { Local::Split(rng.u32(1..6)) },
        interval: Duration::from_secs(rng.u64(1..20)),
        base_time: Duration::from_secs(rng.u64(1..60)),
        most_time: Duration::from_mins(5),
        most_percent: rng.u32(0..=100),
    }
}

fn simulate(rng: &mut fastrand::Rng) {
    let policy = random_policy(rng);
    let mut hosts = names(rng.usize(1..30));
    let mut now = start();
    let mut detector = Detector::new(policy.clone(), now);
    detector.set_hosts(hosts.iter());
    let mut since: BTreeMap<Arc<str>, Instant> = BTreeMap::new();
    for _ in 0..3000 {
        match rng.u32(0..100) {
            0 => {
                hosts = names(rng.usize(1..30));
                let gone = since.keys().filter(|name| !hosts.contains(name)).count();
                assert_eq!(detector.set_hosts(hosts.iter()), gone);
                since.retain(|name, _| hosts.contains(name));
            }
            1..10 => {
                now += Duration::from_secs(rng.u64(0..30));
                let before = since.len();
                let returned = detector.sweep(now);
                since.retain(|name, _| detector.is_ejected(name));
                assert_eq!(before - since.len(), returned);
                let longest = policy.most_time.max(policy.base_time);
                let in_time = since.values().all(|at| now.duration_since(*at) < longest);
                assert!(detector.swept < now || in_time, "somebody stays for ever");
            }
            _ => {
                let host = hosts[rng.usize(..hosts.len())].clone();
                let event = match rng.u32(0..4) {
                    0 => Failed,
                    1 => TimedOut,
                    2 => Answer(200),
                    _ => Answer(rng.u16(500..510)),
                };
                let share = (since.len() + 1) * 100 / hosts.len();
                match detector.record(&host, event, now) {
                    Ejected => {
                        assert!(share <= policy.most_percent as usize);
                        assert_ne!(event, Answer(200));
                        assert!(since.insert(host, now).is_none());
                    }
                    Spared => assert!(share >= policy.most_percent as usize),
                    Kept => {}
                }
            }
        }
        assert!(hosts.iter().all(|h| detector.is_ejected(h) == since.contains_key(h)));
    }
}
