//! Signing requests: what the CA issues is the caller's identity, for a key that was proven.

use std::sync::OnceLock;
use std::time::Duration;

use portcullis::base::pem;
use portcullis::base::secret::Secret;
use portcullis::ca::{
    Authority, AuthorityFiles, SigningRequest, Template, WorkloadId, create_intermediate,
    create_root,
};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SanType};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::edited;

const CALLER: &str = "spiffe://td/ns/shop/sa/cart";

/// Genuine requests with the key of each, and who signs.
struct World {
    requests: Vec<(Vec<u8>, Vec<u8>)>,
    authority: Authority,
    caller: WorkloadId,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let now = OffsetDateTime::now_utc();
        let root = create_root("td", now).unwrap();
        let signing = create_intermediate(&root, "td", now).unwrap();
        let key = Secret::new(signing.key.expose().clone().into_bytes());
        let caller = WorkloadId::new("td", "shop", "cart").unwrap();
        let files = AuthorityFiles {
            certificate: signing.certificate.as_bytes(),
            key: &key,
            roots: root.certificate.as_bytes(),
            chain: signing.certificate.as_bytes(),
        };
        let request = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names =
                names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
            let der = params.serialize_request(&key).unwrap().der().to_vec();
            (der, key.der_bytes().to_vec())
        };
        World {
            requests: vec![
                request(&[]),
                request(&[CALLER]),
                request(&["spiffe://td/ns/shop/sa/admin"]),
            ],
            authority: Authority::load(files, &caller, now).unwrap(),
            caller,
        }
    })
}

/// A byte that chooses a request, then changes of it; or DER or PEM after a byte that is none.
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = &world().requests;
    let genuine = (0_u8..).zip(requests).map(|(which, _)| vec![which]);
    let changed = (0_u8..).zip(requests).map(|(which, _)| vec![which, 0, 60, 0xff, 0, 5, 0x30]);
    let der = requests.iter().map(|(der, _)| [b"~", &**der].concat());
    let text = requests.iter().map(|(der, _)| [b"!", armoured(der).as_bytes()].concat());
    genuine.chain(changed).chain(der).chain(text).collect()
}

fn armoured(der: &[u8]) -> String {
    pem::encode("CERTIFICATE REQUEST", der)
}

pub fn run(data: &[u8]) {
    let World { requests, authority, caller } = world();
    let Some((which, rest)) = data.split_first() else { return };
    let text = match (requests.get(usize::from(*which)), which) {
        (Some((der, _)), _) => armoured(&edited(der, rest)),
        (None, b'!') => String::from_utf8_lossy(rest).into_owned(),
        (None, _) => armoured(rest),
    };
    let Ok(request) = SigningRequest::parse(&text) else { return };
    let Ok(key) = request.key_of(caller) else { return };
    // Nobody but the holder of the key can sign a request, and nothing here holds others.
    let known = requests.iter().any(|(_, own)| own == key.der_bytes());
    assert!(known, "{text}");
    let template = Template { id: caller, names: Vec::new(), life: Duration::from_mins(1) };
    let issued = authority.issue(key, template, OffsetDateTime::now_utc()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI(CALLER)]);
    assert!(!certificate.is_ca() && certificate.subject().iter().next().is_none());
}
