//! What hostile bytes must never do, by a bounded number of inputs: each target's seeds, and changes of
//! them that are the same in every run. `tests/fuzz/run TARGET` lets libFuzzer look for hours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod mutate;
mod targets;

use fastrand::Rng;

/// Runs a target over its seeds and so many changes of them.
fn check(name: &str, inputs: usize) {
    let target = targets::ALL.iter().find(|target| target.name == name).unwrap();
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut rng = Rng::with_seed(11);
    for _ in 0..inputs {
        (target.run)(&mutate::changed(&mut rng, &seeds));
    }
}

#[test]
fn a_token_that_was_changed_never_verifies() {
    check("jwt", 6_000);
}

#[test]
fn a_published_key_set_never_holds_a_secret() {
    check("jwks", 4_000);
}

#[test]
fn an_identity_is_what_one_uri_says() {
    check("identity", 1_500);
}

#[test]
fn a_signing_request_gets_its_own_key_and_the_callers_identity_certified() {
    check("csr", 1_500);
}

#[test]
fn engine_and_model_agree_about_chosen_policies() {
    check("policy", 400);
}

#[test]
fn a_normal_form_is_final() {
    check("path", 60_000);
}

#[test]
fn every_target_is_run() {
    let names: Vec<_> = targets::ALL.iter().map(|target| target.name).collect();
    assert_eq!(names, ["jwt", "jwks", "identity", "csr", "policy", "path"]);
}
