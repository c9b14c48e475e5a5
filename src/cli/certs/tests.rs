use std::fs;
use std::sync::Arc;

use clap::Parser;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, client::WebPkiServerVerifier};

use super::*;

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    args: CertsArgs,
}

struct Made {
    scratch: tempfile::TempDir,
    report: String,
}

const NOW: OffsetDateTime = time::macros::datetime!(2026-01-02 03:04:05 UTC);

fn args(certs: &Path, flags: &str) -> CertsArgs {
    let line = ["certs", "--certs", certs.to_str().unwrap()];
    Only::try_parse_from(line.into_iter().chain(flags.split_whitespace())).unwrap().args
}

fn made(flags: &str) -> Made {
    let scratch = tempfile::tempdir().unwrap();
    let report = make(&args(scratch.path(), flags), NOW).unwrap();
    Made { scratch, report }
}

impl Made {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path(name)).unwrap()
    }

    fn roots(&self, name: &str) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate(name)).unwrap();
        Arc::new(roots)
    }

    /// Whether a client that trusts `ca` accepts the certificate as that host.
    fn serves(&self, ca: &str, certificate: &str, host: &str) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots(ca), provider).build().unwrap();
        let host = ServerName::try_from(host).unwrap();
        let certificate = self.certificate(certificate);
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &certificate,
            &[],
            &host,
            &[],
            now(),
        )
        .is_ok()
    }

    /// Whether a server that trusts `ca` accepts the certificate of a client.
    fn lets_in(&self, ca: &str, certificate: &str) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots(ca), provider).build().unwrap();
        verifier.verify_client_cert(&self.certificate(certificate), &[], now()).is_ok()
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        NOW.unix_timestamp().try_into().unwrap(),
    ))
}

#[test]
fn hosts_are_served_under_the_edge_authority_only() {
    let made = made("--host www.example.org");
    let edge = "edge-ca/tls.crt";
    for host in ["shop.example.com", "api.shop.example.com", "localhost", "www.example.org"] {
        assert!(made.serves(edge, "shop-tls/tls.crt", host), "{host}");
    }
    assert!(made.serves(edge, "admin-tls/tls.crt", "admin.example.com"));
    assert!(made.serves(edge, "legacy/tls.crt", "legacy.example.com"));
    assert!(!made.serves(edge, "shop-tls/tls.crt", "admin.example.com"));
    assert!(!made.serves("mesh-ca/tls.crt", "shop-tls/tls.crt", "shop.example.com"));
}

#[test]
fn only_the_client_authority_lets_clients_in() {
    let made = made("");
    assert!(made.lets_in("admin-tls/ca.crt", "client/tls.crt"));
    assert!(!made.lets_in("admin-tls/ca.crt", "identity/cert-chain.pem"));
    assert!(!made.lets_in("edge-ca/tls.crt", "client/tls.crt"));
}

#[test]
fn mesh_members_know_each_other() {
    let made = made("");
    let root = "identity/root-cert.pem";
    assert!(made.lets_in(root, "identity/cert-chain.pem"));
    assert!(made.serves(root, "backend/cert-chain.pem", "cart.shop.internal"));
    assert!(!made.serves(root, "shop-tls/tls.crt", "shop.example.com"));
}

#[test]
fn every_key_belongs_to_its_certificate() {
    let made = made("");
    for (certificate, key) in [
        ("shop-tls/tls.crt", "shop-tls/tls.key"),
        ("client/tls.crt", "client/tls.key"),
        ("identity/cert-chain.pem", "identity/key.pem"),
    ] {
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(made.path(key)).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let pair = rustls::sign::CertifiedKey::new(vec![made.certificate(certificate)], key);
        pair.keys_match().unwrap();
    }
}

#[test]
fn the_identity_names_trust_domain_namespace_and_account() {
    let made = made("--trust-domain prod.example --namespace edge --service-account gw");
    let der = made.certificate("identity/cert-chain.pem");
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(format!("{names:?}"), r#"[URI("spiffe://prod.example/ns/edge/sa/gw")]"#);
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let made = made("");
    assert_eq!(made.report.matches("made  ").count(), 9, "{}", made.report);
    let before = fs::read(made.path("shop-tls/tls.key")).unwrap();
    let report = make(&args(made.scratch.path(), "--host other.example"), NOW).unwrap();
    assert_eq!(report.matches("kept  ").count(), 9, "{report}");
    assert_eq!(fs::read(made.path("shop-tls/tls.key")).unwrap(), before);
}

#[test]
fn what_was_removed_is_issued_anew_by_the_same_authority() {
    let made = made("");
    fs::remove_dir_all(made.path("shop-tls")).unwrap();
    make(&args(made.scratch.path(), ""), NOW).unwrap();
    assert!(made.serves("edge-ca/tls.crt", "shop-tls/tls.crt", "shop.example.com"));
}

#[test]
fn certificates_of_a_lost_authority_are_pointed_out() {
    let made = made("");
    fs::remove_dir_all(made.path("edge-ca")).unwrap();
    let report = make(&args(made.scratch.path(), ""), NOW).unwrap();
    assert_eq!(report.matches("not issued by the new CA").count(), 3, "{report}");
}

#[test]
fn half_a_credential_is_an_error_that_names_what_is_missing() {
    let made = made("");
    fs::remove_file(made.path("mesh-ca/tls.key")).unwrap();
    let error = make(&args(made.scratch.path(), ""), NOW).unwrap_err();
    assert!(error.to_string().contains("tls.key"), "{error:#}");
}
