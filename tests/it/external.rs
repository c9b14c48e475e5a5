//! External authorization against the real binary: providers by HTTP, well, broken and missing.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Request, Response, request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::client::{Http, raw};
use crate::external_grpc::servers;
use crate::gateway::{Gateway, Site, free_port, gateway, routes, service, to};
use crate::scripted::{Scripted, Step};

pub type Body = BoxBody<Bytes, Infallible>;
type Seen = Arc<Mutex<Vec<(request::Parts, Bytes)>>>;

/// A provider: answers by a function of what it is asked, and remembers it.
pub struct Provider {
    pub port: u16,
    seen: Seen,
}

impl Provider {
    pub async fn start(http2: bool, answer: fn(&request::Parts, &Bytes) -> Response<Body>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Seen::default();
        let shared = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = shared.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        if parts.uri.path() == "/check/private/slow" {
                            std::future::pending::<()>().await;
                        }
                        let response = answer(&parts, &body);
                        seen.lock().unwrap().push((parts, body));
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    if http2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(io, service).await;
                    } else {
                        let server = hyper::server::conn::http1::Builder::new();
                        let _ = server.serve_connection(io, service).await;
                    }
                });
            }
        });
        Self { port, seen }
    }

    pub fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> (request::Parts, Bytes) {
        self.seen.lock().unwrap().last().unwrap().clone()
    }
}

/// `x-ask` of the request says what to answer.
fn by_header(head: &request::Parts, _: &Bytes) -> Response<Body> {
    let (status, text) = match head.headers.get("x-ask").map(http::HeaderValue::as_bytes) {
        Some(b"allow") => (200, String::new()),
        Some(b"fail") => (500, String::new()),
        Some(b"flood") => (403, "x".repeat(300 << 10)),
        _ => (401, "who are you?".to_owned()),
    };
    Response::builder()
        .status(status)
        .header("x-user", "alice")
        .header("x-user", "alice2")
        .header("x-internal", "secret")
        .header("x-seen", "yes")
        .header("x-seen", "twice")
        .header("server", "evil")
        .header("www-authenticate", "Custom")
        .header("x-envoy-auth-headers-to-remove", "x-drop, x-other")
        .body(Full::new(Bytes::from(text)).boxed())
        .unwrap()
}

const CUSTOM: &str = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: \
                      {name: ask, namespace: istio-system}\nspec: {action: CUSTOM, provider: {name: \
                      asked}, rules: [{to: [{operation: {paths: ['/private*']}}]}]}\n";

pub fn mesh(kind: &str, fields: &str) -> String {
    format!(
        "extensionProviders: [{{name: asked, {kind}: {{service: shop/provider.shop.internal, port: \
         80{fields}}}}}]\n"
    )
}

/// The backend's answers have a few lines more.
const RESPONSE: &str = "[{headers: {response: {set: {there-default: old, there-append: old, there-replace: \
                        old, there-absent: old, there-overwrite: old, there-present: old, \
                        there-unknown: old}}}, route";

/// A gateway with a backend, the provider at a port, and what MeshConfig says of it.
pub async fn start(mesh: &str, protocol: &str, port: u16) -> (Site, Backend, Gateway) {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.write("mesh.yaml", mesh);
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("tcp", 9000, "TCP", "'*'", "")
            + &routes(
                "r",
                "istio-system/plain",
                "a.com",
                &to("echo").replace("[{route", RESPONSE),
            )
            + &routes(
                "t",
                "istio-system/tcp",
                "'*'",
                "  tcp: [{route: [{destination: {host: echo.shop.internal}}]}]\n",
            )
            + &service("echo", "HTTP", backend.port)
            + &service("provider", protocol, port)),
    );
    site.config("policy", CUSTOM);
    let arguments = ["--access-log", "json", "--mesh-config", "mesh.yaml"];
    let gateway = site.start_with(&[80, 9000], &arguments);
    (site, backend, gateway)
}

const HTTP: &str = ", pathPrefix: /check, timeout: 1s, includeRequestHeadersInCheck: ['x-a*'], \
                    includeAdditionalHeadersInCheck: {x-added: 'one'}, headersToUpstreamOnAllow: \
                    [x-user], headersToDownstreamOnAllow: [x-seen, server], \
                    headersToDownstreamOnDeny: [x-seen, server]";

