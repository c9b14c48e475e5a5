//! Connections that begin with a PROXY header, where the mesh's configuration says that they do.

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsConnector;

use crate::backend::Backend;
use crate::client::{Http, connect, raw, tls};
use crate::gateway::{Gateway, Site, gateway, routes, service, to};

/// A gateway behind a load balancer, which serves clients of 203.0.113.0/24.
async fn behind() -> (Site, Backend, Gateway) {
    let site = Site::new();
    let echo = Backend::http1().await;
    site.certificate("a", &["a.com"]);
    site.write("mesh.yaml", "defaultConfig: {gatewayTopology: {proxyProtocol: {}}}\n");
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "a.com", "")
            + &gateway("tls", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
            + &routes("r", "istio-system/plain, istio-system/tls", "a.com", &to("echo"))
            + &service("echo", "HTTP", echo.port)
            + "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ours, \
               namespace: istio-system}\nspec: {action: ALLOW, rules: [{from: [{source: {ipBlocks: \
               [203.0.113.0/24]}}]}]}\n"),
    );
    let gateway = site.start_with(&[80, 443], &["--mesh-config", "mesh.yaml"]);
    (site, echo, gateway)
}

fn line(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.2 5 443\r\n").into_bytes()
}

fn binary(source: [u8; 4]) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &source, &[192, 0, 2, 2, 0, 5, 1, 187]].concat()
}

#[tokio::test]
async fn the_address_that_is_announced_is_the_clients() {
    let (site, echo, gateway) = behind().await;
    for (header, status) in [
        (line("203.0.113.9"), 200),
        (binary([203, 0, 113, 9]), 200),
        (line("198.51.100.1"), 403),
        (b"PROXY UNKNOWN\r\n".to_vec(), 403),
    ] {
        let mut plain = connect(gateway.port(80)).await;
        plain.write_all(&header).await.unwrap();
        let mut sealed = connect(gateway.port(443)).await;
        sealed.write_all(&header).await.unwrap();
        let config = tls(&site.edge, None, &["http/1.1"]);
        let name = ServerName::try_from("a.com").unwrap();
        let sealed = TlsConnector::from(config).connect(name, sealed).await.unwrap();
        for reply in [
            Http::over(plain).await.get("http://a.com/").await,
            Http::over(sealed).await.get("https://a.com/").await,
        ] {
            assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&header));
            if status == 200 {
                assert_eq!(reply.json()["headers"]["x-forwarded-for"], "203.0.113.9");
            }
        }
    }
    assert_eq!(echo.requests(), 4);
}

#[tokio::test]
async fn who_announces_nothing_gets_nothing() {
    let (_site, echo, gateway) = behind().await;
    let request = b"GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(gateway.port(80), request).await, b"");
    let broken = [&b"PROXY TCP4 203.0.113.9 192.0.2.2 5\r\n"[..], request].concat();
    assert_eq!(raw(gateway.port(80), &broken).await, b"");
    assert_eq!(echo.requests(), 0);
    gateway.wait("it is logged", || gateway.out().contains("proxy_header_missing"));
}

/// As [`behind`], where the Gateway of port 443 says whose headers are believed.
async fn listed(peers: &str) -> (Site, Backend, Gateway) {
    let site = Site::new();
    let echo = Backend::http1().await;
    site.certificate("a", &["a.com"]);
    let annotated = format!(
        "istio-system, annotations: {{portcullis.dev/proxy-protocol: tls, \
         portcullis.dev/proxy-protocol-from: '{peers}'}}}}"
    );
    let tls = gateway("tls", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a");
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "a.com", "")
            + &tls.replace("istio-system}", &annotated)
            + &routes("r", "istio-system/plain, istio-system/tls", "a.com", &to("echo"))
            + &service("echo", "HTTP", echo.port)),
    );
    let gateway = site.start(&[80, 443]);
    (site, echo, gateway)
}

/// The address that the backend is told, of a client behind this header; nothing when it is refused.
async fn told(site: &Site, gateway: &Gateway, header: &[u8]) -> Option<String> {
    let mut sealed = connect(gateway.port(443)).await;
    sealed.write_all(header).await.unwrap();
    let config = tls(&site.edge, None, &["http/1.1"]);
    let name = ServerName::try_from("a.com").unwrap();
    let sealed = TlsConnector::from(config).connect(name, sealed).await.ok()?;
    let reply = Http::over(sealed).await.get("https://a.com/").await;
    Some(reply.json()["headers"]["x-forwarded-for"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_port_believes_the_peers_that_its_gateway_lists() {
    let (site, _echo, gateway) = listed("10.0.0.0/8, 127.0.0.1").await;
    for header in [line("203.0.113.9"), binary([203, 0, 113, 9])] {
        assert_eq!(told(&site, &gateway, &header).await.as_deref(), Some("203.0.113.9"));
    }
    assert_eq!(told(&site, &gateway, b"").await, None);
    gateway.wait("it is logged", || gateway.out().contains("proxy_header_missing"));
    // Other ports go on without a header.
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.json()["headers"]["x-forwarded-for"], "127.0.0.1");
    let explained = gateway.admin("/explain?url=https://a.com/").to_string();
    assert!(explained.contains("a PROXY header of 10.0.0.0/8, 127.0.0.1/32 says"), "{explained}");
}

#[tokio::test]
async fn a_peer_that_is_not_listed_is_refused_with_its_header_and_without() {
    for peers in ["10.0.0.0/8", "", "nowhere"] {
        let (site, echo, gateway) = listed(peers).await;
        for header in [&line("203.0.113.9")[..], b""] {
            assert_eq!(told(&site, &gateway, header).await, None, "{peers}");
        }
        gateway.wait("it is logged", || gateway.out().contains("proxy_peer_untrusted"));
        assert_eq!(echo.requests(), 0);
        if peers != "10.0.0.0/8" {
            gateway.tells("nobody is believed to announce clients");
        }
    }
}

#[tokio::test]
async fn the_first_gateway_of_a_port_says_who_announces() {
    let site = Site::new();
    let one = |name: &str, host: &str, annotations: &str| {
        gateway(name, 80, "HTTP", host, "")
            .replace("istio-system}", &format!("istio-system, annotations: {{{annotations}}}}}"))
    };
    let all = "portcullis.dev/proxy-protocol: '*', portcullis.dev/proxy-protocol-from: 127.0.0.1";
    site.config(
        "all",
        &(one("first", "a.com", "")
            + &one("second", "b.com", all)
            + &routes(
                "r",
                "istio-system/first",
                "a.com",
                "  http: [{directResponse: {status: 200}}]\n",
            )),
    );
    let gateway = site.start(&[80]);
    assert_eq!(Http::plain(gateway.port(80)).await.get("http://a.com/").await.status, 200);
    gateway.tells("says otherwise who announces clients on port 80");
}
