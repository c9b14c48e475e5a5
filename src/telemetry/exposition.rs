//! Prometheus' text format, version 0.0.4, made piece by piece as it is read.
//!
//! The `prometheus` crate sorts labels by name; the standard metrics keep Istio's order, so their
//! lines are written here.
//!
//! **Invariant:** of a scrape, one piece and the list of series are held, whatever its whole length.

mod gateway;
mod standard;

use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use super::catalog::Family;
use super::metrics::Metrics;
use super::process;
use crate::base::limit;

/// Lines of one series after the other; the first of a family begins with its head.
type Lines = Box<dyn Iterator<Item = String> + Send>;

/// All metrics, in pieces of about [`limit::SCRAPE_CHUNK_BYTES`]; a piece ends with a line.
pub struct Exposition(Lines);

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

impl Exposition {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let parts: [fn(&Arc<Metrics>) -> Lines; 5] =
            [standard::requests, standard::tcp, gateway::clusters, gateway::keys, gateway::clients];
        let whole: [fn(&Arc<Metrics>) -> String; 2] =
            [|_| process::render(), |metrics| gateway::registered(metrics)];
        let shared = metrics.clone();
        let parts = parts.into_iter().flat_map(move |lines| lines(&metrics));
        Self(Box::new(parts.chain(whole.into_iter().map(move |render| render(&shared)))))
    }
}

impl Iterator for Exposition {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = self.0.next()?;
        while piece.len() < limit::SCRAPE_CHUNK_BYTES {
            match self.0.next() {
                Some(lines) => piece.push_str(&lines),
                None => break,
            }
        }
        Some(piece)
    }
}

/// One family: what `write` says of each series. Without a line there is no head either.
fn family<T: Send + Sync + 'static>(
    family: &'static Family,
    series: &Arc<[T]>,
    write: impl Fn(&mut String, &T) + Send + 'static,
) -> Lines {
    let series = series.clone();
    let mut begun = false;
    Box::new((0..series.len()).filter_map(move |number| {
        let mut out = String::new();
        if !begun {
            head(&mut out, family);
        }
        let before = out.len();
        write(&mut out, series.get(number)?);
        if out.len() == before {
            return None;
        }
        begun = true;
        Some(out)
    }))
}

/// A family's help and type.
pub(super) fn head(out: &mut String, Family { name, kind, help, .. }: &Family) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
}

/// One line; `labels` are rendered pairs without braces.
pub(super) fn sample(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
}

fn pairs(all: &[(&str, &str)]) -> String {
    let mut labels = String::new();
    for (name, value) in all {
        pair(&mut labels, name, value);
    }
    labels
}

fn pair(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(name);
    labels.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            c => labels.push(c),
        }
    }
    labels.push('"');
}
