//! Where the gateway listens, what it believes of proxies before it, and in which forms it is told.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, gateway, routes, service, to};

/// A Gateway whose server listens on an address.
fn bound(name: &str, bind: &str, host: &str) -> String {
    gateway(name, 80, "HTTP", host, "")
        .replace("servers: [{", &format!("servers: [{{bind: {bind}, "))
}

/// Status of a request to an address; nothing where nobody listens.
async fn ask(address: Ipv4Addr, port: u16, host: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn a_server_with_a_bind_listens_there_and_nowhere_else() {
    let site = Site::new();
    let direct = |status: u16| format!("  http: [{{directResponse: {{status: {status}}}}}]\n");
    site.config(
        "all",
        &(bound("two", "127.0.0.2", "a.com")
            + &bound("three", "127.0.0.3", "a.com")
            + &routes("r2", "istio-system/two", "a.com", &direct(202))
            + &routes("r3", "istio-system/three", "a.com", &direct(203))),
    );
    let gateway = site.start(&[80]);
    let port = gateway.port(80);
    let [one, two, three] = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    assert_eq!(ask(two, port, "a.com").await, Some(202));
    assert_eq!(ask(three, port, "a.com").await, Some(203));
    assert_eq!(ask(one, port, "a.com").await, None, "--bind is for servers without one");
    assert_eq!(ask(two, port, "b.com").await, Some(404));

    // Without a bind it listens where --bind says.
    let open = gateway_without_bind(&direct(200));
    gateway.reload(|| _ = site.config("all", &open));
    assert_eq!(ask(one, port, "a.com").await, Some(200));
    gateway.wait("nobody listens there", || std::net::TcpStream::connect((two, port)).is_err());
}

fn gateway_without_bind(rules: &str) -> String {
    gateway("one", 80, "HTTP", "a.com", "") + &routes("r", "istio-system/one", "a.com", rules)
}

#[tokio::test]
async fn a_servers_hosts_say_whose_routes_they_take() {
    let site = Site::new();
    let hosts = "./own.com, shop/shop.com, '*/any.com', plain.com";
    let mut all = gateway("plain", 80, "HTTP", hosts, "");
    for name in ["own", "shop", "any", "plain"] {
        let rules = "  http: [{directResponse: {status: 201}}]\n";
        let of_shop = routes(name, "istio-system/plain", &format!("{name}.com"), rules);
        all += &of_shop
            .replace("status: 201", "status: 202")
            .replace(": shop}\n", ": istio-system}\n");
        all += &of_shop;
    }
    site.config("all", &all);
    let gateway = site.start(&[80]);
    // Where both may, the first does.
    for (host, status) in
        [("own.com", 202), ("shop.com", 201), ("any.com", 202), ("plain.com", 202)]
    {
        assert_eq!(ask(Ipv4Addr::LOCALHOST, gateway.port(80), host).await, Some(status), "{host}");
    }
    let mine = all.replace("./own.com", "nobody/own.com").replace("shop/shop.com", "./shop.com");
    gateway.reload(|| _ = site.config("all", &mine));
    for (host, status) in [("own.com", 404), ("shop.com", 202)] {
        assert_eq!(ask(Ipv4Addr::LOCALHOST, gateway.port(80), host).await, Some(status), "{host}");
    }
}

#[tokio::test]
async fn a_bind_that_clashes_is_told_and_the_earlier_server_goes_on() {
    let site = Site::new();
    let direct = "  http: [{directResponse: {status: 202}}]\n";
    let resources = bound("one", "127.0.0.2", "a.com")
        + &bound("wide", "0.0.0.0", "b.com")
        + &bound("word", "localhost", "c.com")
        + &routes("r", "istio-system/one, istio-system/wide, istio-system/word", "'*'", direct);
    site.config("all", &resources);
    let gateway = site.start(&[80]);
    let port = gateway.port(80);
    assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 2), port, "a.com").await, Some(202));
    assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 3), port, "b.com").await, None);
    let found = gateway.admin("/diagnostics");
    let found: Vec<(&str, &str, u64)> = found["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let name = one["resource"]["name"].as_str().unwrap();
            (one["code"].as_str().unwrap(), name, one["line"].as_u64().unwrap())
        })
        .collect();
    assert!(found.contains(&("PC030", "wide", 10)), "{found:?}");
    assert!(found.contains(&("IST0106", "word", 15)), "{found:?}");

    // An address that another process has is told with its place, and taken once it is free.
    let taken = std::net::TcpListener::bind(("127.0.0.4", port)).unwrap();
    let moved =
        bound("four", "127.0.0.4", "a.com") + &routes("r", "istio-system/four", "a.com", direct);
    let resources = resources + &moved.replace("name: r,", "name: r4,");
    gateway.reload(|| _ = site.config("all", &resources));
    gateway
        .wait("the clash is told", || gateway.admin("/diagnostics").to_string().contains("PC036"));
    assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 2), port, "a.com").await, Some(202));
    drop(taken);
    // Any change makes it try again.
    site.config("more", "---\n");
    gateway.wait("it is bound", || std::net::TcpStream::connect(("127.0.0.4", port)).is_ok());
    assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 4), port, "a.com").await, Some(202));
}

