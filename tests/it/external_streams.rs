//! Providers of external authorization that are asked about connections whose bytes are passed on.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Response, request};
use portcullis::grpc::ext_authz::{AttributeContext, CheckRequest, CheckResponse, Status};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::client::{connect, proven, raw, shake, tls};
use crate::external::{Body, Provider};
use crate::external_grpc::reply;
use crate::gateway::{Gateway, Site, free_port, gateway, routes, service};

fn attributes(body: &[u8]) -> AttributeContext {
    CheckRequest::decode(&body[5..]).unwrap().attributes.unwrap()
}

/// Allows what asks for a name that begins with `allowed`, and what has no name.
fn by_name(head: &request::Parts, body: &Bytes) -> Response<Body> {
    assert_eq!(head.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
    let name = attributes(body).tls_session.map(|session| session.sni).unwrap_or_default();
    let code = if name.is_empty() || name.starts_with("allowed") { 0 } else { 7 };
    let answer = CheckResponse { status: Some(Status { code }), ..Default::default() };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(answer.encoded_len().try_into().unwrap());
    answer.encode(&mut framed).unwrap();
    reply(framed.freeze(), "0")
}

fn mesh(kind: &str, fields: &str) -> String {
    format!(
        "extensionProviders: [{{name: asked, {kind}: {{service: shop/provider.shop.internal, port: \
         80{fields}}}}}]\n"
    )
}

/// A CUSTOM policy with one rule.
fn custom(rule: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask, \
         namespace: istio-system}}\nspec: {{action: CUSTOM, provider: {{name: asked}}, rules: \
         [{rule}]}}\n"
    )
}

/// A gateway that passes TLS on at 443, ends it with client certificates at 8443, and passes bytes at 9000,
/// all to one backend each.
struct World {
    site: Site,
    gateway: Gateway,
    secure: Backend,
    plain: Backend,
}

