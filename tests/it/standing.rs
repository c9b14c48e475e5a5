//! Streams that live long while policies, tokens and certificates change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::client::{Http, connect};
use crate::fixture::issuer;
use crate::gateway::{Gateway, PATIENCE, Site, gateway, routes, service, to};
use crate::scripted::{Scripted, Step};

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: \
                      chunked\r\n\r\n5\r\nfirst\r\n";
const SERVER_EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                             transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
/// Longest time from a change, or the end of a token, to the end of a stream.
const BOUND: Duration = Duration::from_secs(5);

/// A policy of the gateway's namespace.
pub fn access(rest: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, \
         namespace: istio-system}}\nspec: {{{rest}}}\n"
    )
}

pub const OPEN: &str = "rules: [{}]";
pub const NO_ONE: &str = "action: DENY, rules: [{to: [{operation: {paths: [/one]}}]}]";

/// Sockets, calls that answer and calls that do not, events, and bytes; over plaintext and mutual TLS.
pub async fn start(policies: &str) -> (Site, Gateway) {
    start_with(policies, "HTTP", "{}\n").await
}

/// The same with another protocol in clear, and a MeshConfig.
async fn start_with(policies: &str, protocol: &str, mesh: &str) -> (Site, Gateway) {
    let sockets = Scripted::start(&[Step::Say(SWITCH), Step::Say("pong\n"), Step::Say("pong\n")]);
    let events = Scripted::start(&[Step::Say(EVENTS)]);
    let server_events = Scripted::start(&[Step::Say(SERVER_EVENTS)]);
    let silent = Scripted::start(&[]);
    let greeter =
        Scripted::start(&[Step::Say("hello\n"), Step::Say("again\n"), Step::Say("again\n")]);
    let site = Site::new();
    site.certificate("m", &["m.com"]);
    site.client_ca("m");
    let jwks = issuer().key_set("RS256", "k1");
    site.config(
        "all",
        &(gateway("plain", 80, protocol, "'*'", "")
            + &gateway("m", 443, "HTTPS", "m.com", "mode: MUTUAL, credentialName: m")
            + &gateway("tcp", 9000, "TCP", "'*'", "")
            + &gateway("secure", 9443, "TLS", "'*'", "mode: MUTUAL, credentialName: m")
            + &routes("r", "istio-system/plain, istio-system/m", "a.com, m.com", &to("sockets"))
            + &routes("e", "istio-system/plain", "events.com", &to("events"))
            + &routes("v", "istio-system/plain", "server-events.com", &to("server-events"))
            + &routes("s", "istio-system/plain", "silent.com", &to("silent"))
            + &routes(
                "t",
                "istio-system/tcp, istio-system/secure",
                "'*'",
                "  tcp: [{route: [{destination: {host: greeter.shop.internal}}]}]\n",
            )
            + &service("sockets", "HTTP", sockets.await.port)
            + &service("events", "HTTP", events.await.port)
            + &service("server-events", "HTTP", server_events.await.port)
            + &service("silent", "HTTP", silent.await.port)
            + &service("greeter", "TCP", greeter.await.port)
            + &format!(
                "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
                 t, namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: 'https://i', jwks: \
                 '{jwks}'}}]}}\n"
            )),
    );
    site.config("policies", &access(policies));
    site.write("mesh.yaml", mesh);
    let arguments = ["--access-log", "json", "--mesh-config", "mesh.yaml", "--workers", "1"];
    let gateway = site.start_with(&[80, 443, 9000, 9443], &arguments);
    (site, gateway)
}

/// A stream that was let in.
pub struct Live<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Live<S> {
    /// A WebSocket.
    pub async fn socket(mut stream: S, host: &str, path: &str, token: &str) -> Self {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: \
             websocket\r\n{token}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", seen.escape_ascii());
        Self(stream)
    }

    /// An answer whose body has begun.
    async fn answer(mut stream: S, target: (&str, &str), header: &str) -> Self {
        let (host, path) = target;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n{header}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"first\r\n") {
            seen.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        Self(stream)
    }

