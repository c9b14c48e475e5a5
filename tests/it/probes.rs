//! Kubelet's probes of an application behind a STRICT sidecar: asked for at the status port, and directly.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, request};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::client::connect;
use crate::external::{Body, Provider};
use crate::external_grpc::reply;
use crate::gateway::{Site, free_port};
use crate::pki::Authority;
use crate::sidecar::{Sidecar, declared, mode, plain_status, start, start_with};

/// A STRICT sidecar whose application has these probes.
fn probed(probes: &serde_json::Value, application: u16) -> Sidecar {
    let config = declared("http", application) + &mode("STRICT");
    start_with(&config, application, &["--probes", &probes.to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn http_probes_get_the_applications_answer_without_a_certificate() {
    let application = Backend::http1().await;
    let port = application.port;
    let get = |path: &str, port: u16| serde_json::json!({"httpGet": {"path": path, "port": port}});
    let sidecar = probed(
        &serde_json::json!({
            "/app-health/cart/livez": get("/status/200", port),
            "/app-health/cart/readyz": get("/status/503", port),
            "/app-health/cart/startupz": get("/status/302", port),
            "/app-health/stuck/livez": get("/never", port),
            "/app-health/gone/livez": get("/", free_port()),
        }),
        port,
    );
    let process = &sidecar.process;
    assert_eq!(plain_status(sidecar.port).await, None, "the port itself needs a certificate");
    assert_eq!(process.status("/app-health/cart/livez"), Some(200));
    assert_eq!(process.status("/app-health/cart/readyz"), Some(503));
    assert_eq!(process.status("/app-health/cart/startupz"), Some(200), "a redirect is good");
    let before = Instant::now();
    assert_eq!(process.status("/app-health/stuck/livez"), Some(500));
    assert!(before.elapsed() < Duration::from_secs(10), "timeoutSeconds bounds it");
    assert_eq!(process.status("/app-health/gone/livez"), Some(500));
    process.tells("/app-health/gone/livez");
    assert_eq!(process.status("/app-health/other/livez"), Some(400));
    application.fail(true);
    assert_eq!(process.status("/app-health/cart/livez"), Some(503));
    assert_eq!(process.status("/healthz/ready"), Some(200), "the sidecar's own is its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_probes_look_at_no_certificate() {
    let other = Authority::new("anyone").leaf(&["whatever.example.com"], 1);
    let application = Backend::tls(&other).await;
    let get =
        |port: u16| serde_json::json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTPS"}});
    let plain = Backend::http1().await;
    let sidecar = probed(
        &serde_json::json!({
            "/app-health/cart/livez": get(application.port),
            "/app-health/cart/readyz": get(plain.port),
        }),
        application.port,
    );
    assert_eq!(sidecar.process.status("/app-health/cart/livez"), Some(200));
    assert_eq!(sidecar.process.status("/app-health/cart/readyz"), Some(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_probes_connect() {
    let application = Backend::http1().await;
    let socket = |port: u16| serde_json::json!({"tcpSocket": {"port": port}});
    let sidecar = probed(
        &serde_json::json!({
            "/app-health/cart/livez": socket(application.port),
            "/app-health/cart/readyz": socket(free_port()),
        }),
        application.port,
    );
    assert_eq!(sidecar.process.status("/app-health/cart/livez"), Some(200));
    assert_eq!(sidecar.process.status("/app-health/cart/readyz"), Some(500));
}

/// Serving for the service `cart`, not serving for `other`, and unknown beyond.
fn health(head: &request::Parts, body: &Bytes) -> Response<Body> {
    assert_eq!(head.uri.path(), "/grpc.health.v1.Health/Check");
    match &body[5..] {
        b"" | b"\x0a\x04cart" => reply(Bytes::from_static(b"\0\0\0\0\x02\x08\x01"), "0"),
        b"\x0a\x05other" => reply(Bytes::from_static(b"\0\0\0\0\x02\x08\x02"), "0"),
        _ => reply(Bytes::new(), "5"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_probes_ask_for_health() {
    let application = Provider::start(true, health).await;
    let plain = Backend::http1().await;
    let grpc = |service: &str, port: u16| serde_json::json!({"grpc": {"port": port, "service": service}, "timeoutSeconds": 2});
    let sidecar = probed(
        &serde_json::json!({
            "/app-health/cart/livez": grpc("", application.port),
            "/app-health/cart/readyz": grpc("cart", application.port),
            "/app-health/cart/startupz": grpc("other", application.port),
            "/app-health/side/livez": grpc("nobody", application.port),
            "/app-health/side/readyz": grpc("", plain.port),
            "/app-health/side/startupz": grpc("", free_port()),
        }),
        application.port,
    );
    for (path, status) in [
        ("/app-health/cart/livez", 200),
        ("/app-health/cart/readyz", 200),
        ("/app-health/cart/startupz", 500),
        ("/app-health/side/livez", 500),
        ("/app-health/side/readyz", 500),
        ("/app-health/side/startupz", 500),
    ] {
        assert_eq!(sidecar.process.status(path), Some(status), "{path}");
    }
}

/// As at Istio: the sidecar takes the connection, then wants a certificate.
#[tokio::test]
async fn a_probe_of_the_strict_port_itself_connects_and_gets_no_answer() {
    let application = Backend::http1().await;
    let sidecar = start(&(declared("http", application.port) + &mode("STRICT")), application.port);
    drop(connect(sidecar.port).await);
    assert_eq!(plain_status(sidecar.port).await, None);
    // Without probes that were declared, the status port asks nobody.
    assert_eq!(sidecar.process.status("/app-health/cart/livez"), Some(404));
    // A port that probes need can be opened alone.
    let port = application.port;
    let open = mode("STRICT").replace(
        "spec: {",
        &format!(
            "spec: {{selector: {{matchLabels: {{app: cart}}}}, portLevelMtls: {{{port}: {{mode: \
             DISABLE}}}}, "
        ),
    );
    sidecar.process.reload(|| _ = sidecar.site.config("all", &(declared("http", port) + &open)));
    assert_eq!(plain_status(sidecar.port).await, Some(200));
    assert_eq!(application.requests(), 1);
}

#[test]
fn probes_of_istios_injection_are_read_and_wrong_ones_stop_the_start() {
    let site = Site::new();
    let (port, probe) = (free_port(), free_port());
    let inbound = format!("{port}={probe}");
    let start = |probes: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["sidecar", "--inbound", &inbound, "--config", "config", "--certs", "certs"])
            .args(["--status", "off", "--metrics", "off", "--admin", "off", "--state", "off"])
            .env("ISTIO_KUBE_APP_PROBERS", probes)
            .current_dir(site.dir.path())
            .output()
            .unwrap()
    };
    for wrong in ["{", r#"{"/app-health/cart/livez":{}}"#, r#"{"/x":{"tcpSocket":{"port":1}}}"#] {
        let ended = start(wrong);
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("ISTIO_KUBE_APP_PROBERS"), "{told}");
    }
}
