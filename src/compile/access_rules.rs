//! Rules of an AuthorizationPolicy as the engine judges them.
//!
//! **Invariant:** a value that cannot be understood is an error, never a rule that matches less or more
//! than it says.

use http::header::HeaderName;
use ipnet::IpNet;

use crate::auth::authz::{Field, PathMatch, Rule, Subject, TextMatch, TextSubject};
use crate::base::claim::ClaimPath;
use crate::resources::authorization_policy::{self as written, Condition, Operation, Source};

use super::settings::CompileSettings;

/// A part of a rule that cannot be enforced: its field below the rule, and why.
pub type Unenforceable = (String, String);

/// Compiles a rule of a policy in `namespace`.
pub fn rule(
    rule: &written::Rule,
    namespace: &str,
    settings: &CompileSettings,
) -> Result<Rule, Unenforceable> {
    let mut out = Rule::default();
    let empty = |field: &str| (field.to_owned(), format!("{field} is empty: it matches nothing"));
    if let Some(from) = &rule.from {
        for (index, from) in from.iter().enumerate() {
            let at = format!("from[{index}]");
            let source = from.source.as_ref().ok_or_else(|| empty(&at))?;
            let fields = source_fields(source, namespace, settings);
            let fields = fields.map_err(|why| (format!("{at}.source"), why))?;
            out.from.push(some(fields).ok_or_else(|| empty(&at))?);
        }
        some(out.from.clone()).ok_or_else(|| empty("from"))?;
    }
    if let Some(to) = &rule.to {
        for (index, to) in to.iter().enumerate() {
            let at = format!("to[{index}]");
            let operation = to.operation.as_ref().ok_or_else(|| empty(&at))?;
            let fields = operation_fields(operation);
            let fields = fields.map_err(|why| (format!("{at}.operation"), why))?;
            out.to.push(some(fields).ok_or_else(|| empty(&at))?);
        }
        some(out.to.clone()).ok_or_else(|| empty("to"))?;
    }
    for (index, condition) in rule.when.iter().enumerate() {
        let at = format!("when[{index}]");
        for (values, negated) in [(&condition.values, false), (&condition.not_values, true)] {
            if let Some(values) = some(values.clone()) {
                let subject = condition_subject(condition, &values, namespace, settings);
                let subject = subject.map_err(|why| (at.clone(), why))?;
                out.when.push(Field { subject, negated });
            }
        }
        if condition.values.is_empty() && condition.not_values.is_empty() {
            return Err(empty(&at));
        }
    }
    Ok(out)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Adds a pair of fields, `x` and `notX`.
fn add(
    out: &mut Vec<Field>,
    (values, not_values): (&[String], &[String]),
    subject: impl Fn(&[String]) -> Result<Subject, String>,
) -> Result<(), String> {
    for (values, negated) in [(values, false), (not_values, true)] {
        if !values.is_empty() {
            out.push(Field { subject: subject(values)?, negated });
        }
    }
    Ok(())
}

fn source_fields(
    source: &Source,
    namespace: &str,
    settings: &CompileSettings,
) -> Result<Vec<Field>, String> {
    let mut out = Vec::new();
    add(&mut out, (&source.principals, &source.not_principals), |values| {
        Ok(Subject::Text(TextSubject::Principal, principals(values, settings)))
    })?;
    add(&mut out, (&source.request_principals, &source.not_request_principals), |values| {
        Ok(Subject::RequestPrincipal(request_principals(values)))
    })?;
    add(&mut out, (&source.namespaces, &source.not_namespaces), |values| {
        Ok(Subject::Text(TextSubject::Namespace, namespaces(values)))
    })?;
    add(&mut out, (&source.service_accounts, &source.not_service_accounts), |values| {
        Ok(Subject::ServiceAccount(accounts(values, namespace)))
    })?;
    add(&mut out, (&source.trust_domains, &source.not_trust_domains), |values| {
        Ok(Subject::Text(TextSubject::TrustDomain, trust_domains(values, settings)))
    })?;
    add(&mut out, (&source.ip_blocks, &source.not_ip_blocks), |values| {
        Ok(Subject::SourceIp(blocks(values)?))
    })?;
    add(&mut out, (&source.remote_ip_blocks, &source.not_remote_ip_blocks), |values| {
        Ok(Subject::RemoteIp(blocks(values)?))
    })?;
    Ok(out)
}

fn operation_fields(operation: &Operation) -> Result<Vec<Field>, String> {
    let mut out = Vec::new();
    add(&mut out, (&operation.hosts, &operation.not_hosts), |values| {
        Ok(Subject::Text(TextSubject::Host, texts(values)))
    })?;
    add(&mut out, (&operation.ports, &operation.not_ports), |values| {
        Ok(Subject::LocalPort(ports(values)?))
    })?;
    add(&mut out, (&operation.methods, &operation.not_methods), |values| {
        Ok(Subject::Text(TextSubject::Method, texts(values)))
    })?;
    add(&mut out, (&operation.paths, &operation.not_paths), |values| {
        let paths = values.iter().map(|value| PathMatch::parse(value));
        paths.collect::<Result<_, _>>().map(Subject::Path).map_err(|error| error.to_string())
    })?;
    Ok(out)
}

fn condition_subject(
    condition: &Condition,
    values: &[String],
    namespace: &str,
    settings: &CompileSettings,
) -> Result<Subject, String> {
    let text = |subject| Ok(Subject::Text(subject, texts(values)));
    match condition.key.as_str() {
        "source.ip" => Ok(Subject::SourceIp(blocks(values)?)),
        "remote.ip" => Ok(Subject::RemoteIp(blocks(values)?)),
        "source.namespace" => Ok(Subject::Text(TextSubject::Namespace, namespaces(values))),
        "source.trustDomain" => {
            Ok(Subject::Text(TextSubject::TrustDomain, trust_domains(values, settings)))
        }
        "source.serviceAccount" => Ok(Subject::ServiceAccount(accounts(values, namespace))),
        "source.principal" => {
            Ok(Subject::Text(TextSubject::Principal, principals(values, settings)))
        }
        "request.auth.principal" => Ok(Subject::RequestPrincipal(request_principals(values))),
        "request.auth.audiences" => Ok(Subject::Claim(ClaimPath::of(["aud"]), texts(values))),
        "request.auth.presenter" => Ok(Subject::Claim(ClaimPath::of(["azp"]), texts(values))),
        "destination.ip" => Ok(Subject::LocalIp(blocks(values)?)),
        "destination.port" => Ok(Subject::LocalPort(ports(values)?)),
        "connection.sni" => text(TextSubject::ServerName),
        key => {
            if let Some(names) = key.strip_prefix("request.auth.claims") {
                let path = bracketed(names).ok_or_else(|| unknown(key))?;
                return Ok(Subject::Claim(ClaimPath::of(path), texts(values)));
            }
            let name = key.strip_prefix("request.headers").and_then(bracketed);
            match name.as_deref() {
                Some([name]) if name.starts_with(':') || name.eq_ignore_ascii_case("host") => {
                    text(pseudo_header(name).ok_or_else(|| unknown(key))?)
                }
                Some([name]) => {
                    let header = HeaderName::try_from(name.as_str()).map_err(|_| unknown(key))?;
                    Ok(Subject::Header(header, texts(values)))
                }
                _ => Err(unknown(key)),
            }
        }
    }
}

fn unknown(key: &str) -> String {
    format!("\"{key}\" is not judged here")
}

/// The names in `[a][b]`.
fn bracketed(text: &str) -> Option<Vec<String>> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<String> = inside.split("][").map(str::to_owned).collect();
    names.iter().all(|name| !name.is_empty()).then_some(names)
}

