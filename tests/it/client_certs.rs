//! Client certificates at the edge: what backends are told, and that no host's rule is met by another's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup};
use serde_json::Value;

use crate::backend::Backend;
use crate::client::{Http, tls};
use crate::gateway::{Site, gateway, routes, service, to};
use crate::pki::{Authority, Leaf};

fn sequence(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    format!(":{}:", STANDARD.encode(der))
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_told_of_a_certificate_where_the_server_says_so_and_never_by_clients() {
    let backend = Backend::http1().await;
    let site = Site::new();
    let optional = |name: &str| format!("mode: OPTIONAL_MUTUAL, credentialName: {name}");
    for name in ["told", "silent"] {
        site.certificate(name, &[&format!("{name}.com")]);
        site.client_ca(name);
    }
    let annotated =
        "istio-system, annotations: {portcullis.dev/client-cert-headers: 'told, tolt'}}";
    site.config(
        "all",
        &(gateway("told", 443, "HTTPS", "told.com", &optional("told"))
            .replace("istio-system}", annotated)
            + &gateway("silent", 443, "HTTPS", "silent.com", &optional("silent"))
            + &routes(
                "r",
                "istio-system/told, istio-system/silent",
                "told.com, silent.com",
                &to("echo"),
            )
            + &service("echo", "HTTP", backend.port)),
    );
    site.write("certs/told/ca.crl", site.clients.revoke(&[9]).0);
    let gateway = site.start(&[443]);
    gateway.tells("\"tolt\" is the port name of no server");
    let leaf = site.clients.leaf(&["one"], 1);
    let whole = Leaf { chain: leaf.chain.clone() + site.clients.pem(), key: leaf.key.clone() };
    let forged = [
        ("client-cert", ":AAAA:"),
        ("client-cert-chain", ":AAAA:"),
        ("client_cert", ":AAAA:"),
        ("client_cert-chain", ":AAAA:"),
    ];
    let (own, chain) = (sequence(&leaf.chain), sequence(site.clients.pem()));
    for alpn in ["h2", "http/1.1"] {
        for (host, shown, expected) in [
            ("told.com", Some(&whole), (Some(own.as_str()), Some(chain.as_str()))),
            ("told.com", Some(&leaf), (Some(own.as_str()), None)),
            ("told.com", None, (None, None)),
            ("silent.com", Some(&whole), (None, None)),
        ] {
            let config = tls(&site.edge, shown, &[alpn]);
            let mut http = Http::secure(&config, gateway.port(443), host).await;
            let seen = http.ask(&format!("https://{host}/"), &forged).await.json();
            let header = |name: &str| seen["headers"].get(name).and_then(Value::as_str);
            let told = (header("client-cert"), header("client-cert-chain"));
            assert_eq!(told, expected, "{alpn} {host}");
            assert_eq!((header("client_cert"), header("client_cert-chain")), (None, None));
        }
    }
    let due = "portcullis_crl_next_update_timestamp_seconds{name=\"told\"} 3976214400\n";
    assert!(gateway.metrics().contains(due), "{}", gateway.metrics());
}

/// Offers the newest session to every server, whatever its name.
#[derive(Debug, Default)]
struct AnyName(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.lock().unwrap().push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap().pop_back()
    }
}

/// A client of one CA, whose sessions are offered to every host.
fn client(site: &Site, own: Option<&Leaf>, alpn: &[&str]) -> (Arc<ClientConfig>, Arc<AnyName>) {
    let mut config = ClientConfig::clone(&tls(&site.edge, own, alpn));
    let store = Arc::<AnyName>::default();
    config.resumption = Resumption::store(store.clone());
    (Arc::new(config), store)
}

/// Whether a new connection to a host is let in.
async fn enters(config: &Arc<ClientConfig>, port: u16, host: &str) -> bool {
    let mut http = Http::secure(config, port, host).await;
    let request = http.request("GET", &format!("https://{host}/"), &[], "");
    http.try_send(request).await.is_ok_and(|reply| reply.status == 200)
}

