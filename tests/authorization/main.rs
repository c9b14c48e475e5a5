//! The engine and a naive model of the authorization language agree about random policies and requests.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod choices;
mod engine;
mod generate;
mod judge;
mod model;

use std::collections::{BTreeMap, HashSet};

use choices::Choices;
use engine::{Engine, Seen};
use judge::{Gateway, Judgement};
use model::{Action, Request};

const SETS: usize = 1_250;
const REQUESTS: usize = 800;

/// Where chance begins: the same each time, unless `PORTCULLIS_TEST_SEED` says otherwise.
fn seed() -> u64 {
    match std::env::var("PORTCULLIS_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 7,
    }
}

/// How often each thing that can become of a request did: who speaks, and the result.
type Counts = BTreeMap<(&'static str, &'static str), usize>;

/// Compares over a share of the policies.
fn compare(seed: u64, sets: usize) -> Counts {
    let mut rng = Choices::random(seed);
    let requests: Vec<Request> = (0..REQUESTS).map(|_| generate::request(&mut rng)).collect();
    let views: Vec<(Seen<'_>, &Request)> =
        requests.iter().map(|request| (Seen::of(request), request)).collect();
    let mut counts = Counts::new();
    for _ in 0..sets {
        let policies = generate::policies(&mut rng);
        let (engine, model) = (Engine::new(&policies), Gateway::new(&policies));
        for (view, request) in &views {
            let expected = model.judge(request);
            let actual = view.judge(&engine);
            assert_eq!(actual, expected, "PORTCULLIS_TEST_SEED={seed} {policies:#?} {request:#?}");
            count(&expected, &mut counts);
        }
    }
    counts
}

fn count(judgement: &Judgement, counts: &mut Counts) {
    let Judgement { passes, asked, remarks } = judgement;
    let mut add = |what| *counts.entry(what).or_default() += 1;
    let result = if *passes { "passed" } else { "refused" };
    add(("all", result));
    if !asked.is_empty() {
        add(("provider", result));
    }
    for remark in remarks {
        add(*remark);
    }
}

#[test]
fn engine_and_model_agree_about_a_million_pairs() {
    let first = seed();
    let halves: Vec<_> = [first, first.wrapping_add(1)]
        .map(|seed| std::thread::spawn(move || compare(seed, SETS / 2)))
        .into();
    let mut counts = Counts::new();
    for (what, times) in halves.into_iter().flat_map(|half| half.join().unwrap()) {
        *counts.entry(what).or_default() += times;
    }
    let pairs = SETS * REQUESTS;
    assert!(pairs >= 1_000_000);
    // All of it is common, or the comparison would say little.
    for (what, share) in [
        (("all", "passed"), 10),
        (("all", "refused"), 10),
        (("provider", "passed"), 100),
        (("provider", "refused"), 100),
        (("audit", "matched"), 100),
        (("deny", "denied"), 100),
        (("deny", "allowed"), 100),
        (("allow", "denied"), 100),
        (("allow", "allowed"), 100),
    ] {
        let times = counts.get(&what).copied().unwrap_or(0);
        assert!(times > pairs / share, "PORTCULLIS_TEST_SEED={first} {what:?} {counts:?}");
    }
}

#[test]
fn the_generator_reaches_every_field() {
    let mut rng = Choices::random(9);
    let (mut seen, mut custom) = (HashSet::new(), HashSet::new());
    for _ in 0..1_000 {
        for policy in generate::policies(&mut rng) {
            let into = match policy.action {
                Action::Custom(_) => &mut custom,
                _ => &mut seen,
            };
            for rule in policy.rules {
                let fields = rule.from.into_iter().chain(rule.to).flatten().chain(rule.when);
                into.extend(fields.map(|field| (field.name, field.negated)));
            }
        }
    }
    assert_eq!(seen.len(), 2 * 31, "{seen:?}");
    assert_eq!(custom.len(), 2 * 15, "{custom:?}");
}
