//! Certificates of servers, and what is asked of clients beyond their CA.

use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use portcullis::base::hash::Fingerprint;
use portcullis::base::limit;
use rustls::SignatureScheme;
use serde_json::json;

use crate::backend::Backend;
use crate::client::{Http, proven, shake, tls, tls_with};
use crate::gateway::{Gateway, Site, gateway, routes, service};
use crate::pki::Leaf;

const ANSWER: &str = "  http: [{directResponse: {status: 200, body: {string: in}}}]\n";

/// A server for `a.com` with these TLS settings.
fn start(site: &Site, settings: &str) -> Gateway {
    site.config(
        "all",
        &(gateway("edge", 443, "HTTPS", "a.com", settings)
            + &routes("r", "istio-system/edge", "a.com", ANSWER)),
    );
    site.start(&[443])
}

/// Whether a client with this certificate gets an answer.
async fn enters(site: &Site, gateway: &Gateway, own: &Leaf) -> bool {
    proven(&tls(&site.edge, Some(own), &[]), gateway.port(443), "a.com").await.is_ok()
}

#[tokio::test]
async fn a_revoked_client_is_refused_and_a_new_list_is_taken_up() {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    site.write("certs/a/ca.crl", site.clients.revoke(&[2]).0);
    let gateway = start(&site, "mode: MUTUAL, credentialName: a");
    let (one, two) = (site.clients.leaf(&["one"], 1), site.clients.leaf(&["two"], 2));
    assert!(enters(&site, &gateway, &one).await);
    assert!(!enters(&site, &gateway, &two).await);
    gateway.reload(|| site.write("certs/a/ca.crl", site.clients.revoke(&[1, 2]).0));
    assert!(!enters(&site, &gateway, &one).await);
    // A list that cannot be read, is emptied, or is another CA's never opens the door again.
    for (list, told) in [
        ("nonsense".to_owned(), "PC028"),
        (String::new(), "PC028"),
        (site.edge.revoke(&[7]).0, "PC053"),
    ] {
        gateway.reload(|| site.write("certs/a/ca.crl", list));
        gateway.tells(told);
        assert!(!enters(&site, &gateway, &one).await && !enters(&site, &gateway, &two).await);
    }
    assert!(gateway.metrics().contains("outcome=\"client_certificate\""));
}

/// A list that is good but for its length.
fn too_long(list: &str) -> String {
    let most = usize::try_from(limit::CREDENTIAL_FILE_BYTES).unwrap();
    format!("{list}{}", "x".repeat(most))
}

/// A server whose clients a list in `place` is about: one that is too long is told of with its place, and
/// changes nothing. Gives the site, where that list is, and the gateway.
async fn check_too_long(
    settings: &str,
    place: &str,
    write: impl Fn(&Site, &str),
) -> (Site, Gateway) {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    write(&site, &site.clients.revoke(&[1]).0);
    let gateway = start(&site, settings);
    let (one, two) = (site.clients.leaf(&["one"], 1), site.clients.leaf(&["two"], 2));
    // Read, it would let the first in and keep the second out.
    let long = too_long(&site.clients.revoke(&[2]).0);
    gateway.reload(|| write(&site, &long));
    let told = |line: &str| line.contains(place) && line.contains("larger than 4194304 bytes");
    gateway.wait("it is told", || gateway.err().lines().any(told));
    assert!(!enters(&site, &gateway, &one).await && enters(&site, &gateway, &two).await, "{place}");
    (site, gateway)
}

/// The same from a cold start: nobody is let in before the list is mended.
async fn check_too_long_cold(settings: &str, place: &str, write: impl Fn(&Site, &str)) {
    let (site, gateway) = check_too_long(settings, place, &write).await;
    drop(gateway);
    let cold = site.start(&[443]);
    let (one, two) = (site.clients.leaf(&["one"], 1), site.clients.leaf(&["two"], 2));
    assert!(!enters(&site, &cold, &one).await && !enters(&site, &cold, &two).await, "{place}");
    cold.reload(|| write(&site, &site.clients.revoke(&[2]).0));
    assert!(enters(&site, &cold, &one).await && !enters(&site, &cold, &two).await, "{place}");
}

#[tokio::test]
async fn a_list_that_is_too_long_leaves_the_last_good_one_in_force() {
    let credential = "mode: MUTUAL, credentialName: a";
    let folder = |site: &Site, list: &str| site.write("certs/a/ca.crl", list);
    check_too_long_cold(credential, "certs/a/ca.crl", folder).await;
    let files = "mode: MUTUAL, serverCertificate: certs/a/tls.crt, privateKey: certs/a/tls.key, \
                 caCertificates: certs/a/ca.crt, caCrl: lists/crl.pem";
    let file = |site: &Site, list: &str| site.write("lists/crl.pem", list);
    check_too_long_cold(files, "lists/crl.pem", file).await;
}

