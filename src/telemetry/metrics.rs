//! The process's metrics: one [`Metrics`], shared by every part.
//!
//! **Invariant:** every label value is fixed in the program or comes from configuration; nothing a
//! client sends becomes one.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};

use super::exposition;
use super::registry::Registered;
use super::series::{Count, SeriesTable, lock};
use super::worker::{RequestKey, RequestSeries, TcpKey, TcpSeries, UpstreamSeries, WorkerMetrics};
use crate::base::id::Generation;
use crate::base::limit;

/// Metrics that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be registered")]
pub struct MetricsError(#[from] prometheus::Error);

/// Source labels of Istio's standard metrics: this gateway. An empty text is shown as `unknown` (an
/// empty revision as `latest`).
#[derive(Clone, Debug, Default)]
pub struct SourceLabels {
    /// `source_workload`.
    pub workload: Box<str>,
    /// `source_canonical_service`.
    pub canonical_service: Box<str>,
    /// `source_canonical_revision`.
    pub canonical_revision: Box<str>,
    /// `source_workload_namespace`.
    pub workload_namespace: Box<str>,
    /// `source_app`.
    pub app: Box<str>,
    /// `source_version`.
    pub version: Box<str>,
    /// `source_cluster`.
    pub cluster: Box<str>,
}

/// How a client's TLS handshake ended (`portcullis_tls_handshakes_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// Done with a full exchange.
    Ok,
    /// Done by resuming a session.
    Resumed,
    /// Not for us to do: the stream is passed through.
    Passthrough,
    /// No server block serves the name, or there was none.
    NoSniMatch,
    /// No whole ClientHello in time.
    HelloTimeout,
    /// The first bytes are TLS, but not a ClientHello within its bounds.
    HelloMalformed,
    /// Not done in time.
    Timeout,
    /// The client's certificate is missing or refused.
    ClientCertificate,
    /// No common version, cipher or application protocol, or a broken message.
    Protocol,
    /// The client spoke without TLS.
    Plaintext,
    /// The client left.
    Closed,
    /// The server block has no usable certificate.
    NoCertificate,
}

impl HandshakeOutcome {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Resumed => "resumed",
            Self::Passthrough => "passthrough",
            Self::NoSniMatch => "no_sni_match",
            Self::HelloTimeout => "hello_timeout",
            Self::HelloMalformed => "hello_malformed",
            Self::Timeout => "timeout",
            Self::ClientCertificate => "client_certificate",
            Self::Protocol => "protocol",
            Self::Plaintext => "plaintext",
            Self::Closed => "closed",
            Self::NoCertificate => "no_certificate",
        }
    }
}

/// What a client's connection is (`portcullis_connections_active`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Accepted; hello or handshake under way.
    Handshake,
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// A TCP route, TLS ended here or not used.
    Tcp,
    /// TLS passed through.
    Passthrough,
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Handshake, Self::Http, Self::Tcp, Self::Passthrough];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Passthrough => "passthrough",
        }
    }
}

/// A client's connection; counted in `portcullis_connections_active` until dropped.
#[derive(Debug)]
pub struct OpenConnection {
    gauges: Arc<[IntGauge; ConnectionKind::ALL.len()]>,
    kind: ConnectionKind,
}

impl OpenConnection {
    /// Says what the connection turned out to be.
    pub fn becomes(&mut self, kind: ConnectionKind) {
        self.gauge().inspect(|gauge| gauge.dec());
        self.kind = kind;
        self.gauge().inspect(|gauge| gauge.inc());
    }

    fn gauge(&self) -> Option<&IntGauge> {
        self.gauges.get(self.kind as usize)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge().inspect(|gauge| gauge.dec());
    }
}

/// How a reload ended (`portcullis_reloads_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// A new snapshot is live.
    Published,
    /// The files hold what is live already.
    Unchanged,
    /// The old snapshot was kept.
    Failed,
}

impl ReloadResult {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

/// One reload.
#[derive(Clone, Copy, Debug)]
pub struct ReloadSample<'a> {
    /// How it ended.
    pub result: ReloadResult,
    /// From the change being seen to its end.
    pub duration: Duration,
    /// Generation that is live now.
    pub generation: Generation,
    /// Hash of the configuration that is live now.
    pub hash: &'a str,
    /// Error diagnostics of the configuration just read.
    pub errors: usize,
    /// Warning diagnostics of the configuration just read.
    pub warnings: usize,
    /// When it ended, in seconds since 1970.
    pub finished_unix_seconds: i64,
}

