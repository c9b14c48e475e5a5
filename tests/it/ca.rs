//! The built-in CA, by each of its interfaces.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use http::uri::PathAndQuery;
use portcullis::grpc::client::Client;
use portcullis::grpc::istio::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use portcullis::grpc::sds::{
    DEFAULT, DiscoveryRequest, DiscoveryResponse, ErrorDetail, ROOT_CA, SECRET_TYPE,
    STREAM_SECRETS, Secret,
};
use portcullis::grpc::workload::{
    Empty, FETCH_X509_BUNDLES, FETCH_X509_SVID, SECURITY_HEADER, X509BundlesResponse,
    X509SvidResponse,
};
use portcullis::tls::material::Material;
use prost::Message;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::public_key::PublicKey;

use crate::authority::{Ca, TOKEN};
use crate::gateway::PATIENCE;

pub const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/gateway";

/// Asserts that a chain is for `id` and accepted by the CA's roots, both as client and as server.
pub fn verify(ca: &Ca, chain: &[CertificateDer<'_>], id: &str) {
    let (leaf, intermediates) = chain.split_first().unwrap();
    let roots = ca.roots();
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        EndEntityCert::try_from(leaf)
            .unwrap()
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &roots.roots,
                intermediates,
                UnixTime::now(),
                usage,
                None,
                None,
            )
            .unwrap();
    }
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names, [x509_parser::extensions::GeneralName::URI(id)]);
    assert!(!leaf.is_ca());
}

pub fn signing_request(key: &KeyPair, names: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.serialize_request(key).unwrap().pem().unwrap()
}

pub async fn create(
    client: &mut Client,
    token: &str,
    csr: String,
    seconds: i64,
) -> Result<Vec<String>, Status> {
    let request = CertificateRequest { csr, validity_duration: seconds, metadata: None };
    ask(client, token, request).await
}

pub async fn ask(
    client: &mut Client,
    token: &str,
    request: CertificateRequest,
) -> Result<Vec<String>, Status> {
    let mut request = Request::new(request);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    client.ready().await.unwrap();
    let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    client.unary(request, path, codec).await.map(|answer| answer.into_inner().cert_chain)
}