async fn start(mesh: &str, protocol: &str, port: u16, rule: &str) -> World {
    let site = Site::new();
    let leaf = site.certificate("ended", &["allowed.com", "denied.com", "free.com"]);
    site.client_ca("ended");
    let (secure, plain) = (Backend::tls(&leaf).await, Backend::http1().await);
    site.write("mesh.yaml", mesh);
    let hosts = "allowed.com, denied.com, free.com";
    let to = |name: &str| format!("route: [{{destination: {{host: {name}.shop.internal}}}}]");
    let by_name = format!("  tls: [{{match: [{{sniHosts: [{hosts}]}}], {}}}]\n", to("secure"));
    let bytes = format!("  tcp: [{{{}}}]\n", to("plain"));
    site.config(
        "all",
        &(gateway("passed", 443, "TLS", hosts, "mode: PASSTHROUGH")
            + &gateway("ended", 8443, "TLS", hosts, "mode: MUTUAL, credentialName: ended")
            + &gateway("bytes", 9000, "TCP", "'*'", "")
            + &routes("p", "istio-system/passed", hosts, &by_name)
            + &routes("b", "istio-system/ended, istio-system/bytes", "'*'", &bytes)
            + &service("secure", "TLS", secure.port)
            + &service("plain", "TCP", plain.port)
            + &service("provider", protocol, port)),
    );
    site.config("policy", &custom(rule));
    let arguments = ["--access-log", "json", "--mesh-config", "mesh.yaml"];
    let gateway = site.start_with(&[443, 8443, 9000], &arguments);
    World { site, gateway, secure, plain }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const NAMED: &str = "{when: [{key: connection.sni, values: [allowed.com, denied.com]}]}";

#[tokio::test]
async fn a_provider_by_grpc_allows_and_denies_what_is_passed_through() {
    let provider = Provider::start(true, by_name).await;
    let mesh = mesh("envoyExtAuthzGrpc", ", timeout: 5s");
    let world = start(&mesh, "GRPC", provider.port, NAMED).await;
    let World { site, gateway, secure, .. } = &world;
    let client = tls(&site.edge, None, &[]);
    proven(&client, gateway.port(443), "allowed.com").await.unwrap();
    assert_eq!((provider.asked(), secure.connections()), (1, 1));
    let (head, body) = provider.last();
    let authority = head.uri.authority().unwrap();
    assert_eq!(authority.as_str(), "outbound_.80_._.provider.shop.internal");
    let asked = attributes(&body);
    assert!(asked.request.is_none());
    assert_eq!(asked.tls_session.unwrap().sni, "allowed.com");
    let (source, destination) = (asked.source.unwrap(), asked.destination.unwrap());
    assert_eq!(source.principal, "");
    let port = destination.address.unwrap().socket_address.unwrap().port_value;
    assert_eq!(port, u32::from(gateway.port(443)));

    assert!(proven(&client, gateway.port(443), "denied.com").await.is_err());
    assert_eq!((provider.asked(), secure.connections()), (2, 1), "the backend saw nothing");
    gateway.wait("the log says who denied", || {
        let out = gateway.out();
        out.contains("\"response_flags\":\"UAEX\"")
            && out.contains("external_authorization_denied")
            && out.contains("ext_authz_denied")
            && out.contains("AuthorizationPolicy istio-system/ask config/policy.yaml:")
    });
    // What no rule selects is nobody's to be asked about.
    proven(&client, gateway.port(443), "free.com").await.unwrap();
    assert!(!raw(gateway.port(9000), REQUEST).await.is_empty());
    assert_eq!(provider.asked(), 2);
    let explained = gateway.admin("/explain?url=tls://allowed.com:443&sni=allowed.com");
    assert!(explained.to_string().contains("asked would be asked"), "{explained:#}");
    let explained = gateway.admin("/explain?url=tcp://x:9000");
    assert!(!explained.to_string().contains("would be asked"), "{explained:#}");
}

#[tokio::test]
async fn a_provider_is_told_who_the_client_is_where_tls_ends() {
    let provider = Provider::start(true, by_name).await;
    let world = start(&mesh("envoyExtAuthzGrpc", ""), "GRPC", provider.port, "{}").await;
    let World { site, gateway, plain, .. } = &world;
    let leaf = site.clients.leaf(&["spiffe://clients/ns/a/sa/b"], 1);
    let client = tls(&site.edge, Some(&leaf), &[]);
    proven(&client, gateway.port(8443), "allowed.com").await.unwrap();
    let asked = attributes(&provider.last().1);
    assert_eq!(asked.source.unwrap().principal, "spiffe://clients/ns/a/sa/b");
    let mut stream = shake(&client, gateway.port(8443), "denied.com").await.unwrap();
    let _ = stream.write_all(REQUEST).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!((answer, plain.connections()), (Vec::new(), 1));
    assert!(!raw(gateway.port(9000), REQUEST).await.is_empty());
    assert!(attributes(&provider.last().1).tls_session.is_none());
    // What other policies refuse is not asked about.
    let asked = provider.asked();
    gateway.reload(|| {
        let deny = custom("{}").replace("CUSTOM, provider: {name: asked}", "DENY");
        site.config("deny", &deny.replace("name: ask,", "name: deny,"));
    });
    assert!(raw(gateway.port(9000), REQUEST).await.is_empty());
    assert_eq!(provider.asked(), asked);
}

#[tokio::test]
async fn a_provider_that_fails_lets_no_connection_pass_unless_it_is_told_to() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for port in [free_port(), silent.local_addr().unwrap().port()] {
        for (open, passes) in [("", false), (", failOpen: true", true)] {
            let fields = format!(", timeout: 0.3s{open}");
            let world = start(&mesh("envoyExtAuthzGrpc", &fields), "GRPC", port, "{}").await;
            let answer = raw(world.gateway.port(9000), REQUEST).await;
            assert_eq!(!answer.is_empty(), passes, "{port} {open}");
            assert_eq!(world.plain.connections(), usize::from(passes), "{port} {open}");
            if !passes {
                let said = || world.gateway.out().contains("external_authorization_failed");
                world.gateway.wait("it is logged", said);
            }
        }
    }
}

