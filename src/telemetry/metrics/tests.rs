use std::collections::BTreeMap;

use super::super::catalog;
use super::super::config::ReloadResult;
use super::super::destination::{Protocol, RequestSample};
use super::super::downstream::ConnectionKind;
use super::super::keys::CRL;
use super::super::messages::Direction;
use super::super::upstream::ConnectOutcome;
use super::*;
use crate::base::id::Generation;
use crate::base::labels::DestinationLabels;

fn metrics() -> Arc<Metrics> {
    let source = WorkloadLabels {
        workload: "istio-ingressgateway".into(),
        workload_namespace: "istio-system".into(),
        ..WorkloadLabels::default()
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

fn render(metrics: &Arc<Metrics>) -> String {
    metrics.exposition().collect()
}

fn sample(code: u16) -> RequestSample {
    RequestSample {
        code,
        flags: "-",
        protocol: Protocol::Http,
        grpc_status: None,
        duration: Duration::from_micros(1500),
        request_bytes: 0,
        response_bytes: 1024,
    }
}

fn check(metrics: &Arc<Metrics>, lines: &[&str]) {
    let text = render(metrics);
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
    }
}

#[test]
fn request_series_carry_istios_labels_in_order() {
    let metrics = metrics();
    metrics.worker().destination(&destination("cart")).request(&sample(200));
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
        worker.destination(&destination("cart")).request(&sample(200));
        worker.destination(&destination("cart")).request(&sample(200));
    }
    let text = render(&metrics);
    let mut counts = text.lines().filter(|line| line.starts_with("istio_requests_total"));
    assert!(counts.next().is_some_and(|line| line.ends_with(" 4")), "{text}");
    assert_eq!(counts.next(), None);
}

#[test]
fn label_sets_beyond_the_bound_are_counted_under_other() {
    let metrics = metrics();
    let worker = metrics.worker();
    for n in 0..limit::METRIC_SERIES + 500 {
        worker.destination(&destination(&format!("s{n}"))).request(&sample(404));
    }
    let text = render(&metrics);
    let series = || text.lines().filter(|line| line.starts_with("istio_requests_total"));
    assert_eq!(series().count(), limit::METRIC_SERIES + 1);
    let other = series().find(|line| line.contains("destination_service=\"other\"")).unwrap();
    assert!(other.contains("response_code=\"400\"") && other.ends_with(" 500"), "{other}");
}

#[test]
fn tcp_series_have_no_response_code() {
    let metrics = metrics();
    let worker = metrics.worker();
    let cart = worker.destination(&destination("cart"));
    let stream = cart.stream_opened("-");
    stream.sent(10);
    stream.received(20);
    cart.stream_closed("UF");
    let text = render(&metrics);
    let tail = |name: &str, flags: &str, value: u32| {
        let end = format!(
            "request_protocol=\"tcp\",response_flags=\"{flags}\",connection_security_policy=\"unknown\"}} {value}"
        );
        assert!(text.lines().any(|l| l.starts_with(name) && l.ends_with(&end)), "{name}\n{text}");
    };
    tail("istio_tcp_connections_opened_total", "-", 1);
    tail("istio_tcp_connections_closed_total", "UF", 1);
    tail("istio_tcp_sent_bytes_total", "-", 10);
    tail("istio_tcp_received_bytes_total", "-", 20);
}

