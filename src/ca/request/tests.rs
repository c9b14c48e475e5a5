//! Requests that are refused, each for its reason, and the few that are not.

use proptest::prelude::*;
use rcgen::{
    Attribute, CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
    SignatureAlgorithm,
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

/// A request with these contents of its extension for alternative names, one extension for each.
fn with_names(contents: &[&[u8]]) -> String {
    let mut params = CertificateParams::default();
    let extension =
        |content: &&[u8]| CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec());
    params.custom_extensions = contents.iter().map(extension).collect();
    pem_of(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der())
}

/// DER of general names: context tags with their contents.
fn general_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (tag, content) in names {
        inner.extend([*tag, u8::try_from(content.len()).unwrap()]);
        inner.extend_from_slice(content);
    }
    [&[0x30, u8::try_from(inner.len()).unwrap()], &*inner].concat()
}

#[test]
fn every_kind_of_name_but_the_callers_uri_is_refused() {
    const OWN: &[u8] = b"spiffe://td/ns/shop/sa/cart";
    const URI: u8 = 0x86;
    let refused = Err(RefusedRequest::Name(workload("cart")));
    check(&with_names(&[&general_names(&[(URI, OWN)])]), &Ok(()));
    for (tag, content) in [
        (0xa0, &b"\x06\x03\x2a\x03\x04\xa0\x03\x0c\x01x"[..]), // another name
        (0x81, b"cart@shop.example.com"),
        (0x82, b"cart.shop"),
        (0xa4, b"\x30\x0e\x31\x0c\x30\x0a\x06\x03\x55\x04\x03\x0c\x03abc"), // a directory's
        (0x87, &[10, 0, 0, 1]),
        (0x87, &[0; 16]),
        (0x88, &[0x2a, 3, 4]),
        (URI, b"https://td/ns/shop/sa/cart"),
        (URI, b"SPIFFE://td/ns/shop/sa/cart"),
        (URI, b"spiffe://td/ns/shop/sa/cart?x"),
        (URI, b"spiffe://td/ns/shop/sa/carts"),
        (URI, b"spiffe://TD/ns/shop/sa/cart"),
        (URI, b""),
    ] {
        check(&with_names(&[&general_names(&[(tag, content)])]), &refused);
        check(&with_names(&[&general_names(&[(URI, OWN), (tag, content)])]), &refused);
        check(&with_names(&[&general_names(&[(tag, content), (URI, OWN)])]), &refused);
    }
    let (own, other) = (general_names(&[(URI, OWN)]), general_names(&[(URI, b"spiffe://td/x")]));
    for twice in [[&*own, &*other], [&*other, &*own], [&*own, &*own]] {
        check(&with_names(&twice), &refused);
    }
}

#[test]
fn names_that_cannot_be_read_are_refused() {
    let long = [&b"\x30\x82\xff\xff\x86\x82\xff\xfb"[..], &[b'a'; 100]].concat();
    for content in [
        &b""[..],
        b"\x30",
        b"\x30\x80",
        b"\x30\x05\x86\x1bspi",
        b"\x31\x02\x86\x00",
        b"\x30\x04\x86\x02\xff\xfe",
        &long,
    ] {
        let outcome = SigningRequest::parse(&with_names(&[content]))
            .and_then(|request| request.key_of(&workload("cart")).map(drop));
        assert!(outcome.is_err(), "{content:02x?}");
    }
    check(&with_names(&[b"\x30\x00"]), &Ok(()));
}

/// A request with these attributes.
fn with_attributes(attributes: Vec<Attribute>) -> String {
    let params = CertificateParams::default();
    let key = KeyPair::generate().unwrap();
    pem_of(params.serialize_request_with_attributes(&key, attributes).unwrap().der())
}

#[test]
fn attributes_name_nobody_else() {
    const EXTENSIONS: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
    const CHALLENGE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
    let asked = |oid, values: &[u8]| Attribute { oid, values: values.to_vec() };
    let names = |names: &[(u8, &[u8])]| {
        let content = general_names(names);
        let length = |more: usize| u8::try_from(content.len() + more).unwrap();
        let head = [0x31, length(11), 0x30, length(9), 0x30, length(7), 6, 3, 0x55, 0x1d, 0x11, 4];
        [&head[..], &[length(0)], &content].concat()
    };
    let own = names(&[(0x86, b"spiffe://td/ns/shop/sa/cart")]);
    let other = names(&[(0x82, b"admin.shop")]);
    let refused = Err(RefusedRequest::Name(workload("cart")));
    check(&with_attributes(vec![asked(CHALLENGE, b"\x31\x05\x0c\x03abc")]), &Ok(()));
    check(&with_attributes(vec![asked(&[1, 2, 3, 4], b"\x31\x02\x05\x00")]), &Ok(()));
    check(&with_attributes(vec![asked(EXTENSIONS, &own)]), &Ok(()));
    check(&with_attributes(vec![asked(EXTENSIONS, &other)]), &refused);
    let both = vec![asked(EXTENSIONS, &own), asked(EXTENSIONS, &other)];
    check(&with_attributes(both), &refused);
    // A second list in one attribute is not looked at by everybody.
    let mut two = [&own[..], &other[2..]].concat();
    two[1] += other[1];
    check(&with_attributes(vec![asked(EXTENSIONS, &two)]), &Err(RefusedRequest::Unreadable));
    for broken in [&b"\x31\x00"[..], b"\x31\x02\x30\x05", b"\x31\x03\x02\x01\x00"] {
        let broken = with_attributes(vec![asked(EXTENSIONS, broken)]);
        check(&broken, &Err(RefusedRequest::Unreadable));
    }
}

#[test]
fn weak_keys_and_signatures_are_refused() {
    let all = include_str!("weak.txt");
    let requests: Vec<_> = all.split("# ").skip(1).collect();
    assert_eq!(requests.len(), 8);
    for request in requests {
        let (what, pem) = request.split_once('\n').unwrap();
        let outcome = SigningRequest::parse(pem).map(drop);
        let expected =
            if what.ends_with(" key") { RefusedRequest::Key } else { RefusedRequest::Signature };
        assert_eq!(outcome, Err(expected), "{what}");
    }
}

#[test]
fn the_key_of_another_request_is_not_proven() {
    let [one, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
    let request = der(&one, Vec::new(), None);
    let (own, foreign) = (one.public_key_raw(), other.public_key_raw());
    let at = request.windows(own.len()).position(|bytes| bytes == own).unwrap();
    let mut stolen = request.clone();
    stolen[at..at + own.len()].copy_from_slice(foreign);
    check(&pem_of(&request), &Ok(()));
    check(&pem_of(&stolen), &Err(RefusedRequest::Signature));
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
