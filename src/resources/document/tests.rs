use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;

use crate::base::id::ResourceId;
use crate::base::limit;
use crate::resources::{ConfigFile, Parsed, parse};

mod unsaid;

const SAMPLE: &str = include_str!("sample.yaml");

fn file(path: &str, text: &[u8]) -> ConfigFile {
    ConfigFile { path: path.into(), bytes: Arc::from(text) }
}

fn read(text: &str) -> Parsed {
    parse(&[file("a.yaml", text.as_bytes())])
}

/// Compares the findings, as `code line:column field`.
fn check(text: &str, expected: &[&str]) -> Parsed {
    let parsed = read(text);
    let found: Vec<String> = parsed
        .diagnostics
        .iter()
        .map(|d| {
            let at = d.location.as_ref().unwrap();
            format!("{} {}:{} {}", d.code.id, at.line, at.column, d.field).trim_end().to_owned()
        })
        .collect();
    assert_eq!(found, expected, "{:#?}", parsed.diagnostics);
    parsed
}

fn broken(parsed: &Parsed) -> Vec<String> {
    parsed.set.broken.iter().map(|broken| broken.id.to_string()).collect()
}

/// A server that Istio lets in.
const SERVER: &str =
    "  servers: [{hosts: [a.com], port: {number: 80, name: http, protocol: HTTP}}]\n";

fn gateway(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n  name: web\nspec:\n{spec}"
    )
}

/// The sample sets every field, and so some that exclude each other.
#[test]
fn every_field_of_every_kind_is_known() {
    let parsed = read(SAMPLE);
    let set = &parsed.set;
    let codes: BTreeSet<_> = parsed.diagnostics.iter().map(|d| d.code.id).collect();
    assert_eq!(
        codes,
        BTreeSet::from(["IST0002", "IST0106", "IST0133", "PC019"]),
        "{:#?}",
        parsed.diagnostics
    );
    assert_eq!(set.each().count() + set.broken.len(), 11);
    assert_eq!(set.secrets[0].spec.value("tls.crt"), Some(&b"certificate"[..]));
    assert_eq!(set.secrets[0].spec.value("tls.key"), Some(&b"key"[..]));
    assert!(!format!("{:?}", set.secrets[0].spec).contains("certificate"));
}

#[test]
fn a_field_is_found_where_it_was_written() {
    const ROUTES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: \
                          a}\nspec:\n  hosts: [a.com]\n  http:\n  - match:\n    - headers:\n        \
                          x-user:\n          exact: anna\n    route:\n    - destination:\n        \
                          host: shop\n        subset: v1\n";
    let parsed = check(ROUTES, &[]);
    let rule = &parsed.set.virtual_services[0];
    let place = |path: &str| {
        let location = rule.location(path);
        let line = ROUTES.lines().nth(location.line as usize - 1).unwrap();
        line.chars().skip(location.column as usize - 1).collect::<String>()
    };
    assert_eq!(place("spec.http[0].route[0].destination.subset"), "subset: v1");
    assert_eq!(place("spec.http[0].route[0].destination.nothing"), "destination:");
    assert_eq!(place("spec.http[0].match[0].headers.x-user.exact"), "exact: anna");
    assert_eq!(place(""), "apiVersion: networking.istio.io/v1");
    assert_eq!(rule.origin("spec.hosts").file.as_ref(), "a.yaml");
}

#[test]
fn unknown_field_is_an_error_and_the_resource_is_used() {
    let parsed = check(&gateway(&format!("  servres: []\n{SERVER}")), &["PC010 6:3 spec.servres"]);
    assert_eq!(parsed.set.gateways.len(), 1);
    assert!(parsed.diagnostics[0].help.contains("\"servers\""), "{:?}", parsed.diagnostics);
    check(&gateway(&format!("  <<: {{a: b}}\n{SERVER}")), &["PC010 6:3 spec.<<"]);
    check(&(gateway(SERVER) + "sepc: {}\n"), &["PC010 7:1 sepc"]);
}

