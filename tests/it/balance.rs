//! Which endpoint gets a request, and what the endpoint is told first.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::backend::Backend;
use crate::client::{Http, Reply, connect};
use crate::gateway::{Gateway, PATIENCE, Site, endpoints, gateway, policy, routes, service, to};

/// A plaintext server whose routes for `a.com` lead to `echo`.
fn start(resources: &str, arguments: &[&str]) -> (Site, Gateway) {
    let site = Site::new();
    let config = gateway("plain", 80, "HTTP", "'*'", "")
        + &gateway("tcp", 9000, "TCP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + &routes(
            "t",
            "istio-system/tcp",
            "'*'",
            "  tcp: [{route: [{destination: {host: echo.shop.internal}}]}]\n",
        )
        + resources;
    site.config("all", &config);
    let gateway = site.start_with(&[80, 9000], arguments);
    (site, gateway)
}

async fn backends(count: usize) -> Vec<Backend> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Backend::http1().await);
    }
    all
}

fn echo(backends: &[Backend], fields: &[&str]) -> String {
    let list: Vec<_> = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| (backend.port, fields.get(n).copied().unwrap_or_default()))
        .collect();
    endpoints("echo", "HTTP", &list)
}

/// The number of the backend that a request reached.
async fn reached(backends: &[Backend], ask: impl Future<Output = Reply>) -> usize {
    let before: Vec<_> = backends.iter().map(Backend::requests).collect();
    assert_eq!(ask.await.status, 200);
    let more = |(n, backend): (usize, &Backend)| (backend.requests() > before[n]).then_some(n);
    backends.iter().enumerate().find_map(more).unwrap()
}

