//! Which server a TLS connection meets, and what it must show.

use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::client::{Http, connect, proven, raw, shake, tls};
use crate::gateway::{Gateway, Site, gateway, routes, service, to};

/// Fatal alert `unrecognized_name`.
const UNRECOGNIZED: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

async fn modes() -> (Site, Backend, Backend, Gateway) {
    let site = Site::new();
    let echo = Backend::http1().await;
    let sealed = Backend::tls(&site.edge.leaf(&["sealed.com"], 9)).await;
    for (credential, names) in [
        ("exact", &["a.com"][..]),
        ("wild", &["*.a.com", "*.deep.a.com"]),
        ("mutual", &["mutual.com", "optional.com"]),
        ("new", &["new.com"]),
    ] {
        site.certificate(credential, names);
        site.client_ca(credential);
    }
    let all = "istio-system/exact, istio-system/wild, istio-system/deep, istio-system/mutual, \
               istio-system/optional, istio-system/new, istio-system/mesh";
    let mut config = String::new();
    for (name, hosts, tls) in [
        ("exact", "a.com", "mode: SIMPLE, credentialName: exact"),
        ("wild", "'*.a.com'", "mode: SIMPLE, credentialName: wild"),
        ("deep", "'*.deep.a.com'", "mode: SIMPLE, credentialName: wild"),
        ("mutual", "mutual.com", "mode: MUTUAL, credentialName: mutual"),
        ("optional", "optional.com", "mode: OPTIONAL_MUTUAL, credentialName: mutual"),
        ("new", "new.com", "mode: SIMPLE, credentialName: new, minProtocolVersion: TLSV1_3"),
        ("mesh", "mesh.com", "mode: ISTIO_MUTUAL"),
    ] {
        config += &gateway(name, 443, "HTTPS", hosts, tls);
    }
    config += &gateway("sealed", 443, "TLS", "sealed.com", "mode: PASSTHROUGH");
    config += &routes("r", all, "'*'", &to("echo"));
    config += &routes(
        "sealed",
        "istio-system/sealed",
        "sealed.com",
        "  tls: [{match: [{sniHosts: [sealed.com]}], route: [{destination: {host: \
         sealed.shop.internal}}]}]\n",
    );
    config += &service("echo", "HTTP", echo.port);
    config += &service("sealed", "TLS", sealed.port);
    site.config("all", &config);
    let gateway = site.start(&[443]);
    (site, echo, sealed, gateway)
}

#[tokio::test]
async fn names_choose_exact_over_longest_wildcard_and_nothing_else_is_served() {
    let (site, _echo, _sealed, gateway) = modes().await;
    let port = gateway.port(443);
    let config = tls(&site.edge, None, &["h2"]);
    for name in ["a.com", "A.com", "x.a.com", "y.deep.a.com"] {
        let mut http = Http::secure(&config, port, name).await;
        assert_eq!(http.get(&format!("https://{name}/")).await.status, 200, "{name}");
    }
    for name in ["com", "b.com", "a.com.evil.org", "127.0.0.1"] {
        let error = shake(&config, port, name).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{name}: {error}");
    }
    gateway.wait("unknown names are counted", || gateway.metrics().contains("no_sni_match"));
}

#[tokio::test]
async fn a_star_server_takes_unknown_and_missing_names() {
    let site = Site::new();
    let echo = Backend::http1().await;
    site.certificate("any", &["other.com"]);
    site.config(
        "all",
        &(gateway("any", 443, "HTTPS", "'*'", "mode: SIMPLE, credentialName: any")
            + &routes("r", "istio-system/any", "'*'", &to("echo"))
            + &service("echo", "HTTP", echo.port)),
    );
    let gateway = site.start(&[443]);
    let mut config = tls(&site.edge, None, &[]);
    assert!(proven(&config, gateway.port(443), "other.com").await.is_ok());
    std::sync::Arc::get_mut(&mut config).unwrap().enable_sni = false;
    assert!(proven(&config, gateway.port(443), "other.com").await.is_ok());
}

