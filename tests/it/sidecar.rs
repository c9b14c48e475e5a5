//! The sidecar before an application: modes, identities, policies, protocols; with a gateway before it.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::backend::{Backend, counter};
use crate::client::{Http, byte_by_byte, connect, mesh_tls_of, raw, shake};
use crate::gateway::{Gateway, PATIENCE, Site, endpoints, free_port, gateway, routes, to};
use crate::pki::{Authority, Leaf};
use crate::scripted::{Scripted, Step};

/// A Service of the workload `app: cart`, with one port.
pub fn declared(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec: \
         {{selector: {{app: cart}}, ports: [{{name: {name}, port: 80, targetPort: {port}}}]}}\n"
    )
}

/// A PeerAuthentication of namespace `shop`.
pub fn mode(mode: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: mode, \
         namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// An AuthorizationPolicy of namespace `shop`.
pub fn access(rest: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: access, \
         namespace: shop}}\nspec: {{{rest}}}\n"
    )
}

pub struct Sidecar {
    pub site: Site,
    pub process: Gateway,
    pub port: u16,
}

/// A sidecar of `app: cart` in `shop` before an application's port.
pub fn start(config: &str, application: u16) -> Sidecar {
    start_with(config, application, &[])
}

/// The same with further flags.
pub fn start_with(config: &str, application: u16, more: &[&str]) -> Sidecar {
    start_in(Site::new(), config, application, more)
}

/// The same in a folder that has something already.
pub fn start_in(site: Site, config: &str, application: u16, more: &[&str]) -> Sidecar {
    let own = site.workload("shop", "cart", 9);
    site.write("certs/identity/key.pem", &own.key);
    site.write("certs/identity/cert-chain.pem", &own.chain);
    site.config("all", config);
    let port = free_port();
    let inbound = format!("{port}={application}");
    let arguments = ["--inbound", &inbound, "--namespace", "shop", "--labels", "app=cart"];
    let arguments = [&arguments[..], &["--access-log", "json"], more].concat();
    let process = site.launch("sidecar", "config", &[], &arguments);
    process.wait("it is ready", || process.status("/healthz/ready") == Some(200));
    Sidecar { site, process, port }
}

impl Sidecar {
    /// TLS of a workload of the mesh that asks for HTTP/1.1.
    pub fn caller(&self, id: &str) -> Arc<ClientConfig> {
        of_the_mesh(
            &self.site.mesh,
            Some(&self.site.mesh.leaf(&[id], 20)),
            &["istio-http/1.1", "istio", "http/1.1"],
        )
    }
}

/// TLS of a caller that trusts the mesh and expects the cart.
pub fn of_the_mesh(mesh: &Authority, own: Option<&Leaf>, alpn: &[&str]) -> Arc<ClientConfig> {
    caller_of(mesh.pem(), own, alpn, "spiffe://cluster.local/ns/shop/sa/cart")
}

