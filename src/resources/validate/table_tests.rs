//! `table.yaml` has one resource for each rule of Istio's webhook; a comment with a code stands where
//! the finding belongs.

use std::collections::BTreeSet;

use crate::resources::{ConfigFile, parse};

const TABLE: &str = include_str!("table.yaml");

/// A resource that nothing is wrong with.
const GOOD: &str = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: good}, spec: \
                    {servers: [{hosts: [a.com], port: {number: 80, name: a, protocol: HTTP}}]}}";

#[test]
fn what_istio_refuses_is_told_where_it_stands_and_harms_nothing_else() {
    let mut wrong = Vec::new();
    for document in TABLE.split("---\n").skip(1) {
        let expected: BTreeSet<(u32, &str)> = (1..)
            .zip(document.lines())
            .filter_map(|(line, text)| Some((line, text.rsplit_once(" # ")?.1)))
            .flat_map(|(line, codes)| codes.split(' ').map(move |code| (line, code)))
            .collect();
        let file = |path: &str, text: &str| ConfigFile {
            path: path.into(),
            bytes: text.as_bytes().into(),
        };
        let parsed = parse(&[file("bad.yaml", document), file("good.yaml", GOOD)]);
        let mut findings = parsed.diagnostics;
        findings.extend(parsed.set.findings().cloned());
        let mut found = BTreeSet::new();
        for finding in &findings {
            let place = finding.location.as_ref().expect("a finding has a place");
            assert_eq!(&*place.file, "bad.yaml", "{finding:?}");
            assert!(!finding.help.is_empty(), "{finding:?}");
            found.insert((place.line, finding.code.id));
        }
        assert!(parsed.set.gateways.iter().any(|gateway| &*gateway.id.name == "good"));
        assert!(!expected.is_empty(), "{document}");
        if found != expected {
            let messages: Vec<_> = findings.iter().map(|finding| &finding.message).collect();
            wrong.push(format!("{document}found {found:?} {messages:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} documents:\n{}", wrong.len(), wrong.join("\n"));
}