/// A server that lets in clients of 10.0.0.0/8 alone, with so many trusted proxies before it.
async fn behind(proxies: u32) -> (Site, Backend, Gateway) {
    let site = Site::new();
    let echo = Backend::http1().await;
    let mesh = format!("defaultConfig: {{gatewayTopology: {{numTrustedProxies: {proxies}}}}}\n");
    site.write("mesh.yaml", mesh);
    let policy = |name: &str, source: &str, path: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: \
             {name}, namespace: istio-system}}\nspec: {{action: ALLOW, rules: [{{from: [{{source: \
             {{{source}}}}}], to: [{{operation: {{paths: [{path}]}}}}]}}]}}\n"
        )
    };
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "a.com", "")
            + &gateway("moved", 80, "HTTP", "moved.com", "httpsRedirect: true")
            + &routes("r", "istio-system/plain, istio-system/moved", "'*'", &to("echo"))
            + &service("echo", "HTTP", echo.port)
            + &policy("remote", "remoteIpBlocks: [10.0.0.0/8]", "/remote")
            + &policy("direct", "ipBlocks: [127.0.0.0/8]", "'/direct*'")),
    );
    let gateway = site.start_with(&[80], &["--mesh-config", "mesh.yaml"]);
    (site, echo, gateway)
}

#[tokio::test]
async fn without_trusted_proxies_nothing_is_believed_of_a_client() {
    let (_site, echo, gateway) = behind(0).await;
    let mut http = Http::plain(gateway.port(80)).await;
    for forwarded in ["10.1.1.1", "10.1.1.1, 10.1.1.1", "127.0.0.1, 10.1.1.1"] {
        let headers = [("x-forwarded-for", forwarded)];
        assert_eq!(http.ask("http://a.com/remote", &headers).await.status, 403, "{forwarded}");
    }
    assert_eq!(echo.requests(), 0);
    let said = [
        ("x-forwarded-for", "10.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-external-address", "10.1.1.1"),
    ];
    let seen = http.ask("http://a.com/direct", &said).await.json();
    assert_eq!(seen["headers"]["x-forwarded-for"], "10.1.1.1,127.0.0.1");
    assert_eq!(seen["headers"]["x-forwarded-proto"], "http");
    assert_eq!(seen["headers"]["x-envoy-external-address"], "127.0.0.1");
    assert_eq!(
        http.ask("http://moved.com/direct", &said).await.status,
        301,
        "the word of a client"
    );
}