#[test]
fn wrong_type_sets_the_resource_aside() {
    for (spec, finding) in [
        ("  servers: x\n", "PC011 6:12 spec.servers"),
        ("  servers: [{port: {number: abc}}]\n", "PC011 6:29 spec.servers[0].port.number"),
        ("  servers: [{port: {number: -1}}]\n", "PC011 6:29 spec.servers[0].port.number"),
        ("  servers: [{tls: {mode: simple}}]\n", "PC011 6:26 spec.servers[0].tls.mode"),
        (
            "  servers: [{tls: {httpsRedirect: 'true'}}]\n",
            "PC011 6:35 spec.servers[0].tls.httpsRedirect",
        ),
        ("  servers:\n  -\n", "PC011 7:4 spec.servers[0]"),
        ("  selector: {a: 1}\n", "PC011 6:17 spec.selector.a"),
    ] {
        let parsed = check(&gateway(spec), &[finding]);
        assert_eq!(broken(&parsed), ["Gateway default/web"], "{spec}");
        assert!(parsed.set.gateways.is_empty(), "{spec}");
    }
}

#[test]
fn protobuf_leniencies_are_kept() {
    let parsed = check(
        &gateway(
            "  servers: [{hosts: [a.com], port: {number: \"443\", name: a, protocol: \
                        HTTP}, tls: null}]\n  selector:\n",
        ),
        &[],
    );
    let server = &parsed.set.gateways[0].spec.servers[0];
    assert_eq!(server.port.as_ref().map(|port| port.number), Some(443));
    assert_eq!(server.tls, None);
}

#[test]
fn an_unreadable_security_resource_keeps_its_selector() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, \
                namespace: prod}\nspec:\n  selector: {matchLabels: {app: web}}\n  action: DENYY\n";
    let parsed = check(text, &["PC011 6:11 spec.action"]);
    assert_eq!(broken(&parsed), ["AuthorizationPolicy prod/deny"]);
    let selector = parsed.set.broken[0].selector.as_ref().unwrap();
    assert_eq!(selector.get("app").map(String::as_str), Some("web"));
}

#[test]
fn a_syntax_error_costs_one_document() {
    let text =
        format!("{}---\n{}", gateway("  servers: [}\n"), gateway(SERVER).replace("web", "b"));
    let parsed = check(&text, &["PC004 6:13"]);
    assert_eq!(broken(&parsed), ["Gateway default/web"]);
    assert_eq!(parsed.set.gateways[0].id.name.as_ref(), "b");
    assert_eq!(parsed.set.gateways[0].location("spec").line, 12);
}

#[test]
fn duplicate_key_sets_the_document_aside() {
    let parsed = check(&gateway("  selector: {}\n  selector: {}\n"), &["PC006 7:3"]);
    assert_eq!(broken(&parsed), ["Gateway default/web"]);
}

#[test]
fn envelope_errors_name_what_is_missing() {
    check("kind: Gateway\n", &["PC007 1:1 apiVersion"]);
    check("apiVersion: v1\n", &["PC007 1:1 kind"]);
    check("- a\n", &["PC007 1:1"]);
    let head = "apiVersion: networking.istio.io/v1\nkind: Gateway\n";
    check(&format!("{head}spec: {{}}\n"), &["PC007 1:1 metadata"]);
    check(&format!("{head}metadata: {{}}\n"), &["PC007 3:1 metadata.name"]);
    check(&format!("{head}metadata: {{name: A_b}}\n"), &["PC012 3:12 metadata.name"]);
}

#[test]
fn kinds_that_are_not_read_are_reported() {
    let doc = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n")
    };
    check(&doc("apps/v1", "Deployment"), &["PC009 2:1 kind"]);
    check(&doc("gateway.networking.k8s.io/v1", "Gateway"), &["PC009 2:1 kind"]);
    check(&doc("networking.istio.io/v1alpha3", "EnvoyFilter"), &["PC061 2:1 kind"]);
    let parsed = check(&doc("networking.istio.io/v2", "Gateway"), &["PC008 1:1 apiVersion"]);
    assert_eq!(broken(&parsed), ["Gateway default/a"]);
    let parsed = check(&doc("security.istio.io/v1", "AuthorisationPolicy"), &["PC014 2:1 kind"]);
    assert_eq!(broken(&parsed), ["AuthorizationPolicy default/a"]);
}

#[test]
fn lists_are_flattened() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: \
                WorkloadEntry\n  metadata: {name: a}\n  spec: {address: 10.0.0.1}\n- apiVersion: \
                networking.istio.io/v1\n  kind: WorkloadEntryList\n  items:\n  - metadata: {name: \
                b}\n    spec: {address: 10.0.0.1}\n";
    assert_eq!(check(text, &[]).set.workload_entries.len(), 2);
}

