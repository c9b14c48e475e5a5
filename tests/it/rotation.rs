//! Renewals and new roots under load, with a gateway and a sidecar that both take what the CA gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::ca::{create_intermediate, create_root};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::authority::Ca;
use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, endpoints, gateway, policy, routes, to};
use crate::identity::echo_leaf;
use crate::sidecar::{caller_of, mode, start_with, status};

const CLIENTS: usize = 2;

/// Requests through both, each over a new connection between them.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    requests: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Load {
    async fn run(self: Arc<Self>, port: u16) {
        let mut http = Http::plain(port).await;
        while !self.over.load(Ordering::Relaxed) {
            let request = http.request("GET", "http://a.com/", &[], "");
            let failure = match http.try_send(request).await {
                Ok(reply) if reply.status == 200 => None,
                Ok(reply) => Some(format!("{} {}", reply.status, reply.text())),
                Err(error) => Some(format!("{error:?}")),
            };
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.failures.lock().unwrap().extend(failure);
        }
    }
}

/// Serial of the identity that new handshakes use.
fn serial(process: &Gateway) -> String {
    let certificates = process.admin("/certs");
    let mut all = certificates.as_array().unwrap().iter();
    let own = all.find(|one| one["kind"] == "identity").unwrap();
    own["serial"].to_string()
}

/// Replaces the root as docs/ca.md says.
fn roll(ca: &Ca, processes: [&Gateway; 2]) {
    let now = OffsetDateTime::now_utc();
    let root = create_root("cluster.local", now).unwrap();
    let signing = create_intermediate(&root, "cluster.local", now).unwrap();
    let both = format!("{}{}", ca.read("ca/root-cert.pem"), root.certificate);
    let told = |name: &str, text: &str| {
        let before = processes.map(serial);
        ca.write(name, text);
        for (process, before) in processes.iter().zip(before) {
            process.wait("it has what was written", || serial(process) != before);
        }
    };
    told("root-cert.pem", &both);
    ca.write("ca-key.pem", signing.key.expose());
    ca.write("cert-chain.pem", &signing.certificate);
    told("ca-cert.pem", &signing.certificate);
    told("root-cert.pem", &root.certificate);
}

/// Connections or handshakes that went well, and others.
fn outcomes(process: &Gateway, name: &str) -> (u64, u64) {
    let page = process.metrics();
    let series = page.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let (mut good, mut bad) = (0, 0);
    for line in series {
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        let well = line.contains("outcome=\"ok\"") || line.contains("outcome=\"resumed\"");
        *(if well { &mut good } else { &mut bad }) += count;
    }
    (good, bad)
}

/// `ROTATION_SECONDS=600` makes it long, with a certificate every second and two new roots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_and_a_sidecar_lose_nothing_while_identities_and_roots_change() {
    let seconds = std::env::var("ROTATION_SECONDS").ok().and_then(|text| text.parse().ok());
    let application = Backend::http1().await;
    let ca = Ca::start(&["--lifetime", "60s"]);
    let path = |name: &str| ca.path(name).display().to_string();
    let source = format!("unix:{}", path("workload.sock"));
    let sidecar = start_with(&mode("STRICT"), application.port, &["--identity", &source]);

    let site = Site::new();
    let names = "tls: {mode: ISTIO_MUTUAL, subjectAltNames: \
                 ['spiffe://cluster.local/ns/istio-system/sa/gateway']}, connectionPool: {http: \
                 {maxRequestsPerConnection: 1}}";
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "'*'", &to("echo"))
        + &endpoints("echo", "HTTP", &[(sidecar.port, "")])
        + &policy("echo", names);
    site.config("all", &config);
    let source = format!("sds:unix:{}", path("sds.sock"));
    let edge = site.start_with(&[80], &["--identity", &source]);

    let load = Arc::<Load>::default();
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(load.clone().run(edge.port(80)))).collect();
    let start = Instant::now();
    for _ in 0..2 {
        tokio::task::block_in_place(|| roll(&ca, [&edge, &sidecar.process]));
    }
    let whole = Duration::from_secs(seconds.unwrap_or(10));
    ca.renewing(whole.saturating_sub(start.elapsed())).await;
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let failures = load.failures.lock().unwrap();
    assert!(failures.is_empty(), "{failures:#?}\n{}\n{}", edge.err(), sidecar.process.err());
    let requests = load.requests.load(Ordering::Relaxed) as u64;
    let (good, bad) = outcomes(&sidecar.process, "portcullis_tls_handshakes_total");
    assert!(good >= requests && bad == 0, "{requests}, {}", sidecar.process.metrics());
    let (good, bad) = outcomes(&edge, "portcullis_upstream_connects_total");
    assert!(good >= requests && bad == 0, "{requests}, {}", edge.metrics());
    // Each of both has a new one each second of what is left after the roots, and that is not little.
    let least = 2 * start.elapsed().as_secs() / 5;
    assert!(ca.issued().len() as u64 >= least, "{} certificates", ca.issued().len());
    println!("{requests} requests, {good} handshakes, {} certificates", ca.issued().len());
}

/// What is not served any more are handshakes; readiness says so before.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_over_ends_no_connection() {
    let application = Backend::http1().await;
    let mut ca = Ca::start(&["--lifetime", "4s"]);
    let source = format!("sds:unix:{}", ca.path("sds.sock").display());
    let sidecar = start_with(&mode("STRICT"), application.port, &["--identity", &source]);
    let own = echo_leaf(&ca).await;
    let gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway";
    let caller = caller_of(&ca.read("ca/root-cert.pem"), Some(&own), &["http/1.1"], gateway);
    let mut held = Http::secure(&caller, sidecar.port, "cart").await;
    assert_eq!(held.get("http://cart/").await.status, 200);
    ca.kill();
    let process = &sidecar.process;
    process.wait("it is not ready", || process.status("/healthz/ready") == Some(503));
    process.wait("its identity is over", || process.err().contains("has expired"));
    assert_eq!(status(&caller, sidecar.port, "/").await, None);
    assert_eq!(held.get("http://cart/").await.status, 200);
}
