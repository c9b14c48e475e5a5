//! The process itself: memory, processor time, files, start, as Prometheus' clients name them.

use std::fs;

use super::exposition::{family, sample};

/// Ticks per second in `/proc`: the kernel shows times to programs at this rate on every processor
/// this program is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what `/proc/self` says; what cannot be read is left out.
pub(super) fn render(out: &mut String) {
    let mut gauge = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            family(out, name, kind, help);
            sample(out, name, "", value);
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let resident = kibibytes(&status, "VmRSS:");
    gauge("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", resident);
    let size = kibibytes(&status, "VmSize:");
    gauge("process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", size);
    let help = "Processor time used, in seconds.";
    gauge("process_cpu_seconds_total", "counter", help, cpu_seconds(&stat));
    let threads = field(&stat, 20);
    gauge("process_threads", "gauge", "Threads of the process.", threads);
    gauge("process_open_fds", "gauge", "Open file descriptors.", open_files());
    gauge("process_max_fds", "gauge", "Limit on file descriptors.", file_limit());
    let help = "Unix time at which the process started.";
    gauge("process_start_time_seconds", "gauge", help, start_time(&stat));
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
        let mut out = String::new();
        render(&mut out);
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_start_time"] {
            assert!(out.lines().any(|line| line.starts_with(name)), "{name}\n{out}");
        }
    }
}