#[test]
fn other_spellings_of_a_file_are_read() {
    let json = r#"{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"a"}}"#;
    assert_eq!(check(json, &[]).set.peer_authentications.len(), 1);
    let crlf = (gateway(SERVER) + "---\n# nothing\n---\n").replace('\n', "\r\n");
    assert_eq!(check(&crlf, &[]).set.gateways.len(), 1);
    let marked = format!("\u{feff}%YAML 1.2\n---\n{}...\n", gateway(SERVER));
    assert_eq!(check(&marked, &[]).set.gateways.len(), 1);
    check("", &[]);
    check("# only words\n", &[]);
    check("---\n---\n", &[]);
}

#[test]
fn hostile_files_are_refused() {
    let deep = gateway(&format!("  selector: {}\n", "[".repeat(100)));
    assert_eq!(read(&deep).diagnostics[0].code.id, "PC005");
    let mut bomb = String::from("a0: &a0 [x]\n");
    for level in 1..40 {
        let below = level - 1;
        writeln!(bomb, "a{level}: &a{level} [*a{below}, *a{below}]").unwrap();
    }
    assert_eq!(read(&bomb).diagnostics[0].code.id, "PC005");
    let endless = gateway(&format!("  selector: {}\n", "[".repeat(1_000)));
    check(&endless, &["PC005 6:268"]);
    // Each document alone is within the bound.
    let part = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned()
        + "b: &b ["
        + &"*a, ".repeat(9_000)
        + "]\n";
    let many = format!("---\n{part}c: [*b, *b, *b, *b]\n").repeat(8);
    let told = read(&many).diagnostics;
    assert!(told.iter().any(|d| d.code.id == "PC005"), "{told:#?}");
    let mut chain = String::from("- &a0 [x]\n");
    for level in 1..200 {
        writeln!(chain, "- &a{level} [*a{}]", level - 1).unwrap();
    }
    assert_eq!(read(&chain).diagnostics[0].code.id, "PC005");
    let parsed = parse(&[file("a.yaml", b"kind: PeerAuthentication\nname: \xff")]);
    assert_eq!(parsed.diagnostics[0].code.id, "PC003");
    assert_eq!(broken(&parsed).len(), 1);
    let parsed = parse(&[file("a.yaml", &vec![b'#'; (16 << 20) + 1])]);
    assert_eq!(parsed.diagnostics[0].code.id, "PC002");
}

#[test]
fn findings_of_one_file_are_bounded() {
    let parsed = read(&"---\na\n".repeat(5_000));
    assert_eq!(parsed.diagnostics.len(), 1_001);
    assert!(parsed.diagnostics.iter().any(|d| d.code.id == "PC015"));
}

#[test]
fn resources_of_one_broken_text_are_bounded_and_share_what_it_was_about() {
    let one = |kind: &str, name: usize| {
        format!("kind: {kind}\nmetadata: {{name: n{name}, namespace: shop}}\nhost: a{name}.com\n")
    };
    let most = limit::BROKEN_TEXT_RESOURCES;
    let text: String = (0..most).map(|name| one("VirtualService", name)).collect();
    let rest: String =
        ["Gateway", "VirtualService", "Gateway"].map(|kind| one(kind, most)).concat();
    let parsed = read(&(text + &rest + "x: [\n"));
    let found = &parsed.set.broken;
    assert_eq!(found.len(), most + 2);
    assert!(Arc::ptr_eq(&found[0].served, &found[most - 1].served));
    assert_eq!(*found[0].id.name, *"n0");
    // One of each kind stands for the others.
    for (broken, kind) in found[most..].iter().zip(["Gateway", "VirtualService"]) {
        assert_eq!(broken.id, ResourceId::new(kind, "", ""));
        assert!(broken.is_of_any_namespace());
        assert!(broken.served.more && !broken.served.servers.is_empty(), "{kind}");
    }
}

#[test]
fn a_secret_is_never_quoted() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {tls.key: hunter2!}\n";
    let parsed = check(text, &["PC011 4:17 data.tls.key"]);
    assert!(!format!("{parsed:?}").contains("hunter2"));
}