#[test]
fn messages_have_the_labels_of_both_ends_alone() {
    let metrics = metrics();
    let cart = metrics.worker().destination(&destination("cart"));
    cart.messages(Direction::Request).pass(&[0, 0, 0, 0, 0]);
    cart.messages(Direction::Response).pass(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let text = render(&metrics);
    for (name, count) in [("istio_request_messages_total", 1), ("istio_response_messages_total", 2)]
    {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap();
        assert!(line.ends_with(&format!("destination_cluster=\"unknown\"}} {count}")), "{line}");
    }
}

#[test]
fn own_metrics_have_their_labels() {
    let metrics = metrics();
    let worker = metrics.worker();
    let _request = worker.request_started();
    let mut connection = worker.connection_opened();
    connection.becomes(ConnectionKind::Http);
    worker.handshake("443", HandshakeOutcome::Resumed);
    worker.rejection("jwt_expired");
    worker.shadow("deny", "denied");
    worker.connection_over_limit();
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
            "portcullis_authorization_shadow_total{action=\"deny\",result=\"denied\"} 1",
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
    let text = render(&metrics);
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
    assert!(!render(&metrics).contains("\"aa\""));
}

#[tokio::test(start_paused = true)]
async fn removed_destinations_and_servers_are_forgotten_after_a_grace() {
    let metrics = metrics();
    let worker = metrics.worker();
    let kept = worker.destination(&destination("kept"));
    let gone = worker.destination(&destination("gone"));
    for one in [&kept, &gone] {
        one.request(&sample(200));
        one.stream_opened("-");
    }
    worker.handshake("kept", HandshakeOutcome::Ok);
    worker.handshake("gone", HandshakeOutcome::Ok);
    worker.handshake("", HandshakeOutcome::Closed);
    worker.route_request(&"gone".into(), 200);
    drop(gone);
    worker.keep_servers(|server| server == "kept");
    let text = render(&metrics);
    assert!(text.contains("destination_service_name=\"gone\"") && text.contains("server=\"gone\""));
    assert!(
        text.contains("portcullis_route_requests_total{response_code=\"200\",route=\"gone\"} 1")
    );
    tokio::time::advance(limit::METRIC_GRACE_TIME).await;
    let text = render(&metrics);
    assert!(!text.contains("gone"), "{text}");
    for shown in ["destination_service_name=\"kept\"", "server=\"kept\"", "outcome=\"closed\""] {
        assert!(text.contains(shown), "{shown}\n{text}");
    }
}

#[test]
fn what_a_client_does_to_reasons_and_servers_is_counted_by_worker_and_added_up() {
    let metrics = metrics();
    for worker in [metrics.worker(), metrics.worker()] {
        worker.rejection("no_endpoint");
        worker.handshake("443", HandshakeOutcome::Ok);
        worker.handshake("443", HandshakeOutcome::Ok);
    }
    check(
        &metrics,
        &[
            "portcullis_rejections_total{reason=\"no_endpoint\"} 2",
            "portcullis_tls_handshakes_total{outcome=\"ok\",server=\"443\"} 4",
        ],
    );
}

/// Families of a text with their types, by their heads.
fn families(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[test]
fn the_catalog_is_what_is_shown() {
    let metrics = metrics();
    let worker = metrics.worker();
    let cart = worker.destination(&destination("cart"));
    cart.request(&sample(200));
    cart.messages(Direction::Request);
    cart.stream_opened("-");
    let upstream = worker.upstream("cart");
    upstream.overflow(0);
    upstream.ejected();
    let jwks = metrics.jwks("https://issuer", "");
    jwks.failed("timeout");
    worker.handshake("443", HandshakeOutcome::Ok);
    worker.route_request(&"errors".into(), 200);
    worker.rejection("no_endpoint");
    worker.shadow("audit", "matched");
    let certificate = CertificateExpiry {
        kind: "server",
        name: "a".into(),
        serial: "1".into(),
        not_after_unix_seconds: 1,
    };
    let list = CertificateExpiry { kind: CRL, ..certificate.clone() };
    metrics.set_certificates(vec![certificate, list]);
    metrics.reload(&ReloadSample {
        result: ReloadResult::Failed,
        duration: Duration::ZERO,
        generation: Generation(1),
        hash: "",
        errors: 0,
        warnings: 0,
        finished_unix_seconds: 0,
    });
    let text = render(&metrics);
    let listed = catalog::ALL.iter().map(|family| (family.name, family.kind.as_str())).collect();
    assert_eq!(families(&text), listed);
    let heads = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(heads, catalog::ALL.len(), "a family is shown twice");
}

#[test]
fn pieces_end_with_lines_and_are_bounded() {
    let metrics = metrics();
    let worker = metrics.worker();
    for n in 0..300 {
        worker.destination(&destination(&format!("s{n}"))).request(&sample(200));
    }
    let longest = limit::SCRAPE_CHUNK_BYTES + (32 << 10);
    let mut pieces = 0;
    for piece in metrics.exposition() {
        assert!(piece.ends_with('\n') && piece.len() < longest, "{} bytes", piece.len());
        pieces += 1;
    }
    assert!(pieces > 100, "{pieces} pieces");
}

#[test]
fn callers_beyond_the_bound_share_one_series() {
    let metrics = metrics();
    let inbound =
        DestinationLabels { reporter: Reporter::Destination, ..DestinationLabels::default() };
    let cart = metrics.worker().destination(&inbound.into());
    for n in 0..=limit::METRIC_SERIES {
        cart.clone().called_by(&format!("td/ns/a/sa/{n}"), "a");
    }
    let over = cart.clone().called_by("td/ns/a/sa/late", "a");
    assert_eq!(&*over.labels().source_principal, "other");
    let known = cart.called_by("td/ns/a/sa/7", "a");
    assert_eq!(&*known.labels().source_principal, "spiffe://td/ns/a/sa/7");
    assert_eq!(&*known.labels().source_namespace, "a");
}

#[test]
fn callers_of_others_destinations_are_not_told_apart() {
    let cart = metrics().worker().destination(&destination("cart"));
    let same = cart.clone().called_by("td/ns/a/sa/b", "a");
    assert!(std::rc::Rc::ptr_eq(&cart, &same));
}
