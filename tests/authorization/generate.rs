//! Random policies and requests from few words, so that they often meet.

use serde_json::{Map, Value, json};

use super::choices::Choices;
use super::judge::{NAMESPACE, PROVIDERS, ROOT, Way};
use super::model::{Action, DOMAINS as TRUSTED, Field, Http, Policy, Request, Rule, Target};

const PRINCIPALS: &[&str] = &[
    "mesh.example/ns/shop/sa/cart",
    "old.example/ns/shop/sa/cart",
    "cluster.local/ns/shop/sa/cart",
    "foreign.example/ns/shop/sa/cart",
    "*.example/ns/shop/sa/cart",
    "*/ns/shop/sa/cart",
    "*/sa/cart",
    "mesh.example/*",
    "mesh.example/ns/shop/sa/c*",
    "mesh.example/ns/shop/sa/*",
    "*",
];
const NAMESPACES: &[&str] = &["shop", "sh*", "*op", "s*p", "*h*", "*", "edge", "other"];
const ACCOUNTS: &[&str] = &["shop/cart", "cart", "edge/cart", "other/x"];
const DOMAINS: &[&str] = &["mesh.example", "old.example", "*.example", "foreign*", "*", "x"];
const REQUEST_PRINCIPALS: &[&str] = &[
    "https://i.example/x/alice",
    "https://i.example/x/*",
    "https://i.example/x/al*",
    "*/alice",
    "*x/alice",
    "*/*",
    "*ice",
    "https*",
    "https*/alice",
    "alice",
    "*",
];
const BLOCKS: &[&str] =
    &["10.0.0.0/8", "10.1.2.3", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::1", "::/0"];
const HOSTS: &[&str] = &["a.com", "A.com:*", "*.com", "b.com:8443", "b*", "*", "a.com.", "x.org"];
const METHODS: &[&str] = &["GET", "POST", "P*", "*T", "*", "get"];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/b",
    "/a*",
    "*/b",
    "*",
    "/a/{*}",
    "/a/{**}",
    "/{*}/b",
    "/{**}/b",
    "/a/{*}/{**}",
    "/x/y",
];
const WORDS: &[&str] = &["user", "admin", "u*", "*n", "*", "user,admin", "x"];
const SNI: &[&str] = &["a.com", "*.com", "b*", "*"];

