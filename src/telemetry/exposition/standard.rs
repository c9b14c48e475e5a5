//! Istio's standard metrics.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::catalog::{self, Family};
use super::super::destination::{Protocol, RequestKey, RequestSeries, TcpKey, TcpSeries};
use super::super::histogram::{BUCKETS, Histogram, HistogramTotal};
use super::super::messages::MessageSeries;
use super::super::metrics::{Metrics, SourceLabels};
use super::super::series::Copies;
use super::{Lines, family, pair, sample};
use crate::base::labels::DestinationLabels;

type Request = Copies<RequestKey, RequestSeries>;
type Stream = Copies<TcpKey, TcpSeries>;
type Messages = Copies<Arc<DestinationLabels>, MessageSeries>;

pub(super) fn requests(metrics: &Arc<Metrics>) -> Lines {
    let all: Arc<[Request]> = metrics.requests.all().into();
    let shared = metrics.clone();
    let counts = family(&catalog::REQUESTS, &all, move |out, (key, copies)| {
        let total: u64 = copies.iter().map(|series| series.requests.value()).sum();
        sample(out, catalog::REQUESTS.name, &request_labels(&shared.source, key), total);
    });
    let histogram =
        |described: &'static Family, scale: f64, of: fn(&RequestSeries) -> &Histogram| {
            let shared = metrics.clone();
            family(described, &all, move |out, (key, copies): &Request| {
                let mut total = HistogramTotal::default();
                for series in copies {
                    total.add(of(series));
                }
                write_histogram(
                    out,
                    described.name,
                    &request_labels(&shared.source, key),
                    &total,
                    scale,
                );
            })
        };
    Box::new(
        counts
            .chain(histogram(&catalog::DURATION, 1000.0, |series| &series.duration))
            .chain(histogram(&catalog::REQUEST_BYTES, 1.0, |series| &series.request_bytes))
            .chain(histogram(&catalog::RESPONSE_BYTES, 1.0, |series| &series.response_bytes))
            .chain(messages(metrics)),
    )
}

/// Messages have the labels of both ends alone, as at Istio.
fn messages(metrics: &Arc<Metrics>) -> Lines {
    let all: Arc<[Messages]> = metrics.messages.all().into();
    let counter = |described: &'static Family, of: fn(&MessageSeries) -> u64| {
        let shared = metrics.clone();
        family(described, &all, move |out, (to, copies): &Messages| {
            let total: u64 = copies.iter().map(|series| of(series)).sum();
            sample(out, described.name, &peers(&shared.source, to), total);
        })
    };
    Box::new(
        counter(&catalog::REQUEST_MESSAGES, |series| series.requests.value())
            .chain(counter(&catalog::RESPONSE_MESSAGES, |series| series.responses.value())),
    )
}

/// One histogram; `scale` is how many units of its sum make one that is shown.
fn write_histogram(out: &mut String, name: &str, labels: &str, total: &HistogramTotal, scale: f64) {
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

pub(super) fn tcp(metrics: &Arc<Metrics>) -> Lines {
    let all: Arc<[Stream]> = metrics.tcp.all().into();
    let counter = |described: &'static Family, of: fn(&TcpSeries) -> u64| {
        let shared = metrics.clone();
        family(described, &all, move |out, (key, copies): &Stream| {
            let total: u64 = copies.iter().map(|series| of(series)).sum();
            sample(out, described.name, &stream_labels(&shared.source, key), total);
        })
    };
    Box::new(
        counter(&catalog::OPENED, |series| series.opened.value())
            .chain(counter(&catalog::CLOSED, |series| series.closed.value()))
            .chain(counter(&catalog::SENT, |series| series.sent.value()))
            .chain(counter(&catalog::RECEIVED, |series| series.received.value())),
    )
}

fn request_labels(source: &SourceLabels, key: &RequestKey) -> String {
    let mut labels = peers(source, &key.destination);
    pair(&mut labels, "request_protocol", key.protocol.as_str());
    pair(&mut labels, "response_code", &key.code.to_string());
    let grpc = key.grpc_status.map(|status| status.to_string()).unwrap_or_default();
    pair(&mut labels, "grpc_response_status", &grpc);
    ending(&mut labels, key.flags);
    labels
}

fn stream_labels(source: &SourceLabels, key: &TcpKey) -> String {
    let mut labels = peers(source, &key.destination);
    pair(&mut labels, "request_protocol", Protocol::Tcp.as_str());
    ending(&mut labels, key.flags);
    labels
}

fn ending(labels: &mut String, flags: &str) {
    pair(labels, "response_flags", flags);
    pair(labels, "connection_security_policy", "unknown");
}

/// Labels of both ends, in Istio's order.
fn peers(source: &SourceLabels, to: &DestinationLabels) -> String {
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
    labels
}