/// TLS of a caller that trusts these roots and expects this identity.
pub fn caller_of(
    roots: &str,
    own: Option<&Leaf>,
    alpn: &[&str],
    expected: &str,
) -> Arc<ClientConfig> {
    use portcullis::tls::client::{ClientTlsSpec, HostCheck, Verify, client_config};
    use portcullis::tls::crypto::CryptoProfile;
    use portcullis::tls::material::Material;
    use portcullis::tls::revocation::Crls;
    use portcullis::tls::roots::Roots;

    let identity = own
        .map(|leaf| Arc::new(Material::parse(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap()));
    let roots = Roots::parse(roots.as_bytes()).unwrap();
    let names = [expected].into_iter().collect();
    client_config(&ClientTlsSpec {
        identity,
        crypto: CryptoProfile::standard(),
        alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        send_name: true,
        verify: Verify::Chain { roots, crls: Crls::default(), names, host: HostCheck::Off },
    })
    .unwrap()
}

pub const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";

/// The status that a caller gets; nothing when it is not let in.
pub async fn status(config: &Arc<ClientConfig>, port: u16, path: &str) -> Option<u16> {
    let mut stream = shake(config, port, "cart").await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().ok()?;
    String::from_utf8(answer).unwrap().split(' ').nth(1)?.parse().ok()
}

/// The status of a plaintext request; nothing when it is refused.
pub async fn plain_status(port: u16) -> Option<u16> {
    let answer = raw(port, b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n").await;
    String::from_utf8(answer).unwrap().split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn modes_say_who_is_let_in_and_follow_changes() {
    let application = Backend::http1().await;
    let declared = declared("http", application.port);
    let sidecar = start(&(declared.clone() + &mode("STRICT")), application.port);
    let caller = sidecar.caller(FRONT);
    assert_eq!(status(&caller, sidecar.port, "/").await, Some(200));
    assert_eq!(plain_status(sidecar.port).await, None);
    sidecar
        .process
        .wait("the refusal is logged", || sidecar.process.out().contains("mutual_tls_required"));
    let mut held = Http::secure(&caller, sidecar.port, "cart").await;
    assert_eq!(held.get("http://cart/").await.status, 200);
    for (word, with, without) in [
        ("PERMISSIVE", Some(200), Some(200)),
        ("DISABLE", None, Some(200)),
        ("STRICT", Some(200), None),
    ] {
        let config = declared.clone() + &mode(word);
        sidecar.process.reload(|| _ = sidecar.site.config("all", &config));
        assert_eq!(plain_status(sidecar.port).await, without, "{word}");
        assert_eq!(status(&caller, sidecar.port, "/").await, with, "{word}");
    }
    // A connection without TLS from before is not one of a STRICT port.
    let config = declared.clone() + &mode("PERMISSIVE");
    sidecar.process.reload(|| _ = sidecar.site.config("all", &config));
    let mut before = Http::plain(sidecar.port).await;
    assert_eq!(before.get("http://cart/").await.status, 200);
    let config = declared + &mode("STRICT");
    sidecar.process.reload(|| _ = sidecar.site.config("all", &config));
    let ended = async {
        let request = || http::Request::get("http://cart/").header("host", "cart");
        while before.try_send(request().body(<_>::default()).unwrap()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("what was open before is closed");
}

#[tokio::test]
async fn callers_prove_an_identity_of_a_trusted_domain() {
    let application = Backend::http1().await;
    let sidecar = start(&(declared("http", application.port) + &mode("STRICT")), application.port);
    let alpn = ["istio-http/1.1", "istio", "http/1.1"];
    let mesh = &sidecar.site.mesh;
    assert_eq!(status(&sidecar.caller(FRONT), sidecar.port, "/").await, Some(200));
    for id in ["spiffe://elsewhere/ns/shop/sa/front", "cart.example.com"] {
        assert_eq!(status(&sidecar.caller(id), sidecar.port, "/").await, None, "{id}");
    }
    let stranger = Authority::new("stranger").leaf(&[FRONT], 1);
    let stranger = of_the_mesh(mesh, Some(&stranger), &alpn);
    assert_eq!(status(&stranger, sidecar.port, "/").await, None);
    assert_eq!(status(&of_the_mesh(mesh, None, &alpn), sidecar.port, "/").await, None);
    let gateway = mesh_tls_of(mesh.pem(), Some(&mesh.leaf(&[FRONT], 5)));
    assert_eq!(status(&gateway, sidecar.port, "/").await, None, "another server is expected");
}

#[tokio::test]
async fn policies_know_callers_by_principal_and_the_applications_port() {
    let application = Backend::http1().await;
    let port = application.port;
    let policy = access(&format!(
        "rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/front]}}}}], to: \
         [{{operation: {{ports: ['{port}'], paths: [/open]}}}}]}}]"
    ));
    let sidecar = start(&(declared("http", port) + &policy), port);
    let front = sidecar.caller(FRONT);
    assert_eq!(status(&front, sidecar.port, "/open").await, Some(200));
    assert_eq!(status(&front, sidecar.port, "/other").await, Some(403));
    let back = sidecar.caller("spiffe://cluster.local/ns/shop/sa/back");
    assert_eq!(status(&back, sidecar.port, "/open").await, Some(403));
    assert_eq!(plain_status(sidecar.port).await, Some(403));
    assert_eq!(application.requests(), 1);
}

#[tokio::test]
async fn bytes_are_judged_too() {
    let port = counter().await;
    let policy =
        access("rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}]}]");
    let sidecar = start(&(declared("tcp", port) + &policy), port);
    let mesh = &sidecar.site.mesh;
    for (id, answer) in [(FRONT, "5"), ("spiffe://cluster.local/ns/shop/sa/back", "")] {
        let config =
            of_the_mesh(mesh, Some(&mesh.leaf(&[id], 3)), &["istio-peer-exchange", "istio"]);
        let mut stream = shake(&config, sidecar.port, "cart").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
        // One that is refused may be closed before it has said anything.
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
        let mut said = String::new();
        let _ = timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, answer, "{id}");
    }
    assert!(counted(sidecar.port, b"hello").await.is_empty());
}

/// What comes back for bytes and a half-close.
pub async fn counted(port: u16, bytes: &[u8]) -> String {
    let mut stream = connect(port).await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    let _ = timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap();
    said
}

#[tokio::test]
async fn an_undeclared_port_tells_protocols_by_their_first_bytes() {
    let http = Backend::http1().await;
    let sidecar = start("", http.port);
    let slowly = byte_by_byte(sidecar.port).await;
    let seen = Http::plain(slowly).await.get("http://cart/").await.json();
    assert_eq!(seen["version"], "HTTP/1.1");
    let tls = byte_by_byte(sidecar.port).await;
    assert_eq!(status(&sidecar.caller(FRONT), tls, "/").await, Some(200));

    let http2 = Backend::http2().await;
    let sidecar = start("", http2.port);
    let slowly = byte_by_byte(sidecar.port).await;
    let seen = Http::plain2(slowly).await.get("http://cart/").await.json();
    assert_eq!(seen["version"], "HTTP/2.0");
    let mesh = &sidecar.site.mesh;
    let own = mesh.leaf(&[FRONT], 4);
    let caller = of_the_mesh(mesh, Some(&own), &["istio-h2", "istio", "h2"]);
    let seen = Http::secure(&caller, sidecar.port, "cart").await.get("https://cart/").await.json();
    assert_eq!(seen["version"], "HTTP/2.0");

    let sidecar = start("", counter().await);
    for bytes in [&b"hello"[..], b"GET", b"\x16\x03", b"GET / RTSP/1.0\r\n"] {
        assert_eq!(counted(sidecar.port, bytes).await, bytes.len().to_string());
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_after_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 ready\r\n").await;
        }
    });
    let sidecar = start(&mode("PERMISSIVE"), port);
    assert_eq!(hearing(sidecar.port).await, b"220 ready\r\n");
    let config = mode("STRICT");
    sidecar.process.reload(|| _ = sidecar.site.config("all", &config));
    assert!(hearing(sidecar.port).await.is_empty(), "a silent caller proves nothing");
}

async fn hearing(port: u16) -> Vec<u8> {
    let mut stream = connect(port).await;
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap();
    said
}

#[tokio::test]
async fn a_workload_is_believed_about_the_client_and_others_are_not() {
    let application = Backend::http1().await;
    let sidecar = start(&declared("http", application.port), application.port);
    let said = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "from-before"),
        ("x-forwarded-client-cert", "By=forged"),
    ];
    let mut http = Http::secure(&sidecar.caller(FRONT), sidecar.port, "cart").await;
    let seen = http.ask("http://cart/", &said).await;
    assert_eq!(seen.header("server"), "");
    let headers = seen.json()["headers"].clone();
    assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
    assert_eq!(headers["x-request-id"], "from-before");
    assert_eq!(headers["x-forwarded-proto"], "https");
    let xfcc = headers["x-forwarded-client-cert"].as_str().unwrap();
    assert!(xfcc.starts_with("By=spiffe://cluster.local/ns/shop/sa/cart;Hash="), "{xfcc}");
    assert!(xfcc.contains(FRONT) && !xfcc.contains("forged"), "{xfcc}");

    let headers = Http::plain(sidecar.port).await.ask("http://cart/", &said).await.json();
    let headers = headers["headers"].clone();
    assert_eq!(headers["x-forwarded-for"], "203.0.113.9,127.0.0.1");
    assert_ne!(headers["x-request-id"], "from-before");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-forwarded-client-cert"], json!(null));
}