#[tokio::test]
async fn so_many_proxies_are_believed_as_the_mesh_says_counted_from_the_nearest() {
    for (proxies, forwarded, client) in [
        (1, "10.1.1.1", "10.1.1.1"),
        (1, "6.6.6.6, 10.1.1.1", "10.1.1.1"),
        (1, "10.1.1.1, 6.6.6.6", "6.6.6.6"),
        (1, "10.1.1.1,nonsense", "127.0.0.1"),
        (2, "10.1.1.1, 192.0.2.1", "10.1.1.1"),
        (2, "10.6.6.6, 6.6.6.6, 192.0.2.1", "6.6.6.6"),
        (2, "10.1.1.1", "127.0.0.1"),
    ] {
        let (_site, echo, gateway) = behind(proxies).await;
        let mut http = Http::plain(gateway.port(80)).await;
        let case = format!("{proxies} of {forwarded}");
        let said = [("x-forwarded-for", forwarded), ("x-forwarded-proto", "https")];
        let remote = http.ask("http://a.com/remote", &said).await;
        let allowed = client.starts_with("10.");
        assert_eq!(remote.status, if allowed { 200 } else { 403 }, "{case}");
        assert_eq!(echo.requests(), usize::from(allowed), "{case}");
        // The peer stays the peer.
        let seen = http.ask("http://a.com/direct", &said).await.json();
        assert_eq!(seen["headers"]["x-forwarded-for"], format!("{forwarded},127.0.0.1"), "{case}");
        assert_eq!(seen["headers"]["x-envoy-external-address"], client, "{case}");
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https", "{case}");
        // A balancer that terminated TLS is not sent in circles; one that did not is.
        assert_eq!(http.ask("http://moved.com/direct", &said).await.status, 200, "{case}");
        let said = [("x-forwarded-proto", "http")];
        assert_eq!(http.ask("http://moved.com/direct", &said).await.status, 301, "{case}");
    }
}

#[tokio::test]
async fn resources_are_read_as_json_and_as_lists() {
    let site = Site::new();
    site.write(
        "config/gateway.json",
        r#"{"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "plain", "namespace": "istio-system"},
            "spec": {"servers": [{"port": {"number": 80, "name": "p", "protocol": "HTTP"},
                                  "hosts": ["*"]}]}}"#,
    );
    let service = |name: &str, hosts: &str, status: &str| {
        format!(
            "- {{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, \
             namespace: shop}}, spec: {{hosts: [{hosts}], gateways: [istio-system/plain], http: \
             [{{directResponse: {{status: {status}}}}}]}}}}\n"
        )
    };
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n{}{}{}",
        service("a", "a.com", "201"),
        service("bad", "bad.com", "many"),
        service("b", "b.com", "202")
    );
    let typed = service("c", "c.com", "203")
        .replace("apiVersion: networking.istio.io/v1, kind: VirtualService, ", "");
    site.config("list", &list);
    site.config(
        "typed",
        &format!("apiVersion: networking.istio.io/v1\nkind: VirtualServiceList\nitems:\n{typed}"),
    );
    site.write(
        "config/list.json",
        r#"{"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": ""}, "items": [
            {"kind": "VirtualService", "apiVersion": "networking.istio.io/v1",
             "metadata": {"name": "d", "namespace": "shop"},
             "spec": {"hosts": ["d.com"], "gateways": ["istio-system/plain"],
                      "http": [{"directResponse": {"status": 204}}]}}]}"#,
    );
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    for (host, status) in
        [("a.com", 201), ("bad.com", 503), ("b.com", 202), ("c.com", 203), ("d.com", 204)]
    {
        assert_eq!(http.get(&format!("http://{host}/")).await.status, status, "{host}");
    }
    let found = gateway.admin("/diagnostics");
    let found = found["diagnostics"].as_array().unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|one| (one["code"].as_str().unwrap(), one["line"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, [("PC045", 5), ("PC011", 5)], "one item is broken");
}
