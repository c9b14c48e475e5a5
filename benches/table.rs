//! A table of many hosts: `cargo bench --bench table` prints its memory per host and how long it took to
//! compile.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use std::process::Command;
use std::time::Instant;

#[path = "shared/site.rs"]
mod site;

use site::{parsed, site, snapshot};

#[global_allocator]
static ALLOCATOR: portcullis::base::memory::Mimalloc = portcullis::base::memory::Mimalloc;

const SIZES: [u32; 3] = [10, 1_000, 10_000];

/// Resident memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn weigh(hosts: u32) {
    drop(snapshot(&parsed(&site(1))));
    let before = resident();
    let (table, taken) = {
        let set = parsed(&site(hosts));
        let start = Instant::now();
        (snapshot(&set), start.elapsed())
    };
    portcullis::base::memory::give_back();
    let grown = resident().saturating_sub(before);
    println!(
        "{hosts:>6} hosts of 10 rules: compiled in {:.0} ms, {} bytes per host",
        taken.as_secs_f64() * 1e3,
        grown / u64::from(hosts)
    );
    drop(table);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["weigh", hosts] => weigh(hosts.parse().unwrap()),
        _ => {
            for hosts in SIZES {
                let own = std::env::current_exe().unwrap();
                assert!(
                    Command::new(own)
                        .args(["weigh", &hosts.to_string()])
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
    }
}