#[tokio::test]
async fn a_provider_by_http_allows_and_denies() {
    let provider = Provider::start(false, by_header).await;
    let (_site, backend, gateway) =
        start(&mesh("envoyExtAuthzHttp", HTTP), "HTTP", provider.port).await;
    for mut http in [Http::plain(gateway.port(80)).await, Http::plain2(gateway.port(80)).await] {
        let before = provider.asked();
        assert_eq!(http.get("http://a.com/public").await.status, 200);
        assert_eq!(provider.asked(), before);
        let headers = [
            ("x-ask", "allow"),
            ("x-user", "mallory"),
            ("x-drop", "1"),
            ("x-other", "2"),
            ("x-b", "not told"),
            ("authorization", "Basic x"),
        ];
        let reply = http.ask("http://a.com/private/x?q=1", &headers).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-seen")), (200, "yes"));
        assert_eq!(reply.headers.get_all("x-seen").iter().count(), 2, "each line is added");
        assert_eq!(reply.header("x-internal"), "");
        assert_eq!(servers(&reply), ["istio-envoy"]);
        let seen = reply.json()["headers"].clone();
        assert_eq!(seen["x-user"], "alice, alice2", "{seen}");
        assert!(seen["x-drop"].is_null() && seen["x-other"].is_null(), "{seen}");
        let (asked, _) = provider.last();
        assert_eq!(asked.uri.to_string(), "/check/private/x?q=1");
        let header = |name: &str| asked.headers.get(name).map(|v| v.to_str().unwrap());
        assert_eq!(header("host"), Some("a.com"));
        assert_eq!(header("authorization"), Some("Basic x"));
        assert_eq!(header("content-length"), Some("0"));
        assert_eq!((header("x-added"), header("x-b")), (Some("one"), None));
        let received = backend.requests();
        let reply = http.ask("http://a.com/private/x", &[("x-ask", "deny")]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (401, "who are you?"));
        assert_eq!(reply.header("www-authenticate"), "Custom");
        assert_eq!(servers(&reply), ["istio-envoy"]);
        assert_eq!((reply.header("x-seen"), reply.header("x-internal")), ("yes", ""));
        for path in ["//private", "/x/../private", "/%2Fprivate"] {
            let reply = http.get(&format!("http://a.com{path}")).await;
            assert_eq!(reply.status, 401, "{path}");
        }
        assert_eq!(backend.requests(), received);
    }
    gateway.wait("the log says who denied", || {
        let out = gateway.out();
        out.contains("\"response_flags\":\"UAEX\"")
            && out.contains("external_authorization_denied")
            && out.contains("AuthorizationPolicy istio-system/ask config/policy.yaml:")
    });
    let explained = gateway.admin("/explain?url=http://a.com/private");
    assert!(explained.to_string().contains("asked would be asked"), "{explained:#}");
    let explained = gateway.admin("/explain?url=http://a.com/public");
    assert!(!explained.to_string().contains("would be asked"), "{explained:#}");
}

