//! The metrics port: `/stats/prometheus` and `/metrics`, Prometheus' text format 0.0.4.
//!
//! **Invariant:** a scrape reads; it changes no counter, and what it holds of the text is bounded,
//! however slowly it is read.

use std::sync::Arc;

use http::{Method, StatusCode, request};
use tokio::sync::Semaphore;

use super::answer::{self, Answer, Pieces};
use super::server::{Handler, at_once};
use crate::base::limit;
use crate::telemetry::Metrics;

/// Answers of the metrics port.
pub fn handler(metrics: Arc<Metrics>) -> Handler {
    let scrapes = Arc::new(Semaphore::new(limit::SCRAPES));
    Arc::new(move |head| at_once(answer(&metrics, &scrapes, head)))
}

fn answer(metrics: &Arc<Metrics>, scrapes: &Arc<Semaphore>, head: &request::Parts) -> Answer {
    match head.uri.path() {
        "/stats/prometheus" | "/metrics" if head.method != Method::POST => scrape(metrics, scrapes),
        "/stats/prometheus" | "/metrics" => answer::wrong_method("GET, HEAD"),
        _ => answer::text(StatusCode::NOT_FOUND, "metrics are at /metrics and /stats/prometheus\n"),
    }
}

fn scrape(metrics: &Arc<Metrics>, scrapes: &Arc<Semaphore>) -> Answer {
    let Ok(permit) = scrapes.clone().try_acquire_owned() else {
        return answer::busy("too many scrapes at once\n");
    };
    // The permit goes with the body.
    let pieces = metrics.exposition().inspect(move |_| _ = &permit);
    answer::body(StatusCode::OK, prometheus::TEXT_FORMAT, Pieces::new(pieces))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::super::server::tests::{exchange, start};
    use super::*;
    use crate::base::labels::DestinationLabels;
    use crate::telemetry::{Protocol, RequestSample, WorkloadLabels};

    fn check(method: &str, path: &str, status: u16) -> String {
        let metrics = Metrics::new(WorkloadLabels::default()).unwrap();
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
        let head = check("HEAD", "/metrics", 200);
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        check("GET", "/", 404);
        check("POST", "/metrics", 405);
    }

    /// Metrics of which a scrape is tens of megabytes.
    fn many() -> Arc<Metrics> {
        let metrics = Metrics::new(WorkloadLabels::default()).unwrap();
        let worker = metrics.worker();
        for n in 0..limit::METRIC_SERIES {
            let labels =
                DestinationLabels { service: format!("s{n}").into(), ..Default::default() };
            worker.destination(&Arc::new(labels)).request(&RequestSample {
                code: 200,
                flags: "-",
                protocol: Protocol::Http,
                grpc_status: None,
                duration: Duration::ZERO,
                request_bytes: 0,
                response_bytes: 0,
            });
        }
        metrics
    }

    async fn ask(address: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: gateway\r\n\r\n").await.unwrap();
        stream
    }

    async fn first_line(stream: &mut TcpStream) -> String {
        let mut line = vec![0; 12];
        stream.read_exact(&mut line).await.unwrap();
        String::from_utf8(line).unwrap()
    }

    #[tokio::test]
    async fn scrapes_nobody_reads_hold_neither_memory_nor_the_port() {
        let metrics = many();
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = made.clone();
        let (address, _server) = start(Arc::new(move |_| {
            let counted = counted.clone();
            let pieces = metrics.exposition().inspect(move |piece| {
                counted.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            });
            at_once(answer::body(StatusCode::OK, prometheus::TEXT_FORMAT, Pieces::new(pieces)))
        }))
        .await;
        let mut unread = Vec::new();
        for _ in 0..4 {
            let mut stream = ask(address).await;
            assert_eq!(first_line(&mut stream).await, "HTTP/1.1 200");
            unread.push(stream);
        }
        let mut read = Vec::new();
        ask(address).await.read_to_end(&mut read).await.unwrap();
        assert!(read.len() > 50 << 20, "{} bytes", read.len());
        assert!(read.ends_with(b"0\r\n\r\n"), "the end is missing");
        // What the kernel buffers of each, and little more.
        let held = made.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(read.len());
        assert!(held < 4 * (8 << 20), "{held} bytes were made for readers that do not read");
    }

    #[tokio::test]
    async fn scrapes_beyond_the_bound_are_refused_until_one_ends() {
        let (address, _server) = start(handler(many())).await;
        let mut scrapes = Vec::new();
        for _ in 0..limit::SCRAPES {
            let mut stream = ask(address).await;
            assert_eq!(first_line(&mut stream).await, "HTTP/1.1 200");
            scrapes.push(stream);
        }
        assert_eq!(first_line(&mut ask(address).await).await, "HTTP/1.1 503");
        scrapes.pop();
        let again = async {
            while first_line(&mut ask(address).await).await != "HTTP/1.1 200" {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), again).await.unwrap();
    }
}