#[tokio::test]
async fn a_gateway_reaches_the_application_through_its_sidecar() {
    let application = Backend::http1().await;
    let sidecar = start(&(declared("http", application.port) + &mode("STRICT")), application.port);
    let site = Site::new();
    site.write("certs/identity/root-cert.pem", sidecar.site.mesh.pem());
    let own = sidecar.site.workload("istio-system", "gateway", 30);
    site.write("certs/identity/key.pem", &own.key);
    site.write("certs/identity/cert-chain.pem", &own.chain);
    let labelled =
        [(sidecar.port, ", labels: {security.istio.io/tlsMode: istio}, serviceAccount: cart")];
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "'*'", &to("cart"))
        + &endpoints("cart", "HTTP", &labelled);
    site.config("all", &config);
    let edge = site.start(&[80]);
    let mut http = Http::plain(edge.port(80)).await;
    let reply = http.get("http://a.com/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let xfcc = reply.json()["headers"]["x-forwarded-client-cert"].as_str().unwrap().to_owned();
    assert!(xfcc.contains("URI=spiffe://cluster.local/ns/istio-system/sa/gateway"), "{xfcc}");
    // An endpoint that does not say it speaks the mesh's TLS is spoken to in plaintext: refused.
    let plain = config.replace("security.istio.io/tlsMode: istio", "a: b");
    edge.reload(|| _ = site.config("all", &plain.replace(", serviceAccount: cart", "")));
    assert_eq!(http.get("http://a.com/").await.status, 503);
}

