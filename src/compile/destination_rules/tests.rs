use super::*;
use crate::compile::services::Services;
use crate::resources::{ConfigFile, parse};

fn check(rules: &str, test: impl Fn(Option<Governing<'_>>)) {
    check_at("istio-system", rules, test);
}

/// What governs `a.shop.example` of namespace `shop` at a gateway of a namespace, labelled `istio: edge`.
fn check_at(gateway: &str, rules: &str, test: impl Fn(Option<Governing<'_>>)) {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, namespace: \
         shop}}\nspec:\n  hosts: [a.shop.example]\n  ports: [{{number: 80, name: http, protocol: \
         HTTP}}]\n  resolution: DNS\n{rules}"
    );
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
    let parsed = parse(&[file]);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let settings = CompileSettings {
        namespace: gateway.into(),
        labels: [("istio".to_owned(), "edge".to_owned())].into(),
        ..CompileSettings::default()
    };
    let services = Services::new(&parsed.set, &settings, &mut Findings::default());
    let service = services.find("a.shop.example", "shop", gateway).unwrap();
    let rules = DestinationRules::new(&parsed.set, &settings, &mut Findings::default());
    test(rules.governing(service));
}

fn rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, \
         namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Compares the rule that governs, by namespace and name, at a gateway of a namespace.
fn governs(gateway: &str, rules: &[(&str, &str, &str)], expected: Option<&str>) {
    let yaml: String = rules.iter().map(|(name, from, spec)| rule(name, from, spec)).collect();
    check_at(gateway, &yaml, |found| {
        let name = found.map(|found| found.rule.id.name.clone());
        assert_eq!(name.as_deref(), expected, "{gateway}: {rules:?}");
    });
}

#[test]
fn the_first_namespace_with_a_match_counts() {
    let near = ("near", "edge", "{host: '*.example'}");
    let owner = ("owner", "shop", "{host: a.shop.example}");
    let root = ("root", "istio-system", "{host: a.shop.example}");
    governs("edge", &[root, owner, near], Some("near"));
    governs("edge", &[root, owner], Some("owner"));
    governs("edge", &[root], Some("root"));
    governs("edge", &[("x", "other", "{host: a.shop.example}")], None);
    governs("edge", &[root, ("x", "shop", "{host: a.shop.example, exportTo: [.]}")], Some("root"));
}

#[test]
fn what_the_root_namespace_says_for_everyone_does_not_hide_the_owners_rule_from_its_gateway() {
    let owner = ("owner", "shop", "{host: '*.example'}");
    let default = ("default", "istio-system", "{host: a.shop.example}");
    governs("istio-system", &[default, owner], Some("owner"));
    governs("istio-system", &[default], Some("default"));
    for alone in ["exportTo: [.]", "exportTo: [istio-system]"] {
        let own = format!("{{host: '*.example', {alone}}}");
        let own = ("own", "istio-system", own.as_str());
        governs("istio-system", &[default, owner, own], Some("own"));
        governs("shop", &[own], None);
    }
}

#[test]
fn a_rule_that_selects_the_gateway_beats_older_ones_that_select_nobody() {
    let general = ("general", "edge", "{host: a.shop.example, subsets: [{name: v1}]}");
    let selecting = |label: &str, rest: &str| {
        format!("{{host: a.shop.example, workloadSelector: {{matchLabels: {{{label}}}}}{rest}}}")
    };
    let ours = selecting("istio: edge", "");
    governs("edge", &[general, ("ours", "edge", &ours)], Some("ours"));
    governs(
        "edge",
        &[general, ("theirs", "edge", &selecting("istio: other", ""))],
        Some("general"),
    );
    governs("edge", &[general, ("far", "istio-system", &ours)], Some("general"));
    governs(
        "istio-system",
        &[("owner", "shop", "{host: '*'}"), ("far", "edge", &ours)],
        Some("owner"),
    );
    let at_root =
        [("owner", "shop", "{host: '*.example'}"), ("ours", "istio-system", ours.as_str())];
    governs("istio-system", &at_root, Some("ours"));
    // A longer host counts more than a selector.
    let wider = ours.replace("a.shop.example", "'*.example'");
    governs("edge", &[general, ("wider", "edge", &wider)], Some("general"));

    let random = ", trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v2}]";
    let again = selecting("istio: edge", random);
    let rules = [general, ("ours", "edge", &ours), ("again", "edge", &again)];
    let all = |rules: &[(&str, &str, &str)]| -> String {
        rules.iter().map(|(name, from, spec)| rule(name, from, spec)).collect()
    };
    check_at("edge", &all(&rules), |found| {
        let found = found.unwrap();
        assert_eq!(&*found.rule.id.name, "again", "the one with a policy");
        assert!(found.subset("v1").is_none() && found.subset("v2").is_some());
    });
    let private = "{host: a.shop.example, exportTo: [.], subsets: [{name: v1}]}";
    let rules = [("general", "edge", private), ("ours", "edge", &ours)];
    check_at("edge", &all(&rules), |found| assert!(found.unwrap().subset("v1").is_some()));
}

/// Compares the subsets of rules for one host that count at a gateway of namespace `edge`, the oldest first:
/// rule `n` has subset `v<n>` and this `exportTo`.
fn unites(export_to: &[&str], expected: &[&str]) {
    let one = |(n, export_to): (usize, &&str)| {
        let spec =
            format!("{{host: a.shop.example, subsets: [{{name: v{n}}}], exportTo: [{export_to}]}}");
        rule(&format!("r{n}"), "shop", &spec)
    };
    let rules: String = export_to.iter().enumerate().map(one).collect();
    check_at("edge", &rules, |found| {
        let found = found.unwrap();
        let names: Vec<_> = found.subset_names().collect();
        assert_eq!(names, expected, "{export_to:?}");
    });
}

#[test]
fn rules_of_one_host_are_united_where_they_are_shown_to_the_same() {
    unites(&["", ""], &["v0", "v1"]);
    unites(&["edge", "edge"], &["v0", "v1"]);
    // Otherwise the last counts.
    unites(&["", "edge"], &["v1"]);
    unites(&["edge", ""], &["v1"]);
    unites(&["'*'", ""], &["v1"]);
    // One that is shown to more joins.
    unites(&["edge", "edge, b"], &["v0", "v1"]);
    unites(&["edge, b", "edge"], &["v1"]);
    // It is for itself where it does not join the last, too.
    unites(&["", "edge", ""], &["v2"]);
    unites(&["edge", "edge, b", "b, edge, c"], &["v0", "v1", "v2"]);
    // What is not shown to this gateway is not there.
    unites(&["", "b"], &["v0"]);
    unites(&["edge", "b", "edge"], &["v0", "v2"]);
}

#[test]
fn a_rule_that_another_one_hides_is_told() {
    let told = |rules: &[&str]| -> Vec<String> {
        let one = |(n, spec): (usize, &&str)| {
            rule(&format!("r{n}"), "shop", &format!("{{host: a.shop.example{spec}}}"))
        };
        let yaml: String = rules.iter().enumerate().map(one).collect();
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let (set, mut findings) = (parse(&[file]).set, Findings::default());
        DestinationRules::new(&set, &CompileSettings::default(), &mut findings);
        let resource = |found: &Diagnostic| found.resource.as_ref().unwrap().name.to_string();
        let found = findings.finish();
        assert!(found.iter().all(|one| one.code.id == "IST0167"), "{found:?}");
        found.iter().map(resource).collect()
    };
    assert_eq!(told(&["", ", exportTo: [istio-system]"]), ["r0"]);
    assert_eq!(told(&[", exportTo: [istio-system]", ", exportTo: ['*']", ""]), ["r0", "r1"]);
    assert!(told(&["", ""]).is_empty());
    assert!(told(&["", ", exportTo: [.]"]).is_empty(), "it is not shown to this gateway");
}

/// Whether a rule keeps everything from being sent to `a.shop.example` of namespace `shop`, at a gateway
/// in the root namespace.
fn refuses(rules: &str) -> bool {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, \
                 namespace: shop}\nspec:\n  hosts: [a.shop.example]\n";
    let bytes = format!("{entry}{rules}").into_bytes().into();
    let set = parse(&[ConfigFile { path: "a.yaml".into(), bytes }]).set;
    let settings = CompileSettings::default();
    let mut findings = Findings::default();
    let services = Services::new(&set, &settings, &mut findings);
    let service = services.find("a.shop.example", "shop", "istio-system").unwrap();
    let rules = DestinationRules::new(&set, &settings, &mut findings);
    assert!(rules.refusing(service).is_none() || !findings.finish().is_empty());
    rules.refusing(service).is_some()
}