#[test]
fn order_follows_creation_then_path_then_place() {
    let dated = |name: &str, created: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, creationTimestamp: {created}}}\n---\n"
        )
    };
    let late = dated("plain-b", "null") + &dated("young", "2026-02-01T00:00:00Z");
    let early = dated("plain-a", "null") + &dated("old", "\"2025-02-01T00:00:00Z\"");
    let parsed = parse(&[file("b.yaml", late.as_bytes()), file("a.yaml", early.as_bytes())]);
    let names: Vec<_> =
        parsed.set.peer_authentications.iter().map(|g| g.id.name.to_string()).collect();
    assert_eq!(names, ["old", "young", "plain-a", "plain-b"]);
}

#[test]
fn the_later_of_two_with_one_name_is_set_aside() {
    let twice = |other: &str| format!("{}---\n{}", gateway(SERVER), gateway(other));
    let parsed =
        check(&twice(&format!("{SERVER}  selector: {{a: b}}\n")), &["PC013 11:3 metadata.name"]);
    assert_eq!((parsed.set.gateways.len(), broken(&parsed).len()), (1, 1));
    let parsed = check(&twice(SERVER), &["PC013 11:3 metadata.name"]);
    assert_eq!((parsed.set.gateways.len(), broken(&parsed).len()), (1, 0));
}

#[test]
fn the_sample_leaves_out_no_kind() {
    let kinds: BTreeSet<_> =
        SAMPLE.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert_eq!(kinds.len(), 11);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&[file("a.yaml", &bytes)]);
    }

    #[test]
    fn any_yaml_like_text_is_read_without_panic(text in "[-a:{}\\[\\]&*!|> \n\t\"'#?%,~<]{0,200}") {
        let _ = parse(&[file("a.yaml", text.as_bytes())]);
    }

    #[test]
    fn a_damaged_sample_is_read_without_panic(
        start in 0..SAMPLE.len(),
        length in 0_usize..30,
        patch in "[-a:{}\\[\\]&*!|> \n\t\"'#?%,~0]{0,6}",
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, patch.into_bytes());
        let _ = parse(&[file("a.yaml", &bytes)]);
    }
}

#[test]
fn every_value_of_the_wrong_type_is_told() {
    let parsed = check(
        &gateway(
            "  servers:\n  - {port: {number: x, name: 5}, hosts: 7}\n  - {port: 1, tls: {mode: \
             SIMPEL}}\n  colour: blue\n",
        ),
        &[
            "PC011 7:21 spec.servers[0].port.number",
            "PC011 7:30 spec.servers[0].port.name",
            "PC011 7:41 spec.servers[0].hosts",
            "PC011 8:12 spec.servers[1].port",
            "PC011 8:27 spec.servers[1].tls.mode",
            "PC010 9:3 spec.colour",
        ],
    );
    assert_eq!(broken(&parsed), ["Gateway default/web"]);
    check(
        &gateway("  servers: 5\n  selector: {a: 1, b: 2}\n"),
        &["PC011 6:12 spec.servers", "PC011 7:17 spec.selector.a", "PC011 7:23 spec.selector.b"],
    );
    check(&gateway("  5\n"), &["PC011 6:3 spec"]);
    let labels: Vec<_> = (0..50).map(|i| format!("a{i}: 1")).collect();
    let many = format!("  selector: {{{}}}\n", labels.join(", "));
    assert_eq!(read(&gateway(&many)).diagnostics.len(), 20);
}

#[test]
fn a_word_that_yaml_reads_as_a_boolean_is_to_be_quoted() {
    for word in ["n", "No", "off", "true"] {
        let parsed = read(&gateway(&format!("  selector: {{a: {word}, b: 'n'}}\n")));
        let [found] = parsed.diagnostics.as_slice() else { panic!("{:?}", parsed.diagnostics) };
        assert!(
            found.message.contains("no, on and off too: put it in quotes"),
            "{}",
            found.message
        );
        assert_eq!(found.field, "spec.selector.a");
    }
}

#[test]
fn help_says_what_usually_is_behind_what_the_parser_says() {
    for (text, hint) in [
        ("kind: [\n", "close the bracket"),
        ("kind: {a: b\nc: d\n", "close the bracket"),
        ("kind: 'a\n", "close the bracket"),
        ("a:\n\tb: c\n", "spaces, not with tabs"),
        ("kind: a: b\n", "wrong indent"),
        ("a: b\n c: d\n", "wrong indent"),
    ] {
        let parsed = read(text);
        let [found] = parsed.diagnostics.as_slice() else { panic!("{:?}", parsed.diagnostics) };
        assert!(found.help.contains(hint), "{text:?}: {} {}", found.message, found.help);
    }
}
