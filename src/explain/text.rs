//! An explanation for people.

use std::fmt::Write as _;

use super::Explanation;

/// Width of the column that names the steps.
const COLUMN: usize = 20;

/// The steps, one below the other.
pub fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    for step in &explanation.steps {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:<COLUMN$}{}", step.step, step.decision);
        if let Some(by) = &step.by {
            let _ = writeln!(out, "{:COLUMN$}by {by}", "");
        }
        for line in &step.considered {
            let _ = writeln!(out, "{:COLUMN$}- {line}", "");
        }
    }
    let _ = writeln!(out, "{:<COLUMN$}{}", "=", summary(explanation));
    out
}

fn summary(explanation: &Explanation) -> String {
    let outcome = &explanation.outcome;
    let status = outcome.status.map(|status| format!(" {status}")).unwrap_or_default();
    let grpc = outcome.grpc_status.map(|status| format!(" grpc-status {status}"));
    let grpc = grpc.unwrap_or_default();
    let reason = outcome.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let to: Vec<_> = outcome.clusters.iter().filter_map(|share| share.cluster.as_deref()).collect();
    let to = if to.is_empty() { String::new() } else { format!(" to {}", to.join(" or ")) };
    format!("{}{status}{grpc}{reason}{to}", outcome.action)
}
