//! Servers and clients of this module against each other, in memory.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind, ServerConnection};

use super::client::{ClientTlsSpec, HostCheck, Verify, client_config};
use super::crypto::{CryptoProfile, CryptoSpec, Providers, TlsVersion};
use super::material::{Material, MaterialError};
use super::pki::{Authority, Leaf};
use super::revocation::Crls;
use super::roots::Roots;
use super::server::{ClientAuth, ServerTls, ServerTlsSpec};
use super::trust::{AllowedNames, TrustRules};

const BACKEND: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn material(leaf: &Leaf) -> Arc<Material> {
    Arc::new(Material::parse(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap())
}

fn roots(authority: &Authority) -> Roots {
    Roots::parse(authority.pem().as_bytes()).unwrap()
}

fn server(leaf: &Leaf, client_auth: ClientAuth) -> ServerTls {
    ServerTls::new(&ServerTlsSpec {
        certificates: vec![material(leaf)],
        crypto: CryptoProfile::standard(),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        client_auth,
    })
    .unwrap()
}

fn client(authority: &Authority, names: &[&str], identity: Option<&Leaf>) -> ClientTlsSpec {
    ClientTlsSpec {
        identity: identity.map(material),
        crypto: CryptoProfile::standard(),
        alpn: vec![b"http/1.1".to_vec()],
        send_name: true,
        verify: Verify::Chain {
            roots: roots(authority),
            crls: Crls::default(),
            names: names.iter().collect(),
            host: HostCheck::Off,
        },
    }
}

/// Shakes hands; gives whether the server resumed, or the first error of either side.
fn shake(
    server: &ServerTls,
    client: &Arc<rustls::ClientConfig>,
    name: &str,
) -> Result<(HandshakeKind, Option<Vec<u8>>), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let offered = client_offer(&client);
    let config = server.config_for(Some(offered.iter().map(Vec::as_slice)));
    let mut server = ServerConnection::new(config.clone()).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    let kind = server.handshake_kind().unwrap();
    Ok((kind, server.alpn_protocol().map(<[u8]>::to_vec)))
}

fn client_offer(_: &ClientConnection) -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec()]
}

#[test]
fn mesh_identities_are_verified_on_both_sides() {
    let (mesh, other) = (Authority::new("mesh"), Authority::new("other"));
    let backend = mesh.leaf(&[BACKEND], 1);
    let gateway = mesh.leaf(&["spiffe://cluster.local/ns/istio-system/sa/gw"], 2);
    let rules = TrustRules { roots: Some(roots(&mesh)), ..TrustRules::default() };
    let server = server(&backend, ClientAuth::Required(rules));
    let check = |spec: ClientTlsSpec| {
        shake(&server, &client_config(&spec).unwrap(), "outbound_.80_._.cart.shop.svc").is_ok()
    };
    assert!(check(client(&mesh, &[BACKEND], Some(&gateway))));
    assert!(check(client(&mesh, &[], Some(&gateway))));
    assert!(!check(client(&mesh, &["spiffe://cluster.local/ns/shop/sa/other"], Some(&gateway))));
    assert!(!check(client(&other, &[BACKEND], Some(&gateway))));
    assert!(!check(client(&mesh, &[BACKEND], None)));
    assert!(!check(client(&mesh, &[BACKEND], Some(&other.leaf(&[BACKEND], 3)))));
}

#[test]
fn revoked_expired_and_unlisted_client_certificates_are_refused() {
    let mesh = Authority::new("mesh");
    let (crl, _) = mesh.revoke(&[7]);
    let rules = TrustRules {
        roots: Some(roots(&mesh)),
        crls: Crls::parse(crl.as_bytes()).unwrap(),
        names: AllowedNames::from_iter(["alice.example.com"]),
        ..TrustRules::default()
    };
    let server = server(&mesh.leaf(&["a.com"], 1), ClientAuth::Optional(rules));
    let check = |leaf: Option<Leaf>| {
        let config = client_config(&client(&mesh, &[], leaf.as_ref())).unwrap();
        shake(&server, &config, "a.com").is_ok()
    };
    assert!(check(None));
    assert!(check(Some(mesh.leaf(&["alice.example.com"], 8))));
    assert!(!check(Some(mesh.leaf(&["alice.example.com"], 7))));
    assert!(!check(Some(mesh.leaf(&["bob.example.com"], 9))));
    assert!(!check(Some(mesh.leaf_until(&["alice.example.com"], 10, 2020))));
}

#[test]
fn an_issuer_without_a_list_beside_others_is_refused_unless_some_may_be_missing() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let check = |lists: &str, complete: bool, expected: bool| {
        let crls = Crls::parse(lists.as_bytes()).unwrap();
        let crls = if complete { crls } else { crls.incomplete() };
        let rules = TrustRules { roots: Some(roots(&ca)), crls, ..TrustRules::default() };
        let server = server(&ca.leaf(&["a.com"], 1), ClientAuth::Required(rules));
        let leaf = ca.leaf(&["alice.example.com"], 8);
        let config = client_config(&client(&ca, &[], Some(&leaf))).unwrap();
        assert_eq!(shake(&server, &config, "a.com").is_ok(), expected, "{complete}");
    };
    let [own, foreign] = [&ca, &other].map(|authority| authority.revoke(&[7]).0);
    check(&own, true, true);
    check(&foreign, true, false);
    check(&foreign, false, true);
    check(&(foreign + &own), true, true);
}

