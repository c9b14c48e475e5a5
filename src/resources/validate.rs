//! Rules across fields: what Istio's webhook refuses or warns about, per resource.
//!
//! What the webhook refuses is not used. What it lets in and cannot work here is an error of a code of
//! our own, and the compiler decides what becomes of it. References to other resources are the
//! compiler's too.
//!
//! **Invariant**: every finding carries the place of the field it is about.

use std::collections::BTreeSet;

use super::authorization_policy::DRY_RUN;
use super::meta::Meta;
use super::name;
use super::place::Places;
use crate::base::host::HostPattern;
use crate::base::id::ResourceId;
use crate::diag::{Code, Diagnostic, catalog};

pub(super) mod destination_rule;
pub(super) mod gateway;
mod headers;
mod locality;
mod names;
pub(super) mod security;
pub(super) mod service_entry;
mod traffic;
pub(super) mod virtual_service;

/// What is checked of a kind.
pub(super) type Check<T> = fn(&T, &mut Findings<'_>);

/// Nothing is: for kinds that are not Istio's.
pub(super) fn nothing<T>(_: &T, _: &mut Findings<'_>) {}

/// What was found about a resource.
pub(super) struct Verdict {
    pub(super) findings: Vec<Diagnostic>,
    /// Whether Istio's webhook lets it in.
    pub(super) admitted: bool,
}

/// Checks one resource of Istio's.
pub(super) fn validate<T>(
    id: &ResourceId,
    (meta, spec): (&Meta, &T),
    places: &Places,
    check: Check<T>,
) -> Verdict {
    let place = |diagnostic: Diagnostic, path: &str| {
        diagnostic.at(places.location(path)).field(path).resource(id.clone())
    };
    let verdict = Verdict { findings: Vec::new(), admitted: true };
    let mut findings = Findings { meta, place: &place, verdict };
    if !matches!(id.kind, "Secret" | "Service" | "EndpointSlice") {
        annotations(id.kind, &mut findings);
    }
    check(spec, &mut findings);
    findings.verdict
}

/// Annotations of Istio's own that a user may not write.
fn annotations(kind: &str, findings: &mut Findings<'_>) {
    const RESERVED: [&str; 3] = [
        "internal.istio.io/webhook-always-reject",
        "internal.istio.io/parent-namespace",
        "internal.istio.io/parents",
    ];
    let all = &findings.meta.annotations;
    if let Some(name) = RESERVED.into_iter().find(|name| all.contains_key(*name)) {
        let message = format!("only Istio itself may write \"{name}\": remove it");
        findings.error(&format!("metadata.annotations.{name}"), message);
    }
    if kind != "AuthorizationPolicy" && all.contains_key(DRY_RUN) {
        let message = "only an AuthorizationPolicy has a dry run: remove the annotation";
        findings.error(&format!("metadata.annotations.{DRY_RUN}"), message);
    }
}

/// Collects the findings about one resource.
pub(super) struct Findings<'a> {
    meta: &'a Meta,
    place: &'a dyn Fn(Diagnostic, &str) -> Diagnostic,
    verdict: Verdict,
}

impl Findings<'_> {
    fn add(&mut self, code: &'static Code, path: &str, message: impl Into<String>) {
        self.verdict.findings.push((self.place)(Diagnostic::new(code, message), path));
    }

    /// A rule of Istio's validation is broken.
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.refuse(&catalog::SCHEMA_ERROR, path, message);
    }

    fn refuse(&mut self, code: &'static Code, path: &str, message: impl Into<String>) {
        self.verdict.admitted = false;
        self.add(code, path, message);
    }

    /// Istio's validation refuses it; here a part of the resource is set aside, and the rest is used.
    fn error_of_part(&mut self, path: &str, message: &str, help: &str) {
        let finding = Diagnostic::new(&catalog::SCHEMA_ERROR, message).help(help);
        self.verdict.findings.push((self.place)(finding, path));
    }

    /// Istio's validation lets it in, and it cannot work.
    fn unworkable_if(&mut self, wrong: bool, path: &str, message: &str) {
        if wrong {
            self.add(&catalog::UNWORKABLE, path, message);
        }
    }

    /// Istio's validation warns.
    fn warning(&mut self, path: &str, message: impl Into<String>) {
        self.add(&catalog::SCHEMA_WARNING, path, message);
    }

    fn error_if(&mut self, wrong: bool, path: &str, message: &str) {
        if wrong {
            self.error(path, message);
        }
    }

    fn not_empty(&mut self, text: &str, path: &str) {
        self.error_if(text.is_empty(), path, "the field is required");
    }

    /// A host pattern: a name, `*.name` or `*`. Istio lets `*name` in as well.
    fn host(&mut self, host: &str, path: &str) {
        self.host_if(name::is_wildcard_domain(host), host, path);
    }

    /// A host that Istio lets in or does not; what no host can match here is told of as well.
    fn host_if(&mut self, admitted: bool, host: &str, path: &str) {
        let message = match HostPattern::parse(host) {
            Ok(_) if admitted => return,
            Ok(_) => format!(
                "\"{host}\" is not a host: labels have letters, digits and \"-\", and the last is no number"
            ),
            Err(error) => error.to_string(),
        };
        self.verdict.admitted &= admitted;
        self.add(&catalog::INVALID_HOST, path, message);
    }

    fn port(&mut self, number: u32, path: &str) {
        if !(1..=65_535).contains(&number) {
            self.error(path, format!("port {number} is not between 1 and 65535"));
        }
    }

    fn percent(&mut self, value: f64, path: &str) {
        if !(0.0..=100.0).contains(&value) {
            self.error(path, format!("{value} is not between 0 and 100"));
        }
    }

    /// The status of an answer. Istio takes 600 for one; Envoy does not.
    fn status(&mut self, status: i64, path: &str) {
        let message = "the status is between 200 and 599";
        self.error_if(!(200..=600).contains(&status), path, message);
        self.unworkable_if(status == 600, path, message);
    }

    /// A share of requests, which are counted in millionths.
    fn share(&mut self, percent: Option<super::meta::Percent>, path: &str) {
        let Some(super::meta::Percent { value }) = percent else { return };
        self.percent(value, path);
        let message = "a share is 0, or at least 0.0001 percent";
        self.error_if(value > 0.0 && value < 0.0001, path, message);
    }

    /// At least one millisecond, in whole milliseconds.
    fn duration(&mut self, duration: Option<super::meta::ProtoDuration>, path: &str) {
        let Some(duration) = duration else { return };
        if duration.0.as_millis() == 0 || duration.0.subsec_nanos() % 1_000_000 != 0 {
            self.error(path, "the duration must be at least 1ms, in whole milliseconds");
        }
    }

    /// `exportTo`: `.`, `*` or namespaces, none twice, `*` alone; so is `~`, which only `services` have.
    fn export_to(&mut self, targets: &[String], services: bool) {
        let own = &*self.meta.namespace;
        let (nobody, words) = if services { ("~", ", \"*\" or \"~\"") } else { ("*", " or \"*\"") };
        let mut seen = BTreeSet::new();
        for (index, target) in targets.iter().enumerate() {
            let path = format!("spec.exportTo[{index}]");
            let plain = if target == "." { own } else { target.as_str() };
            if plain != "*" && plain != nobody && !name::is_label(plain) {
                self.error(&path, format!("\"{target}\" is not a namespace, \".\"{words}"));
            }
            if !seen.insert(plain) {
                self.error(&path, format!("\"{target}\" is repeated"));
            }
        }
        let alone = ["*", nobody].into_iter().find(|word| seen.contains(word) && seen.len() > 1);
        if let Some(word) = alone {
            self.error("spec.exportTo", format!("\"{word}\" must stand alone"));
        }
    }

    /// Labels that something has.
    fn labels(&mut self, labels: &super::Labels, path: &str) {
        for (key, value) in labels {
            let path = format!("{path}.{key}");
            if !name::is_label_key(key) {
                self.error(&path, format!("\"{key}\" is not a label's name"));
            }
            if !name::is_label_value(value) {
                self.error(&path, format!("\"{value}\" is not a label's value"));
            }
        }
    }

    /// Gateways by name: `name`, `namespace/name` or `mesh`. Istio looks no further than the first without
    /// a namespace.
    fn gateways(&mut self, names: &[String], path: &str) {
        let first = names.iter().position(|text| !text.contains('/')).unwrap_or(names.len());
        for (index, text) in names.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let known = match text.split_once('/') {
                Some((namespace, name)) => name::is_label(namespace) && name::is_label(name),
                None => name::is_fqdn(text),
            };
            if !known {
                let message = format!("\"{text}\" is not a Gateway: write name or namespace/name");
                if index <= first {
                    self.error(&path, message);
                } else {
                    self.add(&catalog::UNWORKABLE, &path, message);
                }
            } else if !text.contains('/')
                && let Some((name, rest)) = text.split_once('.')
            {
                let namespace = rest.split_once('.').map_or(rest, |(namespace, _)| namespace);
                let message = format!("write \"{namespace}/{name}\": this form is deprecated");
                self.add(&catalog::DEPRECATED, &path, message);
            }
        }
    }

    /// Addresses and blocks of them.
    fn subnets(&mut self, subnets: &[String], path: &str) {
        for (index, text) in subnets.iter().enumerate().filter(|(_, text)| !name::is_subnet(text)) {
            let message = format!("\"{text}\" is not an address or a block such as 10.0.0.0/8");
            self.error(&format!("{path}[{index}]"), message);
        }
    }

    /// Labels of a selector: no empty key, no wildcard in a value.
    fn selector(&mut self, labels: &super::Labels, path: &str) {
        if labels.is_empty() {
            self.warning(path, "the selector has no label and selects every workload");
        }
        for (key, value) in labels {
            let path = format!("{path}.{key}");
            self.error_if(key.is_empty(), &path, "a label needs a name");
            let wildcard = key.contains('*') || value.contains('*');
            self.error_if(wildcard, &path, "wildcards do not work in a selector");
        }
    }
}

/// Whether something occurs twice; gives the index of the later one.
fn repeated<'a>(items: impl Iterator<Item = &'a str>) -> Option<usize> {
    let mut seen = BTreeSet::new();
    items.enumerate().find(|(_, item)| !seen.insert(*item)).map(|(index, _)| index)
}

/// The protocols a port may name.
fn is_protocol(protocol: &str) -> bool {
    const BYTES: [&str; 5] = ["MONGO", "TCP", "REDIS", "MYSQL", "UDP"];
    is_any(protocol, &BYTES) || is_any(protocol, &HTTP) || is_any(protocol, &TLS)
}

/// Protocols of requests.
const HTTP: [&str; 5] = ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY"];
/// Protocols with a ClientHello.
const TLS: [&str; 2] = ["HTTPS", "TLS"];

/// Whether a protocol is one of these, in any letter case.
fn is_any(protocol: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(protocol))
}

#[cfg(test)]
mod case_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