async fn of_user(backends: &[Backend], http: &mut Http, user: &str) -> usize {
    reached(backends, async { http.ask("http://a.com/", &[("x-user", user)]).await }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn least_request_leaves_a_busy_endpoint_alone() {
    let backends = backends(2).await;
    for simple in ["LEAST_REQUEST", "UNSPECIFIED"] {
        let rule = policy("echo", &format!("loadBalancer: {{simple: {simple}}}"));
        let (_site, gateway) = start(&(echo(&backends, &[]) + &rule), &["--workers", "1"]);
        let before: Vec<_> = backends.iter().map(Backend::requests).collect();
        let mut stuck = connect(gateway.port(80)).await;
        stuck.write_all(b"GET /never HTTP/1.1\r\nhost: a.com\r\n\r\n").await.unwrap();
        let busy = || backends.iter().zip(&before).position(|(one, count)| one.requests() > *count);
        gateway.wait("one is busy", || busy().is_some());
        let busy = busy().unwrap();
        let mut http = Http::plain(gateway.port(80)).await;
        let mut there = 0;
        for _ in 0..400 {
            there += usize::from(reached(&backends, http.get("http://a.com/")).await == busy);
        }
        // Of two picks at random, the less busy one: a quarter, not half.
        assert!(there < 150, "{simple}: {there}");
    }
}

#[tokio::test]
async fn a_header_keeps_its_endpoint_on_every_worker() {
    let backends = backends(3).await;
    for table in ["", ", maglev: {tableSize: 65537}", ", ringHash: {minimumRingSize: 4096}"] {
        let hash = format!("loadBalancer: {{consistentHash: {{httpHeaderName: x-user{table}}}}}");
        let (_site, gateway) = start(&(echo(&backends, &[]) + &policy("echo", &hash)), &[]);
        let mut homes = HashSet::new();
        for user in ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal"] {
            let mut own = HashSet::new();
            for _ in 0..3 {
                let mut http = Http::plain(gateway.port(80)).await;
                own.insert(of_user(&backends, &mut http, user).await);
            }
            assert_eq!(own.len(), 1, "{user} {table}");
            homes.extend(own);
        }
        assert!(homes.len() > 1, "{table}");
        let mut without = HashSet::new();
        let mut http = Http::plain(gateway.port(80)).await;
        for _ in 0..30 {
            without.insert(reached(&backends, http.get("http://a.com/")).await);
        }
        assert!(without.len() > 1, "without the header any will do");
    }
}

#[tokio::test]
async fn a_query_parameter_keeps_its_endpoint() {
    let backends = backends(3).await;
    let hash = "loadBalancer: {consistentHash: {httpQueryParameterName: user}}";
    let (_site, gateway) = start(&(echo(&backends, &[]) + &policy("echo", hash)), &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    let mut homes = HashSet::new();
    for user in 0..10 {
        let mut own = HashSet::new();
        for _ in 0..3 {
            let url = format!("http://a.com/?x=1&user={user}");
            own.insert(reached(&backends, http.get(&url)).await);
        }
        assert_eq!(own.len(), 1);
        homes.extend(own);
    }
    assert!(homes.len() > 1);
}

#[tokio::test]
async fn the_clients_address_keeps_its_endpoint_for_requests_and_streams() {
    let backends = backends(4).await;
    let hash = "loadBalancer: {consistentHash: {useSourceIp: true}}";
    let (_site, gateway) = start(&(echo(&backends, &[]) + &policy("echo", hash)), &[]);
    let mut homes = HashSet::new();
    for _ in 0..8 {
        let mut http = Http::plain(gateway.port(80)).await;
        homes.insert(reached(&backends, http.get("http://a.com/")).await);
        let mut stream = Http::plain(gateway.port(9000)).await;
        homes.insert(reached(&backends, stream.get("http://b.com/")).await);
    }
    assert_eq!(homes.len(), 1);
}

#[tokio::test]
async fn a_cookie_is_given_and_keeps_its_endpoint() {
    let backends = backends(3).await;
    let cookie = "loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 60s, path: /}}}";
    let (_site, gateway) = start(&(echo(&backends, &[]) + &policy("echo", cookie)), &[]);
    let mut homes = HashSet::new();
    for _ in 0..10 {
        let before: Vec<_> = backends.iter().map(Backend::requests).collect();
        let first = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
        let home = (0..3).find(|n| backends[*n].requests() > before[*n]).unwrap();
        let given = first.header("set-cookie").to_owned();
        assert!(given.starts_with("user=\""), "{given}");
        assert!(given.ends_with("\"; Max-Age=60; Path=/; HttpOnly"), "{given}");
        let pair = given.split(';').next().unwrap();
        for _ in 0..3 {
            let mut http = Http::plain(gateway.port(80)).await;
            let before = backends[home].requests();
            let again = http.ask("http://a.com/", &[("cookie", pair)]).await;
            assert_eq!(backends[home].requests(), before + 1);
            assert_eq!(again.header("set-cookie"), "");
        }
        homes.insert(home);
    }
    assert!(homes.len() > 1, "each client has its own");
}

#[tokio::test]
async fn an_endpoint_that_leaves_takes_its_keys_alone() {
    let backends = backends(3).await;
    let hash = policy("echo", "loadBalancer: {consistentHash: {httpHeaderName: x-user}}");
    let front = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"))
        + &hash;
    let site = Site::new();
    site.config("front", &front).config("echo", &echo(&backends, &[]));
    let gateway = site.start(&[80]);
    let mut http = Http::plain(gateway.port(80)).await;
    let users: Vec<String> = (0..30).map(|n| format!("user-{n}")).collect();
    let mut homes = Vec::new();
    for user in &users {
        homes.push(of_user(&backends, &mut http, user).await);
    }
    gateway.reload(|| _ = site.config("echo", &echo(&backends[..2], &[])));
    for (user, home) in users.iter().zip(homes) {
        let now = of_user(&backends, &mut http, user).await;
        assert!(now == home || home == 2, "{user}: {home} to {now}");
        assert_ne!(now, 2);
    }
}

#[tokio::test]
async fn weights_and_localities_share_the_load() {
    let backends = backends(3).await;
    let turns = policy("echo", "loadBalancer: {simple: ROUND_ROBIN}");
    let weights = [", weight: 1", ", weight: 2", ", weight: 5"];
    let (_site, gateway) = start(&(echo(&backends, &weights) + &turns), &["--workers", "1"]);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..40 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    let seen: Vec<_> = backends.iter().map(Backend::requests).collect();
    assert_eq!(seen, [5, 10, 25]);

    let places = [", locality: eu/a", ", locality: eu/b", ", locality: us/a"];
    let rule = "loadBalancer: {simple: RANDOM, localityLbSetting: {distribute: [{from: eu/*, to: \
                {eu/a: 90, eu/b: 10}}]}}";
    let resources = echo(&backends, &places) + &policy("echo", rule);
    let (_site, gateway) = start(&resources, &["--locality", "eu/c"]);
    let mut http = Http::plain(gateway.port(80)).await;
    let before: Vec<_> = backends.iter().map(Backend::requests).collect();
    for _ in 0..300 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    let more: Vec<_> = (0..3).map(|n| backends[n].requests() - before[n]).collect();
    assert!((230..=298).contains(&more[0]) && more[1] > 1 && more[2] == 0, "{more:?}");
}

#[tokio::test]
async fn passthrough_has_nowhere_to_go_at_a_gateway() {
    let backends = backends(1).await;
    let rule = policy("echo", "loadBalancer: {simple: PASSTHROUGH}");
    let (_site, gateway) = start(&(echo(&backends, &[]) + &rule), &[]);
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (503, "no healthy upstream"));
}

#[tokio::test]
async fn workload_entries_are_endpoints_of_the_services_that_select_them() {
    let backends = backends(2).await;
    let workload = |name: &str, port: u16, namespace: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, \
             namespace: {namespace}, labels: {{app: echo}}}}\nspec: {{address: 127.0.0.1, ports: {{p: \
             {port}}}}}\n"
        )
    };
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: echo, \
                 namespace: shop}\nspec: {hosts: [echo.shop.internal], location: MESH_INTERNAL, \
                 resolution: STATIC, ports: [{number: 80, name: p, protocol: HTTP}], \
                 workloadSelector: {labels: {app: echo}}}\n";
    let resources = entry.to_owned()
        + &workload("one", backends[0].port, "shop")
        + &workload("other", backends[1].port, "elsewhere");
    let (_site, gateway) = start(&resources, &[]);
    let mut http = Http::plain(gateway.port(80)).await;
    for _ in 0..4 {
        assert_eq!(http.get("http://a.com/").await.status, 200);
    }
    assert_eq!((backends[0].requests(), backends[1].requests()), (4, 0));
}

