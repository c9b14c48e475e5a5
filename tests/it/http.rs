//! Requests through the gateway: versions, headers, routes, and what it answers itself.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::client::{Http, connect, raw, tls};
use crate::gateway::{Gateway, Site, gateway, policy, routes, service, to};
use crate::scripted::{Scripted, Step};

/// One plaintext and one HTTPS server for `a.com`, before an echoing backend.
async fn shop(rules: &str) -> (Site, Backend, Gateway) {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.certificate("a", &["a.com", "b.com"]);
    let tls = "mode: SIMPLE, credentialName: a";
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("secure", 443, "HTTPS", "a.com", tls)
            + &routes("r", "istio-system/plain, istio-system/secure", "a.com", rules)
            + &service("echo", "HTTP", backend.port)),
    );
    let gateway = site.start(&[80, 443]);
    (site, backend, gateway)
}

#[tokio::test]
async fn requests_of_both_versions_reach_the_backend_as_istio_sends_them() {
    let (site, backend, gateway) = shop(&to("echo")).await;
    for alpn in ["h2", "http/1.1"] {
        let config = tls(&site.edge, None, &[alpn]);
        let mut http = Http::secure(&config, gateway.port(443), "a.com").await;
        for _ in 0..3 {
            let reply = http
                .ask(
                    "https://a.com/x?y=1",
                    &[
                        ("x-forwarded-client-cert", "forged"),
                        ("connection", "x-secret"),
                        ("x-own", "1"),
                    ][if alpn == "h2" { 2..3 } else { 0..3 }],
                )
                .await;
            assert_eq!((reply.status.as_u16(), reply.header("server")), (200, "istio-envoy"));
            let seen = reply.json();
            assert_eq!((&seen["method"], &seen["path"]), (&"GET".into(), &"/x?y=1".into()));
            let headers = &seen["headers"];
            assert_eq!(headers["host"], "a.com");
            assert_eq!(headers["x-forwarded-proto"], "https");
            assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
            assert_eq!(headers["x-own"], "1");
            assert_eq!(headers["x-request-id"].as_str().unwrap().len(), 36);
            assert!(
                headers["x-forwarded-client-cert"].is_null() && headers["connection"].is_null()
            );
        }
    }
    assert!(backend.connections() <= 4, "{} connections", backend.connections());
}

#[tokio::test]
async fn an_empty_x_forwarded_for_is_no_address() {
    let (site, _backend, gateway) = shop(&to("echo")).await;
    for alpn in ["h2", "http/1.1"] {
        let config = tls(&site.edge, None, &[alpn]);
        let mut http = Http::secure(&config, gateway.port(443), "a.com").await;
        let reply = http.ask("https://a.com/", &[("x-forwarded-for", "")]).await;
        assert_eq!(reply.json()["headers"]["x-forwarded-for"], "127.0.0.1", "{alpn}");
    }
}

#[tokio::test]
async fn unknown_hosts_and_paths_get_404_and_foreign_hosts_421() {
    let (site, _backend, gateway) =
        shop("  http: [{match: [{uri: {prefix: /in/}}], route: [{destination: {host: echo.shop.internal}}]}]\n").await;
    let mut plain = Http::plain(gateway.port(80)).await;
    for (url, status) in
        [("http://a.com/in/x", 200), ("http://a.com/out", 404), ("http://no.com/in/x", 404)]
    {
        let reply = plain.get(url).await;
        assert_eq!(reply.status.as_u16(), status, "{url}");
        assert!(status == 200 || reply.body.is_empty(), "{url}");
    }
    let mut http = Http::secure(&tls(&site.edge, None, &["h2"]), gateway.port(443), "a.com").await;
    assert_eq!(http.get("https://a.com/in/").await.status, 200);
    assert_eq!(http.get("https://b.com/in/").await.status, 421);
    // What HTTP/1.1 refuses as well: the backend could take either.
    let lengths = [("content-length", "0"), ("content-length", "0")];
    assert_eq!(http.ask("https://a.com/in/", &lengths).await.status, 400);
}