#[test]
fn a_rule_that_cannot_be_used_refuses_what_it_would_govern() {
    let tls = "trafficPolicy: {tls: {mode: SIMPEL}}";
    let broken = |namespace: &str, rest: &str| rule("r", namespace, &format!("{{{rest}, {tls}}}"));
    for host in ["a.shop.example", "'*.example'", "'*'", "5", "[a.shop.example]"] {
        assert!(refuses(&broken("shop", &format!("host: {host}"))), "{host}");
    }
    assert!(refuses(&broken("shop", "subsets: []")), "a host that is missing may be any");
    assert!(!refuses(&broken("shop", "host: b.shop.example")));
    assert!(refuses(&broken("5", "host: a.shop.example")), "it may be of any namespace");
    assert!(refuses(&broken("5", "host: b")), "a short name of one that is not known");
    assert!(!refuses(&broken("5", "host: b.shop.example")));
    assert!(!refuses(&broken("other", "host: a.shop.example")));
    assert!(!refuses(&broken("shop", "host: a.shop.example, exportTo: [.]")));
    let elsewhere = "host: a.shop.example, workloadSelector: {matchLabels: {app: x}}";
    assert!(!refuses(&broken("istio-system", elsewhere)));

    let good = |namespace: &str, host: &str| {
        rule(
            "good",
            namespace,
            &format!("{{host: {host}, trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}"),
        )
    };
    let owners = good("shop", "a.shop.example");
    for perhaps_alone in ["exportTo: 5", "exportTo: [{}]", "workloadSelector: 5"] {
        let broken = broken("istio-system", &format!("host: a.shop.example, {perhaps_alone}"));
        assert!(refuses(&(owners.clone() + &broken)), "{perhaps_alone}");
    }
    let alone = "host: a.shop.example, exportTo: [.]";
    let default = "host: a.shop.example";
    assert!(!refuses(&(owners.clone() + &broken("istio-system", default))), "not reached");
    assert!(!refuses(&(owners.clone() + &broken("shop", "host: '*.example'"))), "wider");
    assert!(refuses(&(owners.clone() + &broken("shop", default))));
    assert!(refuses(&(owners.clone() + &broken("shop", "host: 5"))));
    assert!(refuses(&(owners + &broken("istio-system", alone))), "looked at first");
}

