//! Whose word on the client a server takes, and what backends are told of its certificate, where a Gateway
//! says it.

use std::collections::HashSet;

use bytes::Bytes;
use http::{Response, request};
use portcullis::grpc::ext_authz::{CheckResponse, Status};
use serde_json::Value;

use crate::backend::Backend;
use crate::client::{Http, tls};
use crate::external::{Body, Provider};
use crate::external_grpc;
use crate::gateway::{Gateway, Site, endpoints, gateway, policy, routes, service, to};

/// A Gateway with an annotation.
fn annotated(gateway: &str, name: &str, value: &str) -> String {
    let annotation = format!("istio-system, annotations: {{portcullis.dev/{name}: '{value}'}}}}");
    gateway.replacen("istio-system}", &annotation, 1)
}

/// Tells the backend who the client is.
const TELLING: &str = "  http: [{route: [{destination: {host: echo.shop.internal}}], headers: {request: {set: \
                       {x-client: '%DOWNSTREAM_REMOTE_ADDRESS%', x-client-ip: \
                       '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}}}]\n";

/// Clients of 10.0.0.0/8 alone are let in. Port 80 trusts this machine and 192.0.2.7, port 81 a machine
/// elsewhere; the mesh would believe anybody.
fn resources(near: &str, backend: u16) -> String {
    let plain = |name: &str, port: u16| gateway(name, port, "HTTP", "a.com", "httpsRedirect: true");
    annotated(&plain("near", 80), "trusted-proxies", near)
        + &annotated(&plain("far", 81), "trusted-proxies", "192.0.2.7")
        + &routes("r", "istio-system/near, istio-system/far", "a.com", TELLING)
        + &service("echo", "HTTP", backend)
        + "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ours, \
           namespace: istio-system}\nspec: {action: ALLOW, rules: [{from: [{source: {remoteIpBlocks: \
           [10.0.0.0/8]}}]}]}\n"
}

