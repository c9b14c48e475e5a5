//! `explain` and the running binary agree about thousands of random requests to random configurations:
//! whether a connection comes about, who answers, status, rule, location, path, authority and cluster, and
//! what the backend is told of the client and its certificate.

mod configuration;

use std::collections::BTreeMap;

use fastrand::Rng;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::client::{Http, Reply, shake, tls};
use crate::fixture::issuer;
use crate::gateway::{Gateway, Site};
use crate::pki::Leaf;
use crate::world::{Asked, SERVICES, World, pick, rarely};
use crate::written::{documents, host, service_entry};
use configuration::{CREDENTIALS, beside, decorate, gateway, policies, ports, tokens};

const WORLDS: u16 = 20;
/// Most rules of a VirtualService: many are compared in `model`, which is faster.
const RULES: usize = 8;
const CONNECTIONS: usize = 7;
const REQUESTS: usize = 15;

/// What a client says of a certificate.
const SAID: &str = "By=said";

/// A client's request.
#[derive(Debug)]
struct Asking {
    asked: Asked,
    headers: Vec<(&'static str, String)>,
}

impl Asking {
    fn random(rng: &mut Rng, tokens: &[Option<String>], way: &Way) -> Self {
        let mut asked = Asked::random(rng);
        if !way.name.is_empty() && !rarely(rng, 3) {
            asked.host = way.name;
        }
        let headers = std::mem::take(&mut asked.headers).into_iter();
        let mut headers: Vec<_> = headers.map(|(name, value)| (name, value.to_owned())).collect();
        if rarely(rng, 6) {
            asked.method = "OPTIONS";
            headers.push(("origin", pick(rng, &["https://app.com", "https://b.com"]).to_owned()));
            if !rarely(rng, 4) {
                headers.push(("access-control-request-method", "PUT".to_owned()));
            }
        }
        if rarely(rng, 4) {
            headers.push(("x-forwarded-client-cert", SAID.to_owned()));
        }
        let token = &tokens[if rarely(rng, 3) { rng.usize(..tokens.len()) } else { 0 }];
        headers.extend(token.clone().map(|token| ("authorization", token)));
        Self { asked, headers }
    }

    fn target(&self) -> String {
        let query = self.asked.query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", self.asked.path)
    }

    /// Asks the gateway what it would do.
    fn explained(&self, gateway: &Gateway, way: &Way, shown: Option<&Leaf>) -> Value {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let url = format!("{}://gateway:{}{}", way.scheme(), way.written, self.target());
        let head = format!("url={}&method={}&sni={}", encode(&url), self.asked.method, way.name);
        let header =
            |name: &str, value: &str| format!("header={}", encode(&format!("{name}:{value}")));
        let mut query = vec![head, header("host", self.asked.host)];
        query.extend(self.headers.iter().map(|(name, value)| header(name, value)));
        query.extend(shown.map(|leaf| format!("client-cert={}", encode(&leaf.chain))));
        gateway.admin(&format!("/explain?{}", query.join("&")))
    }

    /// The answer; nothing where the connection ends. Of TLS 1.3 a client learns that only here.
    async fn answered(&self, http: &mut Http, way: &Way) -> Option<Reply> {
        let url = format!("{}://{}{}", way.scheme(), self.asked.host, self.target());
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http.try_send(http.request(self.asked.method, &url, &headers, "")).await.ok()
    }
}

/// How a client comes to a world.
#[derive(Debug)]
struct Way {
    /// The port as it is written.
    written: u16,
    /// Name in the ClientHello; empty without TLS.
    name: &'static str,
    http2: bool,
    /// Which certificate the client has.
    certificate: usize,
}

impl Way {
    fn random(rng: &mut Rng, world: u16) -> Self {
        let [plain, secure] = ports(world);
        let http2 = rng.bool();
        if rarely(rng, 3) {
            return Self { written: plain, name: "", http2, certificate: 0 };
        }
        let name = pick(rng, &["a.com", "x.a.com", "y.a.com", "x.y.a.com", "b.com", "c.com"]);
        let certificate = pick(rng, &[0, 0, 1, 1, 2]);
        Self { written: secure, name, http2, certificate }
    }

    fn scheme(&self) -> &'static str {
        if self.name.is_empty() { "http" } else { "https" }
    }

    /// A connection; nothing where the gateway makes none.
    async fn connected(
        &self,
        gateway: &Gateway,
        site: &Site,
        shown: Option<&Leaf>,
    ) -> Option<Http> {
        let port = gateway.port(self.written);
        if self.name.is_empty() {
            let http = if self.http2 { Http::plain2(port).await } else { Http::plain(port).await };
            return Some(http);
        }
        let alpn = if self.http2 { "h2" } else { "http/1.1" };
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let stream = shake(&tls(&site.edge, shown, &[alpn]), port, self.name).await.ok()?;
        if self.http2 { Some(Http::two(stream).await) } else { Some(Http::over(stream).await) }
    }
}

