//! The mesh identity from each of its sources, renewed, with new roots, and gone.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis::base::secret::Secret;
use portcullis::ca::{
    Authority, AuthorityFiles, NewAuthority, Template, WorkloadId, create_intermediate, create_root,
};
use rcgen::KeyPair;
use rustls::ClientConfig;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use crate::authority::{Ca, ECHO_TOKEN};
use crate::backend::{Backend, SharedTls, mutual};
use crate::ca::{GATEWAY, create, signing_request};
use crate::client::{Http, mesh_tls_of, proven, shake};
use crate::gateway::{Gateway, PATIENCE, Site, gateway, policy, routes, service, to};
use crate::pki::Leaf;

const MESH: &str = "https://mesh.com";

/// A gateway in the mesh of a CA: `mesh.com` on 443 (ISTIO_MUTUAL), everything on 80, both before the
/// backend `echo` (ISTIO_MUTUAL).
pub struct Mesh {
    pub ca: Ca,
    site: Site,
    echo: Backend,
    echo_tls: SharedTls,
}

impl Mesh {
    pub async fn new(arguments: &[&str]) -> Self {
        let ca = Ca::start(arguments);
        let leaf = echo_leaf(&ca).await;
        let echo_tls = Arc::new(ArcSwap::new(mutual(&leaf, &ca.read("ca/root-cert.pem"))));
        let echo = Backend::shared(echo_tls.clone()).await;
        let site = Site::new();
        fs::remove_dir_all(site.path("certs/identity")).unwrap();
        let names = "tls: {mode: ISTIO_MUTUAL, subjectAltNames: \
                     ['spiffe://cluster.local/ns/shop/sa/echo']}";
        site.config(
            "all",
            &(gateway("plain", 80, "HTTP", "'*'", "")
                + &gateway("mesh", 443, "HTTPS", "mesh.com", "mode: ISTIO_MUTUAL")
                + &routes("r", "istio-system/plain, istio-system/mesh", "'*'", &to("echo"))
                + &service("echo", "HTTP", echo.port)
                + &policy("echo", names)),
        );
        Self { ca, site, echo, echo_tls }
    }

    /// Where an identity comes from, as flags.
    fn source(&self, kind: &str) -> Vec<String> {
        let socket = |name: &str| self.ca.path(name).display().to_string();
        match kind {
            "workload" => vec!["--identity".into(), format!("unix:{}", socket("workload.sock"))],
            "sds" => vec!["--identity".into(), format!("sds:unix:{}", socket("sds.sock"))],
            _ => vec![
                "--identity".into(),
                format!("ca:localhost:{}", self.ca.port),
                "--identity-token".into(),
                socket("token"),
                "--identity-roots".into(),
                socket("ca/root-cert.pem"),
                "--identity-crl".into(),
                socket("ca/ca-crl.pem"),
            ],
        }
    }

    fn spawn(&self, kind: &str) -> Gateway {
        let source = self.source(kind);
        let arguments: Vec<_> = source.iter().map(String::as_str).collect();
        self.site.spawn(&[80, 443], &arguments)
    }

    pub fn start(&self, kind: &str) -> Gateway {
        let gateway = self.spawn(kind);
        gateway.wait("it is ready", || gateway.status("/healthz/ready") == Some(200));
        gateway
    }
}

/// A certificate for the backend, from the CA as it is now.
pub async fn echo_leaf(ca: &Ca) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let mut client = ca.client().await;
    let chain = create(&mut client, ECHO_TOKEN, signing_request(&key, &[]), 86_400).await.unwrap();
    let (_, chain) = chain.split_last().unwrap();
    Leaf { chain: chain.concat(), key: key.serialize_pem() }
}

/// The certificate that the backend saw in an answer.
fn seen(reply: &crate::client::Reply) -> Vec<u8> {
    let leaf = &reply.json()["tls"]["client_leaf"];
    leaf.as_array()
        .unwrap()
        .iter()
        .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect()
}

fn names(der: &[u8]) -> String {
    let (_, leaf) = x509_parser::parse_x509_certificate(der).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    format!("{:?}", names.value.general_names)
}

