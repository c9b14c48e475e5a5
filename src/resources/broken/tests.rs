use super::*;
use crate::resources::{ConfigFile, parse};

/// Hosts that a broken document may have restricted; `*` for every one.
fn check(kind: &str, spec: &str, expected: &[&str]) {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"
    );
    let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
    let set = parse(&[file]).set;
    let found: Vec<&str> = match &set.broken.first().unwrap().restricted {
        Restricted::Nothing => Vec::new(),
        Restricted::Hosts(hosts) => hosts.iter().map(|host| &**host).collect(),
        Restricted::Anything => vec!["*"],
    };
    assert_eq!(found, expected, "{spec}");
}

#[test]
fn a_rule_restricts_its_host_and_a_host_that_cannot_be_read_is_every_one() {
    check("DestinationRule", "{host: a.com, subsets: 1}", &["a.com"]);
    check("DestinationRule", "{host: '', subsets: 1}", &["*"]);
    check("DestinationRule", "{host: {a: b}}", &["*"]);
    check("DestinationRule", "5", &["*"]);
    check("VirtualService", "{hosts: [a.com], http: 1}", &[]);
}

#[test]
fn a_namespace_that_cannot_be_read_may_be_any() {
    let namespace = |metadata: &str, rest: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: \
             {metadata}\nspec: {{host: a.com, subsets: 1}}\n{rest}"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
        let broken = parse(&[file]).set.broken.remove(0);
        broken.id.namespace.to_string()
    };
    assert_eq!(namespace("{name: a}", ""), "default");
    assert_eq!(namespace("{name: a, namespace: ''}", ""), "default");
    assert_eq!(namespace("{name: a, namespace: shop}", ""), "shop");
    assert_eq!(namespace("{name: a, namespace: 5}", ""), "");
    assert_eq!(namespace("{name: a, namespace: [b]}", ""), "");
    assert_eq!(namespace("", "name: a\nnamespace: shop\n"), "");
    assert_eq!(namespace("a", ""), "");
    assert_eq!(namespace("{name: a}", "]"), "default");
    assert_eq!(namespace("{name: a, namespace: {{ .Release.Namespace }}}", "]"), "");
}

#[test]
fn a_rule_whose_reach_cannot_be_read_may_be_its_namespaces_alone() {
    let check = |spec: &str, expected: bool| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: \
             a}}\nspec: {spec}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
        let broken = parse(&[file]).set.broken.remove(0);
        assert_eq!(broken.perhaps_private, expected, "{spec}");
    };
    check("{host: a.com, subsets: 1}", false);
    check("{host: a.com, subsets: 1, exportTo: [a]}", false);
    check("{host: a.com, subsets: 1, exportTo: null}", false);
    check("{host: a.com, subsets: 1, exportTo: {a: b}}", true);
    check("{host: a.com, subsets: 1, exportTo: [5]}", true);
    check("{host: a.com, subsets: 1, workloadSelector: {matchLabels: {a: b}}}", false);
    check("{host: a.com, subsets: 1, workloadSelector: 1}", true);
    check("5", true);
    check("{host: a.com, subsets: [}", false);
    check("{host: a.com, exportTo: [}", true);
    check("{host: a.com, workloadSelector: [}", true);
    check("{host: a.com, subsets: {{ .Values.subsets }}}", true);
}

#[test]
fn an_entry_restricts_when_it_names_identities() {
    check("ServiceEntry", "{hosts: [a.com], ports: 1}", &[]);
    check("ServiceEntry", "{hosts: [a.com, b.com], subjectAltNames: 1}", &["a.com", "b.com"]);
    check("ServiceEntry", "{hosts: a.com, subjectAltNames: [x]}", &["a.com"]);
    check("ServiceEntry", "{hosts: 5, subjectAltNames: [x]}", &["*"]);
}

#[test]
fn names_of_token_parameters_are_those_of_rules_that_can_be_read() {
    let check = |spec: &str, expected: Option<&[&str]>| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
             a}}\nspec: {spec}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
        let broken = parse(&[file]).set.broken.remove(0);
        let names = broken.token_parameters;
        let names: Option<Vec<&str>> =
            names.as_ref().map(|names| names.iter().map(String::as_str).collect());
        assert_eq!(names.as_deref(), expected, "{spec}");
    };
    // Refused by the webhook, and not readable elsewhere.
    check("{jwtRules: [{issuer: a, fromParams: [s, t]}, {jwksUri: 'ftp://x'}]}", Some(&["s", "t"]));
    check("{selector: 1, jwtRules: [{issuer: a, fromParams: [x]}]}", Some(&["x"]));
    // What cannot be read may be any.
    check("{jwtRules: [{fromParam: [x], jwksUri: 'ftp://x'}]}", None);
    check("{jwtRules: [{issuer: a, fromParams: x: 1}]}", None);
    check("{jwtRules: [{issuer: a, fromParams: {x: 1}}]}", None);
    check("{jwtRules: {issuer: a}}", None);
    check("5", None);
}

#[test]
fn a_text_restricts_every_host_in_it() {
    let hosts = |text: &str| Claims::of("DestinationRule", text).restricted;
    let words = ["", "*.b", "a.com", "host"].map(Box::from);
    assert_eq!(hosts("host: \"a.com, '*.b'"), Restricted::Hosts(words.into()));
    assert_eq!(hosts(&"a ".repeat(limit::BROKEN_TEXT_BYTES)), Restricted::Anything);
    for hidden in ["host: {{ .Values.host }}", "x: &h a.com\nhost: *h", "host: \"a\\x2ecom\""] {
        assert_eq!(hosts(hidden), Restricted::Anything, "{hidden}");
    }
    check("ServiceEntry", "{hosts: [a.com}", &[]);
}
