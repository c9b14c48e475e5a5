//! What a rule does to requests beside forwarding: faults, cross-origin rules, and time.

use serde_json::json;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::client::Http;
use crate::fixture::issuer;
use crate::gateway::{Gateway, Site, gateway, routes, service};
use crate::scripted::{Scripted, Step};

fn start(rules: &str, port: u16) -> (Site, Gateway) {
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", rules)
            + &service("echo", "HTTP", port)),
    );
    let gateway = site.start(&[80]);
    (site, gateway)
}

fn rule(path: &str, more: &str) -> String {
    format!(
        "    - {{match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: \
         echo.shop.internal}}}}], {more}}}\n"
    )
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[tokio::test]
async fn faults_are_injected_as_often_as_written() {
    let echo = Backend::http1().await;
    let rules = "  http:\n".to_owned()
        + &rule("/teapot", "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}")
        + &rule("/never-abort", "fault: {abort: {httpStatus: 418}}")
        + &rule("/grpc", "fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}}")
        + &rule("/some", "fault: {abort: {httpStatus: 500, percentage: {value: 30}}}")
        + &rule("/wait", "fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}")
        + &rule(
            "/both",
            "fault: {delay: {fixedDelay: 1ms, percentage: {value: 100}}, abort: {httpStatus: 503, \
             percentage: {value: 100}}}",
        );
    let (_site, gateway) = start(&rules, echo.port);
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = http.get("http://a.com/teapot").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (418, "fault filter abort"));
    gateway.wait("the log tells", || gateway.out().contains(" 418 FI fault_filter_abort "));
    assert_eq!(http.get("http://a.com/never-abort").await.status, 200);
    assert_eq!(http.get("http://a.com/grpc").await.status, 404);
    let reply = http.ask("http://a.com/grpc", &[GRPC]).await;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "5"));
    let before = Instant::now();
    assert_eq!(http.get("http://a.com/wait").await.status, 200);
    assert!(before.elapsed().as_millis() >= 300);
    gateway.wait("the log tells", || gateway.out().contains(" 200 DI "));
    assert_eq!(http.get("http://a.com/both").await.status, 503);
    gateway.wait("the log tells", || gateway.out().contains(" 503 DI,FI "));
    let mut aborted = 0;
    for _ in 0..300 {
        aborted += u32::from(http.get("http://a.com/some").await.status == 500);
    }
    assert!((50..140).contains(&aborted), "{aborted}");
}

#[tokio::test]
async fn a_bad_token_is_refused_before_any_fault() {
    let echo = Backend::http1().await;
    let rules = "  http:\n".to_owned()
        + &rule("/", "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}");
    let (site, gateway) = start(&rules, echo.port);
    let jwks = issuer().key_set("RS256", "k");
    gateway.reload(|| {
        site.config(
            "tokens",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: t, \
                 namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: i, jwks: '{jwks}'}}]}}\n"
            ),
        );
    });
    let mut http = Http::plain(gateway.port(80)).await;
    let expired =
        issuer().token(&json!({"alg": "RS256", "kid": "k"}), &json!({"iss": "i", "exp": 1}));
    let bearer = format!("Bearer {expired}");
    assert_eq!(http.ask("http://a.com/", &[("authorization", &bearer)]).await.status, 401);
    assert_eq!(http.get("http://a.com/").await.status, 418);
}

#[tokio::test]
async fn preflights_are_answered_and_answers_marked() {
    let echo = Backend::http1().await;
    let rules = "  http:\n".to_owned()
        + &rule(
            "/strict",
            "corsPolicy: {allowOrigins: [{exact: 'https://a.b'}, {regex: 'https://[a-z]+[.]c'}], \
             allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-b, x-c], maxAge: 1m, \
             allowCredentials: true}",
        )
        + &rule(
            "/ignore",
            "corsPolicy: {allowOrigins: [{exact: 'https://a.b'}], allowMethods: ['*'], \
             unmatchedPreflights: IGNORE}",
        )
        + &rule("/any", "corsPolicy: {allowOrigins: [{exact: '*'}]}")
        + &rule("/legacy", "corsPolicy: {allowOrigin: ['https://a.b']}")
        + &rule(
            "/both",
            "corsPolicy: {allowOrigin: ['https://old'], allowOrigins: [{exact: 'https://a.b'}]}",
        );
    let (_site, gateway) = start(&rules, echo.port);
    let mut http = Http::plain(gateway.port(80)).await;
    let mut asked = 0;
    for (path, origin, ours, allowed) in [
        ("/strict", "https://a.b", true, "https://a.b"),
        ("/strict", "https://xyz.c", true, "https://xyz.c"),
        ("/strict", "https://xyz.cd", false, ""),
        ("/ignore", "https://other", true, ""),
        ("/any", "null", true, "null"),
        ("/legacy", "https://a.b", true, "https://a.b"),
        ("/both", "https://a.b", true, "https://a.b"),
        ("/both", "https://old", false, ""),
    ] {
        let headers = [("origin", origin), ("access-control-request-method", "PUT")];
        let url = format!("http://a.com{path}");
        let request = http.request("OPTIONS", &url, &headers, "");
        let reply = http.send(request).await;
        asked += usize::from(!ours);
        assert_eq!((reply.status.as_u16(), echo.requests()), (200, asked), "{path} {origin}");
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{path} {origin}");
        if path == "/strict" && ours {
            assert_eq!(reply.header("access-control-allow-methods"), "GET,PUT");
            assert_eq!(reply.header("access-control-allow-headers"), "x-a");
            assert_eq!(reply.header("access-control-max-age"), "60");
            assert_eq!(reply.header("access-control-allow-credentials"), "true");
            assert!(reply.body.is_empty());
        }
        if path == "/ignore" {
            assert_eq!(reply.header("access-control-allow-methods"), "PUT");
        }
        let reply = http.ask(&url, &[("origin", origin)]).await;
        asked += 1;
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{path} {origin}");
        let exposed = if path == "/strict" && ours { "x-b,x-c" } else { "" };
        assert_eq!(reply.header("access-control-expose-headers"), exposed);
        assert_eq!(reply.json()["path"], path);
    }
}

#[tokio::test]
async fn grpc_clients_deadlines_end_requests_and_routes_cap_them() {
    let echo = Backend::http1().await;
    let rules = "  http:\n".to_owned()
        + &rule("/never", "name: never")
        + &rule("/capped", "timeout: 50ms, rewrite: {uri: /never}");
    let (_site, gateway) = start(&rules, echo.port);
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = http.ask("http://a.com/never", &[GRPC, ("grpc-timeout", "50m")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "4"));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = http.ask("http://a.com/capped", &[GRPC, ("grpc-timeout", "1H")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "14"));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = http.ask("http://a.com/capped", &[("grpc-timeout", "1m")]).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (504, "upstream request timeout"));
}

#[tokio::test]
async fn a_routes_time_ends_an_answer_that_stops_midway() {
    const SLOW: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab";
    let backend = Scripted::start(&[Step::Say(SLOW)]).await;
    let rules = "  http:\n".to_owned() + &rule("/", "timeout: 100ms");
    let (_site, gateway) = start(&rules, backend.port);
    let mut http = Http::plain(gateway.port(80)).await;
    let request = http.request("GET", "http://a.com/", &[], "");
    assert!(http.try_send(request).await.is_err());
    gateway.wait("the log tells", || gateway.out().contains(" 200 UT "));
}
