//! What a sidecar counts: Istio's labels as the destination reports them, by the identity of the caller.

use tokio::io::AsyncWriteExt as _;

use crate::backend::{Backend, counter};
use crate::client::{raw, shake};
use crate::gateway::Gateway;
use crate::sidecar::{
    FRONT, access, counted, declared, mode, of_the_mesh, plain_status, start, status,
};

/// Whether a series with these labels is counted.
fn counts(process: &Gateway, name: &str, labels: &[(&str, &str)]) -> bool {
    let page = process.metrics();
    let mut series = page.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    series.any(|line| {
        labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    })
}

fn check(process: &Gateway, name: &str, labels: &[(&str, &str)]) {
    let mut all = vec![("reporter", "destination"), ("destination_workload", "cart")];
    all.extend([("destination_workload_namespace", "shop"), ("destination_app", "cart")]);
    all.extend([("destination_canonical_service", "cart"), ("source_workload", "unknown")]);
    all.extend(labels);
    process.wait(&format!("{name} {labels:?} is counted"), || counts(process, name, &all));
}

const MUTUAL: [(&str, &str); 5] = [
    ("source_principal", FRONT),
    ("source_workload_namespace", "shop"),
    ("destination_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
    ("destination_service", "cart.shop.svc.cluster.local"),
    ("connection_security_policy", "mutual_tls"),
];

const PLAIN: [(&str, &str); 4] = [
    ("source_principal", "unknown"),
    ("source_workload_namespace", "unknown"),
    ("destination_principal", "unknown"),
    ("connection_security_policy", "none"),
];

#[tokio::test]
async fn requests_are_counted_by_the_callers_identity() {
    let application = Backend::http1().await;
    let policy = access("rules: [{to: [{operation: {paths: [/open]}}]}]");
    let config = declared("http", application.port) + &mode("PERMISSIVE") + &policy;
    let sidecar = start(&config, application.port);
    let process = &sidecar.process;
    assert_eq!(status(&sidecar.caller(FRONT), sidecar.port, "/open").await, Some(200));
    let allowed = [&MUTUAL[..], &[("response_code", "200")]].concat();
    check(process, "istio_requests_total", &allowed);
    // What is refused is known by its application too.
    assert_eq!(status(&sidecar.caller(FRONT), sidecar.port, "/other").await, Some(403));
    let denied = [&MUTUAL[..], &[("response_code", "403")]].concat();
    check(process, "istio_requests_total", &denied);
    let other = "spiffe://cluster.local/ns/depot/sa/back";
    assert_eq!(status(&sidecar.caller(other), sidecar.port, "/open").await, Some(200));
    let labels = [("source_principal", other), ("source_workload_namespace", "depot")];
    check(process, "istio_requests_total", &labels);
    assert_eq!(plain_status(sidecar.port).await, Some(403));
    check(process, "istio_requests_total", &[&PLAIN[..], &[("response_code", "403")]].concat());
    raw(sidecar.port, b"GET / HTTP/1.1\r\nbad header\r\n\r\n").await;
    check(process, "istio_requests_total", &[("response_code", "400")]);
    assert!(!process.metrics().contains("reporter=\"source\""), "{}", process.metrics());
}

#[tokio::test]
async fn streams_are_too() {
    let port = counter().await;
    let sidecar = start(&declared("tcp", port), port);
    let mesh = &sidecar.site.mesh;
    let config = of_the_mesh(mesh, Some(&mesh.leaf(&[FRONT], 3)), &["istio"]);
    let mut stream = shake(&config, sidecar.port, "cart").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    check(&sidecar.process, "istio_tcp_connections_opened_total", &MUTUAL);
    assert_eq!(counted(sidecar.port, b"hello").await, "5");
    check(&sidecar.process, "istio_tcp_connections_opened_total", &PLAIN);
}

/// Without a Service, the workload's own name stands for it.
#[tokio::test]
async fn an_undeclared_port_is_counted_by_the_workloads_name() {
    let application = Backend::http1().await;
    let sidecar = start("", application.port);
    assert_eq!(plain_status(sidecar.port).await, Some(200));
    let labels = [("destination_service", "cart"), ("destination_service_name", "cart")];
    check(&sidecar.process, "istio_requests_total", &labels);
}