async fn check_source(kind: &str) {
    let mesh = Mesh::new(&["--lifetime", "10s"]).await;
    let gateway = mesh.start(kind);
    let mut http = Http::plain(gateway.port(80)).await;
    let first = seen(&http.get("http://a.com/").await);
    assert!(names(&first).contains(GATEWAY), "{kind}: {}", names(&first));
    let client = mesh_tls_of(&mesh.ca.read("ca/root-cert.pem"), Some(&echo_leaf(&mesh.ca).await));
    proven(&client, gateway.port(443), "mesh.com").await.unwrap();
    let certificates = gateway.admin("/certs").to_string();
    assert!(certificates.contains("\"identity\""), "{certificates}");
    // An open connection stays with its certificate; the renewed one is for new ones.
    timeout(PATIENCE, async {
        while seen(&http.get("http://a.com/close").await) == first {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(mesh.echo.failed_handshakes(), 0);
    let said = gateway.err() + &mesh.ca.err();
    assert!(!said.contains("PRIVATE") && !said.contains(crate::authority::TOKEN), "{said}");
}

#[tokio::test]
async fn the_workload_api_gives_the_identity() {
    check_source("workload").await;
}

#[tokio::test]
async fn sds_gives_the_identity() {
    check_source("sds").await;
}

#[tokio::test]
async fn the_certificate_service_gives_the_identity() {
    check_source("ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_it_came_or_after_it_ended() {
    let mut mesh = Mesh::new(&["--lifetime", "4s"]).await;
    let roots = mesh.ca.read("ca/root-cert.pem");
    let client = mesh_tls_of(&roots, Some(&echo_leaf(&mesh.ca).await));
    mesh.ca.kill();
    let gateway = mesh.spawn("sds");
    let failed = "the mesh identity cannot be had";
    gateway.tells(failed);
    gateway.tells("configuration published");
    assert_eq!(gateway.status("/healthz/ready"), Some(503));
    assert!(proven(&client, gateway.port(443), "mesh.com").await.is_err());
    let refused = async |gateway: &Gateway| {
        Http::plain(gateway.port(80)).await.get("http://a.com/").await.status == 503
    };
    assert!(refused(&gateway).await);

    mesh.ca.restart();
    gateway.wait("it is ready", || gateway.status("/healthz/ready") == Some(200));
    proven(&client, gateway.port(443), "mesh.com").await.unwrap();
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.get("http://a.com/").await.status, 200);

    mesh.ca.kill();
    gateway.wait("it is not ready", || gateway.status("/healthz/ready") == Some(503));
    gateway.tells("has expired");
    assert!(proven(&client, gateway.port(443), "mesh.com").await.is_err());
    assert!(refused(&gateway).await);
    // Whoever needs no identity goes on.
    assert_eq!(gateway.status("/healthz/live"), Some(200));
    mesh.ca.restart();
    gateway.wait("it is ready again", || gateway.status("/healthz/ready") == Some(200));
    proven(&client, gateway.port(443), "mesh.com").await.unwrap();
    assert_eq!(mesh.echo.failed_handshakes(), 0);
}

#[test]
fn check_does_not_ask_the_source_and_says_so() {
    let site = Site::new();
    site.config("all", &gateway("mesh", 443, "HTTPS", "mesh.com", "mode: ISTIO_MUTUAL"));
    let output = site.command(&["check", "--identity", "sds:unix:nobody.sock"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("PC047") && said.contains("sds:unix:nobody.sock"), "{said}");
    assert!(!said.contains("PC054"), "{said}");
}

#[test]
fn check_says_that_a_certificate_service_gives_no_list() {
    let site = Site::new();
    site.config("all", &gateway("mesh", 443, "HTTPS", "mesh.com", "mode: ISTIO_MUTUAL"));
    let check = |file: &str, told: bool| {
        let arguments = ["check", "--identity", "ca:istiod:15012", "--identity-crl", file];
        let said = String::from_utf8(site.command(&arguments).stdout).unwrap();
        assert_eq!(said.contains("PC054") && said.contains(file), told, "{said}");
    };
    site.write("blank.pem", "\n");
    site.write("list.pem", site.mesh.revoke(&[1]).0);
    check("missing.pem", true);
    check("blank.pem", true);
    check("list.pem", false);
}

/// Connections, each with a handshake at the gateway and one at the backend, one after the other.
struct Load {
    client: ArcSwap<ClientConfig>,
    port: u16,
    over: AtomicBool,
    requests: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
    leaves: std::sync::Mutex<BTreeSet<Vec<u8>>>,
}

impl Load {
    async fn run(self: Arc<Self>) {
        while !self.over.load(Ordering::Relaxed) {
            let outcome = self.once().await;
            self.requests.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(leaf) => _ = self.leaves.lock().unwrap().insert(leaf),
                Err(failure) => self.failures.lock().unwrap().push(failure),
            }
        }
    }

    async fn once(&self) -> Result<Vec<u8>, String> {
        let config = self.client.load_full();
        let stream = shake(&config, self.port, "mesh.com").await.map_err(|e| e.to_string())?;
        let mut http = Http::over(stream).await;
        let request = http.request("GET", &format!("{MESH}/close"), &[], "");
        let reply = http.try_send(request).await.map_err(|error| format!("{error:?}"))?;
        if reply.status == 200 { Ok(seen(&reply)) } else { Err(format!("{reply:?}")) }
    }
}

/// Replaces the root while everyone works, as docs/ca.md says; gives the certificate of `echo` below
/// the new one.
async fn roll(mesh: &Mesh, gateway: &Gateway, load: &Load, before: &Leaf) -> Leaf {
    let now = OffsetDateTime::now_utc();
    let root = create_root("cluster.local", now).unwrap();
    let signing = create_intermediate(&root, "cluster.local", now).unwrap();
    let old = mesh.ca.read("ca/root-cert.pem");
    let both = format!("{old}{}", root.certificate);
    mesh.echo_tls.store(mutual(before, &both));
    load.client.store(mesh_tls_of(&both, Some(before)));
    mesh.ca.write("root-cert.pem", &both);
    let probe = mesh_tls_of(&both, Some(&below(&root, &signing)));
    accepted(gateway, &probe, true).await;

    for (name, text) in [
        ("ca-key.pem", signing.key.expose()),
        ("cert-chain.pem", &signing.certificate),
        ("ca-cert.pem", &signing.certificate),
    ] {
        mesh.ca.write(name, text);
    }
    accepted(gateway, &mesh_tls_of(&root.certificate, Some(before)), true).await;
    let after = echo_leaf(&mesh.ca).await;
    mesh.echo_tls.store(mutual(&after, &both));
    load.client.store(mesh_tls_of(&both, Some(&after)));
    // Connections that began before are over once as many have begun as run at once.
    let begun = load.requests.load(Ordering::Relaxed);
    gateway
        .wait("the load moves on", || load.requests.load(Ordering::Relaxed) > begun + 2 * CLIENTS);

    mesh.ca.write("root-cert.pem", &root.certificate);
    accepted(gateway, &mesh_tls_of(&both, Some(before)), false).await;
    mesh.echo_tls.store(mutual(&after, &root.certificate));
    load.client.store(mesh_tls_of(&root.certificate, Some(&after)));
    after
}

/// A certificate of `echo` below a root that the CA does not use yet.
fn below(root: &NewAuthority, signing: &NewAuthority) -> Leaf {
    let now = OffsetDateTime::now_utc();
    let id = WorkloadId::new("cluster.local", "shop", "echo").unwrap();
    let files = AuthorityFiles {
        certificate: signing.certificate.as_bytes(),
        key: &Secret::new(signing.key.expose().clone().into_bytes()),
        roots: root.certificate.as_bytes(),
        chain: signing.certificate.as_bytes(),
    };
    let key = KeyPair::generate().unwrap();
    let template = Template { id: &id, names: Vec::new(), life: Duration::from_hours(1) };
    let authority = Authority::load(files, &id, now).unwrap();
    let issued = authority.issue(&key, template, now).unwrap();
    let leaf = portcullis::base::pem::encode("CERTIFICATE", &issued.certificate);
    Leaf { chain: leaf + &signing.certificate, key: key.serialize_pem() }
}

/// Waits until the gateway accepts a client, or does not any more.
async fn accepted(gateway: &Gateway, client: &Arc<ClientConfig>, expected: bool) {
    timeout(PATIENCE, async {
        while proven(client, gateway.port(443), "mesh.com").await.is_ok() != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{expected}: {}\n{}", gateway.err(), gateway.out()));
}

const CLIENTS: usize = 4;

/// `ROTATION_SECONDS=600` makes it long, with a certificate every second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_and_two_new_roots_fail_no_handshake_and_no_request() {
    let seconds = std::env::var("ROTATION_SECONDS").ok().and_then(|text| text.parse().ok());
    let (seconds, lifetime): (u64, _) = seconds.map_or((9, "8s"), |seconds| (seconds, "60s"));
    let mesh = Mesh::new(&["--lifetime", lifetime]).await;
    let first = echo_leaf(&mesh.ca).await;
    let gateway = mesh.start("sds");
    let load = Arc::new(Load {
        client: ArcSwap::new(mesh_tls_of(&mesh.ca.read("ca/root-cert.pem"), Some(&first))),
        port: gateway.port(443),
        over: AtomicBool::default(),
        requests: AtomicUsize::default(),
        failures: std::sync::Mutex::default(),
        leaves: std::sync::Mutex::default(),
    });
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(load.clone().run())).collect();
    let start = Instant::now();
    let second = roll(&mesh, &gateway, &load, &first).await;
    roll(&mesh, &gateway, &load, &second).await;
    let rest = Duration::from_secs(seconds).saturating_sub(start.elapsed());
    mesh.ca.renewing(rest).await;
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let failures = load.failures.lock().unwrap();
    assert!(failures.is_empty(), "{failures:#?}\n{}", gateway.err());
    // What the backend refused: nothing, since what was probed never reached it.
    assert_eq!(mesh.echo.failed_handshakes(), 0, "{}", gateway.err());
    let identities = load.leaves.lock().unwrap().len() as u64;
    assert!(identities >= start.elapsed().as_secs() / 6, "{identities} identities");
    println!("{} requests, {identities} identities", load.requests.load(Ordering::Relaxed));
}
