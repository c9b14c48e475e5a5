//! `explain` and an independent reading of VirtualService agree about 100,000 random requests to
//! random configurations: which client, host, rule, rewrite, redirect, clusters and status.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod naive;
mod world;
mod written;

use std::sync::Arc;

use fastrand::Rng;
use http::header::HOST;
use http::{HeaderName, HeaderValue};
use portcullis::auth::jwt::{IssuerKeys, JwksSource, KeyState};
use portcullis::base::hash::Fingerprint;
use portcullis::base::id::Generation;
use portcullis::compile::files::FileStore;
use portcullis::compile::settings::CompileSettings;
use portcullis::compile::{Input, Reuse, compile};
use portcullis::diag::Severity;
use portcullis::explain::{Explanation, Question, explain};
use portcullis::resources::{ConfigFile, parse};
use portcullis::snapshot::Snapshot;

use naive::Answer;
use world::{Asked, World};

const WORLDS: usize = 500;
const REQUESTS: usize = 200;

fn compiled(yaml: &str) -> Snapshot {
    let file = ConfigFile { path: "world.yaml".into(), bytes: yaml.as_bytes().into() };
    let parsed = parse(&[file]);
    let output = compile(
        &Input {
            set: &parsed.set,
            files: &FileStore::default(),
            settings: &CompileSettings::default(),
            keys: &|_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched)),
            now: 0,
            generation: Generation(1),
            hash: Fingerprint::of(b""),
        },
        &Reuse::default(),
    );
    let all = parsed.diagnostics.iter().chain(&output.diagnostics);
    let errors: Vec<_> = all.filter(|one| one.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{yaml}");
    output.snapshot
}

fn question(asked: &Asked) -> Question {
    let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
    let url = format!("http://gateway{}{query}", asked.path);
    let mut question = Question::get(url.parse().unwrap(), 0);
    question.source = asked.peer.parse().unwrap();
    question.method = asked.method.parse().unwrap();
    question.headers.insert(HOST, HeaderValue::from_static(asked.host));
    for (name, value) in &asked.headers {
        question.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    question
}

/// The part of an explanation that the naive reading knows of.
fn answer(told: &Explanation) -> Answer {
    let outcome = &told.outcome;
    let mut clients = told.steps.iter().filter(|step| step.step == "client");
    let client = clients.find_map(|step| step.decision.strip_suffix(", as x-forwarded-for says"));
    Answer {
        client: client.map(str::to_owned),
        action: outcome.action,
        status: outcome.status,
        host: outcome.host.clone(),
        rule: outcome.rule.clone(),
        location: outcome.location.clone(),
        path: outcome.path.clone(),
        authority: outcome.authority.clone(),
        clusters: outcome
            .clusters
            .iter()
            .map(|share| (share.cluster.clone().unwrap(), share.weight))
            .collect(),
    }
}

/// Worlds of one seed; how often each action came, and a client behind proxies.
fn agree(seed: u64, worlds: usize) -> [usize; 5] {
    let mut rng = Rng::with_seed(seed);
    let mut counts = [0; 5];
    for _ in 0..worlds {
        let world = World::random(&mut rng);
        let yaml = world.yaml();
        let snapshot = compiled(&yaml);
        for _ in 0..REQUESTS {
            let asked = Asked::random(&mut rng);
            let told = explain(&snapshot, &question(&asked)).unwrap();
            let expected = naive::answer(&world, &asked);
            assert_eq!(answer(&told), expected, "{asked:?}\n{yaml}\n{told:#?}");
            let actions = ["forward", "redirect", "respond", "reject"];
            counts[4] += usize::from(expected.client.is_some());
            counts[actions.iter().position(|one| *one == expected.action).unwrap()] += 1;
        }
    }
    counts
}

#[test]
fn explain_and_a_naive_reading_agree() {
    let halves = std::thread::scope(|scope| {
        let half = |seed| scope.spawn(move || agree(seed, WORLDS / 2));
        [half(20_261_126), half(20_261_127)].map(|half| half.join().unwrap())
    });
    let seen: Vec<usize> = (0..5).map(|at| halves[0][at] + halves[1][at]).collect();
    assert_eq!(seen[..4].iter().sum::<usize>(), 100_000);
    // Every action, and a client behind proxies, has come often enough to mean something.
    assert!(seen.iter().all(|count| *count > 2_000), "{seen:?}");
}
