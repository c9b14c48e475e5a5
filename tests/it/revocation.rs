//! Certificates of the mesh that were revoked: new handshakes, and what is open.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::macros::datetime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{Http, mesh_tls_of, proven, shake};
use crate::gateway::{Gateway, PATIENCE, Site};
use crate::identity::{Mesh, echo_leaf};
use crate::pki::Leaf;
use crate::scripted::{Scripted, Step};
use crate::sidecar::{FRONT, declared, mode, of_the_mesh, start, start_in, status};

/// How soon what was revoked ends.
const BOUND: Duration = Duration::from_secs(5);

const LIST: &str = "certs/identity/ca-crl.pem";

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_refuses_who_is_on_the_list_and_ends_what_it_has_open() {
    let application = Backend::http1().await;
    let declared = declared("http", application.port) + &mode("STRICT");
    let sidecar = start(&declared, application.port);
    let (site, port) = (&sidecar.site, sidecar.port);
    let [bad, good] = [20, 21].map(|serial| {
        let alpn = &["istio-http/1.1", "istio", "http/1.1"];
        of_the_mesh(&site.mesh, Some(&site.mesh.leaf(&[FRONT], serial)), alpn)
    });
    let mut live = Http::secure(&good, port, "cart").await;
    let mut ending = Http::secure(&bad, port, "cart").await;
    assert_eq!(ending.get("http://cart/").await.status, 200);
    assert_eq!(live.get("http://cart/").await.status, 200);
    let renewed = |text: String| sidecar.process.reload(|| site.write(LIST, text));
    renewed(site.mesh.revoke(&[9000]).0);
    assert_eq!(ending.get("http://cart/").await.status, 200);
    renewed(site.mesh.revoke(&[20]).0);
    assert_eq!(status(&bad, port, "/").await, None);
    assert_eq!(status(&good, port, "/").await, Some(200));
    timeout(BOUND, async {
        while ending.try_send(ending_request()).await.is_ok_and(|reply| reply.status == 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    // One that is overdue is used, and told of.
    renewed(site.mesh.revoke_until(&[20], datetime!(2021-01-01 00:00 UTC)).0);
    sidecar.process.tells("PC048");
    let metrics = sidecar.process.metrics();
    assert!(
        metrics.contains(
            "portcullis_crl_next_update_timestamp_seconds{name=\"certs/identity/ca-crl.pem"
        ),
        "{metrics}"
    );
    assert_eq!(status(&bad, port, "/").await, None);
    assert_eq!(status(&good, port, "/").await, Some(200));
    // While one cannot be read the last good one holds.
    renewed("nonsense".to_owned());
    sidecar.process.tells("the mesh identity cannot be renewed");
    assert_eq!(status(&bad, port, "/").await, None);
    assert_eq!(status(&good, port, "/").await, Some(200));
    assert_eq!(live.get("http://cart/").await.status, 200);
    // So does the rest of the identity, and a list that is good is taken up though that is broken.
    renewed(site.mesh.revoke(&[20, 21]).0);
    assert_eq!(status(&good, port, "/").await, None);
    sidecar.process.reload(|| site.write("certs/identity/key.pem", "nonsense"));
    renewed(site.mesh.revoke(&[20]).0);
    assert_eq!(status(&bad, port, "/").await, None);
    assert_eq!(status(&good, port, "/").await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_read_at_the_start_lets_nobody_in() {
    let application = Backend::http1().await;
    let site = Site::new();
    site.write(LIST, "nonsense");
    let declared = declared("http", application.port) + &mode("STRICT");
    let sidecar = start_in(site, &declared, application.port, &[]);
    let mesh = &sidecar.site.mesh;
    let client = of_the_mesh(mesh, Some(&mesh.leaf(&[FRONT], 20)), &["istio", "http/1.1"]);
    assert_eq!(status(&client, sidecar.port, "/").await, None);
    sidecar.process.reload(|| sidecar.site.write(LIST, mesh.revoke(&[9000]).0));
    assert_eq!(status(&client, sidecar.port, "/").await, Some(200));
}

fn ending_request() -> http::Request<http_body_util::Full<bytes::Bytes>> {
    http::Request::get("http://cart/").header("host", "cart").body(<_>::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_bytes_end_with_their_certificate() {
    let greeter = Scripted::start(&[Step::Say("hello\n"), Step::Say("again\n")]).await;
    let sidecar = start(&(declared("tcp", greeter.port) + &mode("STRICT")), greeter.port);
    let site = &sidecar.site;
    let open = async |serial| {
        let own = site.mesh.leaf(&[FRONT], serial);
        let config = of_the_mesh(&site.mesh, Some(&own), &["istio"]);
        let mut stream = shake(&config, sidecar.port, "cart").await.unwrap();
        let mut said = [0; 6];
        stream.write_all(b"\r\n\r\n").await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut said)).await.unwrap().unwrap();
        stream
    };
    let (mut bad, mut good) = (open(20).await, open(21).await);
    sidecar.process.reload(|| site.write(LIST, site.mesh.revoke(&[20]).0));
    let mut rest = Vec::new();
    let _ = timeout(BOUND, bad.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    let told = "the certificate was revoked";
    let process = &sidecar.process;
    process.wait("the log says why", || process.out().contains(told));
    good.write_all(b"\r\n\r\n").await.unwrap();
    let mut said = [0; 6];
    timeout(PATIENCE, good.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"again\n");
}

/// Waits until a certificate is refused, or for the bound.
async fn refused(gateway: &Gateway, roots: &str, own: &Leaf) {
    let config = mesh_tls_of(roots, Some(own));
    timeout(PATIENCE, async {
        while proven(&config, gateway.port(443), "mesh.com").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

fn serial(leaf: &Leaf) -> String {
    let der = CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    leaf.raw_serial_as_string().replace(':', "")
}

/// What the CA revokes reaches a gateway: callers, and the backend whose certificate it was.
async fn check_source(kind: &str) {
    let mesh = Mesh::new(&[]).await;
    let backend = mesh.ca.issued().last().unwrap()["serial"].as_str().unwrap().to_owned();
    let gateway = mesh.start(kind);
    let (bad, good) = (echo_leaf(&mesh.ca).await, echo_leaf(&mesh.ca).await);
    let roots = mesh.ca.read("ca/root-cert.pem");
    let mut plain = Http::plain(gateway.port(80)).await;
    for leaf in [&bad, &good] {
        let config = mesh_tls_of(&roots, Some(leaf));
        proven(&config, gateway.port(443), "mesh.com").await.unwrap();
    }
    assert_eq!(plain.get("http://a.com/").await.status, 200);
    let line = format!("{} 2026-01-01T00:00:00Z\n", serial(&bad));
    mesh.ca.write("revoked.txt", &line);
    refused(&gateway, &roots, &bad).await;
    let config = mesh_tls_of(&roots, Some(&good));
    proven(&config, gateway.port(443), "mesh.com").await.unwrap();
    assert_eq!(plain.get("http://a.com/").await.status, 200);
    mesh.ca.write("revoked.txt", line + &format!("{backend} 2026-01-01T00:00:00Z\n"));
    timeout(PATIENCE, async {
        while plain.get("http://a.com/").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_workload_api_lists_is_refused() {
    check_source("workload").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_beside_a_certificate_service_lists_is_refused() {
    check_source("ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sds_lists_is_refused() {
    check_source("sds").await;
}

/// A signing certificate that was replaced lists what it signed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_signer_issued_can_be_revoked() {
    use portcullis::base::secret::Secret;
    use portcullis::ca::{NewAuthority, create_intermediate};

    let mut mesh = Mesh::new(&[]).await;
    let gateway = mesh.start("workload");
    let (bad, good) = (echo_leaf(&mesh.ca).await, echo_leaf(&mesh.ca).await);
    let roots = mesh.ca.read("ca/root-cert.pem");
    let key = Secret::new(mesh.ca.read("ca/root-key.pem"));
    let root = NewAuthority { certificate: roots.clone(), key };
    let now = time::OffsetDateTime::now_utc();
    let next = create_intermediate(&root, "cluster.local", now).unwrap();
    let former = mesh.ca.read("ca/ca-crl.pem");
    mesh.ca.write("ca-key.pem", next.key.expose());
    mesh.ca.write("cert-chain.pem", &next.certificate);
    mesh.ca.write("ca-cert.pem", &next.certificate);
    let lists = |ca: &crate::authority::Ca| ca.read("ca/ca-crl.pem").matches("BEGIN").count();
    mesh.ca.wait("both have a list", |ca| ca.read("ca/ca-crl.pem") != former && lists(ca) == 2);
    // It survives the process.
    mesh.ca.kill();
    mesh.ca.restart();
    mesh.ca.write("revoked.txt", format!("{} 2026-01-01T00:00:00Z\n", serial(&bad)));
    refused(&gateway, &roots, &bad).await;
    for leaf in [&good, &echo_leaf(&mesh.ca).await] {
        let config = mesh_tls_of(&roots, Some(leaf));
        proven(&config, gateway.port(443), "mesh.com").await.unwrap();
    }
}
