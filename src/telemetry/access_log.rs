//! The access log: lines gathered per worker, written by one thread of its own.
//!
//! **Invariant:** a worker never waits for the output: its buffer is taken from it by a swap, and a
//! line that does not fit is dropped and counted.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::line::{self, Clock, Context};
use super::record::{LogFields, RequestRecord};
use super::series::lock;
use crate::base::limit;

/// A buffer of this size wakes the writer before its time.
const FLUSH_BYTES: usize = 64 << 10;
/// Longest a line waits.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// A written buffer larger than this gives its memory back.
const KEPT_BYTES: usize = 4 * FLUSH_BYTES;

/// How lines are written (`--access-log`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Istio's default format.
    Text,
    /// One object a line.
    Json,
    /// No access log.
    Off,
}

/// The access log of the process. Dropping it writes what is left, for as long as
/// [`limit::ACCESS_LOG_STOP_TIME`]; drop it after the workers ended.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    format: LogFormat,
    buffers: Mutex<Vec<Arc<Mutex<Buffer>>>>,
    token_parameters: ArcSwap<Option<Vec<Box<str>>>>,
    dropped: IntCounter,
    stopping: AtomicBool,
}

/// The output and the thread's own buffer, which changes places with the workers'.
struct Output<W> {
    sink: W,
    spare: Vec<u8>,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    clock: Clock,
    bound: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("format", &self.format).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Starts the writer thread. `dropped` counts lost lines ([`super::Metrics::access_log_dropped`]).
    pub fn start(
        format: LogFormat,
        output: impl Write + Send + 'static,
        dropped: IntCounter,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            format,
            buffers: Mutex::default(),
            token_parameters: ArcSwap::default(),
            dropped,
            stopping: AtomicBool::new(false),
        });
        let writer = if format == LogFormat::Off {
            None
        } else {
            let shared = shared.clone();
            let output = Output { sink: output, spare: Vec::new() };
            let writer = thread::Builder::new().name("access-log".to_owned());
            Some(writer.spawn(move || shared.write_until_stopped(output))?)
        };
        Ok(Self { shared, writer })
    }

    /// The part of one more worker.
    pub fn worker(&self) -> WorkerLog {
        let buffer = Arc::<Mutex<Buffer>>::default();
        let mut buffers = lock(&self.shared.buffers);
        buffers.push(buffer.clone());
        let bound = limit::ACCESS_LOG_BYTES / (buffers.len() + 1);
        for each in buffers.iter() {
            lock(each).bound = bound;
        }
        let writer = self.writer.as_ref().map(|writer| writer.thread().clone());
        WorkerLog { shared: self.shared.clone(), buffer, writer }
    }

    /// Names of query parameters that carry tokens (`RequestAuthentication.spec.jwtRules[].fromParams`),
    /// besides `access_token`; without names the whole query is cut. Set them before the snapshot that
    /// needs them is published.
    pub fn set_token_parameters(&self, names: Option<Vec<Box<str>>>) {
        self.shared.token_parameters.store(Arc::new(names));
    }
}