/// What was told of clusters over all requests, and what came.
#[derive(Debug, Default)]
struct Tally {
    actions: BTreeMap<String, usize>,
    statuses: BTreeMap<u16, usize>,
    /// By cluster: requests it had, those it was to have, and their variance.
    shares: BTreeMap<String, (f64, f64, f64)>,
    /// Requests of clients behind proxies, and of those with a certificate, that a backend had.
    clients: (usize, usize),
}

impl Tally {
    fn count(&mut self, explained: &Value, reply: Option<&Reply>, cluster: &str) {
        let told = &explained["outcome"];
        let forwarded = usize::from(told["action"] == "forward");
        let behind = step(explained, "client").ends_with("x-forwarded-for says");
        let shown = step(explained, "client certificate") == "asked for and verified";
        self.clients.0 += forwarded * usize::from(behind);
        self.clients.1 += forwarded * usize::from(shown);
        *self.actions.entry(told["action"].as_str().unwrap().to_owned()).or_default() += 1;
        let status = reply.map_or(0, |reply| reply.status.as_u16());
        *self.statuses.entry(status).or_default() += 1;
        let shares = shares(told);
        let sum: f64 = shares.iter().map(|(_, weight)| weight).sum();
        for (name, weight) in &shares {
            let part = weight / sum;
            let (seen, expected, variance) = self.shares.entry(name.clone()).or_default();
            *seen += f64::from(u8::from(name == cluster));
            *expected += part;
            *variance += part * (1.0 - part);
        }
    }
}

/// The clusters of an outcome with their weights; an empty name stands for an unknown service.
fn shares(outcome: &Value) -> Vec<(String, f64)> {
    let all = outcome["clusters"].as_array().into_iter().flatten();
    let share = |one: &Value| {
        let name = one["cluster"].as_str().unwrap_or_default().to_owned();
        (name, one["weight"].as_f64().unwrap())
    };
    all.map(share).collect()
}

/// The decision of a step; empty when there is none.
fn step<'a>(told: &'a Value, name: &str) -> &'a str {
    let mut steps = told["steps"].as_array().unwrap().iter();
    let found = steps.find(|step| step["step"] == name);
    found.map_or("", |step| step["decision"].as_str().unwrap())
}

/// What a backend is to be told of the client: its address, and its certificate.
fn client(told: &Value, said: bool) -> (String, String) {
    let address = step(told, "client").strip_suffix(", as x-forwarded-for says");
    let shown = step(told, "client certificate") == "asked for and verified";
    let certificate = match (step(told, "client cert details").split(' ').next().unwrap(), shown) {
        ("APPEND_FORWARD", true) if said => format!("{SAID},own"),
        ("SANITIZE_SET" | "APPEND_FORWARD", true) => "own".to_owned(),
        ("FORWARD_ONLY", true) | ("ALWAYS_FORWARD_ONLY", _) if said => SAID.to_owned(),
        _ => String::new(),
    };
    (address.unwrap_or("127.0.0.1").to_owned(), certificate)
}

/// The same as a backend saw it.
fn seen_client(headers: &Value) -> (String, String) {
    let text = |name: &str| headers.get(name).and_then(Value::as_str).unwrap_or_default();
    let certificate = text("x-forwarded-client-cert");
    let certificate = match certificate.split_once("Hash=") {
        Some((before, _)) => format!("{before}own"),
        None => certificate.to_owned(),
    };
    (text("x-client").to_owned(), certificate)
}

/// The cluster that answered, where the answer is what was told; otherwise what differs.
fn compare(
    (explained, said): (&Value, bool),
    reply: Option<&Reply>,
    clusters: &BTreeMap<u16, String>,
) -> Result<String, String> {
    let told = &explained["outcome"];
    let action = told["action"].as_str().unwrap();
    let Some(reply) = reply.filter(|_| action != "close") else {
        return match (action, reply) {
            ("close", None) => Ok(String::new()),
            _ => Err(format!("{action} was told")),
        };
    };
    let status = reply.status.as_u16();
    let differs = |what: &str, told: &Value, came: &str| {
        if told.as_str().unwrap_or_default() == came {
            Ok(())
        } else {
            Err(format!("{what}: {told} was told, {came} came"))
        }
    };
    let backend = reply.header("x-backend") == "echo";
    let unknown = shares(told).iter().any(|(name, _)| name.is_empty());
    if unknown && status == 503 && !backend {
        return Ok(String::new());
    }
    if backend != (action == "forward") {
        return Err(format!("{action} was told; a backend answered: {backend}"));
    }
    if backend {
        let seen = reply.json();
        let cluster = &clusters[&u16::try_from(seen["port"].as_u64().unwrap()).unwrap()];
        differs("path", &told["path"], seen["path"].as_str().unwrap())?;
        differs("authority", &told["authority"], seen["headers"]["host"].as_str().unwrap())?;
        differs("rule", &told["rule"], reply.header("x-rule"))?;
        let (told_of, seen_of) = (client(explained, said), seen_client(&seen["headers"]));
        if told_of != seen_of {
            return Err(format!("client: {told_of:?} was told, {seen_of:?} came"));
        }
        let named = shares(told).iter().any(|(name, _)| name == cluster);
        return (named && status == 200)
            .then(|| cluster.clone())
            .ok_or_else(|| format!("{status} of {cluster}"));
    }
    differs("status", &json!(told["status"].to_string()), &status.to_string())?;
    differs("location", &told["location"], reply.header("location"))?;
    if !reply.header("x-rule").is_empty() {
        differs("rule", &told["rule"], reply.header("x-rule"))?;
    }
    Ok(String::new())
}

