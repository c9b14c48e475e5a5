//! The status port: `/healthz/ready` and `/healthz/live`, and kubelet's probes of the application.
//!
//! **Invariant:** ready means that configuration was received, the workers run, the mesh identity has
//! some time left, and no drain has begun; a drain is never taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode, request};

use super::answer::{self, Answer};
use super::server::{Handler, at_once};
use crate::probe::Prober;

const CONFIGURED: u8 = 1;
const SERVING: u8 = 2;
const DRAINING: u8 = 4;

/// Whether the gateway takes traffic; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug)]
struct State {
    conditions: AtomicU8,
    /// First Unix second in which it is not ready any more.
    until: AtomicI64,
}

impl Default for State {
    fn default() -> Self {
        Self { conditions: AtomicU8::new(0), until: AtomicI64::new(i64::MAX) }
    }
}

impl Readiness {
    /// A snapshot was published.
    pub fn configured(&self) {
        self.0.conditions.fetch_or(CONFIGURED, Ordering::Relaxed);
    }

    /// The workers run and their listeners are bound.
    pub fn serving(&self) {
        self.0.conditions.fetch_or(SERVING, Ordering::Relaxed);
    }

    /// A drain began.
    pub fn draining(&self) {
        self.0.conditions.fetch_or(DRAINING, Ordering::Relaxed);
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.0.conditions.load(Ordering::Relaxed) == CONFIGURED | SERVING
            && unix_seconds() < self.until()
    }

    /// It is ready before this Unix second alone; the last one said holds.
    pub fn ready_until(&self, second: i64) {
        self.0.until.store(second, Ordering::Relaxed);
    }

    /// What was said last with [`Self::ready_until`].
    pub fn until(&self) -> i64 {
        self.0.until.load(Ordering::Relaxed)
    }
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Answers of the status port.
pub fn handler(readiness: Readiness, prober: Option<Prober>) -> Handler {
    let prober = prober.map(Arc::new);
    Arc::new(move |head| match &prober {
        Some(prober) if head.uri.path().starts_with("/app-") => {
            let (prober, head) = (prober.clone(), head.clone());
            Box::pin(async move { probed(&prober, &head).await })
        }
        _ => at_once(answer(&readiness, head)),
    })
}

/// What the application answers to a probe; one that nobody declared is Istio's 400.
async fn probed(prober: &Prober, head: &request::Parts) -> Answer {
    match prober.ask(head).await {
        Some(health) => answer::text(health.status, health.body),
        None => answer::text(StatusCode::BAD_REQUEST, "no such probe was declared\n"),
    }
}

fn answer(readiness: &Readiness, head: &request::Parts) -> Answer {
    let healthy = match head.uri.path() {
        "/healthz/ready" => readiness.is_ready(),
        "/healthz/live" => true,
        _ => return answer::empty(StatusCode::NOT_FOUND),
    };
    if head.method == Method::POST {
        return answer::wrong_method("GET, HEAD");
    }
    answer::empty(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

#[cfg(test)]
mod tests {
    use super::super::server::tests::exchange;
    use super::*;

    fn check(readiness: &Readiness, path: &str, status: u16) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: 10.0.0.1:15021\r\n\r\n");
        let answer = exchange(handler(readiness.clone(), None), &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{path} has a body: {answer}");
    }

    #[test]
    fn ready_needs_configuration_and_workers_and_ends_with_the_drain() {
        let readiness = Readiness::default();
        check(&readiness, "/healthz/ready", 503);
        readiness.configured();
        check(&readiness, "/healthz/ready", 503);
        readiness.serving();
        check(&readiness, "/healthz/ready", 200);
        readiness.ready_until(unix_seconds() - 1);
        check(&readiness, "/healthz/ready", 503);
        readiness.ready_until(unix_seconds() + 1_000);
        check(&readiness, "/healthz/ready", 200);
        readiness.draining();
        check(&readiness, "/healthz/ready", 503);
        readiness.configured();
        check(&readiness, "/healthz/ready", 503);
        check(&readiness, "/healthz/live", 200);
    }

    #[test]
    fn nothing_else_is_served() {
        for path in ["/", "/healthz", "/healthz/ready/", "/metrics", "/config_dump"] {
            check(&Readiness::default(), path, 404);
        }
    }
}
