//! The targets: functions of bytes that fail when something is true of them that never may be.

#[path = "../authorization/choices.rs"]
mod choices;
mod csr;
#[path = "../authorization/engine.rs"]
mod engine;
#[path = "../../src/auth/jwt/fixture.rs"]
#[allow(dead_code, reason = "the library's tests use more of it")]
mod fixture;
#[path = "../authorization/generate.rs"]
#[allow(dead_code, reason = "the fuzzer does not look at all of it")]
mod generate;
mod identity;
#[path = "../authorization/judge.rs"]
mod judge;
mod jwks;
mod jwt;
#[path = "../authorization/model.rs"]
mod model;
mod path;
mod policy;

/// A target.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Judges an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const ALL: &[Target] = &[
    Target { name: "jwt", run: jwt::run, seeds: jwt::seeds },
    Target { name: "jwks", run: jwks::run, seeds: jwks::seeds },
    Target { name: "identity", run: identity::run, seeds: identity::seeds },
    Target { name: "csr", run: csr::run, seeds: csr::seeds },
    Target { name: "policy", run: policy::run, seeds: policy::seeds },
    Target { name: "path", run: path::run, seeds: path::seeds },
];

/// An input as a list of changes of known bytes: place (two bytes) and value, over and over.
fn edited(genuine: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = genuine.to_vec();
    for [high, low, value] in changes.as_chunks::<3>().0 {
        let at = usize::from(u16::from_be_bytes([*high, *low]));
        let length = bytes.len();
        bytes[at % length] = *value;
    }
    bytes
}