#[tokio::test]
async fn a_list_of_a_secret_that_is_too_long_leaves_the_last_good_one_in_force() {
    let credential = "mode: MUTUAL, credentialName: a";
    let place = "ca.crl of Secret istio-system/a config/secret.yaml:1";
    check_too_long(credential, place, |site, list| {
        let part =
            |name: &str| std::fs::read_to_string(site.path(&format!("certs/a/{name}"))).unwrap();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "a", "namespace": "istio-system"},
            "stringData": {
                "tls.crt": part("tls.crt"),
                "tls.key": part("tls.key"),
                "ca.crt": part("ca.crt"),
                "ca.crl": list,
            },
        });
        site.config("secret", &secret.to_string());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_rule_for_clients_ends_the_connections_of_the_old_one() {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    let gateway = start(&site, "mode: MUTUAL, credentialName: a");
    let one = site.clients.leaf(&["one"], 1);
    for (alpn, revoked) in [("h2", 2), ("http/1.1", 3)] {
        let trusted = tls(&site.edge, Some(&one), &[alpn]);
        let mut http = Http::secure(&trusted, gateway.port(443), "a.com").await;
        assert_eq!(http.get("https://a.com/").await.status, 200);
        gateway.reload(|| site.write("certs/a/ca.crl", site.clients.revoke(&[revoked]).0));
        let none = "portcullis_connections_active{kind=\"http\"} 0";
        gateway.wait("it is closed", || gateway.metrics().contains(none));
        let request = http.request("GET", "https://a.com/", &[], "");
        assert!(http.try_send(request).await.is_err(), "{alpn}");
    }
}

#[tokio::test]
async fn names_and_pins_of_client_certificates_are_compared() {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    let (one, two) = (site.clients.leaf(&["one"], 1), site.clients.leaf(&["two"], 2));
    let settings = |more: &str| format!("mode: MUTUAL, credentialName: a, {more}");
    let gateway = start(&site, &settings("subjectAltNames: [one]"));
    assert!(enters(&site, &gateway, &one).await && !enters(&site, &gateway, &two).await);
    for pin in [
        format!("verifyCertificateHash: ['{}']", certificate_pin(&one)),
        format!("verifyCertificateSpki: ['{}']", key_pin(&one)),
    ] {
        let with_pin = gateway_with(&settings(&pin));
        gateway.reload(|| _ = site.config("all", &with_pin));
        assert!(enters(&site, &gateway, &one).await, "{pin}: {}", gateway.err());
        assert!(!enters(&site, &gateway, &two).await, "{pin}");
    }
}

#[tokio::test]
async fn a_restriction_with_a_misspelt_name_lets_nobody_in() {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    let one = site.clients.leaf(&["one"], 1);
    let settings = |more: &str| format!("mode: MUTUAL, credentialName: a{more}");
    let misspelt = gateway_with(&settings(", subjectAltNamez: [two]"));
    let gateway = start(&site, &settings(""));
    assert!(enters(&site, &gateway, &one).await);
    // What the server had before asked for less: it does not go on.
    gateway.reload(|| _ = site.config("all", &misspelt));
    assert!(!enters(&site, &gateway, &one).await);
    gateway.tells("PC052");
    let checked = site.command(&["check"]);
    let report = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(report.contains("PC052") && report.contains("subjectAltNamez"), "{report}");
    let mended = gateway_with(&settings(", subjectAltNames: [one]"));
    gateway.reload(|| _ = site.config("all", &mended));
    assert!(enters(&site, &gateway, &one).await);
}

fn gateway_with(settings: &str) -> String {
    gateway("edge", 443, "HTTPS", "a.com", settings)
        + &routes("r", "istio-system/edge", "a.com", ANSWER)
}

fn der(leaf: &Leaf) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap().to_vec()
}

/// Hexadecimal SHA-256 of the certificate.
fn certificate_pin(leaf: &Leaf) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der(leaf));
    digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Base64 of the SHA-256 of the public key.
fn key_pin(leaf: &Leaf) -> String {
    use base64::Engine as _;
    let der = der(leaf);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let key = certificate.tbs_certificate.subject_pki.raw;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key);
    base64::engine::general_purpose::STANDARD.encode(digest)
}