#[tokio::test]
async fn a_provider_that_fails_lets_nothing_pass_unless_it_is_told_to() {
    let provider = Provider::start(false, by_header).await;
    let garbage = Scripted::start(&[Step::Say("no HTTP at all\r\n\r\n")]).await;
    let leaving = Scripted::start(&[Step::Leave]).await;
    let ports =
        [(provider.port, "fail"), (provider.port, "flood"), (free_port(), "allow")].into_iter();
    let ports = ports.chain([(garbage.port, "allow"), (leaving.port, "allow")]);
    for (port, ask) in ports {
        for (open, status) in
            [("", 403), (", statusOnError: '503'", 503), (", failOpen: true", 200)]
        {
            let fields = ", includeRequestHeadersInCheck: [x-ask]".to_owned() + open;
            let (_site, backend, gateway) =
                start(&mesh("envoyExtAuthzHttp", &fields), "HTTP", port).await;
            let mut http = Http::plain(gateway.port(80)).await;
            let reply = http.ask("http://a.com/private", &[("x-ask", ask)]).await;
            assert_eq!(reply.status, status, "{ask} {port} {open}");
            assert_eq!(backend.requests(), usize::from(status == 200), "{ask} {port} {open}");
            if status != 200 {
                assert_eq!(reply.text(), "");
                gateway.wait("it is logged", || gateway.out().contains("ext_authz_error"));
            }
        }
    }
    let (_site, backend, gateway) =
        start(&mesh("envoyExtAuthzHttp", HTTP), "HTTP", provider.port).await;
    let mut http = Http::plain(gateway.port(80)).await;
    assert_eq!(http.ask("http://a.com/private/slow", &[]).await.status, 403);
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_body_is_told_as_far_as_the_rule_says_and_reaches_the_backend_whole() {
    let provider = Provider::start(false, by_header).await;
    for (partial, told, status) in [("true", 16, 200), ("false", 0, 413)] {
        let fields = format!(
            ", includeRequestHeadersInCheck: [x-ask], includeRequestBodyInCheck: \
             {{maxRequestBytes: 16, allowPartialMessage: {partial}}}"
        );
        let (_site, _backend, gateway) =
            start(&mesh("envoyExtAuthzHttp", &fields), "HTTP", provider.port).await;
        for mut http in [Http::plain(gateway.port(80)).await, Http::plain2(gateway.port(80)).await]
        {
            let allow = [("x-ask", "allow")];
            let short = http.request("POST", "http://a.com/private", &allow, "0123456789abcdef");
            let reply = http.send(short).await;
            assert_eq!((reply.status.as_u16(), &reply.json()["body_bytes"]), (200, &16.into()));
            let (asked, body) = provider.last();
            assert_eq!((&*body, asked.method.as_str()), (&b"0123456789abcdef"[..], "POST"));
            assert_eq!(asked.headers["x-envoy-auth-partial-body"], "false");
            let long = "0123456789".repeat(20_000);
            let long = http.request("POST", "http://a.com/private", &allow, &long);
            let reply = http.send(long).await;
            assert_eq!(reply.status, status);
            if status == 200 {
                assert_eq!(reply.json()["body_bytes"], 200_000);
                let (asked, body) = provider.last();
                assert_eq!(body.len(), told);
                assert_eq!(asked.headers["x-envoy-auth-partial-body"], "true");
            }
        }
        let chunked = |body: &str| {
            format!(
                "POST /private HTTP/1.1\r\nhost: a.com\r\nx-ask: allow\r\nconnection: close\r\n\
                 transfer-encoding: chunked\r\n\r\n{body}"
            )
        };
        let whole = raw(gateway.port(80), chunked("5\r\nhello\r\n0\r\n\r\n").as_bytes()).await;
        assert!(whole.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&whole));
        let (asked, body) = provider.last();
        assert_eq!(&*body, b"hello");
        assert_eq!(asked.headers["x-envoy-auth-partial-body"], "false");
        let malformed = raw(gateway.port(80), chunked("5\r\nhelloX\r\n").as_bytes()).await;
        assert!(malformed.starts_with(b"HTTP/1.1 400 "));
        gateway.wait("it is logged", || gateway.out().contains("http1.body_error"));
    }
}

#[tokio::test]
async fn what_a_missing_provider_would_be_asked_about_is_refused() {
    let provider = Provider::start(false, by_header).await;
    let wrong = [
        "{}\n".to_owned(),
        mesh("envoyExtAuthzHttp", ", pathPrefix: nowhere"),
        mesh("envoyExtAuthzGrpc", ""),
        mesh("envoyExtAuthzHttp", "").replace("port: 80", "port: 81"),
        mesh("envoyExtAuthzHttp", "").replace("shop/provider", "shop/other"),
    ];
    for mesh in wrong {
        let (_site, _backend, gateway) = start(&mesh, "HTTP", provider.port).await;
        let mut http = Http::plain(gateway.port(80)).await;
        let reply = http.get("http://a.com/private").await;
        let refused = (reply.status.as_u16(), reply.text());
        assert_eq!(refused, (403, "RBAC: access denied"), "{mesh}");
        assert_eq!(http.get("http://a.com/public").await.status, 200, "{mesh}");
        assert!(gateway.admin("/diagnostics").to_string().contains("PC052"), "{mesh}");
        let explained = gateway.admin("/explain?url=http://a.com/private");
        assert_eq!(explained["outcome"]["status"], 403, "{mesh}");
    }
    assert_eq!(provider.asked(), 0);
}
