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
mod model;

use std::collections::HashSet;

use choices::Choices;
use engine::{Seen, compiled};
use model::Request;

const SETS: usize = 1_250;
const REQUESTS: usize = 800;

/// Compares over a share of the policies; gives how often requests passed.
fn compare(seed: u64, sets: usize) -> usize {
    let mut rng = Choices::random(seed);
    let requests: Vec<Request> = (0..REQUESTS).map(|_| generate::request(&mut rng)).collect();
    let views: Vec<Seen<'_>> = requests.iter().map(Seen::of).collect();
    let mut passed = 0;
    for _ in 0..sets {
        let policies = generate::policies(&mut rng);
        let engine = compiled(&policies);
        for view in &views {
            let expected = model::passes(&policies, view.request);
            passed += usize::from(expected);
            let actual = view.passes(&engine.policies);
            assert_eq!(actual, expected, "{policies:#?} {:#?}", view.request);
        }
    }
    passed
}

#[test]
fn engine_and_model_agree_about_a_million_pairs() {
    let halves: Vec<_> =
        [7, 8].map(|seed| std::thread::spawn(move || compare(seed, SETS / 2))).into();
    let passed: usize = halves.into_iter().map(|half| half.join().unwrap()).sum();
    // Both answers are common, or the comparison would say little.
    let pairs = SETS * REQUESTS;
    assert!(pairs >= 1_000_000);
    assert!(passed > pairs / 10 && passed < pairs * 9 / 10, "{passed} of {pairs} passed");
}

#[test]
fn the_generator_reaches_every_field() {
    let mut rng = Choices::random(9);
    let mut seen = HashSet::new();
    for _ in 0..500 {
        for rule in generate::policies(&mut rng).into_iter().flat_map(|policy| policy.rules) {
            let fields = rule.from.into_iter().chain(rule.to).flatten().chain(rule.when);
            seen.extend(fields.map(|field| (field.name, field.negated)));
        }
    }
    assert_eq!(seen.len(), 2 * 31, "{seen:?}");
}