#[tokio::test]
async fn of_several_certificates_the_one_that_the_client_understands_is_shown() {
    let site = Site::new();
    let ecdsa = site.certificate("ecdsa", &["a.com"]);
    let rsa = site.edge.rsa_leaf(&["a.com"], 2);
    site.write("certs/rsa/tls.key", &rsa.key);
    site.write("certs/rsa/tls.crt", &rsa.chain);
    let gateway = start(&site, "mode: SIMPLE, credentialNames: [rsa, ecdsa]");
    for (scheme, expected) in
        [(SignatureScheme::RSA_PSS_SHA256, &rsa), (SignatureScheme::ECDSA_NISTP256_SHA256, &ecdsa)]
    {
        let config = tls_with(&site.edge, scheme);
        let stream = shake(&config, gateway.port(443), "a.com").await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        assert_eq!(shown, der(expected), "{scheme:?}");
    }
    // A client that understands both sees the one Istio prefers, wherever it stands in the list.
    let stream = shake(&tls(&site.edge, None, &[]), gateway.port(443), "a.com").await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(), der(&ecdsa));
    let mut http = Http::secure(&tls(&site.edge, None, &["h2"]), gateway.port(443), "a.com").await;
    assert_eq!(http.get("https://a.com/").await.text(), "in");
}

#[tokio::test]
async fn cipher_suites_and_files_are_as_written() {
    let site = Site::new();
    let leaf = site.certificate("a", &["a.com"]);
    let file = |name: &str| site.path(&format!("certs/a/{name}")).display().to_string();
    let gateway = start(
        &site,
        &format!(
            "mode: SIMPLE, serverCertificate: '{}', privateKey: '{}', maxProtocolVersion: TLSV1_2, \
             cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]",
            file("tls.crt"),
            file("tls.key")
        ),
    );
    let stream = shake(&tls(&site.edge, None, &[]), gateway.port(443), "a.com").await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    let agreed = session.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(agreed, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    assert_eq!(session.peer_certificates().unwrap()[0].to_vec(), der(&leaf));
}

#[tokio::test]
async fn header_templates_tell_of_the_clients_certificate_and_the_endpoint() {
    let echo = Backend::http1().await;
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    let rules = "  http:
  - headers: {request: {set: {x-peer: '%DOWNSTREAM_PEER_SUBJECT%', x-print: \
                 '%DOWNSTREAM_PEER_FINGERPRINT_256%', x-pem: '%DOWNSTREAM_PEER_CERT%', x-tls: \
                 '%DOWNSTREAM_TLS_VERSION%', x-ip: '%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% \
                 %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%', x-part: '%REQ(x-none?:path)% \
                 %REQ(x-none?x-no)% %REQ(:method?x-peer)%'}}, response: {set: {x-from: \
                 '%UPSTREAM_HOST%', x-code: '%RESPONSE_CODE% of %ROUTE_NAME%', x-came: \
                 '%START_TIME(%s.%3f)%', x-day: '%START_TIME%'}}}
    name: shop
    route: [{destination: {host: echo.shop.internal}}]
";
    site.config(
        "all",
        &(gateway("edge", 443, "HTTPS", "a.com", "mode: MUTUAL, credentialName: a")
            + &routes("r", "istio-system/edge", "a.com", rules)
            + &service("echo", "HTTP", echo.port)),
    );
    let gateway = site.start(&[443]);
    let own = site.clients.leaf(&["alice"], 1);
    let config = tls(&site.edge, Some(&own), &["h2"]);
    let mut http = Http::secure(&config, gateway.port(443), "a.com").await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64().floor();
    let reply = http.ask("https://a.com/some/path", &[("x-peer", "forged")]).await;
    assert_eq!(reply.header("x-from"), format!("127.0.0.1:{}", echo.port));
    assert_eq!(reply.header("x-code"), "200 of shop");
    let came: f64 = reply.header("x-came").parse().unwrap();
    assert!((before..before + 60.0).contains(&came), "{before} {came}");
    assert!(reply.header("x-day").starts_with("20") && reply.header("x-day").len() == 24);
    let told = &reply.json()["headers"];
    // The certificate has no subject, and what the client wrote does not pass for it.
    assert!(told["x-peer"].is_null());
    assert_eq!(told["x-print"], Fingerprint::of(&der(&own)).to_string());
    let pem = percent_decode_str(told["x-pem"].as_str().unwrap()).decode_utf8().unwrap();
    assert_eq!(pem, portcullis::base::pem::encode("CERTIFICATE", &der(&own)));
    assert_eq!(told["x-tls"], "TLSv1.3");
    assert_eq!(told["x-ip"], "127.0.0.1 127.0.0.1");
    assert_eq!(told["x-part"], "/some/path  GET");
}
