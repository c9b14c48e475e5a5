//! Header operations and rewrites: what reaches the wire is what the rule and `explain` say.

use std::fmt::Write as _;

use serde_json::Value;

use crate::backend::Backend;
use crate::client::Http;
use crate::external_grpc::servers;
use crate::gateway::{Gateway, Site, gateway, routes, service};

/// Rules for paths below prefixes, which send to an echo.
async fn start(rules: &[(&str, &str)]) -> (Site, Backend, Gateway) {
    let echo = Backend::http1().await;
    let mut text = "  http:\n".to_owned();
    for (prefix, rule) in rules {
        writeln!(
            text,
            "  - match: [{{uri: {{prefix: {prefix}}}}}]\n    {rule}\n    route: [{{destination: {{host: \
             echo.shop.internal}}}}]"
        )
        .unwrap();
    }
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &text)
            + &service("echo", "HTTP", echo.port)),
    );
    let gateway = site.start(&[80]);
    (site, echo, gateway)
}

fn outcome(gateway: &Gateway, path: &str) -> Value {
    gateway.admin(&format!("/explain?url=http://a.com{path}"))["outcome"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_says_where_a_message_ends() {
    let framing = "content-length: '3', Transfer-Encoding: gzip, connection: close, x-set: s";
    let (_site, _echo, gateway) = start(&[
        ("/request", &format!("headers: {{request: {{set: {{{framing}}}}}}}")),
        ("/response", &format!("headers: {{response: {{set: {{{framing}}}}}}}")),
        ("/gone", "headers: {request: {remove: [content-length, connection, x-gone]}}"),
    ])
    .await;
    gateway.tells("PC019");
    let mut http = Http::plain(gateway.port(80)).await;
    let body = "x".repeat(50);
    for (path, set) in [("/request", true), ("/response", false), ("/gone", false)] {
        for method in ["GET", "POST", "PUT"] {
            let sent = if method == "GET" { "" } else { &*body };
            let url = format!("http://a.com{path}");
            let reply = http.send(http.request(method, &url, &[("x-gone", "1")], sent)).await;
            let seen = reply.json();
            assert_eq!(seen["body_bytes"], sent.len(), "{method} {path}");
            assert_eq!(seen["headers"]["x-set"] == "s", set, "{path}");
            assert_eq!(reply.header("x-set") == "s", path == "/response", "{path}");
            let length: usize = reply.header("content-length").parse().unwrap();
            assert_eq!(length, reply.text().len(), "{method} {path}");
            assert_eq!(reply.header("connection"), "", "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_says_who_serves() {
    let (_site, _echo, gateway) = start(&[
        ("/set", "headers: {response: {set: {server: other, x-set: s}}}"),
        ("/add", "headers: {response: {add: {server: other}}}"),
        ("/gone", "headers: {response: {remove: [server]}}"),
    ])
    .await;
    gateway.tells("PC062");
    let mut http = Http::plain(gateway.port(80)).await;
    for path in ["/set", "/add", "/gone"] {
        let reply = http.get(&format!("http://a.com{path}")).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-set") == "s"), (200, path == "/set"));
        assert_eq!(servers(&reply), ["istio-envoy"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_without_a_value_sets_nothing() {
    let (_site, _echo, gateway) = start(&[(
        "/a",
        "headers: {request: {set: {x-a: '%REQ(x-none)%', x-b: 'b%REQ(x-none)%'}, add: {x-c: \
         '%REQ(x-none)%', x-d: '%REQ(x-from)%'}}, response: {set: {x-back: '%REQ(x-none)%'}}}",
    )])
    .await;
    let mut http = Http::plain(gateway.port(80)).await;
    let own = [("x-a", "mine"), ("x-c", "mine"), ("x-from", "f")];
    let reply = http.ask("http://a.com/a", &own).await;
    let seen = &reply.json()["headers"];
    assert!(seen["x-a"].is_null(), "{seen}");
    for (name, value) in [("x-b", "b"), ("x-c", "mine"), ("x-d", "f")] {
        assert_eq!(seen[name], value, "{seen}");
    }
    assert_eq!(reply.header("x-back"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_reaches_the_backend_as_it_is_explained() {
    let twice = r"rewrite: {uriRegexRewrite: {match: '^/long(.*)$', rewrite: '/\1\1\1'}}";
    let (_site, echo, gateway) = start(&[
        ("/space", "rewrite: {uri: '/a b'}"),
        ("/rel", "rewrite: {uri: rel2}"),
        ("/frag", "rewrite: {uri: '/x#y'}"),
        ("/uml", "rewrite: {uri: '/\u{e4}'}"),
        (
            "/rx/",
            r"rewrite: {uriRegexRewrite: {match: '^/rx/([^/]+)/(.*)$', rewrite: '\2/in st/\1'}}",
        ),
        ("/long", twice),
        ("/into", "rewrite: {uri: '/q?x='}"),
    ])
    .await;
    let mut http = Http::plain(gateway.port(80)).await;
    for (path, to) in [
        ("/space/z?q=1", "/a%20b/z?q=1"),
        ("/rel", "/rel2"),
        ("/frag?q", "/x%23y?q"),
        ("/uml", "/%C3%A4"),
        ("/rx/a/b?q", "/b/in%20st/a?q"),
        ("/long/a", "//a/a/a"),
        ("/into/b", "/q?x=/b"),
    ] {
        assert_eq!(http.get(&format!("http://a.com{path}")).await.json()["path"], to, "{path}");
        assert_eq!(outcome(&gateway, path)["path"], to, "{path}");
    }
    let requests = echo.requests();
    let long = format!("/long/{}", "x".repeat(30_000));
    for (path, status, text, reason) in [
        (&*long, 414, "URI Too Long", "rewritten_path_too_long"),
        // No query holds it.
        ("/into/\"b", 400, "", "path_normalization_failed"),
    ] {
        let reply = http.get(&format!("http://a.com{path}")).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, text));
        gateway.wait("the log tells", || gateway.out().contains(reason));
        let told = outcome(&gateway, &path.replace('"', "%22"));
        assert_eq!(
            (&told["status"], &told["action"]),
            (&status.into(), &"reject".into()),
            "{told}"
        );
    }
    assert_eq!(echo.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_request_could_carry_is_refused_with_its_place() {
    let (_site, echo, gateway) = start(&[
        ("/host", "headers: {request: {set: {host: '%REQ(x-h)%'}}}"),
        ("/authority", "rewrite: {authority: 'a b'}"),
        ("/group", r"rewrite: {uriRegexRewrite: {match: 'a(.)', rewrite: '/\9'}}"),
        ("/fine", "headers: {request: {set: {':Authority': 'b.com:80'}}}"),
    ])
    .await;
    let mut http = Http::plain(gateway.port(80)).await;
    for path in ["/host", "/authority", "/group"] {
        assert_eq!(http.get(&format!("http://a.com{path}")).await.status, 503, "{path}");
    }
    assert_eq!(echo.requests(), 0);
    assert_eq!(http.get("http://a.com/fine").await.json()["headers"]["host"], "b.com:80");
    for field in [
        "spec.http[0].headers.request.set.host",
        "spec.http[1].rewrite.authority",
        "spec.http[2].rewrite.uriRegexRewrite.rewrite",
    ] {
        let told = gateway.admin("/diagnostics").to_string();
        assert!(told.contains(field), "{told}");
    }
}
