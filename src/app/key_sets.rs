//! Key sets for the admin port and for metrics: those that are fetched, and those written in rules.

use serde_json::{Value, json};

use crate::auth::jwt::{JwtRule, KeyState, SkippedKey};
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;
use crate::telemetry::keys::JwksMetrics;
use crate::upstream::jwks::{JwksEngine, JwksState};

/// A list with an object for each key set; `uri` is null for one that a rule holds itself.
pub(super) fn shown(engine: &JwksEngine, snapshot: &Snapshot) -> Value {
    let fetched = engine.status().into_iter().map(|status| {
        let (class, error) = status.last_error.unzip();
        json!({
            "issuer": status.issuer,
            "uri": status.uri,
            "state": status.state.as_str(),
            "keys": status.keys,
            "skipped": skipped(&status.skipped),
            "last_success_unix": status.last_success_unix,
            "last_error_class": class,
            "last_error": error,
            "next_fetch_unix": status.next_fetch_unix,
            "fetches": status.fetches,
            "failures": status.failures,
        })
    });
    let written = in_rules(snapshot).map(|rule| {
        let state = rule.keys.current();
        let (keys, left_out) = match &**state {
            KeyState::Ready(set) => (set.usable(), skipped(set.skipped())),
            KeyState::NeverFetched | KeyState::Unusable => (0, Vec::new()),
        };
        json!({
            "issuer": rule.issuer.as_deref().unwrap_or_default(),
            "uri": Value::Null,
            "state": JwksState::from(&**state).as_str(),
            "keys": keys,
            "skipped": left_out,
        })
    });
    Value::Array(fetched.chain(written).collect())
}

/// Metrics of the key sets that rules hold themselves; they last as long as what is returned.
pub(super) fn measured(metrics: &Metrics, snapshot: &Snapshot) -> Vec<JwksMetrics> {
    let series = in_rules(snapshot).map(|rule| {
        let series = metrics.jwks(rule.issuer.as_deref().unwrap_or_default(), "");
        if let KeyState::Ready(set) = &**rule.keys.current() {
            series.written(set.usable());
        }
        series
    });
    series.collect()
}

fn in_rules(snapshot: &Snapshot) -> impl Iterator<Item = &JwtRule> {
    let rules = snapshot.authentication.iter().flat_map(|authenticator| authenticator.rules());
    rules.filter(|rule| !rule.fetched)
}

fn skipped(keys: &[SkippedKey]) -> Vec<String> {
    keys.iter().map(|key| format!("key {}: {}", key.index, key.reason)).collect()
}