/// A field, or a condition's key, with what values it has.
type Kind = (&'static str, &'static [&'static str]);

const CONDITIONS: &[Kind] = &[
    ("source.ip", BLOCKS),
    ("remote.ip", BLOCKS),
    ("destination.ip", BLOCKS),
    ("destination.port", &["8443", "80"]),
    ("source.principal", PRINCIPALS),
    ("source.namespace", NAMESPACES),
    ("source.serviceAccount", ACCOUNTS),
    ("source.trustDomain", DOMAINS),
    ("connection.sni", SNI),
    ("request.auth.principal", REQUEST_PRINCIPALS),
    ("request.auth.audiences", WORDS),
    ("request.auth.presenter", WORDS),
    ("request.auth.claims[groups]", WORDS),
    ("request.auth.claims[nested][role]", WORDS),
    ("request.headers[X-Role]", WORDS),
    ("request.headers[:method]", METHODS),
    ("request.headers[:path]", &["/a?q=1", "/a*", "*?q=1", "/a/b", "*"]),
    ("request.headers[:scheme]", &["https", "http", "*"]),
    ("request.headers[:authority]", &["a.com", "A.com", "*:8443", "b*", "*"]),
    ("request.headers[host]", &["a.com", "b.com:8443"]),
];
/// Sources and conditions that a provider can be asked by: those that say who is there are not.
const SOURCES_OF_CUSTOM: &[Kind] = &[("ipBlocks", BLOCKS), ("remoteIpBlocks", BLOCKS)];
const CONDITIONS_OF_CUSTOM: &[Kind] = &[
    ("source.ip", BLOCKS),
    ("remote.ip", BLOCKS),
    ("destination.ip", BLOCKS),
    ("destination.port", &["8443", "80"]),
    ("connection.sni", SNI),
    ("request.headers[X-Role]", WORDS),
    ("request.headers[:method]", METHODS),
    ("request.headers[:path]", &["/a?q=1", "/a*", "*?q=1", "/a/b", "*"]),
    ("request.headers[:authority]", &["a.com", "A.com", "*:8443", "b*", "*"]),
];
const SOURCES: &[Kind] = &[
    ("principals", PRINCIPALS),
    ("namespaces", NAMESPACES),
    ("trustDomains", DOMAINS),
    ("requestPrincipals", REQUEST_PRINCIPALS),
    ("ipBlocks", BLOCKS),
    ("remoteIpBlocks", BLOCKS),
    ("serviceAccounts", ACCOUNTS),
];
const OPERATIONS: &[Kind] =
    &[("hosts", HOSTS), ("ports", &["8443", "80"]), ("methods", METHODS), ("paths", PATHS)];

fn pick<'a>(rng: &mut Choices<'_>, list: &[&'a str]) -> &'a str {
    list[rng.usize(..list.len())]
}

fn field(rng: &mut Choices<'_>, kinds: &[Kind]) -> Field {
    let (name, values) = kinds[rng.usize(..kinds.len())];
    let values = (0..rng.usize(1..=3)).map(|_| pick(rng, values).to_owned()).collect();
    Field { name: name.to_owned(), values, negated: rng.usize(..4) == 0 }
}

/// One or two fields, each there once.
fn fields(rng: &mut Choices<'_>, kinds: &[Kind]) -> Vec<Field> {
    let mut out = vec![field(rng, kinds)];
    let second = field(rng, kinds);
    let accounts = |field: &Field| field.name == "serviceAccounts";
    if rng.bool() && second.name != out[0].name && !accounts(&second) && !accounts(&out[0]) {
        out.push(second);
    }
    out
}

/// A rule; one of many has every part, so that few requests match it.
fn rule(rng: &mut Choices<'_>, of_many: bool, custom: bool) -> Rule {
    let (sources, conditions) =
        if custom { (SOURCES_OF_CUSTOM, CONDITIONS_OF_CUSTOM) } else { (SOURCES, CONDITIONS) };
    let mut rule = Rule::default();
    if of_many || rng.usize(..3) > 0 {
        rule.from = (0..rng.usize(1..=2)).map(|_| fields(rng, sources)).collect();
    }
    if of_many || rng.usize(..3) > 0 {
        rule.to = (0..rng.usize(1..=2)).map(|_| fields(rng, OPERATIONS)).collect();
    }
    if of_many || rng.bool() {
        rule.when = (0..rng.usize(1..=2)).map(|_| field(rng, conditions)).collect();
    }
    rule
}

/// What a policy does; the provider that it asks may not be there.
fn action(rng: &mut Choices<'_>) -> Action {
    match rng.usize(..10) {
        0..3 => Action::Allow,
        3..6 => Action::Deny,
        6..8 => Action::Audit,
        _ => Action::Custom(pick(rng, &["first", "first", "second", "second", "web", "nobody"])),
    }
}

fn policy(rng: &mut Choices<'_>) -> Policy {
    let action = action(rng);
    let of_many = rng.usize(..10) == 0;
    let least = usize::from(matches!(action, Action::Deny | Action::Custom(_)));
    let most = if of_many { 40 } else { 3 };
    let custom = matches!(action, Action::Custom(_));
    let rules = (0..rng.usize(least..=most)).map(|_| rule(rng, of_many, custom)).collect();
    let selectors: &[&[(&str, &str)]] = &[
        &[],
        &[("istio", "edge")],
        &[("tier", "front"), ("istio", "edge")],
        &[("istio", "other")],
    ];
    let selector = (rng.usize(..3) == 0).then(|| selectors[rng.usize(..selectors.len())]);
    let attached = selector.is_none() && rng.usize(..10) == 0;
    let dry = matches!(action, Action::Allow | Action::Deny) && rng.usize(..3) == 0;
    Policy {
        namespace: pick(rng, &[NAMESPACE, NAMESPACE, NAMESPACE, ROOT, ROOT, "other"]),
        selector,
        target: if attached { Target::GatewayApi } else { Target::Nothing },
        action,
        dry_run: dry.then(|| rng.bool()),
        rules,
    }
}

/// A few policies: some with dozens of rules, most with a handful.
pub fn policies(rng: &mut Choices<'_>) -> Vec<Policy> {
    (0..rng.usize(1..=5)).map(|_| policy(rng)).collect()
}

/// A policy as a file has it.
pub fn document(policy: &Policy, name: &str) -> String {
    let text = |field: &Field| {
        let (first, rest) = field.name.split_at(1);
        let not = format!("not{}{rest}", first.to_uppercase());
        (if field.negated { not } else { field.name.clone() }, json!(field.values))
    };
    let listed = |list: &[Vec<Field>], inside: &str| {
        let one =
            |fields: &Vec<Field>| json!({inside: fields.iter().map(text).collect::<Map<_, _>>()});
        list.iter().map(one).collect::<Vec<_>>()
    };
    let rules = policy.rules.iter().map(|rule| {
        let mut out = Map::new();
        if !rule.from.is_empty() {
            out.insert("from".into(), listed(&rule.from, "source").into());
        }
        if !rule.to.is_empty() {
            out.insert("to".into(), listed(&rule.to, "operation").into());
        }
        let conditions = rule.when.iter().map(|field| {
            let values = if field.negated { "notValues" } else { "values" };
            json!({"key": field.name, values: field.values})
        });
        out.insert("when".into(), conditions.collect());
        Value::Object(out)
    });
    let (action, provider) = match policy.action {
        Action::Allow => ("ALLOW", None),
        Action::Deny => ("DENY", None),
        Action::Audit => ("AUDIT", None),
        Action::Custom(name) => ("CUSTOM", Some(json!({"name": name}))),
    };
    let mut out = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": policy.namespace},
        "spec": {"action": action, "rules": rules.collect::<Vec<_>>()},
    });
    if let Some(dry) = policy.dry_run {
        out["metadata"]["annotations"] = json!({"istio.io/dry-run": dry.to_string()});
    }
    if let Some(provider) = provider {
        out["spec"]["provider"] = provider;
    }
    if let Some(labels) = policy.selector {
        let labels: Map<_, _> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        out["spec"]["selector"] = json!({"matchLabels": labels});
    }
    if policy.target == Target::GatewayApi {
        let target =
            json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "bytes"});
        out["spec"]["targetRefs"] = json!([target]);
    }
    out.to_string()
}

