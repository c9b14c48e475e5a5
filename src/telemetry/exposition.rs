//! Prometheus' text format, version 0.0.4.
//!
//! The `prometheus` crate sorts labels by name; the standard metrics keep Istio's order, so their
//! lines are written here.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::TextEncoder;

use super::metrics::{CertificateExpiry, JwksSeries, Metrics, SourceLabels};
use super::process;
use super::series::{BUCKETS, Count, Histogram, HistogramTotal, lock};
use super::worker::{BOUNDS, ConnectOutcome, Protocol, RequestSeries, TcpSeries, UpstreamSeries};
use crate::base::labels::DestinationLabels;

/// All metrics.
pub(super) fn render(metrics: &Metrics) -> String {
    let mut out = String::with_capacity(16 << 10);
    requests(&mut out, metrics);
    tcp(&mut out, metrics);
    upstreams(&mut out, metrics);
    jwks(&mut out, metrics);
    certificates(&mut out, &lock(&metrics.certificates));
    let active: i64 = lock(&metrics.active).iter().map(|n| n.load(Ordering::Relaxed)).sum();
    family(&mut out, "portcullis_requests_active", "gauge", "Requests being served now.");
    sample(&mut out, "portcullis_requests_active", "", active);
    process::render(&mut out);
    if TextEncoder::new().encode_utf8(&metrics.registered.registry.gather(), &mut out).is_err() {
        tracing::error!("metrics cannot be encoded");
    }
    out
}

/// Starts a family: its help and its type.
pub(super) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One line; `labels` are rendered pairs without braces.
pub(super) fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
}

fn requests(out: &mut String, metrics: &Metrics) {
    let all: Vec<(String, Vec<Arc<RequestSeries>>)> = metrics
        .requests
        .all()
        .into_iter()
        .map(|(key, copies)| {
            let mut labels = peers(&metrics.source, &key.destination, key.protocol);
            pair(&mut labels, "response_code", &key.code.to_string());
            let grpc = key.grpc_status.map(|status| status.to_string()).unwrap_or_default();
            pair(&mut labels, "grpc_response_status", &grpc);
            pair(&mut labels, "response_flags", key.flags);
            pair(&mut labels, "connection_security_policy", "unknown");
            (labels, copies)
        })
        .collect();
    if all.is_empty() {
        return;
    }
    family(out, "istio_requests_total", "counter", "Requests, counted at their end.");
    for (labels, copies) in &all {
        let total: u64 = copies.iter().map(|series| series.requests.value()).sum();
        sample(out, "istio_requests_total", labels, total);
    }
    let name = "istio_request_duration_milliseconds";
    histograms(out, &all, (name, "Whole time of a request.", 1000.0), |s| &s.duration);
    let name = "istio_request_bytes";
    histograms(out, &all, (name, "Bytes of a request.", 1.0), |s| &s.request_bytes);
    let name = "istio_response_bytes";
    histograms(out, &all, (name, "Bytes of a response.", 1.0), |s| &s.response_bytes);
}

/// One histogram family; its description is name, help, and how many units of the sum make one shown.
fn histograms(
    out: &mut String,
    all: &[(String, Vec<Arc<RequestSeries>>)],
    (name, help, scale): (&str, &str, f64),
    histogram: impl Fn(&RequestSeries) -> &Histogram,
) {
    family(out, name, "histogram", help);
    for (labels, copies) in all {
        let mut total = HistogramTotal::default();
        for series in copies {
            total.add(histogram(series));
        }
        let mut count = 0_u64;
        for (number, bucket) in total.counts.iter().enumerate() {
            count = count.wrapping_add(*bucket);
            let _ = match BUCKETS.get(number) {
                Some(bound) => writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}"),
                None => writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}"),
            };
        }
        #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating point")]
        let sum = total.sum as f64 / scale;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

