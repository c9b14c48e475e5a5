//! Every field of a rule, matching and not, from YAML to the engine's judgement.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use crate::auth::authz::{Facts, HttpFacts, Peer, PeerId};
use crate::auth::jwt::{Verdict, VerifiedToken};
use crate::compile::authorization::authorization;
use crate::compile::findings::Findings;
use crate::compile::fixture;
use crate::compile::settings::CompileSettings;
use crate::snapshot::Authorization;

/// Whether a policy of this rule alone lets a request pass.
fn allows(rule: &str, change: impl FnOnce(&mut Request)) -> bool {
    passes("ALLOW", rule, change)
}

/// Whether a DENY policy of this rule alone refuses a request.
fn denies(rule: &str, change: impl FnOnce(&mut Request)) -> bool {
    !passes("DENY", rule, change)
}

fn passes(action: &str, rule: &str, change: impl FnOnce(&mut Request)) -> bool {
    let spec = format!("spec: {{action: {action}, rules: [{rule}]}}");
    let set = fixture::set("AuthorizationPolicy", &["{name: a, namespace: edge}", &spec]);
    let settings = CompileSettings {
        trust_domain: "mesh.example".into(),
        trust_domain_aliases: vec!["old.example".into()],
        ..fixture::settings()
    };
    let mut findings = Findings::default();
    let none = &mut |_: &str, _: &mut Findings| Err(String::new());
    let outcome = authorization(&set, &settings, none, &mut findings);
    let Authorization::Enforce(access) = outcome else {
        panic!("{rule}: {:?}", findings.finish());
    };
    let mut request = Request::default();
    change(&mut request);
    let verdict = request.verdict();
    access.policies.judge(&request.facts(&verdict)).is_ok()
}

/// A request that tables change in a field or two.
struct Request {
    peer: Option<Peer>,
    source: &'static str,
    remote: &'static str,
    server_name: Option<&'static str>,
    authority: &'static str,
    method: &'static str,
    path: &'static str,
    headers: HeaderMap,
    claims: Option<serde_json::Value>,
    paths: Vec<Cow<'static, str>>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            peer: None,
            source: "10.0.0.1",
            remote: "192.0.2.7",
            server_name: Some("a.com"),
            authority: "A.com:8443",
            method: "GET",
            path: "/a/b",
            headers: HeaderMap::new(),
            claims: None,
            paths: Vec::new(),
        }
    }
}

impl Request {
    fn verdict(&self) -> Verdict {
        let Some(claims) = &self.claims else { return Verdict::Anonymous };
        let text = |name: &str| claims[name].as_str().unwrap_or_default();
        Verdict::Verified(Box::new(VerifiedToken {
            rule: 0,
            principal: Some(format!("{}/{}", text("iss"), text("sub")).into()),
            claims: claims.as_object().unwrap().clone().into(),
            space_delimited: std::sync::Arc::new(["words".into()]),
            payload: "".into(),
            places: Vec::new().into(),
        }))
    }

    fn facts<'a>(&'a mut self, verdict: &'a Verdict) -> Facts<'a> {
        self.paths = vec![self.path.into()];
        Facts {
            peer: self.peer.as_ref(),
            source: self.source.parse().unwrap(),
            remote: self.remote.parse().unwrap(),
            local: "127.0.0.1:8443".parse().unwrap(),
            server_name: self.server_name,
            http: Some(HttpFacts {
                authority: self.authority,
                method: self.method,
                scheme: "https",
                query: Some("q=1"),
                paths: &self.paths,
                reading: 0,
                headers: &self.headers,
                verdict,
            }),
        }
    }
}

fn workload(request: &mut Request) {
    request.peer = Some(Peer {
        named: true,
        ids: vec![PeerId {
            principal: "mesh.example/ns/shop/sa/cart".into(),
            trust_domain: Some("mesh.example".into()),
            workload: Some(("shop".into(), "cart".into())),
        }],
    });
}

fn user(request: &mut Request) {
    request.claims = Some(json!({
        "iss": "https://i.example/x", "sub": "alice", "aud": ["one", "two"], "azp": "app",
        "groups": ["dev", "ops"], "nested": {"role": "admin"}, "words": "red blue", "age": 7,
    }));
}