fn texts(values: &[String]) -> Vec<TextMatch> {
    values.iter().map(|value| TextMatch::parse(value)).collect()
}

/// What HTTP/2 has as a header of its own.
fn pseudo_header(name: &str) -> Option<TextSubject> {
    match name.to_ascii_lowercase().as_str() {
        ":method" => Some(TextSubject::Method),
        ":path" => Some(TextSubject::Target),
        ":authority" | "host" => Some(TextSubject::Authority),
        ":scheme" => Some(TextSubject::Scheme),
        _ => None,
    }
}

/// In a namespace every star stands for any text, wherever it is.
fn namespaces(values: &[String]) -> Vec<TextMatch> {
    values.iter().map(|value| TextMatch::parse_pieces(value)).collect()
}

/// The mesh's trust domain and its aliases, which stand for each other.
fn domains(settings: &CompileSettings) -> impl Iterator<Item = &str> + Clone {
    let aliases = settings.trust_domain_aliases.iter().map(String::as_str);
    std::iter::once(settings.trust_domain.as_str()).chain(aliases)
}

fn trust_domains(values: &[String], settings: &CompileSettings) -> Vec<TextMatch> {
    let mut out = Vec::new();
    for value in values {
        if domains(settings).any(|domain| domain == value) {
            out.extend(domains(settings).map(TextMatch::parse));
        } else {
            out.push(TextMatch::parse(value));
        }
    }
    out
}