fn tcp(out: &mut String, metrics: &Metrics) {
    let all: Vec<(String, Vec<Arc<TcpSeries>>)> = metrics
        .tcp
        .all()
        .into_iter()
        .map(|(key, copies)| {
            let mut labels = peers(&metrics.source, &key.destination, Protocol::Tcp);
            pair(&mut labels, "response_flags", key.flags);
            pair(&mut labels, "connection_security_policy", "unknown");
            (labels, copies)
        })
        .collect();
    let mut counter = |name: &str, help: &str, value: fn(&TcpSeries) -> u64| {
        if !all.is_empty() {
            family(out, name, "counter", help);
        }
        for (labels, copies) in &all {
            sample(out, name, labels, copies.iter().map(|series| value(series)).sum::<u64>());
        }
    };
    counter("istio_tcp_connections_opened_total", "TCP streams opened.", |s| s.opened.value());
    counter("istio_tcp_connections_closed_total", "TCP streams closed.", |s| s.closed.value());
    counter("istio_tcp_sent_bytes_total", "Bytes sent to clients.", |s| s.sent.value());
    counter("istio_tcp_received_bytes_total", "Bytes received from clients.", |s| {
        s.received.value()
    });
}

fn upstreams(out: &mut String, metrics: &Metrics) {
    let all = metrics.upstreams.all();
    if all.is_empty() {
        return;
    }
    let name = "portcullis_upstream_connections";
    family(out, name, "gauge", "Connections to backends open now.");
    for (cluster, copies) in &all {
        let mut gauge = |state: &str, value: fn(&UpstreamSeries) -> i64| {
            let labels = pairs(&[("cluster", cluster), ("state", state)]);
            sample(out, name, &labels, copies.iter().map(|series| value(series)).sum::<i64>());
        };
        gauge("active", |series| series.active.load(Ordering::Relaxed));
        gauge("idle", |series| series.idle.load(Ordering::Relaxed));
    }
    let name = "portcullis_upstream_connects_total";
    family(out, name, "counter", "Attempts to connect to backends by how they ended.");
    for (cluster, copies) in &all {
        for outcome in ConnectOutcome::ALL {
            let total: u64 = copies
                .iter()
                .filter_map(|series| series.connects.get(outcome as usize))
                .map(Count::value)
                .sum();
            let labels = pairs(&[("cluster", cluster), ("outcome", outcome.as_str())]);
            sample(out, name, &labels, total);
        }
    }
    pressure(out, &all);
}

/// Overflows and ejections, of clusters that had some.
fn pressure(out: &mut String, all: &[(Box<str>, Vec<Arc<UpstreamSeries>>)]) {
    let total = |copies: &[Arc<UpstreamSeries>], value: &dyn Fn(&UpstreamSeries) -> u64| {
        copies.iter().map(|series| value(series)).sum::<u64>()
    };
    let overflow = |number: usize| {
        move |series: &UpstreamSeries| series.overflows.get(number).map_or(0, Count::value)
    };
    let ejections = |series: &UpstreamSeries| series.ejections.value();
    let spared = |series: &UpstreamSeries| series.spared.value();
    let name = "portcullis_upstream_overflows_total";
    let mut lines =
        Lines::new(name, "counter", "What a limit of connectionPool kept from being done.");
    for (cluster, copies) in all {
        for (number, bound) in BOUNDS.iter().enumerate() {
            let count = total(copies, &overflow(number));
            lines.add(out, count > 0, &[("cluster", cluster), ("limit", bound)], count);
        }
    }
    let name = "portcullis_outlier_ejections_total";
    let mut lines =
        Lines::new(name, "counter", "Endpoints that failed too often, by what came of it.");
    for (cluster, copies) in all {
        for (outcome, count) in
            [("ejected", total(copies, &ejections)), ("spared", total(copies, &spared))]
        {
            lines.add(out, count > 0, &[("cluster", cluster), ("outcome", outcome)], count);
        }
    }
    let mut lines = Lines::new("portcullis_outlier_ejected", "gauge", "Endpoints ejected now.");
    for (cluster, copies) in all {
        let now: i64 = copies.iter().map(|series| series.ejected.load(Ordering::Relaxed)).sum();
        lines.add(out, total(copies, &ejections) > 0, &[("cluster", cluster)], now);
    }
}

/// A family that is started by its first line.
struct Lines {
    start: Option<(&'static str, &'static str)>,
    name: &'static str,
}

