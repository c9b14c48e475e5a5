//! Signing requests that were signed as they should be, and ask for what they should not.

use portcullis::ca::WorkloadId;
use portcullis::grpc::istio::{CertificateRequest, Struct, Value};
use rcgen::PublicKeyData as _;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::Code;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use crate::authority::{Ca, TOKEN};
use crate::ca::{GATEWAY, ask, create, signing_request};

/// A request with something changed about it.
fn request(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn names(names: Vec<SanType>) -> String {
    request(|params| params.subject_alt_names = names)
}

#[tokio::test]
async fn what_asks_for_more_than_ones_own_is_refused_and_not_logged_as_issued() {
    let ca = Ca::start(&[]);
    let mut client = ca.client().await;
    let before = ca.issued().len();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let admin = WorkloadId::new("cluster.local", "istio-system", "admin").unwrap();
    let good = signing_request(&KeyPair::generate().unwrap(), &[GATEWAY]);
    let (body, _) = good.split_once("-----END").unwrap();
    let flipped = body.len() - 6;
    let swap = if &good[flipped..=flipped] == "A" { "B" } else { "A" };
    let key = |kind| KeyPair::generate_for(kind).unwrap();
    let weak = include_str!("../../src/ca/request/weak.txt");
    let weak =
        weak.split("# ").skip(1).map(|request| request.split_once('\n').unwrap().1.to_owned());
    let requests = [
        names(vec![uri(admin.as_str())]),
        names(vec![uri(GATEWAY), uri(admin.as_str())]),
        names(vec![uri(GATEWAY), uri(GATEWAY)]),
        names(vec![uri(GATEWAY), SanType::DnsName("istiod.istio-system.svc".try_into().unwrap())]),
        names(vec![SanType::IpAddress([127, 0, 0, 1].into())]),
        names(vec![SanType::Rfc822Name("root@cluster.local".try_into().unwrap())]),
        request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        request(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        request(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
        signing_request(&key(&PKCS_ECDSA_P521_SHA512), &[]),
        signing_request(&key(&PKCS_ED25519), &[]),
        good.clone() + &good,
        [&good[..flipped], swap, &good[flipped + 1..]].concat(),
        good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        String::new(),
        "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n".to_owned(),
        format!("{good}{}", " ".repeat(17 << 10)),
    ];
    for csr in requests.into_iter().chain(weak) {
        let status = create(&mut client, TOKEN, csr.clone(), 0).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}\n{csr}");
    }
    assert_eq!(ca.issued().len(), before);
}

#[tokio::test]
async fn nobody_gets_a_certificate_for_another_and_other_metadata_changes_nothing() {
    let ca = Ca::start(&[]);
    let mut client = ca.client().await;
    let key = KeyPair::generate().unwrap();
    let mut with = async |name: &str, text: &str| {
        let value = Value { string_value: text.to_owned() };
        let metadata = Some(Struct { fields: [(name.to_owned(), value)].into() });
        let csr = signing_request(&key, &[]);
        ask(&mut client, TOKEN, CertificateRequest { csr, validity_duration: 0, metadata }).await
    };
    let before = ca.issued().len();
    let other = "spiffe://cluster.local/ns/istio-system/sa/admin";
    for identity in [other, GATEWAY] {
        let refused = with("ImpersonatedIdentity", identity).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    assert_eq!(ca.issued().len(), before);
    for (name, text) in [("ImpersonatedIdentity", ""), ("CertSigner", "other"), ("x", "y")] {
        let chain = with(name, text).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::URI(GATEWAY)], "{name}");
    }
}

#[tokio::test]
async fn nothing_of_a_request_but_its_key_reaches_the_certificate() {
    let ca = Ca::start(&[]);
    let mut client = ca.client().await;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::OcspSigning];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::DataEncipherment];
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        &[1, 3, 6, 1, 4, 1, 99999, 1],
        b"\x05\x00".to_vec(),
    )];
    let key = KeyPair::generate().unwrap();
    let challenge =
        Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: b"\x31\x05\x0c\x03abc".to_vec() };
    let request = params.serialize_request_with_attributes(&key, vec![challenge]).unwrap();
    let chain = create(&mut client, TOKEN, request.pem().unwrap(), 0).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0, "{}", leaf.subject());
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::URI(GATEWAY)]);
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ExtendedKeyUsage(usage) => {
                assert!(usage.server_auth && usage.client_auth);
                assert!(!usage.code_signing && !usage.ocsp_signing && !usage.any);
            }
            ParsedExtension::KeyUsage(usage) => {
                assert!(usage.digital_signature() && usage.key_encipherment());
                assert!(!usage.data_encipherment() && !usage.key_cert_sign() && !usage.crl_sign());
            }
            ParsedExtension::BasicConstraints(constraints) => assert!(!constraints.ca),
            ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_) => {}
            other => panic!("nobody asked the CA for {other:?}"),
        }
    }
}