#[test]
fn a_rule_with_a_slip_in_its_text_refuses_every_host_that_it_names() {
    let check =
        |spec: &str, expected: bool| assert_eq!(refuses(&rule("r", "shop", spec)), expected);
    check("{host: a.shop.example, trafficPolicy: [}", true);
    check("{host: \"*.example\", trafficPolicy: [}", true);
    check("{host: b.shop.example, trafficPolicy: [}", false);
    check("{host: {{ .Values.host }}, trafficPolicy: {}}", true);
}

#[test]
fn a_rule_of_the_root_namespace_that_may_be_for_its_own_gateways_is_looked_at_first() {
    let owners = rule("good", "shop", "{host: a.shop.example}");
    let check = |spec: &str, expected: bool| {
        let refused = refuses(&(owners.clone() + &rule("r", "istio-system", spec)));
        assert_eq!(refused, expected, "{spec}");
    };
    check("{host: '*.example', exportTo: [., trafficPolicy: {}}", true);
    check("{host: '*.example', workloadSelector: [}", true);
    check("{host: '*.example', trafficPolicy: [}", false);
    check("{host: '*.example', exportsTo: [.]}", true);
    check("{host: '*.example', sees: [.]}", true);
    check("{host: '*.example', trafficPolicyy: {}}", false);
    check("{host: '*.example', trafficPolicy: {exportTo: {}}}", false);
}

