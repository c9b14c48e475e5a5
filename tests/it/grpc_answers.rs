//! What gRPC clients get of answers that the gateway makes itself: a head alone, with the gRPC status that
//! Envoy maps the HTTP status to; and that `explain` tells it.

use serde_json::json;

use crate::backend::Backend;
use crate::client::{Http, Reply};
use crate::fixture::issuer;
use crate::gateway::{Gateway, Site, free_port, gateway, routes, service};

const POLICIES: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: d, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: t, namespace: istio-system}
spec: {jwtRules: [{issuer: 'https://i', jwks: '";

/// Rules of `a.com`: a path, and what is done there.
const RULES: [(&str, &str); 14] = [
    ("/nobody", "route: [{destination: {host: nobody.shop.internal}}]"),
    ("/empty", "route: [{destination: {host: empty.shop.internal}}]"),
    ("/gone", "route: [{destination: {host: gone.shop.internal}}]"),
    (
        "/late",
        "timeout: 50ms, rewrite: {uri: /never}, route: [{destination: {host: echo.shop.internal}}]",
    ),
    ("/never", "route: [{destination: {host: echo.shop.internal}}]"),
    ("/400", "fault: {abort: {httpStatus: 400, percentage: {value: 100}}}"),
    ("/429", "fault: {abort: {httpStatus: 429, percentage: {value: 100}}}"),
    ("/500", "fault: {abort: {httpStatus: 500, percentage: {value: 100}}}"),
    ("/exhausted", "fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}"),
    ("/fine", "directResponse: {status: 200, body: {string: '100 % ~'}}"),
    ("/nothing", "directResponse: {status: 204}"),
    ("/shut", "directResponse: {status: 403, body: {string: closed}}"),
    (
        "/own",
        "directResponse: {status: 503}, headers: {response: {set: {grpc-status: '9', content-type: \
         text/html, content-length: '7'}}}",
    ),
    ("/moved", "redirect: {uri: /new}"),
];

fn start(echo: &Backend) -> (Site, Gateway) {
    let rule = |(path, does): (&str, &str)| {
        let to = if does.starts_with("fault") {
            ", route: [{destination: {host: echo.shop.internal}}]"
        } else {
            ""
        };
        format!("  - {{match: [{{uri: {{exact: {path}}}}}], {does}{to}}}\n")
    };
    let rules: String = RULES.into_iter().map(rule).collect();
    let empty = service("empty", "HTTP", 9).replace("{address: 127.0.0.1, ports: {p: 9}}", "");
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &format!("  http:\n{rules}"))
            + &service("echo", "HTTP", echo.port)
            + &service("gone", "HTTP", free_port())
            + &empty
            + &format!("{POLICIES}{}'}}]}}\n", issuer().key_set("RS256", "k1"))),
    );
    let gateway = site.start(&[80]);
    (site, gateway)
}

async fn call(http: &mut Http, path: &str, headers: &[(&str, &str)]) -> Reply {
    let url = format!("http://a.com{path}");
    http.send(http.request("POST", &url, headers, "")).await
}

#[tokio::test]
async fn each_status_has_its_grpc_status_and_is_told() {
    let echo = Backend::http1().await;
    let (site, gateway) = start(&echo);
    let old = json!({"iss": "https://i", "sub": "a", "exp": 1});
    let old = format!("Bearer {}", issuer().token(&json!({"alg": "RS256", "kid": "k1"}), &old));
    let told = |path: &str, kind: &str| {
        let (url, kind) = (format!("http://a.com{path}"), format!("content-type: {kind}"));
        let token = format!("authorization: {old}");
        let header = if path == "/token" { token } else { "x-a: 1".to_owned() };
        let headers = ["--header", &kind, "--header", &header, "-o", "json"];
        let asked = ["explain", &url, "--method", "POST"];
        let told = site.command(&[&asked[..], &headers[..]].concat()).stdout;
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        let number = |name: &str| told["outcome"][name].as_u64();
        (number("status"), number("grpc_status"))
    };
    let (port, grpc) = (gateway.port(80), ("content-type", "application/grpc+proto"));
    for mut http in [Http::plain(port).await, Http::plain2(port).await] {
        for (path, status, mapped) in [
            ("/else", 404, "12"),
            ("/token", 401, "16"),
            ("/denied", 403, "7"),
            ("/nobody", 503, "14"),
            ("/empty", 503, "14"),
            ("/gone", 503, "14"),
            ("/late", 504, "14"),
            ("/400", 400, "13"),
            ("/429", 429, "14"),
            ("/500", 500, "2"),
            ("/exhausted", 429, "8"),
            ("/fine", 200, "2"),
            ("/nothing", 204, "2"),
            ("/shut", 403, "7"),
            ("/moved", 301, "2"),
        ] {
            let token = ("authorization", &*old);
            let besides = if path == "/token" { &[token][..] } else { &[] };
            let plain = call(&mut http, path, besides).await;
            assert_eq!(plain.status, status, "{path}");
            assert!(!plain.headers.contains_key("grpc-status"), "{path}: {plain:?}");
            let reply = call(&mut http, path, &[&[grpc], besides].concat()).await;
            let seen = (reply.status.as_u16(), reply.header("grpc-status"));
            assert_eq!(seen, (200, mapped), "{path}: {reply:?}");
            assert_eq!(reply.header("content-type"), "application/grpc", "{path}");
            let said = plain.text().replace('%', "%25").replace('~', "%7E");
            assert_eq!(reply.header("grpc-message"), said, "{path}");
            assert_eq!(reply.headers.contains_key("grpc-message"), !said.is_empty(), "{path}");
            assert_eq!(reply.header("location"), plain.header("location"), "{path}");
            if !matches!(path, "/empty" | "/gone" | "/late") && matches!(http, Http::One(_)) {
                let (status, mapped) = (u64::from(status), mapped.parse().ok());
                assert_eq!(told(path, "text/plain"), (Some(status), None), "{path}");
                assert_eq!(told(path, grpc.1), (Some(200), mapped), "{path}");
            }
            assert!(reply.body.is_empty() && reply.trailers.is_none(), "{path}: {reply:?}");
        }
        // The rule's own status counts, and nothing else that it says of the form.
        let reply = call(&mut http, "/own", &[grpc]).await;
        let seen = (reply.header("grpc-status"), reply.header("content-type"));
        assert_eq!((seen, reply.text()), (("9", "application/grpc"), ""), "{reply:?}");
        let reply = call(&mut http, "/never", &[grpc, ("grpc-timeout", "50m")]).await;
        assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "4"), "{reply:?}");
    }
}
