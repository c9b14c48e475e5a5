//! The authorization language, word for word and slowly: what a rule says about a request, from the texts
//! of its YAML. It shares nothing with the engine.

use std::net::IpAddr;

use serde_json::Value;

/// A field with its values, as written.
#[derive(Debug)]
pub struct Field {
    /// `principals`, or the key of a condition.
    pub name: String,
    /// Its values.
    pub values: Vec<String>,
    /// A `not…` field.
    pub negated: bool,
}

/// A rule: alternatives of sources and operations, and conditions.
#[derive(Debug, Default)]
pub struct Rule {
    pub from: Vec<Vec<Field>>,
    pub to: Vec<Vec<Field>>,
    pub when: Vec<Field>,
}

/// A policy.
#[derive(Debug)]
pub struct Policy {
    pub namespace: &'static str,
    /// Labels that a workload must have.
    pub selector: Option<&'static [(&'static str, &'static str)]>,
    pub target: Target,
    pub action: Action,
    /// The annotation of dry runs.
    pub dry_run: Option<bool>,
    pub rules: Vec<Rule>,
}

/// What a policy attaches to by `targetRefs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Nothing,
    /// A Gateway of the Gateway API, which is none of this gateway's.
    GatewayApi,
}

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Audit,
    /// Asks the provider of this name.
    Custom(&'static str),
}

/// Everything that can be known of a request, or of a connection without one.
#[derive(Debug)]
pub struct Request {
    pub uris: Vec<String>,
    pub source: IpAddr,
    pub remote: IpAddr,
    pub local: (IpAddr, u16),
    pub server_name: String,
    pub http: Option<Http>,
    /// Providers that would deny it.
    pub denied_by: Vec<&'static str>,
}

/// What HTTP adds.
#[derive(Debug)]
pub struct Http {
    pub authority: String,
    pub method: String,
    pub scheme: String,
    pub paths: Vec<String>,
    pub query: Option<String>,
    pub headers: Vec<(String, String)>,
    pub claims: Option<Value>,
}

/// The mesh's trust domain and its aliases.
pub const DOMAINS: [&str; 2] = ["mesh.example", "old.example"];

/// What a rule is matched with.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub request: &'a Request,
    /// Which of its paths.
    pub reading: usize,
    /// The policy's.
    pub namespace: &'a str,
}

/// Whether a rule matches, which holds requests back or lets them pass.
pub fn rule_matches(rule: &Rule, view: View<'_>, holds_back: bool) -> bool {
    let without = view.request.http.is_none();
    let mut all = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if without && !holds_back && all.any(|field| of_http(&field.name)) {
        return false;
    }
    let holds = |field: &Field| {
        if without && of_http(&field.name) {
            return true;
        }
        // A match that holds back needs one way to read the value, any other all of them.
        let refuses = holds_back != field.negated;
        field_matches(field, view, refuses) != field.negated
    };
    let any = |list: &[Vec<Field>]| list.is_empty() || list.iter().any(|f| f.iter().all(holds));
    any(&rule.from) && any(&rule.to) && rule.when.iter().all(holds)
}

fn of_http(name: &str) -> bool {
    matches!(name, "hosts" | "methods" | "paths" | "requestPrincipals")
        || name.starts_with("request.")
}

fn field_matches(field: &Field, view: View<'_>, refuses: bool) -> bool {
    field.values.iter().any(|value| one_matches(&field.name, value, view, refuses))
}

fn one_matches(name: &str, value: &str, view: View<'_>, refuses: bool) -> bool {
    let View { request, reading, namespace: own } = view;
    match name {
        "principals" | "source.principal" => {
            let known = |uri: &String| meant_principals(value).iter().any(|p| is_principal(p, uri));
            request.uris.iter().any(known)
        }
        "namespaces" | "source.namespace" => {
            workloads(request).iter().any(|(namespace, _)| glob(value, namespace))
        }
        "serviceAccounts" | "source.serviceAccount" => {
            let whole = if value.contains('/') { value.into() } else { format!("{own}/{value}") };
            workloads(request).iter().any(|(namespace, sa)| format!("{namespace}/{sa}") == whole)
        }
        "trustDomains" | "source.trustDomain" => {
            let meant: Vec<&str> =
                if DOMAINS.contains(&value) { DOMAINS.to_vec() } else { vec![value] };
            let domains = request.uris.iter().filter_map(|uri| uri.strip_prefix("spiffe://"));
            let mut domains = domains.map(|id| id.split('/').next().unwrap_or_default());
            domains.any(|domain| meant.iter().any(|value| star(value, domain)))
        }
        "ipBlocks" | "source.ip" => in_block(value, request.source),
        "remoteIpBlocks" | "remote.ip" => in_block(value, request.remote),
        "destination.ip" => in_block(value, request.local.0),
        "ports" | "destination.port" => *value == request.local.1.to_string(),
        "connection.sni" => star(value, &request.server_name),
        _ => request
            .http
            .as_ref()
            .is_some_and(|http| of_request(name, value, http, reading, refuses)),
    }
}

