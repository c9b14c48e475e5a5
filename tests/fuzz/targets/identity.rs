//! From a certificate to who its holder is: as a mesh server lets it in, and as policies see it.

use std::sync::{Arc, OnceLock};

use portcullis::decide::connection::peer;
use portcullis::tls::crypto::CryptoProfile;
use portcullis::tls::identity::{PeerIdentity, SCHEME};
use portcullis::tls::material::Material;
use portcullis::tls::roots::Roots;
use portcullis::tls::server::{ClientAuth, ServerTls, ServerTlsSpec};
use portcullis::tls::trust::TrustRules;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::pki_types::CertificateDer;

use super::edited;

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;
const DOMAIN: &str = "td";

/// A mesh's CA, and a server of the mesh.
struct World {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    server: ServerTls,
    genuine: CertificateDer<'static>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = params.self_signed(&root_key).unwrap().pem();
        let issuer = Issuer::new(params, root_key);
        let genuine = sign(&issuer, &key, vec![uri("spiffe://td/ns/shop/sa/cart").unwrap()], "");
        let chain = portcullis::base::pem::encode("CERTIFICATE", &genuine);
        let material = Material::parse(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let rules = TrustRules {
            roots: Some(Roots::parse(root.as_bytes()).unwrap()),
            trust_domains: vec![DOMAIN.into()],
            ..TrustRules::default()
        };
        let spec = ServerTlsSpec {
            certificates: vec![Arc::new(material)],
            crypto: CryptoProfile::standard(),
            alpn: Vec::new(),
            client_auth: ClientAuth::Required(rules),
        };
        World { issuer, key, server: ServerTls::new(&spec).unwrap(), genuine }
    })
}

fn sign(
    issuer: &Issuer<'static, KeyPair>,
    key: &KeyPair,
    names: Vec<SanType>,
    subject: &str,
) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !subject.is_empty() {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    params.subject_alt_names = names;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.signed_by(key, issuer).unwrap().der().clone()
}

fn uri(text: &str) -> Option<SanType> {
    Some(SanType::URI(text.try_into().ok()?))
}

/// `=` and changes of a genuine certificate, `~` and DER, or lines of a kind and a name that are signed.
pub fn seeds() -> Vec<Vec<u8>> {
    let names = [
        "sns/shop/sa/cart",
        "uspiffe://td/ns/shop/sa/cart",
        "uspiffe://td/ns/shop/sa/cart\nuspiffe://td/ns/shop/sa/admin",
        "uhttps://td/ns/shop/sa/cart\nsns/shop/sa/cart",
        "dspiffe://td/ns/shop/sa/cart",
        "cspiffe://td/ns/shop/sa/cart\ndtd",
        "espiffe://td/ns/shop/sa/cart",
        "uspiffe://td/../td/ns/a/sa/b",
        "uspiffe://TD/ns/a/sa/b\ni10.0.0.1",
        "uspiffe://td/ns/a%2fb/sa/c",
    ];
    let names = names.map(|lines| lines.as_bytes().to_vec());
    let changes = [b"=".to_vec(), b"=\0\x40\xff".to_vec(), b"=\0\x90\x06\0\x91\x30".to_vec()];
    names.into_iter().chain(changes).chain([[b"~", &*world().genuine].concat()]).collect()
}

pub fn run(data: &[u8]) {
    let World { issuer, key, server, genuine } = world();
    let certificate = match data.split_first() {
        Some((b'=', changes)) => edited(genuine, changes).into(),
        Some((b'~', der)) => CertificateDer::from(der.to_vec()),
        _ => {
            let Some(certificate) = named(issuer, key, data) else { return };
            certificate
        }
    };
    let admitted = server.judge_client(std::slice::from_ref(&certificate), NOW).is_ok();
    let Ok(identity) = PeerIdentity::from_der(&certificate) else {
        assert!(!admitted, "what cannot be read is let in");
        return;
    };
    let told = identity.xfcc(&[], &certificate);
    assert!(told.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{told}");
    let known = peer(&identity);
    for id in &known.ids {
        let uri = format!("{SCHEME}{}", id.principal);
        assert!(identity.uri_sans.contains(&uri), "{id:?} {identity:?}");
        let parts =
            id.trust_domain.as_deref().into_iter().chain(
                id.workload.iter().flat_map(|(namespace, account)| [&**namespace, &**account]),
            );
        for part in parts {
            assert!(!part.is_empty() && part.bytes().all(is_allowed), "{id:?}");
        }
    }
    if admitted {
        let [id] = &known.ids[..] else { panic!("{identity:?} is let in") };
        assert_eq!(id.trust_domain.as_deref(), Some(DOMAIN));
        assert_eq!(identity.uri_sans.len(), 1);
        assert!(id.principal.split('/').all(|part| !matches!(part, "" | "." | "..")), "{id:?}");
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}

/// A certificate with the names of a list; nothing when one cannot be written.
fn named(
    issuer: &Issuer<'static, KeyPair>,
    key: &KeyPair,
    list: &[u8],
) -> Option<CertificateDer<'static>> {
    let (mut names, mut subject) = (Vec::new(), "");
    for line in std::str::from_utf8(list).ok()?.split('\n').take(8) {
        let Some(kind) = line.chars().next() else { continue };
        let name = &line[kind.len_utf8()..];
        match kind {
            's' => names.push(uri(&format!("spiffe://{DOMAIN}/{name}"))?),
            'd' => names.push(SanType::DnsName(name.try_into().ok()?)),
            'e' => names.push(SanType::Rfc822Name(name.try_into().ok()?)),
            'i' => names.push(SanType::IpAddress(name.parse().ok()?)),
            'c' => subject = name,
            _ => names.push(uri(name)?),
        }
    }
    Some(sign(issuer, key, names, subject))
}