/// Of a server with this host.
fn credential(host: &str) -> String {
    host.trim_end_matches(".x.com").replace('.', "-")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hosts_rule_for_clients_is_met_by_anothers_connection_session_or_name() {
    let backend = Backend::http1().await;
    let site = Site::new();
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    // A name of its host, mode, the CA it asks for.
    let servers: [(&str, &str, Option<&Authority>); 7] = [
        ("one.x.com", "MUTUAL", Some(&one)),
        ("two.x.com", "MUTUAL", Some(&two)),
        ("maybe.x.com", "OPTIONAL_MUTUAL", Some(&one)),
        ("open.x.com", "SIMPLE", None),
        ("again.x.com", "MUTUAL", Some(&one)),
        ("wide.x.com", "SIMPLE", None),
        ("wide.in.x.com", "MUTUAL", Some(&two)),
    ];
    let mut config = service("echo", "HTTP", backend.port);
    for (host, mode, ca) in servers {
        let name = &credential(host);
        let host = &format!("'{}'", host.replace("wide", "*"));
        // Every certificate covers every host: only the rules for clients tell the servers apart.
        site.certificate(name, &["*.x.com", "*.in.x.com"]);
        if let Some(ca) = ca {
            site.write(&format!("certs/{name}/ca.crt"), ca.pem());
        }
        let settings = format!("mode: {mode}, credentialName: {name}");
        config += &gateway(name, 443, "HTTPS", host, &settings);
        config += &routes(name, &format!("istio-system/{name}"), host, &to("echo"));
    }
    site.config("all", &config);
    let gateway = site.start(&[443]);
    let port = gateway.port(443);
    let leaves = [one.leaf(&["of-one"], 1), two.leaf(&["of-two"], 2)];
    let shown = |ca: Option<&Authority>| match ca {
        Some(ca) if ca.pem() == one.pem() => Some(&leaves[0]),
        Some(_) => Some(&leaves[1]),
        None => None,
    };
    for alpn in ["h2", "http/1.1"] {
        for (from, mode, ca) in servers {
            for (to, other_mode, other_ca) in servers {
                let same_ca = match (ca, other_ca) {
                    (Some(one), Some(other)) => one.pem() == other.pem(),
                    (None, None) => true,
                    _ => false,
                };
                let same = same_ca && mode == other_mode;
                let (config, store) = client(&site, shown(ca), &[alpn]);
                let mut http = Http::secure(&config, port, from).await;
                assert_eq!(http.get(&format!("https://{from}/")).await.status, 200);
                // A coalesced connection, or a Host header of another host.
                let status = http.get(&format!("https://{to}/")).await.status.as_u16();
                assert_eq!(status, if same { 200 } else { 421 }, "{alpn} {from} {to}");
                // A session of another host.
                let offered = !store.0.lock().unwrap().is_empty();
                assert!(offered, "{from} gives a ticket");
                let lets_in = other_mode != "MUTUAL" || same_ca;
                let entered = enters(&config, port, to).await;
                let refusable = other_mode == "OPTIONAL_MUTUAL" && ca.is_some() && !same_ca;
                assert_eq!(entered, lets_in && !refusable, "{alpn} {from} {to}");
            }
        }
    }
    let metrics = gateway.metrics();
    for (host, ..) in servers {
        let name = credential(host);
        let resumed = metrics.lines().find(|line| {
            line.contains("outcome=\"resumed\"") && line.contains(&format!("istio-system/{name}/"))
        });
        let count = resumed.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        // Its own sessions alone, once for each version.
        assert!(count.unwrap_or(0) <= 2, "{resumed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_hosts_connection_meets_a_narrower_hosts_server_or_none() {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.certificate("x", &["*.x.com", "y.com"]);
    site.client_ca("x");
    let settings = "mode: OPTIONAL_MUTUAL, credentialName: x";
    let server = |name: &str, host: &str, forwarding: &str| {
        let details = format!(
            "istio-system, annotations: {{portcullis.dev/forward-client-cert-details: {forwarding}}}}}"
        );
        gateway(name, 443, "HTTPS", host, settings).replacen("istio-system}", &details, 1)
    };
    site.config(
        "all",
        &(server("wide", "'*.x.com', y.com", "ALWAYS_FORWARD_ONLY")
            + &server("narrow", "a.x.com", "SANITIZE_SET")
            + &gateway("bytes", 443, "TLS", "bytes.x.com", "mode: SIMPLE, credentialName: x")
            + &gateway("passed", 443, "TLS", "passed.x.com", "mode: PASSTHROUGH")
            + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: p, \
               namespace: shop}\nspec: {hosts: [passed.x.com], gateways: [istio-system/passed], tls: \
               [{match: [{sniHosts: [passed.x.com]}], route: [{destination: {host: \
               echo.shop.internal}}]}]}\n"
            + &routes("r", "istio-system/wide", "'*.x.com', y.com", &to("echo"))
            + &routes("r2", "istio-system/narrow", "a.x.com", &to("echo"))
            + &service("echo", "HTTP", backend.port)),
    );
    let gateway = site.start(&[443]);
    let leaf = site.clients.leaf(&["one"], 1);
    for alpn in ["h2", "http/1.1"] {
        for (from, to, told) in [
            ("foo.x.com", "foo.x.com", Some("said")),
            ("foo.x.com", "bar.x.com", Some("said")),
            ("foo.x.com", "y.com", Some("said")),
            ("y.com", "foo.x.com", Some("said")),
            ("foo.x.com", "a.x.com", Some("own")),
            ("y.com", "A.X.com", Some("own")),
            ("a.x.com", "foo.x.com", Some("said")),
            ("foo.x.com", "bytes.x.com", None),
            ("foo.x.com", "passed.x.com", None),
            ("foo.x.com", "z.org", None),
            ("foo.x.com", "x.com", None),
        ] {
            let config = tls(&site.edge, Some(&leaf), &[alpn]);
            let mut http = Http::secure(&config, gateway.port(443), from).await;
            let said = [("x-forwarded-client-cert", "By=said")];
            let reply = http.ask(&format!("https://{to}/"), &said).await;
            let status = if told.is_some() { 200 } else { 421 };
            assert_eq!(reply.status.as_u16(), status, "{alpn} {from} {to}");
            let Some(told) = told else { continue };
            let seen = &reply.json()["headers"]["x-forwarded-client-cert"];
            let own = seen.as_str().is_some_and(|text| text.contains("Hash="));
            assert_eq!(if own { "own" } else { "said" }, told, "{alpn} {from} {to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_certificate_is_treated_as_the_mesh_says() {
    let backend = Backend::http1().await;
    // What the backend sees of what the client said and of its own, with a certificate and without.
    for (mode, shown, hidden) in [
        ("SANITIZE", "", ""),
        ("SANITIZE_SET", "own", ""),
        ("FORWARD_ONLY", "said", ""),
        ("APPEND_FORWARD", "said,own", ""),
        ("ALWAYS_FORWARD_ONLY", "said", "said"),
    ] {
        let site = Site::new();
        site.certificate("a", &["a.com"]);
        site.client_ca("a");
        let mesh = "defaultConfig: {gatewayTopology: {forwardClientCertDetails: MODE}}\n";
        site.write("mesh.yaml", mesh.replace("MODE", mode));
        let settings = "mode: OPTIONAL_MUTUAL, credentialName: a";
        site.config(
            "all",
            &(gateway("a", 443, "HTTPS", "a.com", settings)
                + &routes("r", "istio-system/a", "a.com", &to("echo"))
                + &service("echo", "HTTP", backend.port)),
        );
        let gateway = site.start_with(&[443], &["--mesh-config", "mesh.yaml"]);
        let leaf = site.clients.leaf(&["one"], 1);
        for (certificate, expected) in [(Some(&leaf), shown), (None, hidden)] {
            let config = tls(&site.edge, certificate, &["h2"]);
            let mut http = Http::secure(&config, gateway.port(443), "a.com").await;
            let said = [("x-forwarded-client-cert", "By=said")];
            let seen = http.ask("https://a.com/", &said).await.json();
            let told = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
            let told = match told.split_once("Hash=") {
                Some((before, _)) => format!("{before}own"),
                None => told.to_owned(),
            };
            assert_eq!(told.replace("By=", ""), expected, "{mode} {}", certificate.is_some());
        }
    }
}
