//! The metrics port: `/stats/prometheus` and `/metrics`, Prometheus' text format 0.0.4.
//!
//! **Invariant:** a scrape reads; it changes no counter.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::answer;
use super::server::Handler;
use crate::telemetry::Metrics;

/// Answers of the metrics port.
pub fn handler(metrics: Arc<Metrics>) -> Handler {
    Arc::new(move |head| match head.uri.path() {
        "/stats/prometheus" | "/metrics" if head.method != Method::POST => {
            answer::body(StatusCode::OK, prometheus::TEXT_FORMAT, metrics.render())
        }
        "/stats/prometheus" | "/metrics" => answer::wrong_method("GET, HEAD"),
        _ => answer::text(StatusCode::NOT_FOUND, "metrics are at /metrics and /stats/prometheus\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::server::tests::exchange;
    use super::*;
    use crate::telemetry::SourceLabels;

    fn check(method: &str, path: &str, status: u16) -> String {
        let metrics = Metrics::new(SourceLabels::default()).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: gateway:15090\r\n\r\n");
        let answer = exchange(handler(metrics), &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        answer
    }

    #[test]
    fn both_paths_serve_the_text_format() {
        for path in ["/stats/prometheus", "/metrics"] {
            let answer = check("GET", path, 200);
            assert!(answer.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"), "{answer}");
            assert!(answer.contains("\nistio_build{component=\"proxy\",tag=\""), "{answer}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        check("GET", "/", 404);
        check("POST", "/metrics", 405);
    }
}
