//! A table of many hosts: `cargo bench --bench table` prints its memory per host and how long it took to
//! compile; `benches/instructions` runs `table FEW MANY LOOKUPS` under callgrind.

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

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use http::HeaderMap;
use portcullis::snapshot::Snapshot;

#[path = "shared/site.rs"]
mod site;

use site::{forwards, many, parsed, site, snapshot};

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

/// What callgrind counts.
#[inline(never)]
fn counted(snapshot: &Snapshot, host: &str, path: &str, lookups: u32) {
    let headers = HeaderMap::new();
    for _ in 0..lookups {
        assert!(forwards(snapshot, black_box(host), black_box(path), &headers));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["weigh", hosts] => weigh(hosts.parse().unwrap()),
        ["hosts", hosts, lookups] => {
            let table = snapshot(&parsed(&site(hosts.parse().unwrap())));
            counted(&table, "h7.example.com", "/other", lookups.parse().unwrap());
        }
        ["regexes", rules, lookups] => {
            let rules: u32 = rules.parse().unwrap();
            let table = snapshot(&parsed(&(site(1) + &many(rules))));
            let last = format!("/r{}/abc/x", rules - 1);
            counted(&table, "many.example.com", &last, lookups.parse().unwrap());
        }
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
