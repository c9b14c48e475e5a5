//! Policies and requests of somebody's choice: the engine says what the naive model says.

use super::choices::Choices;
use super::engine::{Seen, compiled};
use super::{generate, model};

pub fn seeds() -> Vec<Vec<u8>> {
    let random = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..400).map(|_| rng.u8(..)).collect()
    };
    (0..24).map(random).chain([vec![0; 8], vec![1; 64]]).collect()
}

pub fn run(data: &[u8]) {
    let mut choices = Choices::of(data);
    let policies = generate::policies(&mut choices);
    let engine = compiled(&policies);
    for _ in 0..4 {
        let request = generate::request(&mut choices);
        let expected = model::passes(&policies, &request);
        let actual = Seen::of(&request).passes(&engine.policies);
        assert_eq!(actual, expected, "{policies:#?} {request:#?}");
    }
}
