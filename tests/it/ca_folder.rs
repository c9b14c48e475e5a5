//! What lies in the CA's folder: chains that end, and what a crash left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis::grpc::workload::{FETCH_X509_SVID, X509SvidResponse};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;
use tonic::Code;

use crate::authority::Ca;
use crate::ca::fetch;
use crate::gateway::{fetch_status, free_port};

/// A CA that is good from a day ago until so many seconds from now.
fn params(name: &str, seconds: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - Duration::from_hours(24);
    params.not_after = now + time::Duration::seconds(seconds);
    params
}

/// Puts a root and a signing certificate below it in place, good for so many seconds each.
fn plug(folder: &Path, root: i64, signing: i64) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params("the root", root).self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&root, root_key).unwrap();
    let signing = params("the signer", signing).signed_by(&key, &issuer).unwrap().pem();
    fs::create_dir_all(folder).unwrap();
    let key = key.serialize_pem();
    let files =
        [("root-cert.pem", root), ("ca-cert.pem", signing.clone()), ("cert-chain.pem", signing)];
    for (name, text) in files.into_iter().chain([("ca-key.pem", key)]) {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The one who may ask at sockets.
fn workloads() -> String {
    let uid = rustix::process::getuid().as_raw();
    format!("sockets: [{{uid: {uid}, namespace: shop, serviceAccount: cart}}]\n")
}

#[test]
fn a_chain_that_has_ended_stops_the_start() {
    let check = |root: i64, signing: i64, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        plug(&dir.path().join("ca"), root, signing);
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .current_dir(dir.path())
            .args(["ca", "--listen", "off"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    };
    check(-60, 86_400, "the root\" in root-cert.pem has expired");
    check(86_400, -60, "ca-cert.pem, or one that it leads to, has expired");
}

#[tokio::test]
async fn it_is_not_ready_once_its_root_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    plug(&dir.path().join("ca"), 6, 86_400);
    fs::write(dir.path().join("ca/workloads.yaml"), workloads()).unwrap();
    let port = free_port();
    let mut ca = Ca::start_in(dir, &["--status", &format!("127.0.0.1:{port}")]);
    assert_eq!(fetch_status(port, "/healthz/ready"), Some(200));
    assert!(ca.err().contains("ends soon"), "{}", ca.err());
    let mut client = ca.socket("workload.sock").await;
    let given = fetch::<X509SvidResponse>(&mut client, FETCH_X509_SVID, true).await;
    assert_eq!(given.unwrap().svids.len(), 1);
    ca.wait("it is not ready", |_| fetch_status(port, "/healthz/ready") == Some(503));
    assert_eq!(fetch_status(port, "/healthz/live"), Some(200));
    ca.wait("it tells", |ca| ca.err().contains("the root\" in root-cert.pem has expired"));
    let refused = fetch::<X509SvidResponse>(&mut client, FETCH_X509_SVID, true).await;
    assert_eq!(refused.unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn what_a_crash_left_of_a_line_keeps_no_former_signer() {
    let dir = tempfile::tempdir().unwrap();
    plug(&dir.path().join("ca"), 86_400, 86_400);
    fs::write(dir.path().join("ca/workloads.yaml"), workloads()).unwrap();
    let mut ca = Ca::start_in(dir, &["--lifetime", "1s"]);
    let mut client = ca.socket("workload.sock").await;
    let given = fetch::<X509SvidResponse>(&mut client, FETCH_X509_SVID, true).await;
    assert!(given.is_ok());
    ca.kill();
    let log = ca.path("ca/issued.jsonl");
    let text = ca.read("ca/issued.jsonl");
    fs::write(&log, format!("{text}{{\"time\":\"2026-")).unwrap();
    let signers = |ca: &Ca| fs::read_dir(ca.path("ca/signers")).unwrap().count();
    assert_eq!(signers(&ca), 1);
    plug(&ca.path("ca"), 86_400, 86_400);
    ca.restart();
    assert!(ca.err().contains("half a line") && ca.err().contains("2026-"), "{}", ca.err());
    assert!(ca.issued().iter().all(|line| line["serial"].is_string()));
    // The former signer goes once what it signed has ended.
    let mut changes = 0;
    ca.wait("the former signer is gone", |ca| {
        changes += 1;
        ca.write("workloads.yaml", format!("{}# {changes}\n", workloads()));
        signers(ca) == 1
    });
}
