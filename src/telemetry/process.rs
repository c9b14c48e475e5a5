//! The process itself: memory, processor time, files, start, as Prometheus' clients name them.

use std::fs;

use super::catalog::{self, Family};
use super::exposition::{head, sample};

/// Ticks per second in `/proc`: the kernel shows times to programs at this rate on every processor
/// this program is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc/self` says; what cannot be read is left out.
pub(super) fn render() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let all: [(&Family, Option<f64>); 7] = [
        (&catalog::RESIDENT_MEMORY, kibibytes(&status, "VmRSS:")),
        (&catalog::VIRTUAL_MEMORY, kibibytes(&status, "VmSize:")),
        (&catalog::CPU_SECONDS, cpu_seconds(&stat)),
        (&catalog::THREADS, field(&stat, 20)),
        (&catalog::OPEN_FILES, open_files()),
        (&catalog::MOST_FILES, file_limit()),
        (&catalog::START_TIME, start_time(&stat)),
    ];
    let mut out = String::new();
    for (family, value) in all {
        if let Some(value) = value {
            head(&mut out, family);
            sample(&mut out, family.name, "", value);
        }
    }
    out
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok().map(|kib: f64| kib * 1024.0)
}

/// A field of `/proc/self/stat` by its number in proc(5), from 3 on: the name before may hold spaces.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str) -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: f64 = boot.trim().parse().ok()?;
    Some(boot + field(stat, 22)? / TICKS_PER_SECOND)
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn file_limit() -> Option<f64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    u32::try_from(limit).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_a_name_with_spaces() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 1000 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(field(stat, 20), Some(7.0));
        assert_eq!(field(stat, 22), Some(1000.0));
        assert_eq!(cpu_seconds("garbage"), None);
    }

    #[test]
    fn this_process_is_described() {
        let out = render();
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_start_time"] {
            assert!(out.lines().any(|line| line.starts_with(name)), "{name}\n{out}");
        }
    }
}
