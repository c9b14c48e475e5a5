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

/// A root, a CA below it and the signing certificate, each good for so many days.
fn chain_of(days: [i64; 3]) -> Files {
    let mut above: Option<(String, KeyPair)> = None;
    let mut certificates = Vec::new();
    for (number, days) in days.into_iter().enumerate() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("ca {number}"));
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = NOW - Duration::days(1);
        params.not_after = NOW + Duration::days(days);
        let key = KeyPair::generate().unwrap();
        let certificate = match &above {
            None => params.self_signed(&key).unwrap(),
            Some((pem, above)) => {
                params.signed_by(&key, &Issuer::from_ca_cert_pem(pem, above).unwrap()).unwrap()
            }
        };
        certificates.push(certificate.pem());
        above = Some((certificate.pem(), key));
    }
    let (certificate, key) = above.unwrap();
    let [roots, middle, _] = <[String; 3]>::try_from(certificates).unwrap();
    let key = Secret::new(key.serialize_pem().into_bytes());
    Files { chain: format!("{certificate}{middle}"), certificate, key, roots }
}

#[test]
fn the_first_certificate_to_end_is_the_end() {
    let check = |days: [i64; 3], first: i64, subject: &str| {
        let authority = chain_of(days).load(NOW).unwrap();
        let (end, at) = (authority.end(), (NOW + Duration::days(first)).unix_timestamp());
        assert_eq!((end.at, end.subject.contains(subject)), (at, true), "{days:?} {end:?}");
        let last = NOW + Duration::days(first) - Duration::minutes(1);
        assert_eq!(issue(&authority, last).unwrap().not_after, at, "{days:?}");
        let over = NOW + Duration::days(first);
        assert_eq!(issue(&authority, over).unwrap_err(), AuthorityError::Expired, "{days:?}");
    };
    check([3, 2, 1], 1, "ca 2");
    check([3, 1, 2], 1, "ca 1");
    check([1, 2, 3], 1, "ca 0");
}

#[test]
fn what_leads_to_an_expired_certificate_is_refused() {
    let check = |days: [i64; 3], expected: &str| {
        let error = chain_of(days).load(NOW + Duration::days(2)).unwrap_err();
        assert!(error.to_string().contains(expected), "{days:?} {error}");
    };
    check([3, 3, 1], "ca-cert.pem, or one");
    check([3, 1, 3], "ca 1\" in cert-chain.pem has expired");
    check([1, 3, 3], "ca 0\" in root-cert.pem has expired");
    // A valid root beside it, which the chain does not lead to, does not help; one that it leads to does.
    let files = chain_of([1, 3, 3]);
    let late = NOW + Duration::days(2);
    let other = format!("{}{}", files.roots, Files::new().roots);
    let beside = Files { roots: other, ..files };
    assert!(matches!(beside.load(late), Err(AuthorityError::RootExpired(_))));
    let own = Files::new();
    let rolled = Files { roots: format!("{}{}", chain_of([1, 3, 3]).roots, own.roots), ..own };
    assert!(rolled.load(late).is_ok());
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
