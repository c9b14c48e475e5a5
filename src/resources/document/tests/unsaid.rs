//! What does not say what it is and may restrict something.

use super::file;
use crate::resources::parse_file;

/// What may restrict something of a file, and where one is that nobody knows what it is.
fn check_unsaid(bytes: &[u8], expected: &[&str], unread: Option<u32>) {
    let file = parse_file(&file("a.yaml", bytes));
    let text = String::from_utf8_lossy(bytes);
    let found: Vec<_> = file.broken.iter().map(|broken| broken.id.to_string()).collect();
    assert_eq!(found, expected, "{text}");
    assert_eq!(file.unread.map(|place| place.line), unread, "{text}");
    assert!(file.resources.is_empty());
}

#[test]
fn what_says_that_it_is_a_policy_and_not_which_may_be_any() {
    let named = "metadata: {name: a, namespace: b}\nspec: {}\n";
    let some = ["security resource b/a"];
    let said = |text: &str, expected: &[&str], unread: Option<u32>| {
        check_unsaid(format!("{text}{named}").as_bytes(), expected, unread);
    };
    said("apiVersion: security.istio.io/v1\n", &some, None);
    said("apiVersion: securty.istio.io/v1\n", &some, None);
    said("apiVersion: security.istio.io/v1\nkind: Policy\n", &some, None);
    said("kind: AuthorizationPolcy\n", &some, None);
    said("apiVersion: telemetry.istio.io/v1\nkind: New\n", &[], None);
    said("apiVersion: telemetry.istio.io/v1\n", &[], None);
    said("kind: Deployment\n", &[], None);
    said("", &[], Some(1));
    check_unsaid(b"apiVersion: security.istio.io/v1\n", &["security resource"], None);
    check_unsaid(
        b"- {kind: AuthorizationPolicy}\n- {spec: 1}\n",
        &["AuthorizationPolicy"],
        Some(2),
    );
    check_unsaid(b"apiVersion: v1\nkind: List\nitems: {a: 1}\n", &[], Some(3));
    check_unsaid(b"resources: [a]\n", &[], None);
}

#[test]
fn bytes_say_what_they_are_in_ascii_of_any_width() {
    let text = "kind: AuthorizationPolicy\nmetadata: {name: a, namespace: b}\n";
    let wide = |width: usize| {
        let padded = |byte: u8| std::iter::once(byte).chain(std::iter::repeat_n(0, width - 1));
        let mark = [0xff, 0xfe].into_iter().chain(std::iter::repeat_n(0, width - 2));
        mark.chain(text.bytes().flat_map(padded)).collect::<Vec<u8>>()
    };
    for width in [2, 4] {
        check_unsaid(&wide(width), &["AuthorizationPolicy b/a"], None);
    }
    check_unsaid(
        b"a: \xe9\nkind: AuthorizationPolicy\nmetadata: 1\n",
        &["AuthorizationPolicy default/"],
        None,
    );
    check_unsaid(b"kind: Deployment\na: \xe9\n", &[], None);
    check_unsaid(b"a: 1\n\xff\n", &[], Some(2));
}

#[test]
fn a_text_that_is_not_yaml_and_mentions_policies_may_be_one() {
    check_unsaid(b"# comment\n---\nkind AuthorizationPolicy: [\n", &[], Some(2));
    check_unsaid(b"apiVersion: security.istio.io/v1\nkind: {{ .Kind }}\n", &[], Some(1));
    check_unsaid(b"kind: ClusterRole\nrules: [security.istio.io\n", &[], None);
    check_unsaid(b"some text: [\n", &[], None);
}