/// Everything that a run needs.
struct Run {
    site: Site,
    gateway: Gateway,
    clusters: BTreeMap<u16, String>,
    tokens: [Option<String>; 5],
    /// None, one that the servers' client CA signed, and a stranger's.
    certificates: [Option<Leaf>; 3],
    tally: Tally,
}

impl Run {
    fn start(rng: &mut Rng, backends: &[Backend], shade: &Backend) -> Self {
        let site = Site::new();
        for (credential, names) in CREDENTIALS {
            site.certificate(credential, names);
            site.client_ca(credential);
        }
        let keys: Value = serde_json::from_str(&issuer().key_set("RS256", "k1")).unwrap();
        let mut fixed = policies(&keys).to_vec();
        let mut clusters = BTreeMap::new();
        for (name, backend) in SERVICES.iter().zip(backends).chain([(&"shade", shade)]) {
            let endpoint = json!({"address": "127.0.0.1", "ports": {"http": backend.port}});
            fixed.push(service_entry(name, &endpoint));
            clusters.insert(backend.port, format!("outbound|80||{}", host(name)));
        }
        site.config("fixed", &documents(&fixed));
        for world in 0..WORLDS {
            let name = format!("w{world}");
            let mut all = World::random(rng).virtual_services(&name);
            for service in &mut all {
                let rules = service["spec"]["http"].as_array_mut().unwrap();
                rules.truncate(RULES);
                for rule in rules.iter_mut() {
                    decorate(rng, world, rule);
                }
            }
            all.push(gateway(rng, world));
            if rng.bool() {
                all.push(beside(rng, world));
            }
            site.config(&name, &documents(&all));
        }
        let all: Vec<_> = (0..WORLDS).flat_map(ports).collect();
        let gateway = site.start_with(&all, &["--access-log", "off"]);
        let certificates =
            [None, Some(site.clients.leaf(&["alice"], 1)), Some(site.edge.leaf(&["eve"], 1))];
        let (tokens, tally) = (tokens(), Tally::default());
        Self { site, gateway, clusters, tokens, certificates, tally }
    }

    /// Some requests over one connection.
    async fn visit(&mut self, rng: &mut Rng, world: u16) {
        let way = Way::random(rng, world);
        let shown = self.certificates[way.certificate].as_ref();
        let mut http = way.connected(&self.gateway, &self.site, shown).await;
        for _ in 0..REQUESTS {
            let asking = Asking::random(rng, &self.tokens, &way);
            let told = asking.explained(&self.gateway, &way, shown);
            let said = asking.headers.iter().any(|(_, value)| value == SAID);
            let reply = match &mut http {
                Some(http) => asking.answered(http, &way).await,
                None => None,
            };
            match compare((&told, said), reply.as_ref(), &self.clusters) {
                Ok(cluster) => self.tally.count(&told, reply.as_ref(), &cluster),
                Err(why) => {
                    let path = self.site.path(&format!("config/w{world}.yaml"));
                    let config = std::fs::read_to_string(path).unwrap();
                    panic!("{why}\n{way:?} {asking:?}\n{told:#}\n{reply:?}\n{config}");
                }
            }
            if reply.is_none() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_meet_what_was_explained() {
    let mut rng = Rng::with_seed(20_261_126);
    let backends = [Backend::http1().await, Backend::http1().await, Backend::http1().await];
    let shade = Backend::http1().await;
    let mut run = Run::start(&mut rng, &backends, &shade);
    for world in 0..WORLDS {
        for _ in 0..CONNECTIONS {
            run.visit(&mut rng, world).await;
        }
    }
    let Tally { actions, statuses, shares, clients } = &run.tally;
    assert!(clients.0 > 10 && clients.1 > 5, "{clients:?}");
    for action in ["forward", "redirect", "respond", "reject", "close"] {
        assert!(actions.get(action).is_some_and(|count| *count > 10), "{action}: {actions:?}");
    }
    for status in [200, 301, 401, 403, 404, 418, 421, 503] {
        assert!(statuses.contains_key(&status), "{status}: {statuses:?}");
    }
    for (cluster, (seen, expected, variance)) in shares {
        let far = (seen - expected).abs() > 5.0 * variance.sqrt();
        assert!(!far, "{cluster} had {seen} of {expected}: {shares:?}");
    }
    assert!(shade.requests() > 10, "{}", shade.requests());
}