#[tokio::test]
async fn a_connection_may_be_used_for_another_host_that_it_could_have_been_made_to() {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.certificate("both", &["a.com", "b.com", "c.com"]);
    site.certificate("own", &["d.com"]);
    site.client_ca("both");
    let simple = "mode: SIMPLE, credentialName: both";
    site.config(
        "all",
        &(gateway("a", 443, "HTTPS", "a.com", simple)
            + &gateway("b", 443, "HTTPS", "b.com", simple)
            + &gateway("c", 443, "HTTPS", "c.com", "mode: MUTUAL, credentialName: both")
            + &gateway("d", 443, "HTTPS", "d.com", "mode: SIMPLE, credentialName: own")
            + &routes(
                "r",
                "istio-system/a, istio-system/b, istio-system/c, istio-system/d",
                "'*.com'",
                &to("echo"),
            )
            + &service("echo", "HTTP", backend.port)),
    );
    let gateway = site.start(&[443]);
    let mut http = Http::secure(&tls(&site.edge, None, &["h2"]), gateway.port(443), "a.com").await;
    // The root's dot names no other host; routes of `*.com` have none with it, as in Istio.
    let dotted = [("c.com.", 421), ("d.com.", 421), ("b.com.", 404)];
    for (host, status) in
        [("a.com", 200), ("b.com", 200), ("c.com", 421), ("d.com", 421)].into_iter().chain(dotted)
    {
        assert_eq!(http.get(&format!("https://{host}/")).await.status.as_u16(), status, "{host}");
    }
}

#[tokio::test]
async fn rules_match_rewrite_redirect_and_answer() {
    let rules = "  http:
    - match: [{uri: {exact: /exact}, method: {exact: POST}}]
      directResponse: {status: 418, body: {string: teapot}}
    - match: [{uri: {regex: '/r/[0-9]+'}, headers: {x-kind: {prefix: a}}}]
      redirect: {uri: /new, authority: b.com, redirectCode: 302}
    - match: [{uri: {prefix: /old/}}]
      rewrite: {uri: /new/, authority: inner.com}
      headers: {request: {set: {x-set: s}, add: {x-own: added}, remove: [x-gone]}, response: {add: {x-back: b}, remove: [x-backend]}}
      route: [{destination: {host: echo.shop.internal}}]
    - match: [{uri: {prefix: /slow}}]
      timeout: 100ms
      rewrite: {uri: /never}
      route: [{destination: {host: echo.shop.internal}}]
    - match: [{uri: {prefix: /split}}]
      route: [{destination: {host: echo.shop.internal}, weight: 0}, {destination: {host: nobody.shop.internal}, weight: 100}]
";
    let (_site, _backend, gateway) = shop(rules).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let request = http.request("POST", "http://a.com/exact", &[], "");
    let reply = http.send(request).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (418, "teapot"));
    assert_eq!(http.get("http://a.com/exact").await.status, 404);
    let reply = http.ask("http://a.com/r/12", &[("x-kind", "abc")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (302, "http://b.com/new"));
    assert_eq!(http.get("http://a.com/r/12").await.status, 404);
    assert_eq!(http.ask("http://a.com/r/1x", &[("x-kind", "a")]).await.status, 404);
    let reply = http.ask("http://a.com/old/p?q", &[("x-own", "1"), ("x-gone", "1")]).await;
    let seen = reply.json();
    assert_eq!(
        (&seen["path"], &seen["headers"]["host"]),
        (&"/new/p?q".into(), &"inner.com".into())
    );
    assert_eq!(
        (&seen["headers"]["x-set"], &seen["headers"]["x-own"]),
        (&"s".into(), &"1, added".into())
    );
    assert!(seen["headers"]["x-gone"].is_null());
    assert_eq!((reply.header("x-back"), reply.header("x-backend")), ("b", ""));
    let reply = http.get("http://a.com/slow").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (504, "upstream request timeout"));
    assert_eq!(Http::plain(gateway.port(80)).await.get("http://a.com/split").await.status, 503);
    gateway.tells("IST0101");
}

#[tokio::test]
async fn heads_and_empty_answers_have_no_body() {
    let (_site, _backend, gateway) = shop(&to("echo")).await;
    let mut http = Http::plain(gateway.port(80)).await;
    for (method, path, status) in
        [("HEAD", "/", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304)]
    {
        let request = http.request(method, &format!("http://a.com{path}"), &[], "");
        let reply = http.send(request).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (status, 0), "{method} {path}");
    }
    let request = http.request("PUT", "http://a.com/up", &[], &"x".repeat(3 << 20));
    assert_eq!(http.send(request).await.json()["body_bytes"], 3 << 20);
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone_of_our_own_answers() {
    let rules = "  http:\n  - match: [{uri: {exact: /own}}]\n    directResponse: {status: 200, body: \
                 {string: hello}}\n  - route: [{destination: {host: nobody.shop.internal}}]\n";
    let (_site, _backend, gateway) = shop(rules).await;
    for mut http in [Http::plain(gateway.port(80)).await, Http::plain2(gateway.port(80)).await] {
        for (path, status, length) in [("/own", 200, "5"), ("/none", 503, "0"), ("/own", 200, "5")]
        {
            let request = http.request("HEAD", &format!("http://a.com{path}"), &[], "");
            let reply = http.send(request).await;
            assert_eq!((reply.status.as_u16(), reply.body.len()), (status, 0), "{path}");
            assert_eq!(reply.header("content-length"), length, "{path}");
        }
    }
    gateway.wait("it is logged", || gateway.out().matches("/own").count() == 4);
    assert!(!gateway.out().contains("DC"), "{}", gateway.out());
}

