//! Streams that live long while what is asked of their clients' certificates changes.

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{connect, shake, tls};
use crate::gateway::{Gateway, Site};
use crate::pki::{Authority, Leaf};
use crate::standing::{Live, NO_ONE, OPEN, access, counted, start, told};

type Secure = Live<TlsStream<TcpStream>>;

/// A WebSocket and a stream of bytes, over mutual TLS.
async fn both(site: &Site, gateway: &Gateway, leaf: &Leaf, path: &str) -> [Secure; 2] {
    let client = tls(&site.edge, Some(leaf), &["http/1.1"]);
    let stream = async |port| shake(&client, gateway.port(port), "m.com").await.unwrap();
    let mut bytes = Live(stream(9443).await);
    assert_eq!(bytes.ask().await.unwrap(), "hello\n");
    [Live::socket(stream(443).await, "m.com", path, "").await, bytes]
}

/// What is refused ends and says why, and the others go on.
async fn one_of_two_ends(gateway: &Gateway, refused: [Secure; 2], others: [Secure; 2], why: &str) {
    for stream in refused {
        stream.ends().await;
    }
    let [mut socket, mut bytes] = others;
    assert_eq!(socket.ask().await.unwrap(), "pong\n");
    assert_eq!(bytes.ask().await.unwrap(), "again\n");
    for origin in ["Gateway istio-system/m ", "Gateway istio-system/secure "] {
        told(gateway, &["tightened_client_certificate", origin, why]);
    }
    let line = "portcullis_rejections_total{reason=\"tightened_client_certificate\"} 2\n";
    gateway.wait("both are counted", || gateway.metrics().contains(line));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_ca_that_is_replaced_ends_the_streams_of_its_clients_and_no_others() {
    let (site, gateway) = start(OPEN).await;
    let next = Authority::new("next");
    let bundle = site.clients.pem().to_owned() + next.pem();
    gateway.reload(|| site.write("certs/m/ca.crt", bundle));
    let old = both(&site, &gateway, &site.clients.leaf(&["old"], 1), "/old").await;
    let new = both(&site, &gateway, &next.leaf(&["new"], 1), "/new").await;
    gateway.reload(|| site.write("certs/m/ca.crt", next.pem()));
    one_of_two_ends(&gateway, old, new, "UnknownIssuer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_clients_must_have_end_the_streams_of_those_without_and_no_others() {
    let (site, gateway) = start(OPEN).await;
    let one = both(&site, &gateway, &site.clients.leaf(&["one"], 1), "/one").await;
    let two = both(&site, &gateway, &site.clients.leaf(&["two"], 2), "/two").await;
    let all = std::fs::read_to_string(site.path("config/all.yaml")).unwrap();
    let (open, named) = ("credentialName: m", "credentialName: m, subjectAltNames: [two]");
    gateway.reload(|| _ = site.config("all", &all.replace(open, named)));
    one_of_two_ends(&gateway, one, two, "subject alternative names").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_revoked_ends_its_streams_and_no_others() {
    let (site, gateway) = start(OPEN).await;
    let (one, two) = (site.clients.leaf(&["one"], 1), site.clients.leaf(&["two"], 2));
    let port = gateway.port(443);
    let socket = async |leaf, path| {
        let stream = shake(&tls(&site.edge, Some(leaf), &["http/1.1"]), port, "m.com").await;
        Live::socket(stream.unwrap(), "m.com", path, "").await
    };
    let (one, mut two) = (socket(&one, "/one").await, socket(&two, "/two").await);
    gateway.reload(|| site.write("certs/m/ca.crl", site.clients.revoke(&[1]).0));
    one.ends().await;
    assert_eq!(two.ask().await.unwrap(), "pong\n");
    told(
        &gateway,
        &["\"path\":\"/one\"", "tightened_client_certificate", "Gateway istio-system/m "],
    );
    counted(&gateway, "tightened_client_certificate");
    // A list that cannot be read ends nobody, and opens nothing.
    gateway.reload(|| site.write("certs/m/ca.crl", "nonsense"));
    let other = Live::socket(connect(gateway.port(80)).await, "a.com", "/one", "").await;
    gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
    other.ends().await;
    assert_eq!(two.ask().await.unwrap(), "pong\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_clear_ends_when_its_port_asks_for_certificates() {
    let (site, gateway) = start(OPEN).await;
    let mut stream = Live(connect(gateway.port(9000)).await);
    assert_eq!(stream.ask().await.unwrap(), "hello\n");
    let mutual =
        crate::gateway::gateway("tcp", 9000, "TLS", "'*'", "mode: MUTUAL, credentialName: m");
    let text = std::fs::read_to_string(site.path("config/all.yaml")).unwrap();
    let open = crate::gateway::gateway("tcp", 9000, "TCP", "'*'", "");
    assert!(text.contains(&open));
    gateway.reload(|| _ = site.config("all", &text.replace(&open, &mutual)));
    stream.ends().await;
    counted(&gateway, "tightened_mutual_tls");
    told(&gateway, &["tightened_mutual_tls", "Gateway istio-system/tcp "]);
}
