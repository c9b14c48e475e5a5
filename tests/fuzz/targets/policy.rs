//! Policies and requests of somebody's choice: the engine says what the naive model says.

use super::choices::Choices;
use super::engine::{Engine, Seen};
use super::generate;
use super::judge::Gateway;

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
    let (engine, model) = (Engine::new(&policies), Gateway::new(&policies));
    for _ in 0..4 {
        let request = generate::request(&mut choices);
        let expected = model.judge(&request);
        let actual = Seen::of(&request).judge(&engine);
        assert_eq!(actual, expected, "{policies:#?} {request:#?}");
    }
}
