//! Rules and matches of a VirtualService that nothing reaches, because an earlier one takes it all
//! (IST0130, IST0131).
//!
//! **Invariant**: what is told is certain. Where it would take more than a comparison of what is
//! written, such as one regular expression within another, nothing is told.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::base::limit;
use crate::diag::catalog;
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::{HttpMatch, L4Match, TlsMatch, VirtualService};
use crate::resources::{Labels, Resource, ResourceSet};

use super::delegates;
use super::findings::{Findings, at};
use super::names::reference;

/// Tells of every VirtualService that has hosts, with its delegates in their places.
pub fn tell(set: &ResourceSet, findings: &mut Findings) {
    for root in set.virtual_services.iter().filter(|one| !one.spec.hosts.is_empty()) {
        let spec = &root.spec;
        let seen = Seen { namespace: &root.id.namespace, gateways: &spec.gateways };
        // What is wrong with delegates is told where their rules are compiled.
        let placed = delegates::rules(root, set, &mut Findings::default());
        let http: Vec<_> = placed
            .iter()
            .map(|placed| Rule {
                resource: placed.resource,
                field: placed.field.clone(),
                matches: &placed.rule.r#match,
                as_written: matches!(placed.rule, Cow::Borrowed(_)),
            })
            .collect();
        tell_rules(&http, |one, other| seen.http(one, other), findings);
        let rule = |field, matches| Rule { resource: root, field, matches, as_written: true };
        let tls = spec.tls.iter().enumerate();
        let tls: Vec<_> =
            tls.map(|(index, tls)| rule(format!("spec.tls[{index}]"), &*tls.r#match)).collect();
        tell_rules(&tls, |one, other| seen.tls(one, other), findings);
        let rule = |field, matches| Rule { resource: root, field, matches, as_written: true };
        let tcp = spec.tcp.iter().enumerate();
        let tcp: Vec<_> =
            tcp.map(|(index, tcp)| rule(format!("spec.tcp[{index}]"), &*tcp.r#match)).collect();
        tell_rules(&tcp, |one, other| seen.l4(one, other), findings);
    }
}

/// A rule of any protocol, reduced to what it takes.
struct Rule<'a, M> {
    resource: &'a Resource<VirtualService>,
    field: String,
    matches: &'a [M],
    /// Whether the matches are those of the resource, at the same places: a delegate's are not.
    as_written: bool,
}

fn tell_rules<M: Default>(
    rules: &[Rule<'_, M>],
    covers: impl Fn(&M, &M) -> bool,
    findings: &mut Findings,
) {
    let everything = [M::default()];
    let mut earlier: Vec<(&M, &Rule<'_, M>)> = Vec::new();
    let mut left = limit::MATCH_COMPARISONS;
    for rule in rules {
        let matches = if rule.matches.is_empty() { &everything } else { rule.matches };
        let mut taken = Vec::new();
        for (index, one) in matches.iter().enumerate() {
            let compared = earlier.iter().position(|(other, _)| covers(other, one));
            left = left.saturating_sub(compared.map_or(earlier.len(), |at| at + 1));
            match compared.and_then(|at| earlier.get(at)) {
                Some((_, by)) => taken.push((index, *by)),
                None => earlier.push((one, rule)),
            }
            if left == 0 {
                return;
            }
        }
        if taken.len() == matches.len() {
            if let Some((_, by)) = taken.last() {
                let message = format!("{} takes whatever this rule would", by.seen_from(rule));
                let field = rule.field.as_str();
                findings.add(at(rule.resource, field, &catalog::UNREACHABLE_RULE, message));
            }
        } else if rule.as_written {
            for (index, by) in taken {
                let message = format!("{} takes whatever this match would", by.seen_from(rule));
                let field = format!("{}.match[{index}]", rule.field);
                findings.add(at(rule.resource, field, &catalog::INEFFECTIVE_MATCH, message));
            }
        }
    }
}

impl<M> Rule<'_, M> {
    /// Its name in a finding about another rule.
    fn seen_from(&self, other: &Self) -> String {
        if std::ptr::eq(self, other) {
            "another match of the rule".to_owned()
        } else if self.resource.id == other.resource.id {
            self.field.clone()
        } else {
            format!("{} of {}", self.field, self.resource.id)
        }
    }
}

/// What matches mean where their VirtualService is written. Each function says whether everything
/// that the second match takes is taken by the first.
struct Seen<'a> {
    namespace: &'a str,
    gateways: &'a [String],
}

impl Seen<'_> {
    fn http(&self, one: &HttpMatch, other: &HttpMatch) -> bool {
        let case = (one.ignore_uri_case, other.ignore_uri_case);
        let values = [
            (&one.scheme, &other.scheme),
            (&one.method, &other.method),
            (&one.authority, &other.authority),
        ];
        self.place((one.port, &one.gateways), (other.port, &other.gateways))
            && workload(
                (&one.source_labels, &one.source_namespace),
                (&other.source_labels, &other.source_namespace),
            )
            && path(one.uri.as_ref(), other.uri.as_ref(), case)
            && values.iter().all(|(one, other)| value(one.as_ref(), other.as_ref()))
            && each(&one.headers, &other.headers, str::eq_ignore_ascii_case)
            && each(&one.query_params, &other.query_params, |one, other| one == other)
            // What must be absent is compared to the letter.
            && one.without_headers.iter().all(|(name, absent)| {
                other.without_headers.get(name).is_some_and(|other| other == absent)
            })
    }

    /// Names decide by how exact they are, not by the order of rules: only the same name is taken.
    fn tls(&self, one: &TlsMatch, other: &TlsMatch) -> bool {
        self.place((one.port, &one.gateways), (other.port, &other.gateways))
            && workload(
                (&one.source_labels, &one.source_namespace),
                (&other.source_labels, &other.source_namespace),
            )
            && !other.sni_hosts.is_empty()
            && other
                .sni_hosts
                .iter()
                .all(|name| one.sni_hosts.iter().any(|known| known.eq_ignore_ascii_case(name)))
            && one.destination_subnets == other.destination_subnets
    }

    fn l4(&self, one: &L4Match, other: &L4Match) -> bool {
        self.place((one.port, &one.gateways), (other.port, &other.gateways))
            && workload(
                (&one.source_labels, &one.source_namespace),
                (&other.source_labels, &other.source_namespace),
            )
            && one.destination_subnets == other.destination_subnets
            && one.source_subnet == other.source_subnet
    }

    fn place(&self, one: (u32, &[String]), other: (u32, &[String])) -> bool {
        let (port, gateways) = one;
        let others = if other.1.is_empty() { self.gateways } else { other.1 };
        let named = |name| reference(name, self.namespace);
        (port == 0 || port == other.0)
            && (gateways.is_empty()
                || (!others.is_empty()
                    && others
                        .iter()
                        .all(|other| gateways.iter().any(|name| named(name) == named(other)))))
    }
}

/// Who a match is for.
fn workload(one: (&Labels, &str), other: (&Labels, &str)) -> bool {
    one.0.iter().all(|(name, value)| other.0.get(name) == Some(value))
        && (one.1.is_empty() || one.1 == other.1)
}

fn path(
    one: Option<&StringMatch>,
    other: Option<&StringMatch>,
    (ignores, other_ignores): (bool, bool),
) -> bool {
    let everything = one.is_none_or(|one| match one {
        StringMatch::Prefix(prefix) => prefix.is_empty() || prefix == "/",
        StringMatch::Regex(regex) => regex == ".*",
        StringMatch::Exact(_) | StringMatch::Present => false,
    });
    if everything {
        return true;
    }
    if !ignores {
        return !other_ignores && value(one, other);
    }
    let lower = |written: Option<&StringMatch>| {
        written.cloned().map(|written| match written {
            StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
            StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
            other => other,
        })
    };
    value(lower(one).as_ref(), lower(other).as_ref())
}

fn value(one: Option<&StringMatch>, other: Option<&StringMatch>) -> bool {
    match (one, other) {
        (None, _) | (Some(StringMatch::Present), Some(_)) => true,
        (Some(_), None) => false,
        (
            Some(StringMatch::Prefix(one)),
            Some(StringMatch::Exact(other) | StringMatch::Prefix(other)),
        ) => other.starts_with(one.as_str()),
        (Some(one), Some(other)) => one == other,
    }
}

/// Whether each of the one's conditions follows from the other's on the same name.
fn each(
    one: &BTreeMap<String, StringMatch>,
    other: &BTreeMap<String, StringMatch>,
    same: impl Fn(&str, &str) -> bool,
) -> bool {
    one.iter().all(|(name, asked)| {
        let mut others = other.iter().filter(|(known, _)| same(name, known));
        others.any(|(_, known)| value(Some(asked), Some(known)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{ConfigFile, parse};

    /// Rules of one VirtualService: what is told of them.
    fn check(rules: &str, expected: &[&str]) {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a, \
             namespace: shop}}\nspec:\n  hosts: [a.com, '*.a.com']\n  gateways: [gw, edge/gw]\n  \
             {rules}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: \
             {{name: part, namespace: shop}}\nspec: {{http: [{{match: [{{uri: {{prefix: /p/a}}}}], \
             {TO}}}, {{match: [{{uri: {{prefix: /p/a/b}}}}], {TO}}}]}}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{rules}: {:?}", parsed.diagnostics);
        let mut findings = Findings::default();
        tell(&parsed.set, &mut findings);
        let found = findings.finish();
        let shown: Vec<_> =
            found.iter().map(|d| format!("{} {}: {}", d.code.id, d.field, d.message)).collect();
        assert_eq!(shown, expected, "{rules}");
    }

    const TO: &str = "route: [{destination: {host: c.internal}}]";

    /// Two http rules with a match each: whether the second is told to be unreachable.
    fn check_pair(first: &str, second: &str, is_taken: bool) {
        let told = ["IST0130 spec.http[1]: spec.http[0] takes whatever this rule would"];
        let expected: &[&str] = if is_taken { &told } else { &[] };
        check(
            &format!("http: [{{match: [{first}], {TO}}}, {{match: [{second}], {TO}}}]"),
            expected,
        );
    }

    #[test]
    fn a_rule_behind_one_that_takes_the_same_or_more_is_told() {
        for (first, second) in [
            ("{uri: {prefix: /a}}", "{uri: {prefix: /a}}"),
            ("{name: one, uri: {prefix: /a}}", "{name: two, uri: {exact: /a/b}}"),
            ("{uri: {prefix: /}}", "{uri: {regex: '/x.*'}}"),
            ("{uri: {regex: '.*'}}", "{method: {exact: GET}}"),
            ("{uri: {regex: '/a[0-9]'}}", "{uri: {regex: '/a[0-9]'}, port: 443}"),
            ("{uri: {prefix: /A}, ignoreUriCase: true}", "{uri: {exact: /aB}}"),
            ("{headers: {X-A: {}}}", "{headers: {x-a: {exact: b}, x-b: {exact: c}}}"),
            ("{queryParams: {q: {prefix: a}}}", "{queryParams: {q: {exact: ab}}}"),
            ("{withoutHeaders: {x: {exact: a}}}", "{withoutHeaders: {x: {exact: a}}, port: 80}"),
            ("{gateways: [gw, edge/gw]}", "{uri: {prefix: /a}}"),
            ("{gateways: [shop/gw]}", "{gateways: [gw]}"),
            ("{sourceNamespace: shop}", "{sourceNamespace: shop, sourceLabels: {a: b}}"),
        ] {
            check_pair(first, second, true);
        }
    }

    #[test]
    fn a_rule_that_something_may_reach_is_not_told() {
        for (first, second) in [
            ("{uri: {prefix: /a/b}}", "{uri: {prefix: /a}}"),
            ("{uri: {exact: /a}}", "{uri: {prefix: /a}}"),
            ("{uri: {regex: '/a.*'}}", "{uri: {exact: /ab}}"),
            ("{uri: {prefix: /a}}", "{uri: {prefix: /a}, ignoreUriCase: true}"),
            ("{port: 80}", "{uri: {prefix: /a}}"),
            ("{port: 80}", "{port: 443}"),
            ("{gateways: [gw]}", "{uri: {prefix: /a}}"),
            ("{sourceLabels: {a: b}}", "{uri: {prefix: /a}}"),
            ("{sourceNamespace: shop}", "{uri: {prefix: /a}}"),
            ("{method: {exact: GET}}", "{uri: {prefix: /a}}"),
            ("{headers: {x-a: {exact: a}}}", "{headers: {x-a: {exact: b}}}"),
            ("{headers: {x-a: {}}}", "{headers: {x-b: {}}}"),
            ("{queryParams: {Q: {exact: a}}}", "{queryParams: {q: {exact: a}}}"),
            ("{withoutHeaders: {x: {exact: a}}}", "{withoutHeaders: {x: {exact: b}}}"),
            ("{withoutHeaders: {x: {exact: a}}}", "{uri: {prefix: /a}}"),
        ] {
            check_pair(first, second, false);
        }
    }

    #[test]
    fn a_rule_without_a_match_takes_all_that_follow() {
        check(
            &format!("http: [{{{TO}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{{TO}}}]"),
            &[
                "IST0130 spec.http[1]: spec.http[0] takes whatever this rule would",
                "IST0130 spec.http[2]: spec.http[0] takes whatever this rule would",
            ],
        );
        check(&format!("http: [{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{{TO}}}]"), &[]);
    }

    #[test]
    fn a_match_that_has_no_effect_in_a_rule_that_has_some_is_told() {
        check(
            &format!(
                "http: [{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{match: [{{uri: {{exact: \
                 /b}}}}, {{uri: {{exact: /a/x}}}}, {{uri: {{exact: /b}}}}], {TO}}}]"
            ),
            &[
                "IST0131 spec.http[1].match[1]: spec.http[0] takes whatever this match would",
                "IST0131 spec.http[1].match[2]: another match of the rule takes whatever this \
                 match would",
            ],
        );
    }

    #[test]
    fn delegates_are_judged_in_their_place() {
        let delegate = "{delegate: {name: part}, match: [{uri: {prefix: /p}}]}";
        check(
            &format!("http: [{delegate}, {{match: [{{uri: {{prefix: /p/a}}}}], {TO}}}]"),
            &[
                "IST0130 spec.http[1]: spec.http[0] of VirtualService shop/part takes whatever \
                 this rule would",
                "IST0130 spec.http[1]: spec.http[0] takes whatever this rule would",
            ],
        );
        check(
            &format!("http: [{{match: [{{uri: {{prefix: /p/a/b}}}}], {TO}}}, {delegate}]"),
            &["IST0130 spec.http[1]: spec.http[0] of VirtualService shop/a takes whatever this \
               rule would"],
        );
    }

    #[test]
    fn names_and_ports_decide_between_tls_and_between_tcp_rules() {
        let two = |kind: &str, first: &str, second: &str| {
            format!("{kind}: [{{match: [{first}], {TO}}}, {{match: [{second}], {TO}}}]")
        };
        check(
            &two("tls", "{sniHosts: [x.a.com, a.com]}", "{sniHosts: [a.com], port: 443}"),
            &["IST0130 spec.tls[1]: spec.tls[0] takes whatever this rule would"],
        );
        check(&two("tls", "{sniHosts: ['*.a.com']}", "{sniHosts: [x.a.com]}"), &[]);
        check(&two("tls", "{sniHosts: [a.com], port: 1}", "{sniHosts: [a.com], port: 2}"), &[]);
        check(
            &two("tcp", "{port: 1}", "{port: 1, gateways: [gw]}"),
            &["IST0130 spec.tcp[1]: spec.tcp[0] takes whatever this rule would"],
        );
        check(&two("tcp", "{port: 1}", "{port: 2}"), &[]);
    }
}