#[test]
fn sources_by_certificate() {
    let check = |source: &str, expected: bool| {
        let rule = format!("{{from: [{{source: {{{source}}}}}]}}");
        assert_eq!(allows(&rule, workload), expected, "{source}");
        // Without a certificate only what is negated holds.
        assert_eq!(allows(&rule, |_| {}), source.starts_with("not"), "{source}");
    };
    check("principals: [mesh.example/ns/shop/sa/cart]", true);
    check("principals: [old.example/ns/shop/sa/cart]", true);
    check("principals: [cluster.local/ns/shop/sa/cart]", true);
    check("principals: ['*.example/ns/shop/sa/cart']", true);
    check("principals: ['old*/ns/shop/sa/cart']", false);
    check("principals: [foreign.example/ns/shop/sa/cart]", false);
    check("principals: ['*/sa/cart']", true);
    check("principals: ['old.example/ns/shop/sa/ca*']", true);
    // Not a whole principal: the domain is taken as written.
    check("principals: ['old.example/ns/shop/*']", false);
    check("principals: ['mesh.example/ns/shop/*']", true);
    check("principals: ['spiffe://mesh.example/ns/shop/sa/cart']", false);
    check("principals: ['*']", true);
    check("notPrincipals: ['*/sa/cart']", false);
    check("notPrincipals: ['*/sa/other']", true);
    check("namespaces: [shop]", true);
    check("namespaces: [sho]", false);
    check("namespaces: ['sh*']", true);
    check("namespaces: ['s*p']", true);
    check("namespaces: ['s*x']", false);
    check("notNamespaces: [shop]", false);
    check("notNamespaces: ['s*p']", false);
    check("serviceAccounts: [shop/cart]", true);
    check("serviceAccounts: [cart]", false);
    check("notServiceAccounts: [shop/cart]", false);
    check("trustDomains: [mesh.example]", true);
    check("trustDomains: [old.example]", true);
    check("trustDomains: [foreign.example]", false);
    check("notTrustDomains: [mesh.example]", false);
}

#[test]
fn sources_by_address_and_token() {
    let check = |source: &str, expected: bool| {
        let rule = format!("{{from: [{{source: {{{source}}}}}]}}");
        assert_eq!(allows(&rule, user), expected, "{source}");
    };
    check("ipBlocks: [10.0.0.0/8]", true);
    check("ipBlocks: [10.0.0.1]", true);
    check("ipBlocks: [192.0.2.0/24, '2001:db8::/32']", false);
    check("notIpBlocks: [10.0.0.0/8]", false);
    check("remoteIpBlocks: [192.0.2.0/24]", true);
    check("notRemoteIpBlocks: [192.0.2.7]", false);
    check("requestPrincipals: ['https://i.example/x/alice']", true);
    check("requestPrincipals: ['https://i.example/x/*']", true);
    check("requestPrincipals: ['*/alice']", true);
    check("requestPrincipals: ['*']", true);
    check("requestPrincipals: ['https://i.example/bob']", false);
    check("requestPrincipals: ['https://i.example/x/al*']", true);
    check("requestPrincipals: ['*.example/x/alice']", true);
    check("requestPrincipals: ['*ice']", true);
    check("requestPrincipals: ['https*']", true);
    // A star stands for something at one end of the whole value only.
    check("requestPrincipals: ['*/al*']", false);
    check("requestPrincipals: ['https*/alice']", false);
    check("requestPrincipals: [alice]", false);
    check("notRequestPrincipals: ['*']", false);
    let any_token = "{from: [{source: {requestPrincipals: ['*']}}]}";
    assert!(!allows(any_token, |_| {}));
    // All fields of a source must hold, and any source of several.
    check("ipBlocks: [10.0.0.1], requestPrincipals: ['*/bob']", false);
    let either = "{from: [{source: {ipBlocks: [1.2.3.4]}}, {source: {ipBlocks: [10.0.0.1]}}]}";
    assert!(allows(either, |_| {}));
}

#[test]
fn operations() {
    let check = |operation: &str, expected: bool| {
        let rule = format!("{{to: [{{operation: {{{operation}}}}}]}}");
        assert_eq!(allows(&rule, |_| {}), expected, "{operation}");
    };
    check("hosts: ['a.com:8443']", true);
    check("hosts: [a.com]", false);
    check("hosts: ['A.COM:*']", true);
    check("notHosts: ['a.com*']", false);
    check("ports: ['8443']", true);
    check("ports: ['443']", false);
    check("notPorts: ['8443']", false);
    check("methods: [GET, HEAD]", true);
    check("methods: [get]", false);
    check("notMethods: [GET]", false);
    check("paths: [/a/b]", true);
    check("paths: ['/a*']", true);
    check("paths: ['/{*}/b']", true);
    check("paths: ['/{*}']", false);
    check("notPaths: ['/a*']", false);
    check("methods: [GET], notPaths: [/x]", true);
}