#[test]
fn of_several_lists_of_one_issuer_each_counts() {
    let mesh = Authority::new("mesh");
    let [older, newer] = [&[][..], &[7]].map(|serials| mesh.revoke(serials).0);
    let check = |lists: [&str; 2]| {
        let crls = Crls::parse(lists.concat().as_bytes()).unwrap();
        let rules = TrustRules { roots: Some(roots(&mesh)), crls, ..TrustRules::default() };
        let server = server(&mesh.leaf(&["a.com"], 1), ClientAuth::Required(rules));
        for (serial, expected) in [(7, false), (8, true)] {
            let leaf = mesh.leaf(&["alice.example.com"], serial);
            let config = client_config(&client(&mesh, &[], Some(&leaf))).unwrap();
            assert_eq!(shake(&server, &config, "a.com").is_ok(), expected, "{serial}");
        }
    };
    check([&older, &newer]);
    check([&newer, &older]);
}

#[test]
fn the_host_is_checked_when_it_must_be() {
    let edge = Authority::new("edge");
    let server = server(&edge.leaf(&["*.a.com"], 1), ClientAuth::None);
    let check = |name: &str, host: HostCheck| {
        let mut spec = client(&edge, &[], None);
        spec.verify = Verify::Chain {
            roots: roots(&edge),
            crls: Crls::default(),
            names: AllowedNames::default(),
            host,
        };
        shake(&server, &client_config(&spec).unwrap(), name).is_ok()
    };
    assert!(check("x.a.com", HostCheck::Required));
    assert!(!check("a.com", HostCheck::Required));
    assert!(check("a.com", HostCheck::Off));
}

#[test]
fn no_common_protocol_is_no_failure() {
    let edge = Authority::new("edge");
    let server = server(&edge.leaf(&["a.com"], 1), ClientAuth::None);
    let offered: [&[u8]; 1] = [b"spdy/3"];
    assert!(server.config_for(Some(offered.into_iter())).alpn_protocols.is_empty());
    assert!(server.config_for(None::<std::iter::Empty<&[u8]>>).alpn_protocols.is_empty());
    let config = client_config(&client(&edge, &[], None)).unwrap();
    assert_eq!(shake(&server, &config, "a.com").unwrap().1.as_deref(), Some(&b"http/1.1"[..]));
}

#[test]
fn sessions_are_resumed_by_their_own_server_only() {
    let mesh = Authority::new("mesh");
    let leaf = mesh.leaf(&["a.com"], 1);
    let open = server(&leaf, ClientAuth::None);
    let rules = TrustRules { roots: Some(roots(&mesh)), ..TrustRules::default() };
    let guarded = server(&leaf, ClientAuth::Optional(rules));
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let only = CryptoSpec { max: Some(version), ..CryptoSpec::default() };
        let mut spec = client(&mesh, &[], None);
        spec.crypto = Providers::default().profile(&only).unwrap().0;
        let config = client_config(&spec).unwrap();
        let kind = |server| shake(server, &config, "a.com").unwrap().0;
        assert_ne!(kind(&open), HandshakeKind::Resumed, "{version:?}");
        assert_eq!(kind(&open), HandshakeKind::Resumed, "{version:?}");
        assert_ne!(kind(&guarded), HandshakeKind::Resumed, "{version:?}");
    }
}

#[test]
fn a_version_floor_holds() {
    let edge = Authority::new("edge");
    let spec = CryptoSpec { min: Some(TlsVersion::V1_3), ..CryptoSpec::default() };
    let (crypto, _) = Providers::default().profile(&spec).unwrap();
    let strict = ServerTls::new(&ServerTlsSpec {
        certificates: vec![material(&edge.leaf(&["a.com"], 1))],
        crypto,
        alpn: Vec::new(),
        client_auth: ClientAuth::None,
    })
    .unwrap();
    let mut spec = client(&edge, &[], None);
    let old = CryptoSpec { max: Some(TlsVersion::V1_2), ..CryptoSpec::default() };
    spec.crypto = Providers::default().profile(&old).unwrap().0;
    assert!(shake(&strict, &client_config(&spec).unwrap(), "a.com").is_err());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let edge = Authority::new("edge");
    let (one, two) = (edge.leaf(&["a.com"], 1), edge.leaf(&["a.com"], 2));
    let parse = |chain: &str, key: &str| Material::parse(chain.as_bytes(), key.as_bytes());
    assert!(parse(&one.chain, &one.key).is_ok());
    assert!(matches!(parse(&one.chain, &two.key), Err(MaterialError::Mismatch { .. })));
    assert!(parse("", &one.key).is_err() && parse(&one.chain, "").is_err());
}

#[test]
fn client_rules_without_anchors_cannot_serve() {
    let edge = Authority::new("edge");
    let spec = ServerTlsSpec {
        certificates: vec![material(&edge.leaf(&["a.com"], 1))],
        crypto: CryptoProfile::standard(),
        alpn: Vec::new(),
        client_auth: ClientAuth::Required(TrustRules::default()),
    };
    assert!(ServerTls::new(&spec).is_err());
}
