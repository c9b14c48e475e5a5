//! What is signed, what is not, and which files make no authority.

use rcgen::{CertificateParams, Issuer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;
use crate::ca::Revoked;
use crate::ca::create::{create_intermediate, create_root};
use crate::ca::fixture::{Files, NOW, workload};
use crate::tls::revocation::Crls;

const DAY: std::time::Duration = std::time::Duration::from_hours(24);

fn issue(authority: &Authority, now: OffsetDateTime) -> Result<Issued, AuthorityError> {
    let template = Template { id: &workload("cart"), names: Vec::new(), life: DAY };
    authority.issue(&KeyPair::generate().unwrap(), template, now)
}

#[test]
fn a_workload_gets_what_istio_gives() {
    let authority = Files::new().load(NOW).unwrap();
    let issued = issue(&authority, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.certificate).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://td/ns/shop/sa/cart")]);
    assert_eq!(leaf.subject().iter().count(), 0);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    let now = NOW.unix_timestamp();
    assert_eq!((issued.not_before, issued.not_after), (now - 120, now + 86_400));
    assert_eq!(leaf.validity().not_after.timestamp(), issued.not_after);
    assert_eq!(hex(leaf.raw_serial()), issued.serial);
    assert_eq!(issued.serial.len(), 32);
    assert_ne!(issue(&authority, NOW).unwrap().serial, issued.serial);
}

#[test]
fn nothing_outlives_the_authority() {
    let authority = Files::new().load(NOW).unwrap();
    let end = authority.signer().not_after();
    let late = OffsetDateTime::from_unix_timestamp(end - 60).unwrap();
    assert_eq!(issue(&authority, late).unwrap().not_after, end);
    let over = OffsetDateTime::from_unix_timestamp(end).unwrap();
    assert_eq!(issue(&authority, over).unwrap_err(), AuthorityError::Expired);
}

#[test]
fn what_follows_a_leaf_leads_to_a_root_and_holds_none() {
    let files = Files::new();
    let authority = files.load(NOW).unwrap();
    assert_eq!((authority.intermediates().len(), authority.roots().len()), (1, 1));
    let whole = Files { chain: format!("{}{}", files.chain, files.roots), ..files };
    assert_eq!(whole.load(NOW).unwrap().intermediates().len(), 1);
    // Without cert-chain.pem the signing certificate follows the leaf all the same.
    let none = Files { chain: String::new(), ..whole };
    assert_eq!(none.load(NOW).unwrap().intermediates(), authority.intermediates());
}

#[test]
fn a_root_may_sign_by_itself_and_another_root_may_stand_beside() {
    let (root, next) = (create_root("td", NOW).unwrap(), create_root("td", NOW).unwrap());
    let files = Files {
        certificate: root.certificate.clone(),
        key: Secret::new(root.key.expose().clone().into_bytes()),
        roots: format!("{}{}", root.certificate, next.certificate),
        chain: String::new(),
    };
    let authority = files.load(NOW).unwrap();
    assert_eq!((authority.intermediates().len(), authority.roots().len()), (0, 2));
}

fn check(files: &Files, expected: &AuthorityError) {
    assert_eq!(files.load(NOW).unwrap_err(), *expected);
}

#[test]
fn files_that_do_not_go_together_are_refused() {
    let other = Files::new();
    let broken = |text: &str| text.to_owned();
    check(&Files { certificate: broken("x"), ..Files::new() }, &AuthorityError::Certificate);
    check(&Files { key: Secret::new(b"x".to_vec()), ..Files::new() }, &AuthorityError::Key);
    check(&Files { key: other.key.clone(), ..Files::new() }, &AuthorityError::Mismatch);
    check(&Files { roots: broken(""), ..Files::new() }, &AuthorityError::Roots(RootsError::Empty));
    let bad = "-----BEGIN CERTIFICATE-----\nAA\n-----END";
    check(&Files { chain: broken(bad), ..Files::new() }, &AuthorityError::Chain);
    let stranger = Files { roots: other.roots.clone(), ..Files::new() };
    assert!(matches!(stranger.load(NOW), Err(AuthorityError::Unaccepted(_))));
    let early = NOW - Duration::days(30);
    assert!(matches!(Files::new().load(early), Err(AuthorityError::Unaccepted(_))));
    let late = NOW + Duration::days(366);
    assert!(matches!(Files::new().load(late), Err(AuthorityError::Expired)));
}

#[test]
fn a_leaf_is_no_authority() {
    let root = create_root("td", NOW).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&root.certificate, KeyPair::from_pem(root.key.expose()).unwrap())
            .unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().signed_by(&key, &issuer).unwrap().pem();
    let files = Files {
        certificate: leaf,
        key: Secret::new(key.serialize_pem().into_bytes()),
        roots: root.certificate,
        chain: String::new(),
    };
    check(&files, &AuthorityError::NotAuthority);
}

#[test]
fn an_intermediate_can_make_no_other() {
    let root = create_root("td", NOW).unwrap();
    let first = create_intermediate(&root, "td", NOW).unwrap();
    let second = create_intermediate(&first, "td", NOW).unwrap();
    let files = Files {
        certificate: second.certificate,
        key: Secret::new(second.key.expose().clone().into_bytes()),
        roots: root.certificate,
        chain: first.certificate,
    };
    assert!(matches!(files.load(NOW), Err(AuthorityError::Unaccepted(_))));
}

#[test]
fn the_revocation_list_names_what_was_revoked() {
    let authority = Files::new().load(NOW).unwrap();
    let revoked = Revoked { serial: vec![0x4a, 1], at: NOW.unix_timestamp() - 5 };
    let list = authority.signer().revocation_list(&[revoked], NOW).unwrap();
    assert!(Crls::parse(&list).is_ok());
    let (_, list) = x509_parser::parse_x509_crl(&list).unwrap();
    let [entry] = list.iter_revoked_certificates().collect::<Vec<_>>()[..] else {
        panic!("one entry is expected")
    };
    assert_eq!(entry.raw_serial(), [0x4a, 1]);
    assert_eq!(entry.revocation_date.timestamp(), NOW.unix_timestamp() - 5);
    let issuer = X509Certificate::from_der(&authority.intermediates()[0]).unwrap().1;
    list.verify_signature(issuer.public_key()).unwrap();
    let next = list.next_update().unwrap().timestamp() - NOW.unix_timestamp();
    assert_eq!(next, 86_400);
}

#[test]
fn debug_output_has_no_key() {
    let files = Files::new();
    let shown = format!("{:?} {:?}", files.load(NOW).unwrap(), create_root("td", NOW).unwrap());
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