/// When a certificate ends (`portcullis_certificate_expiry_timestamp_seconds`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateExpiry {
    /// What it is for: `server`, `client_ca`, `identity`, `upstream_ca` and so on.
    pub kind: &'static str,
    /// Credential name or file.
    pub name: Box<str>,
    /// Serial number, hexadecimal.
    pub serial: Box<str>,
    /// `notAfter`, in seconds since 1970.
    pub not_after_unix_seconds: i64,
}

/// State of one issuer's key set (`portcullis_jwks_*`). Hold it as long as the issuer is configured:
/// the series go with the last holder.
#[derive(Clone, Debug)]
pub struct JwksMetrics(Arc<JwksSeries>);

#[derive(Debug, Default)]
pub(super) struct JwksSeries {
    pub(super) keys: Count,
    pub(super) last_success: Count,
    pub(super) failures: Count,
    pub(super) ready: Count,
    pub(super) next_fetch: Count,
    pub(super) last_error: Mutex<Option<&'static str>>,
}

impl JwksMetrics {
    /// A key set was fetched or read; call it from one task per issuer.
    pub fn fetched(&self, keys: usize, unix_seconds: u64) {
        self.0.keys.set(keys as u64);
        self.0.last_success.set(unix_seconds);
        self.0.ready.set(1);
        *lock(&self.0.last_error) = None;
    }

    /// A rule holds keys itself.
    pub fn written(&self, keys: usize) {
        self.0.keys.set(keys as u64);
        self.0.ready.set(1);
    }

    /// When the set is fetched next, in Unix seconds.
    pub fn next_fetch(&self, unix_seconds: u64) {
        self.0.next_fetch.set(unix_seconds);
    }

    /// A fetch failed, by the class of its error; keys held before stay in use. Call it from one task per issuer.
    pub fn failed(&self, class: &'static str) {
        self.0.failures.add(1);
        *lock(&self.0.last_error) = Some(class);
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    pub(super) source: SourceLabels,
    pub(super) requests: SeriesTable<RequestKey, RequestSeries>,
    pub(super) tcp: SeriesTable<TcpKey, TcpSeries>,
    pub(super) upstreams: SeriesTable<Box<str>, UpstreamSeries>,
    pub(super) jwks: SeriesTable<(Box<str>, Box<str>), JwksSeries>,
    pub(super) certificates: Mutex<Vec<CertificateExpiry>>,
    pub(super) active: Mutex<Vec<Arc<AtomicI64>>>,
    pub(super) registered: Registered,
    workers: AtomicU32,
}

impl Metrics {
    /// Sets up every metric.
    pub fn new(source: SourceLabels) -> Result<Arc<Self>, MetricsError> {
        Ok(Arc::new(Self {
            source,
            requests: SeriesTable::new(limit::METRIC_SERIES),
            tcp: SeriesTable::new(limit::METRIC_SERIES),
            upstreams: SeriesTable::new(limit::CONFIG_FILES),
            jwks: SeriesTable::new(limit::METRIC_SERIES),
            certificates: Mutex::default(),
            active: Mutex::default(),
            registered: Registered::new()?,
            workers: AtomicU32::new(0),
        }))
    }

    /// Metrics for one more worker thread.
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let active = Arc::<AtomicI64>::default();
        lock(&self.active).push(active.clone());
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        WorkerMetrics::new(self.clone(), number, active)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> i64 {
        self.registered.connections_active.iter().map(IntGauge::get).sum()
    }

    /// Counts an accepted connection, until the returned value is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.registered.connections_total.inc();
        let connection = OpenConnection {
            gauges: self.registered.connections_active.clone(),
            kind: ConnectionKind::Handshake,
        };
        connection.gauge().inspect(|gauge| gauge.inc());
        connection
    }