#[tokio::test]
async fn a_stream_lives_while_its_provider_can_be_asked_and_ends_when_nobody_can() {
    let provider = Provider::start(true, by_name).await;
    let grpc = mesh("envoyExtAuthzGrpc", "");
    let world = start(&grpc, "GRPC", provider.port, NAMED).await;
    let World { site, gateway, plain, .. } = &world;
    let mut stream = connect(gateway.port(9000)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 16]).await.unwrap() > 0);
    gateway.reload(|| _ = site.config("policy", &custom("{}")));
    let mut other = connect(gateway.port(9000)).await;
    other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(other.read(&mut [0; 16]).await.unwrap() > 0);
    assert_eq!((provider.asked(), plain.connections()), (1, 2));
    // By HTTP nobody can say anything of a connection: it is refused, and so are those that are open.
    gateway.reload(|| site.write("mesh.yaml", mesh("envoyExtAuthzHttp", "")));
    for stream in [&mut stream, &mut other] {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    gateway.wait("it is logged", || gateway.out().contains("tightened_authorization"));
    assert!(raw(gateway.port(9000), REQUEST).await.is_empty());
    assert_eq!((provider.asked(), plain.connections()), (1, 2));
}

/// A provider that accepts and never answers; tells how many connections it was asked over.
async fn silent() -> (u16, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, accepted) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = sender.send(stream).await;
        }
    });
    (port, accepted)
}

/// Connections that have no destination yet, or have one.
fn open_streams(gateway: &Gateway) -> u64 {
    let metrics = gateway.metrics();
    let lines = metrics.lines().filter(|line| line.starts_with("portcullis_connections_active{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A client resets its connection while a provider is asked that may take ten minutes.
async fn check_reset(secured: bool) {
    let (port, mut asked) = silent().await;
    let world = start(&mesh("envoyExtAuthzGrpc", ""), "GRPC", port, "{}").await;
    let World { site, gateway, plain, .. } = &world;
    let reset = |stream: &TcpStream| {
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let provider;
    if secured {
        let leaf = site.clients.leaf(&["spiffe://clients/ns/a/sa/b"], 1);
        let client = tls(&site.edge, Some(&leaf), &[]);
        let stream = shake(&client, gateway.port(8443), "allowed.com").await.unwrap();
        provider = asked.recv().await;
        reset(stream.get_ref().0);
    } else {
        let stream = connect(gateway.port(9000)).await;
        provider = asked.recv().await;
        reset(&stream);
    }
    gateway.wait("it is told", || gateway.out().contains("\"client_gone\""));
    let line = gateway.out();
    assert!(line.contains("\"DC\"") && line.contains("downstream_remote_disconnect"), "{line}");
    gateway.wait("nothing is open", || open_streams(gateway) == 0);
    assert!(provider.is_some() && plain.connections() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_connection_is_asked_about_no_longer() {
    check_reset(false).await;
    check_reset(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_direction_waits_for_the_provider_and_no_longer() {
    let (port, _asked) = silent().await;
    let mesh = mesh("envoyExtAuthzGrpc", ", timeout: 0.5s");
    let world = start(&mesh, "GRPC", port, "{}").await;
    let World { gateway, plain, .. } = &world;
    let mut stream = connect(gateway.port(9000)).await;
    stream.write_all(REQUEST).await.unwrap();
    stream.shutdown().await.unwrap();
    gateway.wait("it is told", || gateway.out().contains("external_authorization_failed"));
    gateway.wait("nothing is open", || open_streams(gateway) == 0);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!((rest.len(), plain.connections()), (0, 0));
    assert!(!gateway.out().contains("client_gone"));
}