    /// What its backend says when it is asked.
    pub async fn ask(&mut self) -> std::io::Result<String> {
        self.0.write_all(b"\r\n\r\n").await?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"\n") {
            seen.push(timeout(PATIENCE, self.0.read_u8()).await.unwrap()?);
        }
        Ok(String::from_utf8(seen).unwrap())
    }

    /// It ends within the bound.
    pub async fn ends(self) {
        self.ends_within(BOUND).await;
    }

    async fn ends_within(mut self, bound: Duration) {
        let mut rest = Vec::new();
        let end = timeout(bound, self.0.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "it lives on");
        assert!(rest.is_empty());
    }
}

/// Waits for a line of the access log with all of this.
pub fn told(gateway: &Gateway, texts: &[&str]) {
    gateway.wait("the log tells", || {
        gateway.out().lines().any(|line| texts.iter().all(|text| line.contains(text)))
    });
}

pub fn counted(gateway: &Gateway, reason: &str) {
    let line = format!("portcullis_rejections_total{{reason=\"{reason}\"}} 1\n");
    gateway.wait("it is counted", || gateway.metrics().contains(&line));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_comes_ends_the_websockets_it_denies_and_no_others() {
    let (site, gateway) = start(OPEN).await;
    let socket =
        async |path| Live::socket(connect(gateway.port(80)).await, "a.com", path, "").await;
    let (mut one, mut two) = (socket("/one").await, socket("/two").await);
    assert_eq!(
        (one.ask().await.unwrap(), two.ask().await.unwrap()),
        ("pong\n".into(), "pong\n".into())
    );
    // A file that cannot be read changes nothing.
    site.config("policies", "kind: [");
    gateway.tells("policies.yaml");
    gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
    one.ends().await;
    assert_eq!(two.ask().await.unwrap(), "pong\n");
    told(
        &gateway,
        &[
            "\"path\":\"/one\"",
            "tightened_authorization",
            "rbac_access_denied_matched_policy[ns[istio-system]-policy[p]-rule[0]]",
            "AuthorizationPolicy istio-system/p config/policies.yaml:",
        ],
    );
    counted(&gateway, "tightened_authorization");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_reset_or_answered_when_a_policy_denies_them() {
    let (site, gateway) = start(OPEN).await;
    let call = |host: &'static str| {
        let port = gateway.port(80);
        async move {
            let mut http = Http::plain2(port).await;
            let kind = [("content-type", "application/grpc")];
            let request = http.request("POST", &format!("http://{host}/one"), &kind, "");
            http.try_send(request).await
        }
    };
    let (events, silent) = (tokio::spawn(call("events.com")), tokio::spawn(call("silent.com")));
    let active = "portcullis_requests_active 2\n";
    gateway.wait("both are under way", || gateway.metrics().contains(active));
    gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
    let (events, silent) = (timeout(BOUND, events).await, timeout(BOUND, silent).await);
    let error = events.expect("it ends").unwrap().unwrap_err();
    let reason =
        std::error::Error::source(&error).and_then(|error| error.downcast_ref::<h2::Error>());
    assert_eq!(reason.and_then(h2::Error::reason), Some(h2::Reason::INADEQUATE_SECURITY));
    let reply = silent.expect("it is answered").unwrap().unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "7"));
    told(&gateway, &["events.com", "tightened_authorization"]);
    told(&gateway, &["silent.com", "tightened_authorization"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_grpc_web_and_events_that_accept_names_end_when_a_policy_denies_them() {
    let (site, gateway) = start_with(OPEN, "GRPC-WEB", "{}\n").await;
    let port = gateway.port(80);
    let answer = async |target, header| Live::answer(connect(port).await, target, header).await;
    let web = "content-type: application/grpc-web+proto";
    let both = "accept: application/json, text/event-stream";
    let call = answer(("events.com", "/one"), web).await;
    let events = answer(("server-events.com", "/one"), both).await;
    let mut other = Live::socket(connect(port).await, "a.com", "/two", "").await;
    gateway.reload(|| _ = site.config("policies", &access(NO_ONE)));
    call.ends().await;
    events.ends().await;
    assert_eq!(other.ask().await.unwrap(), "pong\n");
    told(&gateway, &["\"authority\":\"events.com\"", "tightened_authorization"]);
    told(&gateway, &["\"authority\":\"server-events.com\"", "tightened_authorization"]);
}

const ASKED: &str = "extensionProviders: [{name: asked, envoyExtAuthzHttp: {service: \
                     shop/silent.shop.internal, port: 80}}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_policy_ends_what_it_selects_where_its_provider_is_missing_and_nothing_else() {
    let (site, gateway) = start_with(OPEN, "HTTP", ASKED).await;
    let port = gateway.port(80);
    let socket = async |path| Live::socket(connect(port).await, "a.com", path, "").await;
    let (mut two, mut three) = (socket("/two").await, socket("/three").await);
    let one = socket("/one").await;
    let custom = |name: &str, provider: &str, path: &str| {
        let rest = format!(
            "action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: \
             [{path}]}}}}]}}]"
        );
        access(&rest).replace("name: p,", &format!("name: {name},"))
    };
    let both = custom("missing", "nobody", "/one") + &custom("there", "asked", "/two");
    gateway.reload(|| _ = site.config("policies", &both));
    one.ends().await;
    // Nobody is asked about what was let in before.
    assert_eq!(two.ask().await.unwrap(), "pong\n");
    assert_eq!(three.ask().await.unwrap(), "pong\n");
    told(
        &gateway,
        &[
            "\"path\":\"/one\"",
            "tightened_authorization",
            "AuthorizationPolicy istio-system/missing ",
        ],
    );
    counted(&gateway, "tightened_authorization");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_takes_its_stream_with_it() {
    let (_site, gateway) = start(OPEN).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = |ends: u64| {
        let claims = json!({"iss": "https://i", "sub": "alice", "exp": ends});
        let token = issuer().token(&json!({"alg": "RS256", "kid": "k1"}), &claims);
        format!("authorization: Bearer {token}\r\n")
    };
    // Clocks may differ by a minute.
    let (short, long) = (token(now - 60 + 2), token(now + 600));
    let port = gateway.port(80);
    let brief = Live::socket(connect(port).await, "a.com", "/brief", &short).await;
    let mut lasting = Live::socket(connect(port).await, "a.com", "/lasting", &long).await;
    let mut anonymous = Live::socket(connect(port).await, "a.com", "/anonymous", "").await;
    brief.ends_within(BOUND + Duration::from_secs(2)).await;
    assert_eq!(lasting.ask().await.unwrap(), "pong\n");
    assert_eq!(anonymous.ask().await.unwrap(), "pong\n");
    told(&gateway, &["\"path\":\"/brief\"", "tightened_token", "expired", "istio-system/t "]);
    counted(&gateway, "tightened_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_go_take_the_streams_of_their_tokens_with_them() {
    let (site, gateway) = start(OPEN).await;
    let claims = json!({"iss": "https://i", "sub": "alice"});
    let token = issuer().token(&json!({"alg": "RS256", "kid": "k1"}), &claims);
    let token = format!("authorization: Bearer {token}\r\n");
    let port = gateway.port(80);
    let alice = Live::socket(connect(port).await, "a.com", "/alice", &token).await;
    let mut anonymous = Live::socket(connect(port).await, "a.com", "/anonymous", "").await;
    let all = std::fs::read_to_string(site.path("config/all.yaml")).unwrap();
    let (old, new) = (issuer().key_set("RS256", "k1"), issuer().key_set("ES256", "k2"));
    gateway.reload(|| _ = site.config("all", &all.replace(&old, &new)));
    alice.ends().await;
    assert_eq!(anonymous.ask().await.unwrap(), "pong\n");
    told(&gateway, &["\"path\":\"/alice\"", "tightened_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_bytes_are_judged_again_too() {
    let (site, gateway) = start(OPEN).await;
    let mut stream = Live(connect(gateway.port(9000)).await);
    assert_eq!(stream.ask().await.unwrap(), "hello\n");
    let other = Live::socket(connect(gateway.port(80)).await, "a.com", "/", "").await;
    let deny = |port: u16| {
        access(&format!("action: DENY, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]"))
    };
    gateway.reload(|| _ = site.config("policies", &deny(gateway.port(80))));
    other.ends().await;
    assert_eq!(stream.ask().await.unwrap(), "again\n");
    gateway.reload(|| _ = site.config("policies", &deny(gateway.port(9000))));
    stream.ends().await;
    told(&gateway, &["tightened_authorization", "AuthorizationPolicy istio-system/p "]);
}
