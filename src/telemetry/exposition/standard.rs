//! Istio's standard metrics.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::catalog::{self, Family};
use super::super::destination::{Protocol, RequestKey, RequestSeries, TcpKey, TcpSeries};
use super::super::histogram::{BUCKETS, Histogram, HistogramTotal};
use super::super::messages::MessageSeries;
use super::super::metrics::{Metrics, WorkloadLabels};
use super::super::series::Copies;
use super::{Lines, family, pair, sample};
use crate::base::labels::{DestinationLabels, Reporter};

type Request = Copies<RequestKey, RequestSeries>;
type Stream = Copies<TcpKey, TcpSeries>;
type Messages = Copies<Arc<DestinationLabels>, MessageSeries>;

pub(super) fn requests(metrics: &Arc<Metrics>) -> Lines {
    let all: Arc<[Request]> = metrics.requests.all().into();
    let shared = metrics.clone();
    let counts = family(&catalog::REQUESTS, &all, move |out, (key, copies)| {
        let total: u64 = copies.iter().map(|series| series.requests.value()).sum();
        sample(out, catalog::REQUESTS.name, &request_labels(&shared.own, key), total);
    });
    let histogram = |described: &'static Family,
                     scale: f64,
                     of: fn(&RequestSeries) -> &Histogram| {
        let shared = metrics.clone();
        family(described, &all, move |out, (key, copies): &Request| {
            let mut total = HistogramTotal::default();
            for series in copies {
                total.add(of(series));
            }
            write_histogram(out, described.name, &request_labels(&shared.own, key), &total, scale);
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
            sample(out, described.name, &peers(&shared.own, to), total);
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
            sample(out, described.name, &stream_labels(&shared.own, key), total);
        })
    };
    Box::new(
        counter(&catalog::OPENED, |series| series.opened.value())
            .chain(counter(&catalog::CLOSED, |series| series.closed.value()))
            .chain(counter(&catalog::SENT, |series| series.sent.value()))
            .chain(counter(&catalog::RECEIVED, |series| series.received.value())),
    )
}

fn request_labels(own: &WorkloadLabels, key: &RequestKey) -> String {
    let mut labels = peers(own, &key.destination);
    pair(&mut labels, "request_protocol", key.protocol.as_str());
    pair(&mut labels, "response_code", &key.code.to_string());
    let grpc = key.grpc_status.map(|status| status.to_string()).unwrap_or_default();
    pair(&mut labels, "grpc_response_status", &grpc);
    ending(&mut labels, &key.destination, key.flags);
    labels
}

fn stream_labels(own: &WorkloadLabels, key: &TcpKey) -> String {
    let mut labels = peers(own, &key.destination);
    pair(&mut labels, "request_protocol", Protocol::Tcp.as_str());
    ending(&mut labels, &key.destination, key.flags);
    labels
}

fn ending(labels: &mut String, to: &DestinationLabels, flags: &str) {
    pair(labels, "response_flags", flags);
    let security = match to.reporter {
        Reporter::Source => "unknown",
        Reporter::Destination if to.source_principal.is_empty() => "none",
        Reporter::Destination => "mutual_tls",
    };
    pair(labels, "connection_security_policy", security);
}

/// Labels of both ends, in Istio's order.
fn peers(own: &WorkloadLabels, to: &DestinationLabels) -> String {
    match to.reporter {
        Reporter::Source => as_source(own, to),
        Reporter::Destination => as_destination(own, to),
    }
}

fn as_source(own: &WorkloadLabels, to: &DestinationLabels) -> String {
    shown(&[
        ("reporter", "source", ""),
        ("source_workload", &own.workload, UNKNOWN),
        ("source_canonical_service", &own.canonical_service, UNKNOWN),
        ("source_canonical_revision", &own.canonical_revision, LATEST),
        ("source_workload_namespace", &own.workload_namespace, UNKNOWN),
        ("source_principal", &to.source_principal, UNKNOWN),
        ("source_app", &own.app, UNKNOWN),
        ("source_version", &own.version, UNKNOWN),
        ("source_cluster", &own.cluster, UNKNOWN),
        ("destination_workload", &to.workload, UNKNOWN),
        ("destination_workload_namespace", &to.workload_namespace, UNKNOWN),
        ("destination_principal", &to.principal, UNKNOWN),
        ("destination_app", &to.app, UNKNOWN),
        ("destination_version", &to.version, UNKNOWN),
        ("destination_service", &to.service, UNKNOWN),
        ("destination_canonical_service", &to.canonical_service, UNKNOWN),
        ("destination_canonical_revision", &to.canonical_revision, LATEST),
        ("destination_service_name", &to.service_name, UNKNOWN),
        ("destination_service_namespace", &to.service_namespace, UNKNOWN),
        ("destination_cluster", &to.cluster, UNKNOWN),
    ])
}

/// Callers are known by their identity alone.
fn as_destination(own: &WorkloadLabels, to: &DestinationLabels) -> String {
    let mutual = !to.source_principal.is_empty();
    let or_own = |text: &'_ str| {
        if text.is_empty() { own.canonical_service.to_string() } else { text.to_owned() }
    };
    shown(&[
        ("reporter", "destination", ""),
        ("source_workload", "", UNKNOWN),
        ("source_canonical_service", "", UNKNOWN),
        ("source_canonical_revision", "", LATEST),
        ("source_workload_namespace", &to.source_namespace, UNKNOWN),
        ("source_principal", &to.source_principal, UNKNOWN),
        ("source_app", "", UNKNOWN),
        ("source_version", "", UNKNOWN),
        ("source_cluster", "", UNKNOWN),
        ("destination_workload", &own.workload, UNKNOWN),
        ("destination_workload_namespace", &own.workload_namespace, UNKNOWN),
        ("destination_principal", if mutual { &to.principal } else { "" }, UNKNOWN),
        ("destination_app", &own.app, UNKNOWN),
        ("destination_version", &own.version, UNKNOWN),
        ("destination_service", &or_own(&to.service), UNKNOWN),
        ("destination_canonical_service", &own.canonical_service, UNKNOWN),
        ("destination_canonical_revision", &own.canonical_revision, LATEST),
        ("destination_service_name", &or_own(&to.service_name), UNKNOWN),
        ("destination_service_namespace", &own.workload_namespace, UNKNOWN),
        ("destination_cluster", &own.cluster, UNKNOWN),
    ])
}

const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";

/// Names, values, and what an empty value is shown as.
fn shown(all: &[(&str, &str, &str)]) -> String {
    let mut labels = String::with_capacity(1024);
    for (name, value, missing) in all {
        pair(&mut labels, name, if value.is_empty() { missing } else { value });
    }
    labels
}