#[tokio::test]
async fn client_certificates_are_asked_for_as_the_mode_says() {
    let (site, _echo, _sealed, gateway) = modes().await;
    let own = site.clients.leaf(&["client"], 7);
    let foreign = crate::pki::Authority::new("foreign").leaf(&["client"], 7);
    let workload = site.workload("web", "frontend", 3);
    for (name, trusted, shown, accepted) in [
        ("a.com", &site.edge, None, true),
        ("mutual.com", &site.edge, None, false),
        ("mutual.com", &site.edge, Some(&own), true),
        ("mutual.com", &site.edge, Some(&foreign), false),
        ("optional.com", &site.edge, None, true),
        ("optional.com", &site.edge, Some(&own), true),
        ("optional.com", &site.edge, Some(&foreign), false),
    ] {
        let config = tls(trusted, shown, &["http/1.1"]);
        let outcome = proven(&config, gateway.port(443), name).await;
        assert_eq!(outcome.is_ok(), accepted, "{name} {} {outcome:?}", shown.is_some());
    }
    // The gateway's own identity has no DNS name, so its chain is looked at without the name.
    for (shown, accepted) in [(None, false), (Some(&own), false), (Some(&workload), true)] {
        let config = crate::client::mesh_tls(&site.mesh, shown);
        let outcome = proven(&config, gateway.port(443), "mesh.com").await;
        assert_eq!(outcome.is_ok(), accepted, "{outcome:?}");
    }
    let config = crate::client::mesh_tls(&site.mesh, Some(&workload));
    let mut http = Http::secure(&config, gateway.port(443), "mesh.com").await;
    let seen = http.get("https://mesh.com/").await.json();
    let xfcc = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap();
    let by = "By=spiffe://cluster.local/ns/istio-system/sa/gateway;Hash=";
    assert!(xfcc.starts_with(by), "{xfcc}");
    assert!(xfcc.ends_with("URI=spiffe://cluster.local/ns/web/sa/frontend"), "{xfcc}");
    let mut http =
        Http::secure(&tls(&site.edge, Some(&own), &["h2"]), gateway.port(443), "mutual.com").await;
    let seen = http.get("https://mutual.com/").await.json();
    let xfcc = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap();
    assert!(xfcc.starts_with("Hash=") && xfcc.contains("DNS=client"), "{xfcc}");
}

#[tokio::test]
async fn version_floors_hold_and_alpn_is_agreed_on() {
    let (site, _echo, _sealed, gateway) = modes().await;
    let old = crate::client::tls12(&site.edge);
    let agreed = shake(&old, gateway.port(443), "a.com").await.unwrap();
    assert_eq!(agreed.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(shake(&old, gateway.port(443), "new.com").await.is_err());
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
        (&["other"], None),
    ] {
        let config = tls(&site.edge, None, offered);
        let stream = shake(&config, gateway.port(443), "new.com").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected, "{offered:?}");
    }
}

#[tokio::test]
async fn passthrough_shows_the_backends_certificate_on_the_same_port() {
    let (site, _echo, sealed, gateway) = modes().await;
    let config = tls(&site.edge, None, &["http/1.1"]);
    let mut http = Http::secure(&config, gateway.port(443), "sealed.com").await;
    let seen = http.get("https://sealed.com/x").await.json();
    assert_eq!((&seen["tls"]["sni"], &seen["path"]), (&"sealed.com".into(), &"/x".into()));
    assert_eq!(sealed.connections(), 1);
    assert!(gateway.metrics().contains("istio_tcp_connections_opened_total"));
}

