//! Rules across fields: what Istio's webhook refuses or warns about, per resource.
//!
//! A finding here says that Istio would not admit the resource; whether it is used all the same is
//! for the compiler to decide. References to other resources are the compiler's too.
//!
//! **Invariant**: every finding carries the place of the field it is about.

use std::collections::BTreeSet;

use super::place::Places;
use crate::base::host::HostPattern;
use crate::base::id::ResourceId;
use crate::diag::{Code, Diagnostic, catalog};

pub(super) mod destination_rule;
pub(super) mod gateway;
pub(super) mod security;
pub(super) mod service_entry;
mod traffic;
pub(super) mod virtual_service;

/// What is checked of a kind.
pub(super) type Check<T> = fn(&T, &mut Findings<'_>);

/// Nothing is: for kinds that are not Istio's.
pub(super) fn nothing<T>(_: &T, _: &mut Findings<'_>) {}

/// Checks one resource.
pub(super) fn validate<T>(
    id: &ResourceId,
    spec: &T,
    places: &Places,
    check: Check<T>,
) -> Box<[Diagnostic]> {
    let mut out = Vec::new();
    let place = |diagnostic: Diagnostic, path: &str| {
        diagnostic.at(places.location(path)).field(path).resource(id.clone())
    };
    check(spec, &mut Findings { namespace: &id.namespace, place: &place, out: &mut out });
    out.into_boxed_slice()
}

/// Collects the findings about one resource.
pub(super) struct Findings<'a> {
    namespace: &'a str,
    place: &'a dyn Fn(Diagnostic, &str) -> Diagnostic,
    out: &'a mut Vec<Diagnostic>,
}

impl Findings<'_> {
    fn add(&mut self, code: &'static Code, path: &str, message: impl Into<String>) {
        self.out.push((self.place)(Diagnostic::new(code, message), path));
    }

    /// A rule of Istio's validation is broken.
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.add(&catalog::SCHEMA_ERROR, path, message);
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

    /// A host pattern: a name, `*.name` or `*`.
    fn host(&mut self, host: &str, path: &str) {
        if let Err(error) = HostPattern::parse(host) {
            self.add(&catalog::INVALID_HOST, path, error.to_string());
        }
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

    /// At least one millisecond, in whole milliseconds.
    fn duration(&mut self, duration: Option<super::meta::ProtoDuration>, path: &str) {
        let Some(duration) = duration else { return };
        if duration.0.as_millis() == 0 || duration.0.subsec_nanos() % 1_000_000 != 0 {
            self.error(path, "the duration must be at least 1ms, in whole milliseconds");
        }
    }

    /// A duration that may also be zero, which switches it off.
    fn duration_or_off(&mut self, duration: Option<super::meta::ProtoDuration>, path: &str) {
        self.duration(duration.filter(|duration| !duration.0.is_zero()), path);
    }

    /// `exportTo`: `.`, `*`, `~` or namespaces, none twice, `*` and `~` alone.
    fn export_to(&mut self, targets: &[String]) {
        let own = self.namespace.to_owned();
        let mut seen = BTreeSet::new();
        for (index, target) in targets.iter().enumerate() {
            let path = format!("spec.exportTo[{index}]");
            let plain = if target == "." { own.as_str() } else { target.as_str() };
            if !matches!(plain, "*" | "~") && !super::name::is_dns_label(plain) {
                self.error(
                    &path,
                    format!("\"{target}\" is not a namespace, \".\", \"*\" or \"~\""),
                );
            }
            if !seen.insert(plain) {
                self.error(&path, format!("\"{target}\" is repeated"));
            }
        }
        let alone = seen.contains("*") || seen.contains("~");
        self.error_if(alone && seen.len() > 1, "spec.exportTo", "\"*\" and \"~\" must stand alone");
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
    const KNOWN: &[&str] =
        &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "REDIS", "MYSQL"];
    KNOWN.iter().any(|known| known.eq_ignore_ascii_case(protocol))
}

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
