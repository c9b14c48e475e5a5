//! One target under libFuzzer: that which the environment variable `TARGET` names.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "what fails is told by libFuzzer"
)]

mod targets;

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use targets::Target;

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("TARGET").unwrap_or_default();
        let target = targets::ALL.iter().find(|target| target.name == name);
        target.expect("the environment variable TARGET names a target")
    })
}

fuzz_target!(
    init: {
        let folder = std::env::var("SEEDS").expect("the environment variable SEEDS names a folder");
        for (number, seed) in (target().seeds)().iter().enumerate() {
            std::fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).unwrap();
        }
    },
    |data: &[u8]| (target().run)(data)
);