impl Drop for AccessLog {
    /// A reader that stopped reading does not hold the process back: what it does not take is lost.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        self.shared.stopping.store(true, Ordering::Release);
        writer.thread().unpark();
        let asked = Instant::now();
        while !writer.is_finished() {
            if asked.elapsed() > limit::ACCESS_LOG_STOP_TIME {
                self.shared.give_up();
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One worker's part of the access log.
#[derive(Debug)]
pub struct WorkerLog {
    shared: Arc<Shared>,
    buffer: Arc<Mutex<Buffer>>,
    writer: Option<thread::Thread>,
}

impl WorkerLog {
    /// Fields for a new record with the time now; nothing when the log is off.
    pub fn fields(&self) -> Option<Box<LogFields>> {
        self.writer.as_ref()?;
        Some(Box::new(LogFields { start_time: Some(SystemTime::now()), ..LogFields::default() }))
    }

    /// Adds the line of one record; its last step ([`RequestRecord::finish`]).
    pub(super) fn write(&self, record: &RequestRecord, fields: &LogFields, duration: Duration) {
        let Some(writer) = &self.writer else { return };
        let mut buffer = lock(&self.buffer);
        let Buffer { lines, clock, bound } = &mut *buffer;
        let before = lines.len();
        let names = self.shared.token_parameters.load();
        let context = &mut Context { clock, token_parameters: (**names).as_deref() };
        match self.shared.format {
            LogFormat::Json => line::json(lines, record, fields, duration, context),
            _ => line::text(lines, record, fields, duration, context),
        }
        if lines.len() > *bound {
            lines.truncate(before);
            self.shared.dropped.inc();
        }
        if before < FLUSH_BYTES && lines.len() >= FLUSH_BYTES {
            drop(buffer);
            writer.unpark();
        }
    }

    /// Asks for this worker's lines to be written soon; does not wait.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
    }
}

impl Shared {
    fn write_until_stopped(&self, mut output: Output<impl Write>) {
        loop {
            let last = self.stopping.load(Ordering::Acquire);
            self.sweep(&mut output);
            if last {
                return;
            }
            thread::park_timeout(FLUSH_TIME);
        }
    }

    /// Counts every line that waits as lost.
    fn give_up(&self) {
        for buffer in lock(&self.buffers).iter() {
            self.lost(&std::mem::take(&mut lock(buffer).lines));
        }
    }

    fn lost(&self, lines: &[u8]) {
        self.dropped.inc_by(memchr::memchr_iter(b'\n', lines).count() as u64);
    }

    /// Takes each worker's lines and writes them.
    fn sweep(&self, output: &mut Output<impl Write>) {
        let Output { sink, spare } = output;
        let buffers = lock(&self.buffers).clone();
        for buffer in &buffers {
            std::mem::swap(&mut lock(buffer).lines, spare);
            if sink.write_all(spare).is_err() {
                self.lost(spare);
            }
            spare.clear();
            spare.shrink_to(KEPT_BYTES);
        }
        let _ = sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::super::destination::Protocol;
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    fn write(log: &WorkerLog, lines: usize) {
        for code in 0..lines {
            let mut record = RequestRecord::new(Instant::now(), Protocol::Http, log.fields());
            record.code = u16::try_from(code % 600).unwrap();
            let fields = log.fields().unwrap_or_default();
            log.write(&record, &fields, Duration::ZERO);
        }
    }

    fn check(format: LogFormat, lines_per_worker: usize, expected: usize) {
        let sink = Sink::default();
        let log = AccessLog::start(format, sink.clone(), counter()).unwrap();
        let workers: Vec<_> = (0..3).map(|_| log.worker()).collect();
        thread::scope(|scope| {
            for worker in &workers {
                scope.spawn(move || write(worker, lines_per_worker));
            }
        });
        drop(workers);
        drop(log);
        let written = sink.0.lock().unwrap();
        assert_eq!(memchr::memchr_iter(b'\n', &written).count(), expected);
    }

    #[test]
    fn nothing_is_lost_at_the_end() {
        check(LogFormat::Text, 2000, 6000);
        check(LogFormat::Json, 10, 30);
        check(LogFormat::Off, 10, 0);
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted() {
        let dropped = counter();
        let sink = Sink::default();
        let log = AccessLog::start(LogFormat::Text, sink.clone(), dropped.clone()).unwrap();
        let worker = log.worker();
        lock(&worker.buffer).bound = 1;
        write(&worker, 5);
        drop(log);
        assert_eq!(dropped.get(), 5);
        assert!(sink.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_failing_output_is_counted() {
        let dropped = counter();
        let log = AccessLog::start(LogFormat::Text, Full, dropped.clone()).unwrap();
        write(&log.worker(), 3);
        drop(log);
        assert_eq!(dropped.get(), 3);
    }

    /// Takes nothing until the other end of its channel is dropped.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_takes_nothing_does_not_hold_the_end_back() {
        let (release, stuck) = mpsc::channel();
        let log = AccessLog::start(LogFormat::Text, Stuck(stuck), counter()).unwrap();
        let worker = log.worker();
        write(&worker, 3);
        let begun = Instant::now();
        drop(log);
        assert!(begun.elapsed() >= limit::ACCESS_LOG_STOP_TIME);
        drop(release);
    }
}