impl Lines {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self { start: Some((kind, help)), name }
    }

    fn add(
        &mut self,
        out: &mut String,
        shown: bool,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        if !shown {
            return;
        }
        if let Some((kind, help)) = self.start.take() {
            family(out, self.name, kind, help);
        }
        sample(out, self.name, &pairs(labels), value);
    }
}

fn jwks(out: &mut String, metrics: &Metrics) {
    let all = metrics.jwks.all();
    if all.is_empty() {
        return;
    }
    let mut write = |name: &str, kind: &str, help: &str, value: fn(&JwksSeries) -> u64| {
        family(out, name, kind, help);
        for ((issuer, uri), copies) in &all {
            let labels = pairs(&[("issuer", issuer), ("uri", uri)]);
            sample(out, name, &labels, copies.iter().map(|series| value(series)).sum::<u64>());
        }
    };
    write("portcullis_jwks_keys", "gauge", "Keys held for an issuer.", |s| s.keys.value());
    write(
        "portcullis_jwks_last_success_timestamp_seconds",
        "gauge",
        "Unix time of the last good fetch.",
        |s| s.last_success.value(),
    );
    write("portcullis_jwks_failures_total", "counter", "Fetches that failed.", |s| {
        s.failures.value()
    });
    write("portcullis_jwks_ready", "gauge", "1 once keys are held.", |s| s.ready.value());
    write(
        "portcullis_jwks_next_fetch_timestamp_seconds",
        "gauge",
        "Unix time of the next fetch; 0 for keys that are not fetched.",
        |s| s.next_fetch.value(),
    );
    let name = "portcullis_jwks_last_error";
    family(out, name, "gauge", "1 while the last fetch failed, by the class of its error.");
    for ((issuer, uri), copies) in &all {
        for class in copies.iter().filter_map(|series| *lock(&series.last_error)) {
            let labels = pairs(&[("issuer", issuer), ("uri", uri), ("class", class)]);
            sample(out, name, &labels, 1);
        }
    }
}

fn certificates(out: &mut String, certificates: &[CertificateExpiry]) {
    if certificates.is_empty() {
        return;
    }
    let name = "portcullis_certificate_expiry_timestamp_seconds";
    family(out, name, "gauge", "Unix time at which a certificate ends.");
    for certificate in certificates {
        let labels = pairs(&[
            ("kind", certificate.kind),
            ("name", &certificate.name),
            ("serial", &certificate.serial),
        ]);
        sample(out, name, &labels, certificate.not_after_unix_seconds);
    }
}

/// Labels that requests and TCP streams share, in Istio's order.
fn peers(source: &SourceLabels, to: &DestinationLabels, protocol: Protocol) -> String {
    let mut labels = String::with_capacity(1024);
    pair(&mut labels, "reporter", "source");
    for (name, value, missing) in [
        ("source_workload", &source.workload, "unknown"),
        ("source_canonical_service", &source.canonical_service, "unknown"),
        ("source_canonical_revision", &source.canonical_revision, "latest"),
        ("source_workload_namespace", &source.workload_namespace, "unknown"),
        ("source_principal", &to.source_principal, "unknown"),
        ("source_app", &source.app, "unknown"),
        ("source_version", &source.version, "unknown"),
        ("source_cluster", &source.cluster, "unknown"),
        ("destination_workload", &to.workload, "unknown"),
        ("destination_workload_namespace", &to.workload_namespace, "unknown"),
        ("destination_principal", &to.principal, "unknown"),
        ("destination_app", &to.app, "unknown"),
        ("destination_version", &to.version, "unknown"),
        ("destination_service", &to.service, "unknown"),
        ("destination_canonical_service", &to.canonical_service, "unknown"),
        ("destination_canonical_revision", &to.canonical_revision, "latest"),
        ("destination_service_name", &to.service_name, "unknown"),
        ("destination_service_namespace", &to.service_namespace, "unknown"),
        ("destination_cluster", &to.cluster, "unknown"),
    ] {
        pair(&mut labels, name, if value.is_empty() { missing } else { value });
    }
    pair(&mut labels, "request_protocol", protocol.as_str());
    labels
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