fn of_request(name: &str, value: &str, http: &Http, reading: usize, refuses: bool) -> bool {
    let path = &http.paths[reading];
    let claims = http.claims.as_ref();
    let authority_read = |test: &dyn Fn(&str) -> bool| {
        let without_port = http.authority.split(':').next().unwrap_or_default();
        test(&http.authority) || refuses && test(without_port.trim_end_matches('.'))
    };
    match name {
        "hosts" => {
            let value = value.to_lowercase();
            authority_read(&|text| star(&value, &text.to_lowercase()))
        }
        "methods" | "request.headers[:method]" => star(value, &http.method),
        "paths" if value.contains('{') => {
            let parts = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
            template(&parts(value), &parts(path))
        }
        "paths" => star(value, path),
        "request.headers[:path]" => {
            let query = http.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
            star(value, &format!("{path}{query}"))
        }
        "request.headers[:scheme]" => star(value, &http.scheme),
        "request.headers[:authority]" | "request.headers[host]" => {
            authority_read(&|text| star(value, text))
        }
        "requestPrincipals" | "request.auth.principal" => {
            let text = |name: &str| claims.and_then(|claims| claims[name].as_str());
            match (text("iss"), text("sub")) {
                (Some(issuer), Some(subject)) => is_request_principal(value, issuer, subject),
                _ => false,
            }
        }
        "request.auth.audiences" => of_claim(value, claims.map(|claims| &claims["aud"])),
        "request.auth.presenter" => of_claim(value, claims.map(|claims| &claims["azp"])),
        _ => {
            if let Some(rest) = name.strip_prefix("request.auth.claims[") {
                let names = rest.trim_end_matches(']').split("][");
                return of_claim(value, claims.map(|c| names.fold(c, |claim, name| &claim[name])));
            }
            let name = name.trim_start_matches("request.headers[").trim_end_matches(']');
            of_header(name, value, http, refuses)
        }
    }
}

fn of_header(name: &str, value: &str, http: &Http, refuses: bool) -> bool {
    let same = |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
    let lines: Vec<&str> = http.headers.iter().filter(same).map(|(_, line)| &**line).collect();
    if lines.is_empty() {
        return false;
    }
    let joined = lines.join(",");
    let every = lines.iter().all(|line| star(value, line));
    let any = lines.iter().any(|line| star(value, line));
    let starred = value.starts_with('*') || value.ends_with('*');
    match (value, refuses) {
        ("*", _) => true,
        (_, true) => any || star(value, &joined),
        (_, false) if starred => every,
        (_, false) => joined == value,
    }
}

fn of_claim(value: &str, claim: Option<&Value>) -> bool {
    match claim {
        Some(Value::String(text)) => star(value, text),
        Some(Value::Array(list)) => list.iter().any(|v| v.as_str().is_some_and(|t| star(value, t))),
        _ => false,
    }
}

fn is_request_principal(value: &str, issuer: &str, subject: &str) -> bool {
    if value == "*" {
        return !issuer.is_empty() && !subject.is_empty();
    }
    let Some(slash) = value.rfind('/') else {
        return match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(end), _) => !issuer.is_empty() && subject.ends_with(end),
            (_, Some(start)) => issuer.starts_with(start) && !subject.is_empty(),
            _ => issuer == value && subject.is_empty(),
        };
    };
    let (left, right) = (&value[..slash], &value[slash + 1..]);
    if value.starts_with('*') {
        star(left, issuer) && right == subject
    } else {
        left == issuer && star(right, subject)
    }
}

/// The principals that a value stands for.
fn meant_principals(value: &str) -> Vec<String> {
    let parts: Vec<&str> = value.split('/').collect();
    let domain = parts[0];
    if parts.len() != 5 || domain == "*" {
        return vec![value.to_owned()];
    }
    if domain != "cluster.local" && !DOMAINS.iter().any(|own| star(domain, own)) {
        return vec![value.to_owned()];
    }
    let mut out = vec![];
    for own in DOMAINS {
        let fits = domain.starts_with('*') && star(domain, own);
        out.push(if fits { value.into() } else { format!("{own}/{}", parts[1..].join("/")) });
    }
    out
}

fn is_principal(value: &str, uri: &str) -> bool {
    value == "*" || uri.strip_prefix("spiffe://").is_some_and(|id| star(value, id))
}

fn workloads(request: &Request) -> Vec<(String, String)> {
    let read = |uri: &String| {
        let parts: Vec<&str> = uri.strip_prefix("spiffe://")?.split('/').collect();
        match parts[..] {
            [_, "ns", namespace, "sa", account] => Some((namespace.into(), account.into())),
            _ => None,
        }
    };
    request.uris.iter().filter_map(read).collect()
}

fn star(value: &str, text: &str) -> bool {
    if value == "*" {
        !text.is_empty()
    } else if let Some(end) = value.strip_prefix('*') {
        text.ends_with(end)
    } else if let Some(start) = value.strip_suffix('*') {
        text.starts_with(start)
    } else {
        value == text
    }
}

fn glob(value: &str, text: &str) -> bool {
    match value.find('*') {
        None => value == text,
        Some(at) => {
            let (start, rest) = (&value[..at], &value[at + 1..]);
            text.strip_prefix(start)
                .is_some_and(|text| (0..=text.len()).any(|from| glob(rest, &text[from..])))
        }
    }
}

fn template(pattern: &[String], path: &[String]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), Some((part, parts))) => match first.as_str() {
            "{**}" => (1..=path.len()).any(|taken| template(rest, &path[taken..])),
            "{*}" => !part.is_empty() && template(rest, parts),
            literal => literal == part && template(rest, parts),
        },
        _ => false,
    }
}

fn in_block(value: &str, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let (base, length) = value.split_once('/').unwrap_or((value, ""));
    let ((base, width), (address, own)) = (bits(base.parse().unwrap()), bits(address));
    let length = if length.is_empty() { width } else { length.parse().unwrap() };
    let shift = width - length;
    width == own && (shift == 128 || base >> shift == address >> shift)
}