#[tokio::test]
async fn a_join_token_gets_its_holders_certificate_and_nothing_else() {
    let ca = Ca::start(&[]);
    let mut client = ca.client().await;
    let key = KeyPair::generate().unwrap();
    let chain = create(&mut client, TOKEN, signing_request(&key, &[]), 3600).await.unwrap();
    let (roots, certificates) = chain.split_last().unwrap();
    assert_eq!(*roots, ca.read("ca/root-cert.pem"));
    let certificates: Vec<_> = certificates
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .collect();
    verify(&ca, &certificates, GATEWAY);
    Material::parse(chain.concat().as_bytes(), key.serialize_pem().as_bytes()).unwrap();

    let log = ca.issued();
    let last = log.last().unwrap();
    assert_eq!((&last["identity"], &last["caller"]), (&json!(GATEWAY), &json!("join token")));
    assert!(create(&mut client, TOKEN, signing_request(&key, &[GATEWAY]), 0).await.is_ok());

    let admin = "spiffe://cluster.local/ns/istio-system/sa/admin";
    for (token, csr, seconds, code) in [
        ("", signing_request(&key, &[]), 0, Code::Unauthenticated),
        ("another-token-for-tests", signing_request(&key, &[]), 0, Code::Unauthenticated),
        (TOKEN, signing_request(&key, &[admin]), 0, Code::InvalidArgument),
        (TOKEN, signing_request(&key, &[]), 91 * 86_400, Code::InvalidArgument),
        (TOKEN, "no request".to_owned(), 0, Code::InvalidArgument),
        (TOKEN, "x".repeat(17 << 10), 0, Code::InvalidArgument),
        (TOKEN, "x".repeat(65 << 10), 0, Code::OutOfRange),
    ] {
        let status = create(&mut client, token, csr, seconds).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    assert_eq!(ca.issued().len(), log.len() + 1);
    let said = ca.err();
    assert!(!said.contains(TOKEN) && !said.contains("another-token") && !said.contains("PRIVATE"));
}

/// One SDS stream.
struct Secrets {
    _client: Client,
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Secrets {
    async fn open(ca: &Ca) -> Self {
        let mut client = ca.socket("sds.sock").await;
        client.ready().await.unwrap();
        let (requests, receiver) = mpsc::channel(4);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
        let path = PathAndQuery::from_static(STREAM_SECRETS);
        let answers = client.streaming(Request::new(stream), path, codec).await.unwrap();
        Self { _client: client, requests, answers: answers.into_inner() }
    }

    async fn ask(&self, names: &[&str], nonce: &str, refused: bool) {
        let request = DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            type_url: SECRET_TYPE.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: refused.then(|| ErrorDetail { message: "no".to_owned() }),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<(String, Vec<Secret>), Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.unwrap()?.unwrap();
        let secrets =
            answer.resources.iter().map(|any| Secret::decode(&*any.value).unwrap()).collect();
        Ok((answer.nonce, secrets))
    }
}

fn chain_of(secret: &Secret) -> Vec<CertificateDer<'static>> {
    let (chain, key) = secret.clone().into_certificate().unwrap();
    Material::parse(&chain, key.expose()).unwrap();
    CertificateDer::pem_slice_iter(&chain).map(Result::unwrap).collect()
}

#[tokio::test]
async fn sds_gives_certificate_and_roots_and_renews_them() {
    let ca = Ca::start(&["--lifetime", "6s"]);
    let mut secrets = Secrets::open(&ca).await;
    let start = Instant::now();
    secrets.ask(&[DEFAULT, ROOT_CA, "other"], "", false).await;
    let (nonce, first) = secrets.next().await.unwrap();
    assert_eq!([first[0].name.as_str(), &first[1].name], [ROOT_CA, DEFAULT]);
    let (roots, lists) = first[0].clone().into_roots().unwrap();
    assert_eq!((roots, lists), (ca.read("ca/root-cert.pem").into_bytes(), Vec::new()));
    verify(&ca, &chain_of(&first[1]), GATEWAY);
    for certificate in chain_of(&first[1]) {
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        let key = certificate.public_key().parsed().unwrap();
        assert!(matches!(key, PublicKey::EC(point) if point.key_size() == 256));
    }
    // Accepting is not answered: what comes next is the renewal.
    secrets.ask(&[DEFAULT, ROOT_CA, "other"], &nonce, false).await;
    let (nonce, second) = secrets.next().await.unwrap();
    // At half of its life, a second of which may be over when it is made.
    let renewed = start.elapsed();
    assert!((2..5).contains(&renewed.as_secs()), "{renewed:?}");
    assert_ne!(chain_of(&second[1])[0], chain_of(&first[1])[0]);
    verify(&ca, &chain_of(&second[1]), GATEWAY);
    // Nor is refusing.
    secrets.ask(&[DEFAULT, ROOT_CA], &nonce, true).await;
    let (_, third) = secrets.next().await.unwrap();
    assert_ne!(chain_of(&third[1])[0], chain_of(&second[1])[0]);
}

#[tokio::test]
async fn who_loses_an_identity_loses_its_stream() {
    let mut ca = Ca::start(&[]);
    let mut secrets = Secrets::open(&ca).await;
    secrets.ask(&[DEFAULT], "", false).await;
    secrets.next().await.unwrap();
    ca.write("workloads.yaml", "sockets: [{uid: 4294967294, namespace: a, serviceAccount: b}]");
    assert_eq!(secrets.next().await.unwrap_err().code(), Code::PermissionDenied);
    // A list with a mistake changes nothing.
    ca.write("workloads.yaml", "sockets: [{uid: 4294967294}]");
    ca.wait("the mistake is told", |ca| ca.err().contains("goes on as it was"));
    let mut secrets = Secrets::open(&ca).await;
    secrets.ask(&[DEFAULT], "", false).await;
    assert_eq!(secrets.next().await.unwrap_err().code(), Code::PermissionDenied);
}

pub async fn fetch<A>(client: &mut Client, path: &'static str, header: bool) -> Result<A, Status>
where
    A: Message + Default + Send + Sync + 'static,
{
    let mut request = Request::new(Empty {});
    if header {
        request.metadata_mut().insert(SECURITY_HEADER, "true".parse().unwrap());
    }
    client.ready().await.unwrap();
    let codec = ProstCodec::<Empty, A>::default();
    let answer = client.server_streaming(request, PathAndQuery::from_static(path), codec).await?;
    Ok(timeout(PATIENCE, answer.into_inner().message()).await.unwrap()?.unwrap())
}

#[tokio::test]
async fn the_workload_api_gives_svids_and_bundles_to_who_asks_rightly() {
    let ca = Ca::start(&[]);
    let mut client = ca.socket("workload.sock").await;
    let answer: X509SvidResponse = fetch(&mut client, FETCH_X509_SVID, true).await.unwrap();
    let [svid] = &answer.svids[..] else { panic!("one is expected") };
    assert_eq!(svid.spiffe_id, GATEWAY);
    let root = CertificateDer::from_pem_slice(ca.read("ca/root-cert.pem").as_bytes()).unwrap();
    assert_eq!(svid.bundle, root.as_ref());
    let (rest, _) = x509_parser::parse_x509_certificate(&svid.x509_svid).unwrap();
    let leaf = CertificateDer::from(svid.x509_svid[..svid.x509_svid.len() - rest.len()].to_vec());
    verify(&ca, &[leaf, CertificateDer::from(rest.to_vec())], GATEWAY);
    assert!(!answer.crl.is_empty());
    let bundles: X509BundlesResponse = fetch(&mut client, FETCH_X509_BUNDLES, true).await.unwrap();
    assert_eq!(bundles.bundles["spiffe://cluster.local"], root.as_ref());

    let refused = fetch::<X509SvidResponse>(&mut client, FETCH_X509_SVID, false).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let unknown = fetch::<X509SvidResponse>(&mut client, "/SpiffeWorkloadAPI/Other", true).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
    ca.write("workloads.yaml", "");
    timeout(PATIENCE, async {
        while fetch::<X509SvidResponse>(&mut client, FETCH_X509_SVID, true).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_revoked_is_listed() {
    let mut ca = Ca::start(&[]);
    let mut client = ca.client().await;
    let key = KeyPair::generate().unwrap();
    create(&mut client, TOKEN, signing_request(&key, &[]), 0).await.unwrap();
    let serial = ca.issued().last().unwrap()["serial"].as_str().unwrap().to_owned();
    let before = ca.read("ca/ca-crl.pem");
    ca.write("revoked.txt", format!("{serial} 2026-01-01T00:00:00Z # stolen\n"));
    ca.wait("the list is written", |ca| ca.read("ca/ca-crl.pem") != before);
    let list = x509_parser::pem::parse_x509_pem(ca.read("ca/ca-crl.pem").as_bytes()).unwrap().1;
    let (_, list) = x509_parser::parse_x509_crl(&list.contents).unwrap();
    let entry = list.iter_revoked_certificates().next().unwrap();
    assert_eq!(entry.raw_serial_as_string().replace(':', ""), serial);
}

#[test]
fn it_does_not_start_with_an_exposed_key_or_beside_another() {
    let ca = Ca::start(&[]);
    let again = || {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .current_dir(ca.dir.path())
            .args(["ca", "--listen", "off"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(again().contains("in use by another CA"));
    let dir = ca.path("ca");
    fs::set_permissions(dir.join("ca-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let copy = ca.path("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["ca-cert.pem", "ca-key.pem", "root-cert.pem"] {
        fs::copy(dir.join(name), copy.join(name)).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .current_dir(ca.dir.path())
        .args(["ca", "--listen", "off", "--dir", "copy"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("chmod 600"), "{said}");
}
