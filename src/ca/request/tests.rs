//! Requests that are refused, each for its reason, and the few that are not.

use proptest::prelude::*;
use rcgen::{
    CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};

use super::*;
use crate::base::pem;
use crate::ca::fixture::workload;

fn names(uris: &[&str], dns: &[&str]) -> Vec<SanType> {
    let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    uris.chain(dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()))).collect()
}

fn der(key: &KeyPair, names: Vec<SanType>, extension: Option<(&[u64], &[u8])>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.custom_extensions = extension
        .map(|(oid, content)| CustomExtension::from_oid_content(oid, content.to_vec()))
        .into_iter()
        .collect();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn pem_of(der: &[u8]) -> String {
    pem::encode("CERTIFICATE REQUEST", der)
}

/// Whether the caller `td/ns/shop/sa/cart` gets this request signed.
fn check(pem: &str, expected: &Result<(), RefusedRequest>) {
    let outcome =
        SigningRequest::parse(pem).and_then(|request| request.key_of(&workload("cart")).map(drop));
    assert_eq!(outcome, *expected, "{pem}");
}

fn check_key(algorithm: &'static SignatureAlgorithm, expected: &Result<(), RefusedRequest>) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    check(&pem_of(&der(&key, Vec::new(), None)), expected);
}

#[test]
fn only_some_kinds_of_keys_are_signed() {
    check_key(&PKCS_ECDSA_P256_SHA256, &Ok(()));
    check_key(&PKCS_ECDSA_P384_SHA384, &Ok(()));
    check_key(&PKCS_RSA_SHA256, &Ok(()));
    check_key(&PKCS_ECDSA_P521_SHA512, &Err(RefusedRequest::Key));
    check_key(&PKCS_ED25519, &Err(RefusedRequest::Key));
}

#[test]
fn a_request_names_its_caller_or_nobody() {
    let key = KeyPair::generate().unwrap();
    let own = "spiffe://td/ns/shop/sa/cart";
    let other = "spiffe://td/ns/shop/sa/admin";
    let check = |names, expected| check(&pem_of(&der(&key, names, None)), expected);
    let refused = Err(RefusedRequest::Name(workload("cart")));
    check(names(&[], &[]), &Ok(()));
    check(names(&[own], &[]), &Ok(()));
    check(names(&[other], &[]), &refused);
    check(names(&[own, other], &[]), &refused);
    check(names(&[own, own], &[]), &refused);
    check(names(&[own], &["shop.example.com"]), &refused);
    check(names(&[], &["shop.example.com"]), &refused);
    check(names(&["spiffe://td/ns/shop/sa/cart/"], &[]), &refused);
}

#[test]
fn nobody_becomes_an_authority() {
    let key = KeyPair::generate().unwrap();
    let basic_constraints: (&[u64], &[u8]) = (&[2, 5, 29, 19], &[0x30, 3, 1, 1, 0xff]);
    let key_cert_sign: (&[u64], &[u8]) = (&[2, 5, 29, 15], &[3, 2, 2, 4]);
    let crl_sign: (&[u64], &[u8]) = (&[2, 5, 29, 15], &[3, 2, 1, 2]);
    for extension in [basic_constraints, key_cert_sign, crl_sign] {
        check(&pem_of(&der(&key, Vec::new(), Some(extension))), &Err(RefusedRequest::Authority));
    }
    let not_an_authority: (&[u64], &[u8]) = (&[2, 5, 29, 19], &[0x30, 0]);
    check(&pem_of(&der(&key, Vec::new(), Some(not_an_authority))), &Ok(()));
    let unknown: (&[u64], &[u8]) = (&[1, 3, 6, 1, 4, 1, 99999, 1], b"\x05\x00");
    check(&pem_of(&der(&key, Vec::new(), Some(unknown))), &Ok(()));
    let broken: (&[u64], &[u8]) = (&[2, 5, 29, 17], b"\xff\xff");
    check(&pem_of(&der(&key, Vec::new(), Some(broken))), &Err(RefusedRequest::Unreadable));
}

#[test]
fn the_key_must_be_proven() {
    let mut der = der(&KeyPair::generate().unwrap(), Vec::new(), None);
    let last = der.len() - 1;
    der[last] ^= 1;
    check(&pem_of(&der), &Err(RefusedRequest::Signature));
}

#[test]
fn other_texts_are_unreadable() {
    let good = pem_of(&der(&KeyPair::generate().unwrap(), Vec::new(), None));
    check("", &Err(RefusedRequest::Unreadable));
    check("-----BEGIN CERTIFICATE REQUEST-----", &Err(RefusedRequest::Unreadable));
    check(&good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), &Err(RefusedRequest::Unreadable));
    check(&format!("{good}{good}"), &Err(RefusedRequest::Unreadable));
    check(&pem_of(b"\x30\x00"), &Err(RefusedRequest::Unreadable));
    let mut trailing = der(&KeyPair::generate().unwrap(), Vec::new(), None);
    trailing.push(0);
    check(&pem_of(&trailing), &Err(RefusedRequest::Unreadable));
    check(&"x".repeat(limit::CA_REQUEST_BYTES + 1), &Err(RefusedRequest::TooLarge));
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let _ = SigningRequest::parse(&pem_of(&bytes));
        let key = KeyPair::generate().unwrap();
        let mut changed = der(&key, names(&["spiffe://td/ns/shop/sa/cart"], &[]), None);
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        // Whatever bit changes, what is signed is refused or the key's own.
        if let Ok(request) = SigningRequest::parse(&pem_of(&changed)) {
            use rcgen::PublicKeyData as _;
            prop_assert_eq!(request.key.der_bytes(), key.der_bytes());
        }
    }
}