    /// Counts a connection closed at once, `limit` for example.
    pub fn connection_refused(&self, reason: &'static str) {
        self.registered.connections_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a client's handshake. `server` names the server block from configuration; empty when
    /// none was chosen.
    pub fn handshake(&self, server: &str, outcome: HandshakeOutcome) {
        let server = self.registered.server_label(server);
        self.registered.handshakes.with_label_values(&[outcome.as_str(), server]).inc();
    }

    /// Counts an answer made here instead of by a backend.
    pub fn rejection(&self, reason: &'static str) {
        self.registered.rejections.with_label_values(&[reason]).inc();
    }

    /// Records a reload.
    pub fn reload(&self, sample: &ReloadSample<'_>) {
        self.registered.reload.record(sample);
    }

    /// Replaces the set of certificates in use.
    pub fn set_certificates(&self, mut certificates: Vec<CertificateExpiry>) {
        certificates.sort();
        certificates.dedup();
        *lock(&self.certificates) = certificates;
    }

    /// State of one issuer's key set; `uri` is empty for inline keys.
    pub fn jwks(&self, issuer: &str, uri: &str) -> JwksMetrics {
        let other = |_| ("other".into(), "other".into());
        JwksMetrics(self.jwks.series((issuer.into(), uri.into()), 0, other))
    }

    /// Counter of access log lines that were dropped.
    pub fn access_log_dropped(&self) -> IntCounter {
        self.registered.access_log_dropped.clone()
    }

    /// Everything in Prometheus' text format 0.0.4. Reads `/proc/self`; call it off the workers.
    pub fn render(&self) -> String {
        self.upstreams.forget_unused();
        self.jwks.forget_unused();
        exposition::render(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::{ConnectOutcome, Protocol, RequestSample};
    use super::*;
    use crate::base::labels::DestinationLabels;

    fn metrics() -> Arc<Metrics> {
        let source = SourceLabels {
            workload: "istio-ingressgateway".into(),
            workload_namespace: "istio-system".into(),
            ..SourceLabels::default()
        };
        Metrics::new(source).unwrap()
    }

    fn destination(name: &str) -> Arc<DestinationLabels> {
        Arc::new(DestinationLabels {
            service: format!("{name}.shop.svc.cluster.local").into(),
            service_name: name.into(),
            service_namespace: "shop".into(),
            principal: "spiffe://cluster.local/ns/shop/sa/cart".into(),
            ..DestinationLabels::default()
        })
    }

    fn sample(destination: &Arc<DestinationLabels>, code: u16) -> RequestSample<'_> {
        RequestSample {
            destination,
            code,
            flags: "-",
            protocol: Protocol::Http,
            grpc_status: None,
            duration: Duration::from_micros(1500),
            request_bytes: 0,
            response_bytes: 1024,
        }
    }

    fn check(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.render();
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn request_series_carry_istios_labels_in_order() {
        let metrics = metrics();
        metrics.worker().request(&sample(&destination("cart"), 200));
        let labels = "reporter=\"source\",source_workload=\"istio-ingressgateway\",source_canonical_service=\"unknown\",source_canonical_revision=\"latest\",source_workload_namespace=\"istio-system\",source_principal=\"unknown\",source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"unknown\",destination_workload=\"unknown\",destination_workload_namespace=\"unknown\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",destination_app=\"unknown\",destination_version=\"unknown\",destination_service=\"cart.shop.svc.cluster.local\",destination_canonical_service=\"unknown\",destination_canonical_revision=\"latest\",destination_service_name=\"cart\",destination_service_namespace=\"shop\",destination_cluster=\"unknown\",request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"unknown\"";
        check(
            &metrics,
            &[
                "# TYPE istio_requests_total counter",
                &format!("istio_requests_total{{{labels}}} 1"),
                "# TYPE istio_request_duration_milliseconds histogram",
                &format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"1\"}} 0"),
                &format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"5\"}} 1"),
                &format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"+Inf\"}} 1"),
                &format!("istio_request_duration_milliseconds_sum{{{labels}}} 1.5"),
                &format!("istio_request_bytes_bucket{{{labels},le=\"0.5\"}} 1"),
                &format!("istio_response_bytes_sum{{{labels}}} 1024"),
                &format!("istio_response_bytes_count{{{labels}}} 1"),
            ],
        );
    }

    #[test]
    fn workers_and_equal_labels_add_up_to_one_series() {
        let metrics = metrics();
        for _ in 0..2 {
            let worker = metrics.worker();
            worker.request(&sample(&destination("cart"), 200));
            worker.request(&sample(&destination("cart"), 200));
        }
        let text = metrics.render();
        let mut counts = text.lines().filter(|line| line.starts_with("istio_requests_total"));
        assert!(counts.next().is_some_and(|line| line.ends_with(" 4")), "{text}");
        assert_eq!(counts.next(), None);
    }

    #[test]
    fn label_sets_beyond_the_bound_are_counted_under_other() {
        let metrics = metrics();
        let worker = metrics.worker();
        for n in 0..limit::METRIC_SERIES + 500 {
            worker.request(&sample(&destination(&format!("s{n}")), 404));
        }
        let text = metrics.render();
        let series = || text.lines().filter(|line| line.starts_with("istio_requests_total"));
        assert_eq!(series().count(), limit::METRIC_SERIES + 1);
        let other = series().find(|line| line.contains("destination_service=\"other\"")).unwrap();
        assert!(other.contains("response_code=\"400\"") && other.ends_with(" 500"), "{other}");
    }