#[tokio::test]
async fn routes_see_what_is_true_and_not_what_a_client_says() {
    let rules = "  http:\n  - match: [{headers: {x-forwarded-proto: {exact: https}}}, {headers: \
                 {x-forwarded-client-cert: {prefix: By}}}, {headers: {x-envoy-peer-metadata-id: {regex: \
                 '.*'}}}]\n    directResponse: {status: 299}\n  - match: [{headers: {cookie: {exact: a=1; \
                 b=2}}}]\n    directResponse: {status: 298}\n  - directResponse: {status: 297}\n";
    let (_site, _backend, gateway) = shop(rules).await;
    let mut http = Http::plain2(gateway.port(80)).await;
    for (headers, status) in [
        (&[("x-forwarded-proto", "https"), ("x-forwarded-client-cert", "By=x")][..], 297),
        (&[("x-envoy-peer-metadata-id", "x")], 297),
        (&[("cookie", "a=1"), ("cookie", "b=2")], 298),
    ] {
        assert_eq!(http.ask("http://a.com/", headers).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn what_may_be_no_request_ends_the_connection() {
    let (_site, backend, gateway) = shop(&to("echo")).await;
    let seen = backend.requests();
    for head in [
        "CONNECT a.com:443 HTTP/1.1\r\nhost: a.com\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a.com\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let bytes = format!("{head}GET /tunnelled HTTP/1.1\r\nhost: a.com\r\n\r\n");
        let answer = String::from_utf8(raw(gateway.port(80), bytes.as_bytes()).await).unwrap();
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(backend.requests(), seen);
}

#[tokio::test]
async fn http_2_backends_are_spoken_to_in_http_2() {
    let backend = Backend::http2().await;
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("echo"))
            + &service("echo", "GRPC", backend.port)),
    );
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..3 {
        let seen = http.get("http://a.com/").await.json();
        assert_eq!((&seen["version"], &seen["authority"]), (&"HTTP/2.0".into(), &"a.com".into()));
    }
    assert!(backend.connections() <= 2);
}

#[tokio::test]
async fn the_mesh_identity_is_shown_and_the_servers_is_verified() {
    let site = Site::new();
    let right = Backend::mutual(&site.workload("shop", "cart", 1), &site.mesh).await;
    let wrong = Backend::mutual(&site.workload("shop", "other", 1), &site.mesh).await;
    let foreign = crate::pki::Authority::new("foreign");
    let leaf = foreign.leaf(&["spiffe://cluster.local/ns/shop/sa/cart"], 1);
    let outside = Backend::mutual(&leaf, &site.mesh).await;
    let mutual =
        "tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/cart']}";
    let mut config = gateway("plain", 80, "HTTP", "'*'", "");
    for (name, backend) in [("right", &right), ("wrong", &wrong), ("outside", &outside)] {
        config += &routes(name, "istio-system/plain", &format!("{name}.com"), &to(name));
        config += &service(name, "HTTP", backend.port);
        config += &policy(name, mutual);
    }
    site.config("all", &config);
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    let seen = http.get("http://right.com/").await.json();
    assert_eq!(seen["tls"]["client_certificate"], true);
    assert_eq!(seen["tls"]["sni"], "outbound_.80_._.right.shop.internal");
    assert_eq!(seen["tls"]["alpn"], "istio");
    for host in ["wrong.com", "outside.com"] {
        let reply = http.get(&format!("http://{host}/")).await;
        assert_eq!(reply.status, 503, "{host}");
        assert!(reply.text().contains("TLS_error"), "{}", reply.text());
    }
}

#[tokio::test]
async fn failures_of_backends_have_istios_answers() {
    let (_site, backend, gateway) = shop(&to("echo")).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = http.get("http://a.com/abort").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().starts_with("upstream connect error or disconnect/reset before headers"));
    backend.stop().await;
    let reply = http.get("http://a.com/").await;
    assert_eq!(reply.status, 503);
    let refused = "retried and the latest reset reason: remote connection failure";
    assert!(reply.text().contains(refused), "{}", reply.text());
    gateway.wait("the access log tells", || {
        let log = gateway.out();
        log.contains(" 503 UF,URX ") && log.contains(" 503 UC ")
    });
}

