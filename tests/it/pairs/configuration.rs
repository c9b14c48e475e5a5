//! Random configurations beyond what the naive reading of `model` knows: TLS servers, annotations, faults,
//! tokens and policies.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::fixture::issuer;
use crate::world::{PROXIES, pick, rarely};
use crate::written::{host, networking, trust};

/// Ports of a world: plaintext, TLS.
pub(super) fn ports(world: u16) -> [u16; 2] {
    [1_000 + world, 2_000 + world]
}

/// Credentials, each with the names of its certificate; several cover hosts of another's servers.
pub(super) const CREDENTIALS: [(&str, &[&str]); 3] = [
    ("narrow", &["a.com", "*.a.com"]),
    ("other", &["b.com", "*.y.a.com"]),
    ("wide", &["a.com", "b.com", "c.com", "xa.com", "*.a.com", "*.y.a.com"]),
];

/// What becomes of `x-forwarded-client-cert`; the last is none.
const DETAILS: [&str; 6] = [
    "SANITIZE",
    "SANITIZE_SET",
    "FORWARD_ONLY",
    "APPEND_FORWARD",
    "ALWAYS_FORWARD_ONLY",
    "*=ALWAYS_FORWARD_ONLY, s0=SANITIZE, s1=APPEND_FORWARD, s3=FORWARD_ONLY",
];

/// Makes a Gateway say whom it believes and what it tells of certificates.
fn annotate(rng: &mut Rng, gateway: &mut Value) {
    trust(gateway, pick(rng, &PROXIES));
    if rng.bool() {
        let details = pick(rng, &DETAILS);
        gateway["metadata"]["annotations"]["portcullis.dev/forward-client-cert-details"] =
            json!(details);
    }
}

/// A Gateway that says of `b.com` on the plaintext port whom it believes, beside the world's own.
pub(super) fn beside(rng: &mut Rng, world: u16) -> Value {
    let port = json!({"number": ports(world)[0], "name": "beside", "protocol": "HTTP"});
    let server = json!({"port": port, "hosts": ["b.com"]});
    let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": [server]});
    let mut gateway = networking("Gateway", &format!("istio-system/x{world}"), &spec);
    annotate(rng, &mut gateway);
    gateway
}

/// A Gateway whose TLS servers share one port; certificates, versions and client rules differ.
pub(super) fn gateway(rng: &mut Rng, world: u16) -> Value {
    let [plain, secure] = ports(world);
    let mut servers = vec![
        json!({"port": {"number": plain, "name": "plain", "protocol": "HTTP"}, "hosts": ["*"]}),
    ];
    let choices: [(&[&str], &str); 4] = [
        (&["a.com", "x.a.com"], "narrow"),
        (&["b.com"], pick(rng, &["other", "wide"])),
        (&["*.y.a.com", "y.a.com"], "wide"),
        (&["*"], "wide"),
    ];
    for (index, (hosts, credential)) in choices.into_iter().enumerate() {
        if rarely(rng, 3) {
            continue;
        }
        let mut tls = json!({"mode": "SIMPLE", "credentialName": credential});
        match rng.u8(..6) {
            0 => tls["mode"] = json!("OPTIONAL_MUTUAL"),
            1 => tls["minProtocolVersion"] = json!("TLSV1_3"),
            2 => tls["mode"] = json!("MUTUAL"),
            _ => {}
        }
        let port = json!({"number": secure, "name": format!("s{index}"), "protocol": "HTTPS"});
        servers.push(json!({"port": port, "hosts": hosts, "tls": tls}));
    }
    if rarely(rng, 4) {
        let port = json!({"number": plain, "name": "moved", "protocol": "HTTP"});
        let redirect = json!({"httpsRedirect": true});
        servers.push(json!({"port": port, "hosts": ["b.com"], "tls": redirect}));
    }
    let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": servers});
    let mut gateway = networking("Gateway", &format!("istio-system/w{world}"), &spec);
    annotate(rng, &mut gateway);
    gateway
}