#[test]
fn a_misspelt_field_refuses_when_it_may_have_been_one_that_secures() {
    let check =
        |spec: &str, expected: bool| assert_eq!(refuses(&rule("r", "shop", spec)), expected);
    check("{host: a.shop.example, trafficPolicyy: {tls: {mode: SIMPLE}}}", true);
    check("{host: a.shop.example, trafficPolicy: {tsl: {mode: SIMPLE}}}", true);
    check("{hots: a.shop.example, trafficPolicy: {tls: {mode: SIMPLE}}}", true);
    check("{host: b.shop.example, trafficPolicy: {tsl: {mode: SIMPLE}}}", false);
    check("{trafficPolicy: {tls: {mode: SIMPLE}}}", true);
    let port = "{host: a.shop.example, trafficPolicy: {portLevelSettings: [{port: {nr: 80}}]}}";
    check(port, true);
    let balancer = "{host: a.shop.example, trafficPolicy: {loadBalancer: {simpel: RANDOM}}}";
    check(balancer, false);
}

#[test]
fn two_rules_of_one_name_that_differ_refuse() {
    let one = |mode: &str| {
        rule(
            "r",
            "shop",
            &format!("{{host: a.shop.example, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"),
        )
    };
    assert!(refuses(&(one("DISABLE") + &one("SIMPLE"))));
    assert!(!refuses(&(one("SIMPLE") + &one("SIMPLE"))));
}

#[test]
fn a_field_that_does_not_exist_is_found_in_the_block_that_counts() {
    let misspelt = |place: &str| {
        let yaml = rule("r", "shop", &format!("{{host: a.shop.example, {place}}}"));
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let set = parse(&[file]).set;
        let rule = set.destination_rules.first().unwrap();
        let governing = Governing { rule, others: vec![rule] };
        let subset = governing.subset("v1").map(|(_, subset)| subset);
        [(None, 81), (None, 80), (subset, 81), (subset, 80)].map(|(subset, port)| {
            governing.policy(subset, port).tls.is_some_and(|tls| governing.unread(tls).is_some())
        })
    };
    let bad = "tls: {mode: SIMPLE, subjectAltNamez: [a]}";
    let good = "tls: {mode: SIMPLE}";
    let at_port = format!("portLevelSettings: [{{port: {{number: 80}}, {bad}}}]");
    let of_subset = |own: &str| format!("subsets: [{{name: v1, trafficPolicy: {{{own}}}}}]");
    let whole = |own: &str| format!("trafficPolicy: {{{own}}}");
    assert_eq!(misspelt(&whole(bad)), [true; 4]);
    assert_eq!(misspelt(&whole(good)), [false; 4]);
    assert_eq!(
        misspelt(&format!("{}, {}", whole(bad), of_subset(good))),
        [true, true, false, false]
    );
    assert_eq!(misspelt(&whole(&at_port)), [false, true, false, true]);
    assert_eq!(misspelt(&of_subset(bad)), [false, false, true, true]);
    assert_eq!(misspelt(&of_subset(&at_port)), [false, false, false, true]);
}

#[test]
fn a_port_replaces_the_blocks_of_its_level_as_a_group() {
    let rules = rule(
        "r",
        "shop",
        "{host: a.shop.example, trafficPolicy: {tls: {mode: SIMPLE}, loadBalancer: {simple: \
         RANDOM}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: \
         ROUND_ROBIN}}]}, subsets: [{name: v1, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]}",
    );
    check(&rules, |found| {
        let found = found.unwrap();
        assert!(found.policy(None, 80).tls.is_none());
        assert!(found.policy(None, 81).tls.is_some());
        let (_, subset) = found.subset("v1").unwrap();
        let policy = found.policy(Some(subset), 80);
        assert!(policy.tls.is_some() && policy.load_balancer.is_some());
        assert!(found.subset("v2").is_none());
    });
}