async fn behind() -> (Site, Backend, Gateway) {
    let site = Site::new();
    let echo = Backend::http1().await;
    site.write("mesh.yaml", "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}\n");
    site.config("all", &resources("127.0.0.0/8, 192.0.2.7", echo.port));
    let gateway = site.start_with(&[80, 81], &["--mesh-config", "mesh.yaml"]);
    (site, echo, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_address_that_is_no_trusted_proxys_is_the_clients() {
    let (site, echo, gateway) = behind().await;
    let mut http = Http::plain(gateway.port(80)).await;
    for (forwarded, client) in [
        ("10.1.1.1", "10.1.1.1"),
        ("6.6.6.6, 10.1.1.2,192.0.2.7", "10.1.1.2"),
        ("nonsense, 10.1.1.3, 127.0.0.9", "10.1.1.3"),
        ("10.1.1.1, 6.6.6.6", "6.6.6.6"),
        ("10.1.1.1, 6.6.6.6, 192.0.2.7", "6.6.6.6"),
        ("10.1.1.1, nonsense", "127.0.0.1"),
    ] {
        let said = [("x-forwarded-for", forwarded), ("x-forwarded-proto", "https")];
        let reply = http.ask("http://a.com/", &said).await;
        let allowed = client.starts_with("10.");
        assert_eq!(reply.status, if allowed { 200 } else { 403 }, "{forwarded}");
        if allowed {
            let headers = &reply.json()["headers"];
            assert_eq!(headers["x-envoy-external-address"], client);
            assert_eq!(headers["x-forwarded-for"], format!("{forwarded},127.0.0.1"));
            assert_eq!(headers["x-forwarded-proto"], "https");
            assert_eq!(headers["x-client"], format!("{client}:0"));
            assert_eq!(headers["x-client-ip"], client);
        }
        let logged = format!("{client}:");
        gateway.wait("the log tells", || gateway.out().contains(&logged));
    }
    assert_eq!(echo.requests(), 3);
    // Trusted no more, on the same connection.
    gateway.reload(|| _ = site.config("all", &resources("", echo.port)));
    let said = [("x-forwarded-for", "10.1.1.1"), ("x-forwarded-proto", "https")];
    assert_eq!(http.ask("http://a.com/", &said).await.status, 403);
    assert_eq!(echo.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_believed_of_a_peer_that_is_not_listed_whatever_the_mesh_says() {
    let (site, echo, gateway) = behind().await;
    let mut http = Http::plain(gateway.port(81)).await;
    for forwarded in ["10.1.1.1", "10.1.1.1, 192.0.2.7", "192.0.2.7"] {
        let said = [("x-forwarded-for", forwarded), ("x-forwarded-proto", "https")];
        assert_eq!(http.ask("http://a.com/", &said).await.status, 403, "{forwarded}");
    }
    assert_eq!(echo.requests(), 0);
    let told = |source: &str| {
        let arguments = ["explain", "http://a.com:81/", "--source-ip", source];
        let headers =
            ["--header", "x-forwarded-for: 10.1.1.1", "--header", "x-forwarded-proto: https"];
        let output = site.command(&[&arguments[..], &headers[..]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let trusted = told("192.0.2.7");
    assert!(trusted.contains("10.1.1.1, as x-forwarded-for says"), "{trusted}");
    assert!(trusted.contains("Gateway istio-system/far"), "{trusted}");
    let stranger = told("192.0.2.8");
    assert!(stranger.contains("192.0.2.8: x-forwarded-for tells of no other"), "{stranger}");
    assert!(stranger.contains("trusted is 192.0.2.7/32"), "{stranger}");
}

/// Port 80 trusts this machine, port 81 a machine elsewhere; both lead to `echo`.
fn trusting_and_not() -> String {
    let plain = |name: &str, port: u16| gateway(name, port, "HTTP", "a.com", "");
    annotated(&plain("near", 80), "trusted-proxies", "127.0.0.0/8")
        + &annotated(&plain("far", 81), "trusted-proxies", "192.0.2.7")
        + &routes("r", "istio-system/near, istio-system/far", "a.com", &to("echo"))
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_keeps_its_endpoint() {
    let backends = [Backend::http1().await, Backend::http1().await, Backend::http1().await];
    let ports: Vec<_> = backends.iter().map(|backend| (backend.port, "")).collect();
    let site = Site::new();
    let hash = policy("echo", "loadBalancer: {consistentHash: {useSourceIp: true}}");
    site.config("all", &(trusting_and_not() + &endpoints("echo", "HTTP", &ports) + &hash));
    let gateway = site.start(&[80, 81]);
    for (port, several) in [(80, true), (81, false)] {
        let mut homes = HashSet::new();
        for client in 1..16 {
            let mut own = HashSet::new();
            for said in ["", "6.6.6.6, ", "10.1.1.1,"] {
                let mut http = Http::plain(gateway.port(port)).await;
                let forwarded = format!("{said}192.0.2.{client}");
                let seen = http.ask("http://a.com/", &[("x-forwarded-for", &forwarded)]).await;
                own.insert(seen.json()["port"].as_u64().unwrap());
            }
            assert_eq!(own.len(), 1, "{port} {client}");
            homes.extend(own);
        }
        assert_eq!(homes.len() > 1, several, "{port}: {homes:?}");
    }
}

/// Lets 10.1.1.1 in, and nobody else.
fn by_client(_: &request::Parts, body: &Bytes) -> Response<Body> {
    let code = if external_grpc::client(body) == "10.1.1.1" { 0 } else { 7 };
    external_grpc::verdict(&CheckResponse { status: Some(Status { code }), ..Default::default() })
}

#[tokio::test]
async fn a_provider_is_told_of_the_client_behind_a_trusted_proxy() {
    let echo = Backend::http1().await;
    let provider = Provider::start(true, by_client).await;
    let site = Site::new();
    site.write(
        "mesh.yaml",
        "extensionProviders: [{name: asked, envoyExtAuthzGrpc: {service: \
         shop/provider.shop.internal, port: 80}}]\n",
    );
    let custom = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: \
                  ask, namespace: istio-system}\nspec: {action: CUSTOM, provider: {name: asked}, \
                  rules: [{to: [{operation: {paths: ['/*']}}]}]}\n";
    site.config(
        "all",
        &(trusting_and_not()
            + &service("echo", "HTTP", echo.port)
            + &service("provider", "GRPC", provider.port)
            + custom),
    );
    let gateway = site.start_with(&[80, 81], &["--mesh-config", "mesh.yaml"]);
    for (port, forwarded, client) in [
        (80, "10.1.1.1", "10.1.1.1"),
        (80, "6.6.6.6, 10.1.1.1", "10.1.1.1"),
        (80, "10.1.1.1, 6.6.6.6", "6.6.6.6"),
        (80, "10.1.1.1, nonsense", "127.0.0.1"),
        (81, "10.1.1.1", "127.0.0.1"),
    ] {
        let mut http = Http::plain(gateway.port(port)).await;
        let reply = http.ask("http://a.com/x", &[("x-forwarded-for", forwarded)]).await;
        let status = if client == "10.1.1.1" { 200 } else { 403 };
        assert_eq!(reply.status, status, "{port} {forwarded}");
        let (_, asked) = provider.last();
        assert_eq!(external_grpc::client(&asked), client, "{port} {forwarded}");
    }
    assert_eq!((provider.asked(), echo.requests()), (5, 2));
}

/// Servers, each with what a backend sees of what the client said and of its certificate: where it shows
/// one, and where it does not.
const SERVERS: [(&str, &str, &str); 6] = [
    ("SANITIZE", "", ""),
    ("SANITIZE_SET", "own", ""),
    ("FORWARD_ONLY", "said", ""),
    ("APPEND_FORWARD", "said,own", ""),
    ("ALWAYS_FORWARD_ONLY", "said", "said"),
    // It cannot be read.
    ("Append", "", ""),
];

fn host(mode: &str) -> String {
    format!("{}.x.com", mode.to_lowercase().replace('_', "-"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_certificate_is_treated_as_the_requests_own_server_says() {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.certificate("x", &["*.x.com"]);
    site.client_ca("x");
    site.write(
        "mesh.yaml",
        "defaultConfig: {gatewayTopology: {forwardClientCertDetails: ALWAYS_FORWARD_ONLY}}\n",
    );
    let mut config = service("echo", "HTTP", backend.port);
    for (mode, ..) in SERVERS {
        let (host, name) = (host(mode), mode.to_lowercase().replace('_', "-"));
        let settings = "mode: OPTIONAL_MUTUAL, credentialName: x";
        let value = format!("{name}={mode}, *=ALWAYS_FORWARD_ONLY");
        let server = gateway(&name, 443, "HTTPS", &host, settings);
        config += &annotated(&server, "forward-client-cert-details", &value);
        config += &routes(&name, &format!("istio-system/{name}"), &host, &to("echo"));
    }
    site.config("all", &config);
    let gateway = site.start_with(&[443], &["--mesh-config", "mesh.yaml"]);
    gateway.tells("\"Append\" is no way to forward client certificates");
    let leaf = site.clients.leaf(&["one"], 1);
    for certificate in [Some(&leaf), None] {
        for (first, ..) in SERVERS {
            let config = tls(&site.edge, certificate, &["h2"]);
            let mut http = Http::secure(&config, gateway.port(443), &host(first)).await;
            // Its own requests, then those of other servers on one connection.
            for (mode, shown, hidden) in SERVERS {
                let expected = if certificate.is_some() { shown } else { hidden };
                let said = [("x-forwarded-client-cert", "By=said")];
                let seen = http.ask(&format!("https://{}/", host(mode)), &said).await.json();
                let told = seen["headers"].get("x-forwarded-client-cert").and_then(Value::as_str);
                let told = match told.unwrap_or_default().split_once("Hash=") {
                    Some((before, _)) => format!("{before}own"),
                    None => told.unwrap_or_default().to_owned(),
                };
                let case = format!("{mode} by {first}, {}", certificate.is_some());
                assert_eq!(told.replace("By=", ""), expected, "{case}");
            }
        }
    }
    let arguments =
        ["explain", "https://sanitize.x.com/", "--header", "x-forwarded-client-cert: By=said"];
    let told = String::from_utf8(site.command(&arguments).stdout).unwrap();
    assert!(told.contains("SANITIZE of x-forwarded-client-cert"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_of_a_plaintext_port_say_each_of_their_hosts_whom_they_believe() {
    let echo = Backend::http1().await;
    let site = Site::new();
    let server = |name: &str, host: &str, proxies: &str, details: &str| {
        let text = gateway(name, 80, "HTTP", host, "");
        let notes = format!(
            "istio-system, annotations: {{portcullis.dev/trusted-proxies: '{proxies}', \
             portcullis.dev/forward-client-cert-details: {details}}}}}"
        );
        text.replacen("istio-system}", &notes, 1)
    };
    // `c.com` is claimed by both.
    let config = |proxies: &str, details: &str| {
        server("a", "a.com, c.com", "127.0.0.0/8", "ALWAYS_FORWARD_ONLY")
            + &server("b", "'*.b.com', c.com", proxies, details)
            + &routes("r", "istio-system/a, istio-system/b", "a.com, '*.b.com', c.com", TELLING)
            + &service("echo", "HTTP", echo.port)
    };
    site.config("all", &config("127.0.0.0/8", "ALWAYS_FORWARD_ONLY"));
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    let said = [
        ("x-forwarded-for", "10.1.1.1"),
        ("x-forwarded-client-cert", "By=said"),
        ("x-envoy-original-dst-host", "10.0.0.1:80"),
        ("x-envoy-foo", "1"),
    ];
    let (theirs, peer) = ("10.1.1.1", "127.0.0.1");
    for (proxies, details, b, c) in [
        ("127.0.0.0/8", "ALWAYS_FORWARD_ONLY", (theirs, true), (theirs, true)),
        ("192.0.2.7", "ALWAYS_FORWARD_ONLY", (peer, true), (peer, true)),
        ("127.0.0.0/8", "FORWARD_ONLY", (theirs, false), (theirs, false)),
        // Believed by `b` more than by `a`.
        ("0.0.0.0/0", "APPEND_FORWARD", (theirs, false), (peer, false)),
    ] {
        if (proxies, details) != ("127.0.0.0/8", "ALWAYS_FORWARD_ONLY") {
            gateway.reload(|| _ = site.config("all", &config(proxies, details)));
        }
        for (host, (client, certificate)) in
            [("a.com", (theirs, true)), ("x.B.com:80", b), ("c.com", c)]
        {
            let seen = http.ask(&format!("http://{host}/"), &said).await.json();
            let headers = &seen["headers"];
            assert_eq!(headers["x-client-ip"], client, "{proxies} {details} {host}");
            let told = headers.get("x-forwarded-client-cert").is_some();
            assert_eq!(told, certificate, "{proxies} {details} {host}");
            let controls = ["x-envoy-original-dst-host", "x-envoy-foo"];
            assert!(controls.iter().all(|name| headers.get(name).is_none()), "{headers}");
        }
    }
    let checked = String::from_utf8(site.command(&["check"]).stdout).unwrap();
    assert!(checked.contains("error[IST0125]"), "{checked}");
    let told =
        "has \"c.com\" on this port too, and says otherwise whose word on the client is taken";
    assert!(checked.contains(told), "{checked}");
    assert!(!checked.contains("has \"a.com\" on this port"), "{checked}");
}
