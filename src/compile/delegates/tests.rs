use super::*;
use crate::resources::{ConfigFile, parse};

fn resources(root: &str, delegate: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: root, \
         namespace: edge}}\nspec: {{hosts: [a.com], gateways: [gw], http: [{{name: r, delegate: \
         {{name: part, namespace: shop}}, {root}}}]}}\n---\napiVersion: \
         networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: part, namespace: \
         shop}}\nspec: {delegate}\n"
    )
}

/// The rules of the root of a text, and what is told.
fn merge(yaml: &str) -> (Vec<HttpRoute>, Vec<&'static str>) {
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
    let parsed = parse(&[file]);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let mut findings = Findings::default();
    let services = &parsed.set.virtual_services;
    let root = services.iter().find(|one| &*one.id.name == "root").unwrap();
    let found = rules(root, &parsed.set, &mut findings);
    let found = found.into_iter().map(|placed| placed.rule.into_owned()).collect();
    (found, findings.finish().iter().map(|d| d.code.id).collect())
}

/// The rules of a root with one rule that delegates: their names, uris and timeouts.
fn check(root: &str, delegate: &str, expected: &[&str], codes: &[&str]) {
    let (found, told) = merge(&resources(root, delegate));
    let shown: Vec<_> = found
        .iter()
        .map(|rule| {
            let uris: Vec<_> = rule.r#match.iter().map(|one| format!("{:?}", one.uri)).collect();
            format!("{} {} {:?}", rule.name, uris.join(","), rule.timeout)
        })
        .collect();
    assert_eq!(shown, expected, "{root:?} {delegate}");
    assert_eq!(told, codes, "{delegate}");
}

const TO: &str = "route: [{destination: {host: c}}]";

#[test]
fn a_delegates_rules_are_narrowed_by_the_root_and_filled_from_it() {
    let delegate = format!(
        "{{http: [{{name: d, match: [{{uri: {{prefix: /a/x}}}}], {TO}}}, {{timeout: 2s, {TO}}}]}}"
    );
    check(
        "timeout: 1s, match: [{uri: {prefix: /a}}, {uri: {exact: /b}}]",
        &delegate,
        &[
            "r-d Some(Prefix(\"/a/x\")) Some(ProtoDuration(1s))",
            "r Some(Prefix(\"/a\")),Some(Exact(\"/b\")) Some(ProtoDuration(2s))",
        ],
        &[],
    );
}

#[test]
fn rules_that_do_not_fit_disappear() {
    let with = |uri: &str| format!("{{http: [{{match: [{{uri: {uri}}}], {TO}}}]}}");
    for uri in ["{prefix: /b}", "{regex: '/a.*'}", "{exact: /b}"] {
        check("match: [{uri: {prefix: /a}}]", &with(uri), &[], &["PC045"]);
    }
}

#[test]
fn a_delegates_match_has_to_be_within_one_of_the_roots() {
    let fits = |root: &str, own: &str, fits: bool| {
        let delegate = format!("{{http: [{{match: [{{{own}}}], {TO}}}]}}");
        let yaml = resources(&format!("match: [{{{root}}}]"), &delegate);
        let (found, codes) = merge(&yaml);
        assert_eq!(found.len(), usize::from(fits), "{root} {own}");
        assert_eq!(codes, if fits { vec![] } else { vec!["PC045"] }, "{root} {own}");
    };
    for (root, own, expected) in [
        ("uri: {prefix: /a}", "uri: {exact: /a/b}", true),
        ("uri: {prefix: /a/b}", "uri: {prefix: /a}", false),
        ("uri: {exact: /a}", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {prefix: /a}", false),
        ("uri: {regex: '/a.*'}", "uri: {regex: '/a.*'}", false),
        ("uri: {prefix: ''}", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a}, ignoreUriCase: true", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a}", "method: {exact: GET}", true),
        ("method: {exact: GET}", "method: {exact: POST}", false),
        ("scheme: {exact: https}", "scheme: {exact: http}", false),
        ("authority: {prefix: a}", "authority: {exact: a.com}", true),
        ("headers: {a: {exact: x}}", "headers: {b: {exact: z}}", true),
        ("headers: {a: {exact: x}}", "headers: {a: {exact: z}}", false),
        ("headers: {a: {}}", "headers: {a: {exact: z}}", false),
        ("withoutHeaders: {a: {prefix: x}}", "withoutHeaders: {a: {prefix: xy}}", true),
        ("queryParams: {a: {exact: x}}", "queryParams: {a: {exact: z}}", false),
        ("port: 80", "port: 81", false),
        ("port: 80", "uri: {prefix: /a}", true),
        ("sourceLabels: {a: b}", "sourceLabels: {a: c}", false),
        ("sourceLabels: {a: b}", "sourceLabels: {c: d}", true),
        ("sourceNamespace: x", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a}", "sourceNamespace: x", true),
        ("gateways: [edge/gw]", "gateways: [edge/gw]", true),
        ("gateways: [edge/gw]", "gateways: [edge/other]", false),
    ] {
        fits(root, own, expected);
    }
}

#[test]
fn a_roots_answer_is_its_delegates_where_they_have_none() {
    let delegate = format!("{{http: [{{{TO}}}, {{directResponse: {{status: 202}}}}]}}");
    let yaml = resources("directResponse: {status: 201}", &delegate);
    let (found, codes) = merge(&yaml);
    let statuses: Vec<_> =
        found.iter().map(|rule| rule.direct_response.as_ref().unwrap().status).collect();
    assert_eq!((statuses, codes), (vec![201, 202], vec![]));
}

#[test]
fn what_a_broken_delegate_was_to_serve_has_nowhere_to_go() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: root, \
                namespace: edge}\nspec: {hosts: [a.com], gateways: [gw], http: [{name: r, match: \
                [{uri: {prefix: /a}}], delegate: {name: part, namespace: shop}}, {delegate: {name: \
                none}}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: \
                {name: part, namespace: shop}\nspec: {http: 1}\n";
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
    let set = parse(&[file]).set;
    let mut findings = Findings::default();
    let found = rules(&set.virtual_services[0], &set, &mut findings);
    let [one] = &found[..] else { panic!("{found:?}") };
    assert!(one.rule.name == "r" && one.rule.delegate.is_some());
    let codes: Vec<_> = findings.finish().iter().map(|d| d.code.id).collect();
    assert_eq!(codes, ["PC045", "IST0101"]);
}

#[test]
fn matches_multiply_up_to_a_bound() {
    let list = |part: &str, count: usize| {
        (0..count).map(|n| part.replace('N', &n.to_string())).collect::<Vec<_>>().join(",")
    };
    let root = format!("match: [{}]", list("{headers: {hN: {exact: a}}}", 100));
    let delegate =
        |count| format!("{{http: [{{match: [{}], {TO}}}]}}", list("{uri: {exact: /N}}", count));
    let count = |delegate: &str| {
        let (found, codes) = merge(&resources(&root, delegate));
        (found.iter().map(|rule| rule.r#match.len()).sum::<usize>(), codes)
    };
    assert_eq!(count(&delegate(100)), (10_000, vec![]));
    assert_eq!(count(&delegate(101)), (100, vec!["PC045"]));
}

#[test]
fn a_delegate_that_cannot_be_seen_is_told() {
    let hidden = format!("{{exportTo: ['.'], http: [{{{TO}}}]}}");
    check("timeout: 1s", &hidden, &[], &["IST0101"]);
    let root = format!("{{hosts: [b.com], http: [{{{TO}}}]}}");
    check("timeout: 1s", &root, &[], &["IST0101"]);
}