    #[test]
    fn tcp_series_have_no_response_code() {
        let metrics = metrics();
        let worker = metrics.worker();
        let cart = destination("cart");
        worker.tcp_opened(&cart);
        worker.tcp_bytes(&cart, 10, 20);
        worker.tcp_closed(&cart, "UF");
        let text = metrics.render();
        let tail = |name: &str, flags: &str, value: u32| {
            let end = format!(
                "request_protocol=\"tcp\",response_flags=\"{flags}\",connection_security_policy=\"unknown\"}} {value}"
            );
            assert!(
                text.lines().any(|l| l.starts_with(name) && l.ends_with(&end)),
                "{name}\n{text}"
            );
        };
        tail("istio_tcp_connections_opened_total", "-", 1);
        tail("istio_tcp_connections_closed_total", "UF", 1);
        tail("istio_tcp_sent_bytes_total", "-", 10);
        tail("istio_tcp_received_bytes_total", "-", 20);
    }

    #[test]
    fn own_metrics_have_their_labels() {
        let metrics = metrics();
        let worker = metrics.worker();
        let _request = worker.request_started();
        let mut connection = metrics.connection_opened();
        connection.becomes(ConnectionKind::Http);
        metrics.handshake("443", HandshakeOutcome::Resumed);
        metrics.rejection("jwt_expired");
        metrics.connection_refused("limit");
        let upstream = worker.upstream("outbound|80||cart");
        upstream.connect(ConnectOutcome::Tls);
        upstream.idle(2);
        let jwks = metrics.jwks("https://issuer", "https://issuer/keys");
        jwks.fetched(3, 1_700_000_000);
        jwks.failed("timeout");
        jwks.next_fetch(1_700_000_060);
        check(
            &metrics,
            &[
                "portcullis_requests_active 1",
                "portcullis_connections_active{kind=\"http\"} 1",
                "portcullis_connections_active{kind=\"handshake\"} 0",
                "portcullis_connections_total 1",
                "portcullis_connections_refused_total{reason=\"limit\"} 1",
                "portcullis_tls_handshakes_total{outcome=\"resumed\",server=\"443\"} 1",
                "portcullis_rejections_total{reason=\"jwt_expired\"} 1",
                "portcullis_upstream_connects_total{cluster=\"outbound|80||cart\",outcome=\"tls\"} 1",
                "portcullis_upstream_connections{cluster=\"outbound|80||cart\",state=\"idle\"} 2",
                "portcullis_jwks_keys{issuer=\"https://issuer\",uri=\"https://issuer/keys\"} 3",
                "portcullis_jwks_failures_total{issuer=\"https://issuer\",uri=\"https://issuer/keys\"} 1",
                "portcullis_jwks_ready{issuer=\"https://issuer\",uri=\"https://issuer/keys\"} 1",
                "portcullis_jwks_next_fetch_timestamp_seconds{issuer=\"https://issuer\",uri=\"https://issuer/keys\"} 1700000060",
                "portcullis_jwks_last_error{issuer=\"https://issuer\",uri=\"https://issuer/keys\",class=\"timeout\"} 1",
                "portcullis_access_log_dropped_total 0",
            ],
        );
        drop((connection, upstream, jwks));
        let text = metrics.render();
        assert!(text.contains("portcullis_connections_active{kind=\"http\"} 0"));
        assert!(!text.contains("outbound|80||cart") && !text.contains("https://issuer"));
    }

    #[test]
    fn reloads_and_certificates_replace_what_was_shown() {
        let metrics = metrics();
        for (hash, result) in [("aa", ReloadResult::Published), ("bb", ReloadResult::Published)] {
            metrics.reload(&ReloadSample {
                result,
                duration: Duration::from_millis(20),
                generation: Generation(2),
                hash,
                errors: 1,
                warnings: 3,
                finished_unix_seconds: 1_700_000_000,
            });
            metrics.set_certificates(vec![CertificateExpiry {
                kind: "server",
                name: "shop \"cert\"".into(),
                serial: hash.into(),
                not_after_unix_seconds: 1_800_000_000,
            }]);
        }
        check(
            &metrics,
            &[
                "portcullis_reloads_total{result=\"published\"} 2",
                "portcullis_config_generation 2",
                "portcullis_config_hash_info{hash=\"bb\"} 1",
                "portcullis_config_diagnostics{severity=\"error\"} 1",
                "portcullis_config_diagnostics{severity=\"warning\"} 3",
                "portcullis_config_last_success_timestamp_seconds 1700000000",
                "portcullis_certificate_expiry_timestamp_seconds{kind=\"server\",name=\"shop \\\"cert\\\"\",serial=\"bb\"} 1800000000",
            ],
        );
        assert!(!metrics.render().contains("\"aa\""));
    }
}