#[test]
fn conditions() {
    let check = |key: &str, values: &str, expected: bool| {
        let rule = format!("{{when: [{{key: '{key}', {values}}}]}}");
        let all = |request: &mut Request| {
            workload(request);
            user(request);
            request.headers.insert("x-a", HeaderValue::from_static("v1"));
            request.headers.append("x-b", HeaderValue::from_static("1"));
            request.headers.append("x-b", HeaderValue::from_static("2"));
        };
        assert_eq!(allows(&rule, all), expected, "{key} {values}");
    };
    check("request.headers[X-A]", "values: ['v*']", true);
    check("request.headers[x-a]", "values: [v2]", false);
    check("request.headers[x-b]", "values: ['1,2']", true);
    check("request.headers[x-c]", "values: ['*']", false);
    check("request.headers[x-c]", "notValues: [x]", true);
    check("source.ip", "values: [10.0.0.0/8]", true);
    check("remote.ip", "notValues: [192.0.2.0/24]", false);
    check("source.namespace", "values: [shop]", true);
    check("source.principal", "values: ['*/sa/cart']", true);
    check("source.serviceAccount", "values: [shop/cart]", true);
    check("source.trustDomain", "values: [old.example]", true);
    check("source.trustDomain", "values: [foreign.example]", false);
    check("request.auth.principal", "values: ['*/alice']", true);
    check("request.auth.audiences", "values: [two]", true);
    check("request.auth.audiences", "values: [three]", false);
    check("request.auth.presenter", "values: [app]", true);
    check("request.auth.claims[groups]", "values: [ops]", true);
    check("request.auth.claims[groups]", "values: [root]", false);
    check("request.auth.claims[nested][role]", "values: [admin]", true);
    check("request.auth.claims[words]", "values: [blue]", true);
    check("request.auth.claims[age]", "values: ['7']", false);
    check("request.auth.claims[none]", "notValues: [x]", true);
    check("destination.ip", "values: [127.0.0.1]", true);
    check("destination.port", "values: ['8443']", true);
    check("connection.sni", "values: ['*.com']", true);
    check("connection.sni", "values: [b.com]", false);
    check("request.headers[:method]", "values: [GET]", true);
    check("request.headers[:method]", "values: [POST]", false);
    check("request.headers[:path]", "values: ['/a/b?q=1']", true);
    check("request.headers[:path]", "values: [/a/b]", false);
    check("request.headers[:scheme]", "values: [https]", true);
    check("request.headers[:scheme]", "notValues: [https]", false);
    check("request.headers[:authority]", "values: ['A.com:8443']", true);
    check("request.headers[Host]", "values: ['A.com*']", true);
    check("request.headers[host]", "values: ['a.com*']", false);
    check("request.headers[x-a]", "values: ['v*'], notValues: [v1]", false);
}

#[test]
fn a_certificate_without_a_spiffe_id_is_somebody_and_nobody_in_particular() {
    let check = |source: &str, expected: bool| {
        let rule = format!("{{from: [{{source: {{{source}}}}}]}}");
        let other = |request: &mut Request| {
            request.peer = Some(Peer { named: true, ids: Vec::new() });
        };
        assert_eq!(allows(&rule, other), expected, "{source}");
    };
    check("principals: ['*']", true);
    check("notPrincipals: ['*']", false);
    check("principals: ['*a']", false);
    check("principals: ['mesh.example/ns/shop/sa/cart']", false);
    check("namespaces: ['*']", false);
}

#[test]
fn no_line_of_a_header_hides_another() {
    let check = |condition: &str, lines: &[&'static str], allowed: bool, denied: bool| {
        let rule = format!("{{when: [{{key: 'request.headers[x-role]', {condition}}}]}}");
        let with = |request: &mut Request| {
            for line in lines {
                request.headers.append("x-role", HeaderValue::from_static(line));
            }
        };
        assert_eq!(allows(&rule, with), allowed, "ALLOW {condition} {lines:?}");
        assert_eq!(denies(&rule, with), denied, "DENY {condition} {lines:?}");
    };
    check("values: [admin]", &["admin"], true, true);
    check("values: [admin]", &["user", "admin"], false, true);
    check("values: ['user,admin']", &["user", "admin"], true, true);
    check("values: ['user*']", &["user", "admin"], false, true);
    check("values: ['user*']", &["user1", "user2"], true, true);
    check("values: ['*']", &["", "x"], true, true);
    check("notValues: [admin]", &["user", "admin"], false, true);
    check("notValues: [admin]", &["user"], true, true);
    check("notValues: ['user*']", &["user", "admin"], false, true);
    check("notValues: [admin]", &["admin"], false, false);
    check("notValues: [admin]", &[], true, true);
}

#[test]
fn a_port_or_the_roots_dot_is_no_way_around_a_host() {
    let check = |operation: &str, authority: &'static str, allowed: bool, denied: bool| {
        let rule = format!("{{to: [{{operation: {{{operation}}}}}]}}");
        let to = |request: &mut Request| request.authority = authority;
        assert_eq!(allows(&rule, to), allowed, "ALLOW {operation} {authority}");
        assert_eq!(denies(&rule, to), denied, "DENY {operation} {authority}");
    };
    check("hosts: [a.com]", "a.com", true, true);
    check("hosts: [a.com]", "A.com:8443", false, true);
    check("hosts: [a.com]", "a.com.", false, true);
    check("hosts: [a.com]", "a.com.:1", false, true);
    check("hosts: [a.com]", "xa.com", false, false);
    check("notHosts: [a.com]", "a.com:8443", false, true);
    check("notHosts: [a.com]", "a.com", false, false);
    check("notHosts: [a.com]", "b.com", true, true);
}