#[test]
fn check_and_explain_know_the_role() {
    let site = Site::new();
    site.config("all", &(declared("http", 8080) + &mode("STRICT")));
    let role = ["--inbound", "15006=8080", "--namespace", "shop", "--labels", "app=cart"];
    let told = site.command(&[&["explain", "http://cart:8080/"][..], &role].concat());
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("STRICT") && told.contains("plaintext is refused"), "{told}");
    assert!(told.contains("PeerAuthentication shop/mode"), "{told}");
    assert!(site.command(&[&["check"][..], &role].concat()).status.success());
    let broken = mode("STRICT").replace("mtls:", "mtlz:");
    site.config("all", &broken);
    let told = site.command(&[&["check"][..], &role].concat());
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(!told.status.success() && text.contains("it counts as STRICT"), "{text}");
}

#[tokio::test]
async fn plaintext_that_is_open_ends_when_mutual_tls_is_required() {
    let application = Scripted::start(&[Step::Say("hello\n"), Step::Say("again\n")]).await;
    let declared = declared("tcp", application.port);
    let sidecar = start(&(declared.clone() + &mode("PERMISSIVE")), application.port);
    let ask = async |stream: &mut (dyn Stream + Unpin), answer: &str| {
        stream.write_all(b"\r\n\r\n").await.unwrap();
        let mut seen = [0; 6];
        timeout(PATIENCE, stream.read_exact(&mut seen)).await.unwrap().unwrap();
        assert_eq!(seen, answer.as_bytes());
    };
    let mut plain = connect(sidecar.port).await;
    let mut secured = shake(&sidecar.caller(FRONT), sidecar.port, "cart").await.unwrap();
    ask(&mut plain, "hello\n").await;
    ask(&mut secured, "hello\n").await;
    let config = declared + &mode("STRICT");
    sidecar.process.reload(|| _ = sidecar.site.config("all", &config));
    let ended = timeout(Duration::from_secs(5), plain.read_u8()).await.expect("it ends");
    assert!(ended.is_err());
    ask(&mut secured, "again\n").await;
    sidecar.process.wait("the log tells", || {
        let out = sidecar.process.out();
        out.contains("tightened_mutual_tls") && out.contains("PeerAuthentication shop/mode")
    });
}

/// Both directions of a connection.
trait Stream: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> Stream for S {}