/// Adds to a rule what the naive reading does not know of, and makes it tell its name.
pub(super) fn decorate(rng: &mut Rng, world: u16, rule: &mut Value) {
    rule["headers"] = json!({
        "response": {"set": {"x-rule": rule["name"]}},
        "request": {"set": {"x-client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}},
    });
    for one in rule["match"].as_array_mut().into_iter().flatten() {
        if let Some(port) = one["port"].as_u64() {
            one["port"] = json!(ports(world)[usize::from(port != 80)]);
        }
        if rarely(rng, 8) {
            let field = pick(rng, &["headers", "withoutHeaders"]);
            one[field]["@request.auth.claims.sub"] = json!({"exact": "alice"});
        }
    }
    if rule["route"].is_array() && rarely(rng, 4) {
        let rewrites = [
            json!({"uri": "a b#\u{e4}"}),
            json!({"uriRegexRewrite": {"match": "^/(.*)$", "rewrite": "\\1 <\\1>"}}),
            json!({"uriRegexRewrite": {"match": "a", "rewrite": "?"}}),
        ];
        rule["rewrite"] = rewrites[rng.usize(..rewrites.len())].clone();
    }
    let Some(route) = rule["route"].as_array_mut() else { return };
    if rarely(rng, 20) {
        let at = rng.usize(..route.len());
        route[at]["destination"]["host"] = json!("nobody.internal");
    }
    if rarely(rng, 8) {
        let aborts =
            [json!({"httpStatus": 418, "percentage": {"value": 100}}), json!({"httpStatus": 418})];
        rule["fault"] = json!({"abort": aborts[rng.usize(..2)]});
    }
    if rarely(rng, 3) {
        rule["corsPolicy"] = json!({
            "allowOrigins": [{"exact": "https://app.com"}],
            "allowMethods": ["PUT"],
            "unmatchedPreflights": pick(rng, &["FORWARD", "IGNORE"]),
        });
    }
    if rarely(rng, 4) {
        rule["mirrors"] = json!([{"destination": {"host": host("shade")}}]);
    }
    if rarely(rng, 4) {
        rule["timeout"] = json!("30s");
        rule["retries"] = json!({"attempts": 1, "retryOn": "5xx"});
    }
}

/// Who may do what, in every world.
pub(super) fn policies(keys: &Value) -> [Value; 3] {
    let security = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "istio-system"},
            "spec": spec,
        })
    };
    let to = |operation: Value| json!([{"operation": operation}]);
    let from = |principals: &str| json!([{"source": {"requestPrincipals": [principals]}}]);
    let header = json!([{"key": "request.headers[x-b]", "values": ["w"]}]);
    let denied = json!([
        {"to": to(json!({"paths": ["/bba"], "hosts": ["*.a.com"]}))},
        {"to": to(json!({"methods": ["POST"]})), "from": from("https://i/mallory")},
        {"to": to(json!({"paths": ["/a/*"]})), "when": header},
        {"from": json!([{"source": {"remoteIpBlocks": ["10.9.0.0/16"]}}])},
    ]);
    let allowed = json!([
        {"to": to(json!({"methods": ["GET", "POST", "OPTIONS"]}))},
        {"to": to(json!({"notPaths": ["/a/*"]}))},
        {"from": from("*")},
    ]);
    let rules = json!({"jwtRules": [{"issuer": "https://i", "jwks": keys.to_string()}]});
    [
        security("RequestAuthentication", "tokens", rules),
        security("AuthorizationPolicy", "deny", json!({"action": "DENY", "rules": denied})),
        security("AuthorizationPolicy", "allow", json!({"rules": allowed})),
    ]
}

/// `authorization` of nobody, two subjects, somebody whose token is over, and of a stranger.
pub(super) fn tokens() -> [Option<String>; 5] {
    let token = |iss: &str, sub: &str, exp: u64| {
        let head = json!({"alg": "RS256", "kid": "k1"});
        let token = issuer().token(&head, &json!({"iss": iss, "sub": sub, "exp": exp}));
        Some(format!("Bearer {token}"))
    };
    let late = 4_000_000_000;
    [
        None,
        token("https://i", "alice", late),
        token("https://i", "mallory", late),
        token("https://i", "alice", 1),
        token("https://other", "alice", late),
    ]
}