/// A plaintext server for `a.com` before a scripted backend.
async fn before(script: &'static [Step]) -> (Site, Gateway) {
    let backend = Scripted::start(script).await;
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("secure", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
            + &routes("r", "istio-system/plain, istio-system/secure", "a.com", &to("b"))
            + &service("b", "HTTP", backend.port)),
    );
    let gateway = site.start(&[80, 443]);
    (site, gateway)
}

const EXPECTING: &[u8] =
    b"PUT / HTTP/1.1\r\nhost: a.com\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

#[tokio::test]
async fn a_body_is_asked_for_when_the_backend_wants_it() {
    let (_site, _backend, gateway) = shop(&to("echo")).await;
    let mut client = connect(gateway.port(80)).await;
    client.write_all(EXPECTING).await.unwrap();
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    let mut answer = vec![0; 4096];
    let count = client.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"body_bytes\":4"), "{answer}");
}

#[tokio::test]
async fn a_body_is_not_asked_for_when_the_backend_refuses_it() {
    let refusal = Step::Say("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n");
    let (_site, gateway) = before(Box::leak(Box::new([refusal]))).await;
    let mut client = connect(gateway.port(80)).await;
    client.write_all(EXPECTING).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_body_is_sent_to_a_backend_that_never_asks_for_it() {
    let (_site, gateway) =
        before(&[Step::Read(4, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]).await;
    let mut client = connect(gateway.port(80)).await;
    client.write_all(EXPECTING).await.unwrap();
    client.write_all(b"body").await.unwrap();
    let mut answer = vec![0; 4096];
    let mut seen = String::new();
    while !seen.contains("HTTP/1.1 200") {
        let count = client.read(&mut answer).await.unwrap();
        assert!(count > 0, "{seen}");
        seen += std::str::from_utf8(&answer[..count]).unwrap();
    }
}

#[tokio::test]
async fn trailers_come_through_in_both_versions() {
    const WITH_TRAILERS: Step = Step::Say(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: \
         7\r\n\r\n",
    );
    let (site, gateway) = before(&[WITH_TRAILERS, WITH_TRAILERS]).await;
    for alpn in ["h2", "http/1.1"] {
        let config = tls(&site.edge, None, &[alpn]);
        let mut http = Http::secure(&config, gateway.port(443), "a.com").await;
        let reply = http.ask("https://a.com/", &[("te", "trailers")]).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, "ok"), "{alpn}");
        assert_eq!(reply.trailers.unwrap()["x-sum"], "7", "{alpn}");
    }
}

#[tokio::test]
async fn requests_that_could_be_read_two_ways_are_refused() {
    let (_site, backend, gateway) = shop(&to("echo")).await;
    for (request, status) in [
        (
            "GET / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
            "400",
        ),
        ("GET / HTTP/1.1\r\nhost: a.com\r\nhost: b.com\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a.com\r\ntransfer-encoding: gzip\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nhost: a.com\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "501",
        ),
        ("GET / HTTP/1.1\r\nhost : a.com\r\n\r\n", "400"),
        ("GET /\0 HTTP/1.1\r\nhost: a.com\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\nhost: a.com\r\n\r\n", "426"),
        ("CONNECT a.com:443 HTTP/1.1\r\nhost: a.com\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nhost: a.com\r\nconnection: upgrade\r\nupgrade: tls\r\n\r\n", "403"),
    ] {
        let mut bytes = request.as_bytes().to_vec();
        bytes
            .extend_from_slice(b"GET /second HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n");
        let answer = String::from_utf8(raw(gateway.port(80), &bytes).await).unwrap();
        assert_eq!(answer.get(9..12), Some(status), "{request:?}: {answer}");
    }
    let seen = backend.requests();
    let both = b"POST / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 5\r\ntransfer-encoding: \
                 chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a.com\r\n\r\n";
    let answer = String::from_utf8(raw(gateway.port(80), both).await).unwrap();
    assert!(!answer.contains("/smuggled"), "{answer}");
    assert!(backend.requests() - seen <= 1);
}

#[tokio::test]
async fn a_target_with_an_authority_overrides_the_host_header() {
    let (site, _backend, gateway) = shop(&to("echo")).await;
    let absolute = "GET http://a.com/x HTTP/1.1\r\nhost: evil.com\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8(raw(gateway.port(80), absolute.as_bytes()).await).unwrap();
    assert!(answer.contains("\"host\":\"a.com\"") && !answer.contains("evil"), "{answer}");
    let mut http = Http::secure(&tls(&site.edge, None, &["h2"]), gateway.port(443), "a.com").await;
    let reply = http.ask("https://a.com/", &[("host", "evil.com")]).await;
    assert_eq!(reply.json()["headers"]["host"], "a.com");
}