#[tokio::test]
async fn tls_is_never_left_out_on_a_unix_socket() {
    let site = Site::new();
    let path = site.path("backend.sock");
    let _plain = Backend::unix(&path);
    let entry = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: echo, \
         namespace: shop}}\nspec: {{hosts: [echo.shop.internal], resolution: STATIC, ports: \
         [{{number: 80, name: p, protocol: HTTP}}], endpoints: [{{address: 'unix://{}'}}]}}\n",
        path.display()
    );
    let front = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", &to("echo"));
    let rule = policy("echo", "tls: {mode: SIMPLE, insecureSkipVerify: true}");
    site.config("all", &(front + &entry + &rule));
    let gateway = site.start(&[80]);
    let reply = Http::plain(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 503);
}

/// A backend that tells what each connection begins with, up to the end of a head, and answers.
async fn listening() -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut told = false;
                loop {
                    let mut seen = Vec::new();
                    while !seen.ends_with(b"host: a.com\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        seen.push(byte);
                    }
                    while !seen.ends_with(b"\r\n\r\n") {
                        seen.push(stream.read_u8().await.unwrap());
                    }
                    if !std::mem::replace(&mut told, true) {
                        tell.try_send(seen).unwrap();
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (port, told)
}

#[tokio::test]
async fn a_proxy_header_tells_whom_a_connection_is_for() {
    for (version, binary) in [("V1", false), ("V2", true)] {
        let (port, mut told) = listening().await;
        let rule = policy("echo", &format!("proxyProtocol: {{version: {version}}}"));
        let (_site, gateway) = start(&(service("echo", "HTTP", port) + &rule), &["--workers", "1"]);
        for turn in 0..2 {
            let stream = connect(gateway.port(80)).await;
            let from = stream.local_addr().unwrap();
            let mut http = Http::over(stream).await;
            for _ in 0..2 {
                assert_eq!(http.get("http://a.com/").await.status, 200);
            }
            let first = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
            let expected = if binary {
                let mut bytes =
                    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
                bytes.extend(from.port().to_be_bytes());
                bytes.extend(gateway.port(80).to_be_bytes());
                bytes
            } else {
                let (own, port) = (gateway.port(80), from.port());
                format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {own}\r\n").into_bytes()
            };
            assert!(first.starts_with(&expected), "{version} {turn}: {first:?}");
            assert!(told.try_recv().is_err(), "one client's requests share a connection");
        }
        let mut stream = connect(gateway.port(9000)).await;
        stream.write_all(b"host: a.com\r\n\r\n").await.unwrap();
        let first = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        assert!(first.starts_with(if binary { b"\r\n\r\n\0\r\nQUIT" } else { b"PROXY TCP4 1" }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_has_less_until_it_is_warm() {
    const BURST: usize = 40;
    for warm_up in ["warmup: {duration: 1s}", "warmupDurationSecs: 1s"] {
        let backends = backends(3).await;
        let rule = policy("echo", &format!("loadBalancer: {{simple: ROUND_ROBIN, {warm_up}}}"));
        let (site, gateway) = start(&(echo(&backends[..2], &[]) + &rule), &["--workers", "1"]);
        let old = std::fs::read_to_string(site.path("config/all.yaml")).unwrap();
        let all = old.replace(&echo(&backends[..2], &[]), &echo(&backends, &[]));
        let mut http = Http::plain(gateway.port(80)).await;
        assert_eq!(http.get("http://a.com/").await.status, 200);
        let seen = Instant::now();
        gateway.wait("the first ones are warm", || seen.elapsed() > Duration::from_secs(1));
        let began = Instant::now();
        gateway.reload(|| _ = site.config("all", &all));
        let mut shares = Vec::new();
        while shares.last().is_none_or(|share| *share < BURST / 3) {
            assert!(began.elapsed() < PATIENCE, "{warm_up}: {shares:?}");
            let before = backends[2].requests();
            for _ in 0..BURST {
                http.get("http://a.com/").await;
            }
            let share = backends[2].requests() - before;
            // Its part of its weight is at most its age in seconds, beside two whole ones.
            let part = began.elapsed().as_secs_f64().clamp(0.1, 1.0);
            let most = f64::from(u32::try_from(BURST).unwrap()) * part / (2.0 + part) + 2.0;
            let share_now = f64::from(u32::try_from(share).unwrap());
            assert!(share_now <= most, "{warm_up}: {share} of at most {most}, {shares:?}");
            shares.push(share);
            let now = Instant::now();
            gateway.wait("it is older", || now.elapsed() > Duration::from_millis(100));
        }
    }
}