/// The providers, as the mesh has them.
pub fn mesh() -> String {
    let provider = |(name, way): (&str, Way)| {
        let kind = match way {
            Way::Grpc => "envoyExtAuthzGrpc",
            Way::Http => "envoyExtAuthzHttp",
        };
        let service = format!("{name}.internal");
        json!({"name": name, kind: {"service": service, "port": 80}})
    };
    let providers = PROVIDERS.map(provider);
    json!({"extensionProviders": providers, "trustDomainAliases": &TRUSTED[1..]}).to_string()
}

/// What else there is: a server for bytes and where they go, and the providers' services.
pub fn rest() -> String {
    let networking = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": spec,
        })
        .to_string()
    };
    let port = json!({"number": 9000, "name": "bytes", "protocol": "TCP"});
    let server = json!({"port": port, "hosts": ["*"]});
    let route = json!({"destination": {"host": "web.internal"}});
    let spec = json!({"selector": {"istio": "edge"}, "servers": [server]});
    let mut all = vec![networking("Gateway", "bytes", spec)];
    let spec = json!({"hosts": ["*"], "gateways": ["bytes"], "tcp": [{"route": [route]}]});
    all.push(networking("VirtualService", "bytes", spec));
    all.extend(PROVIDERS.map(|(name, way)| {
        let protocol = if way == Way::Grpc { "GRPC" } else { "HTTP" };
        let spec = json!({
            "hosts": [format!("{name}.internal")],
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "p", "protocol": protocol}],
            "endpoints": [{"address": "192.0.2.1"}],
        });
        networking("ServiceEntry", name, spec)
    }));
    all.join("\n---\n")
}

/// A request, or now and then a connection without one.
pub fn request(rng: &mut Choices<'_>) -> Request {
    let uris: &[&[&str]] = &[
        &[],
        &["spiffe://mesh.example/ns/shop/sa/cart"],
        &["spiffe://old.example/ns/shop/sa/cart"],
        &["spiffe://cluster.local/ns/edge/sa/cart"],
        &["https://x.example", "spiffe://foreign.example/ns/shop/sa/cart"],
        &["https://x.example"],
        &["spiffe://mesh.example/other"],
    ];
    let addresses = &["10.1.2.3", "192.0.2.9", "203.0.113.1", "2001:db8::7", "::1"];
    let address = |rng: &mut Choices<'_>| pick(rng, addresses).parse().unwrap();
    let source = address(rng);
    let http = (rng.usize(..8) > 0).then(|| http(rng));
    Request {
        uris: uris[rng.usize(..uris.len())].iter().map(|uri| (*uri).to_owned()).collect(),
        source,
        // Nobody says of a connection that it is another's.
        remote: if http.is_some() { address(rng) } else { source },
        local: (address(rng), if rng.bool() { 8443 } else { 80 }),
        server_name: pick(rng, &["", "a.com", "b.com"]).to_owned(),
        http,
        denied_by: PROVIDERS.iter().filter(|_| rng.usize(..4) == 0).map(|known| known.0).collect(),
    }
}

fn http(rng: &mut Choices<'_>) -> Http {
    let paths = &["/", "/a", "/a/b", "/a/", "/a/x/b", "/a//b", "/x/y", "//a", "/A"];
    let lines = &["user", "admin", "user,admin", ""];
    let words = &["user", "admin", "x"];
    let mut claims = None;
    if rng.bool() {
        let word = |rng: &mut Choices<'_>| Value::from(pick(rng, words));
        let mut some = json!({
            "iss": pick(rng, &["https://i.example/x", "alice", "https://other"]),
            "groups": [word(rng), word(rng)],
            "nested": {"role": word(rng)},
            "aud": if rng.bool() { word(rng) } else { json!([word(rng), word(rng)]) },
            "azp": word(rng),
        });
        if rng.usize(..5) > 0 {
            some["sub"] = pick(rng, &["alice", "bob", ""]).into();
        }
        claims = Some(some);
    }
    Http {
        authority: pick(rng, &["a.com", "A.com:8443", "b.com:8443", "a.com.", "c.org"]).to_owned(),
        method: pick(rng, &["GET", "POST", "PUT"]).to_owned(),
        scheme: pick(rng, &["http", "https"]).to_owned(),
        paths: (0..rng.usize(1..=2)).map(|_| pick(rng, paths).to_owned()).collect(),
        query: rng.bool().then(|| "q=1".to_owned()),
        headers: (0..rng.usize(..=2))
            .map(|_| ("x-role".to_owned(), pick(rng, lines).to_owned()))
            .collect(),
        claims,
    }
}