/// A principal of one of the mesh's trust domains, or of `cluster.local`, which means them, stands for
/// those of all of them. Only the whole form `DOMAIN/ns/NAMESPACE/sa/ACCOUNT` says a domain.
fn principals(values: &[String], settings: &CompileSettings) -> Vec<TextMatch> {
    let mut out = Vec::new();
    for value in values {
        let whole = value.split('/').count() == 5;
        let (written, rest) = value.split_once('/').unwrap_or((value, ""));
        let meant = |domain: &str| match written.strip_prefix('*') {
            Some(end) => domain.ends_with(end),
            None => domain == written,
        };
        let known = written == "cluster.local" || domains(settings).any(meant);
        if !whole || written == "*" || !known {
            out.push(TextMatch::parse(value));
            continue;
        }
        for domain in domains(settings) {
            let all = if meant(domain) { value.clone() } else { format!("{domain}/{rest}") };
            let one = TextMatch::parse(&all);
            if !out.contains(&one) {
                out.push(one);
            }
        }
    }
    out
}

/// `issuer/subject`, split at the last slash. A star at the value's beginning is the issuer's, else one
/// at its end the subject's; a part without a slash is the issuer, or the subject after a star.
fn request_principals(values: &[String]) -> Vec<(TextMatch, TextMatch)> {
    let exact = |text: &str| TextMatch::Exact(text.into());
    let parse = |value: &String| match (value.rsplit_once('/'), value.starts_with('*')) {
        _ if value == "*" => (TextMatch::Present, TextMatch::Present),
        (Some((issuer, subject)), true) => (TextMatch::parse(issuer), exact(subject)),
        (Some((issuer, subject)), false) => (exact(issuer), TextMatch::parse(subject)),
        (None, true) => (TextMatch::Present, TextMatch::parse(value)),
        (None, false) if value.ends_with('*') => (TextMatch::parse(value), TextMatch::Present),
        (None, false) => (exact(value), exact("")),
    };
    values.iter().map(parse).collect()
}

/// `namespace/account`, or `account` of the policy's namespace.
fn accounts(values: &[String], namespace: &str) -> Vec<(TextMatch, TextMatch)> {
    let exact = |text: &str| TextMatch::Exact(text.into());
    let parse = |value: &String| match value.split_once('/') {
        Some((namespace, account)) => (exact(namespace), exact(account)),
        None => (exact(namespace), exact(value)),
    };
    values.iter().map(parse).collect()
}

fn blocks(values: &[String]) -> Result<Vec<IpNet>, String> {
    let parse = |value: &String| {
        let address = || value.parse::<std::net::IpAddr>().map(IpNet::from);
        value.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
            format!("\"{value}\" is neither an address nor a block such as 10.0.0.0/8")
        })
    };
    values.iter().map(parse).collect()
}

fn ports(values: &[String]) -> Result<Vec<u16>, String> {
    let parse = |value: &String| value.parse().map_err(|_| format!("\"{value}\" is not a port"));
    values.iter().map(parse).collect()
}

#[cfg(test)]
mod tests;