#[tokio::test]
async fn services_are_passed_through_to_by_name_for_clients_of_the_mesh_alone() {
    let site = Site::new();
    let able = Backend::tls(&site.edge.leaf(&["able.com"], 9)).await;
    let plain = Backend::http1().await;
    let entry = |name: &str, port: u16, labels: &str| {
        service(name, "TCP", port)
            .replace("address: 127.0.0.1,", &format!("address: 127.0.0.1, {labels}"))
    };
    site.config(
        "all",
        &(gateway("auto", 443, "TLS", "'*.shop.internal'", "mode: AUTO_PASSTHROUGH")
            + &entry("able", able.port, "labels: {security.istio.io/tlsMode: istio},")
            + &entry("plain", plain.port, "")),
    );
    let gateway = site.start(&[443]);
    let mut reached = 0;
    for (service, offered, passes) in [
        ("able", &["istio"][..], true),
        ("able", &["istio-h2", "istio"], true),
        ("able", &["h2", "http/1.1"], false),
        ("able", &[], false),
        ("plain", &["istio"], false),
    ] {
        let name = format!("outbound_.80_._.{service}.shop.internal");
        // The certificate is another name's: what counts is who was spoken to.
        let _ = shake(&tls(&site.edge, None, offered), gateway.port(443), &name).await;
        reached += usize::from(passes);
        assert_eq!(able.connections(), reached, "{service} {offered:?}");
    }
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn a_connection_below_a_hosts_version_floor_is_misdirected() {
    let site = Site::new();
    site.certificate("both", &["a.com", "new.com"]);
    let echo = Backend::http1().await;
    let simple = "mode: SIMPLE, credentialName: both";
    site.config(
        "all",
        &(gateway("a", 443, "HTTPS", "a.com", simple)
            + &gateway(
                "n",
                443,
                "HTTPS",
                "new.com",
                &format!("{simple}, minProtocolVersion: TLSV1_3"),
            )
            + &routes("r", "istio-system/a, istio-system/n", "'*.com'", &to("echo"))
            + &service("echo", "HTTP", echo.port)),
    );
    let gateway = site.start(&[443]);
    let old = crate::client::tls12(&site.edge);
    let mut http = Http::secure(&old, gateway.port(443), "a.com").await;
    assert_eq!(http.get("https://a.com/").await.status, 200);
    assert_eq!(http.get("https://new.com/").await.status, 421);
}

#[tokio::test]
async fn hellos_in_pieces_are_read_and_others_end_in_time() {
    let (site, _echo, _sealed, gateway) = modes().await;
    let port = gateway.port(443);
    // Byte by byte, through a relay that splits what the client writes.
    let relay = crate::client::byte_by_byte(port).await;
    assert!(proven(&tls(&site.edge, None, &[]), relay, "a.com").await.is_ok());
    // Neither is a ClientHello: an alert at most.
    for bytes in [&b"GET / HTTP/1.1\r\nhost: a.com\r\n\r\n"[..], &[22, 3, 1, 255, 255]] {
        let answer = raw(port, bytes).await;
        assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");
    }
    let mut silent = connect(port).await;
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(15), silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty());
    assert!(!rest.starts_with(&UNRECOGNIZED));
    let metrics = gateway.metrics();
    for outcome in ["plaintext", "hello_timeout"] {
        assert!(metrics.contains(&format!("outcome=\"{outcome}\"")), "{outcome}\n{metrics}");
    }
}

#[tokio::test]
async fn a_server_with_unusable_material_fails_alone() {
    let site = Site::new();
    let echo = Backend::http1().await;
    site.certificate("good", &["good.com"]);
    site.certificate("bad", &["bad.com"]);
    let other = site.edge.leaf(&["bad.com"], 5);
    site.write("certs/bad/tls.key", &other.key);
    site.config(
        "all",
        &(gateway("good", 443, "HTTPS", "good.com", "mode: SIMPLE, credentialName: good")
            + &gateway("bad", 443, "HTTPS", "bad.com", "mode: SIMPLE, credentialName: bad")
            + &routes("r", "istio-system/good, istio-system/bad", "'*'", &to("echo"))
            + &service("echo", "HTTP", echo.port)),
    );
    let gateway = site.start(&[443]);
    let config = tls(&site.edge, None, &[]);
    assert!(proven(&config, gateway.port(443), "good.com").await.is_ok());
    assert!(shake(&config, gateway.port(443), "bad.com").await.is_err());
    gateway.tells("PC022");
    assert!(!gateway.err().contains("PRIVATE KEY"));
}
