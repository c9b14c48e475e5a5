//! `table.yaml` has one resource for each rule of Istio's webhook; a comment with a code stands where
//! the finding belongs. What Istio refuses is set aside; what it warns about is used.

use std::collections::BTreeSet;

use crate::base::id::Generation;
use crate::resources::{ConfigFile, Parsed, assemble, parse, parse_file};

const TABLE: &str = include_str!("table.yaml");

/// A resource that nothing is wrong with.
const GOOD: &str = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: good}, spec: \
                    {servers: [{hosts: [a.com], port: {number: 80, name: a, protocol: HTTP}}]}}";

/// A part of these is set aside: the tokens of the one issuer are refused.
fn loses_a_part(document: &str) -> bool {
    document.contains("jwks: \"{\"")
}

#[test]
fn what_istio_refuses_is_told_where_it_stands_set_aside_and_harms_nothing_else() {
    let (mut wrong, mut set_aside) = (Vec::new(), 0);
    for document in TABLE.split("---\n").skip(1) {
        let expected: BTreeSet<(u32, &str)> = (1..)
            .zip(document.lines())
            .filter_map(|(line, text)| Some((line, text.rsplit_once(" # ")?.1)))
            .flat_map(|(line, codes)| codes.split(' ').map(move |code| (line, code)))
            .collect();
        assert!(!expected.is_empty(), "{document}");
        let refused =
            expected.iter().any(|(_, code)| matches!(*code, "IST0106" | "PC011" | "PC032"))
                && !loses_a_part(document);
        set_aside += usize::from(refused);
        // The neighbour stands in the same file.
        let text = format!("{document}---\n{GOOD}\n");
        let parsed =
            parse(&[ConfigFile { path: "bad.yaml".into(), bytes: text.into_bytes().into() }]);
        let mut findings = parsed.diagnostics;
        findings.extend(parsed.set.findings().cloned());
        let mut found = BTreeSet::new();
        for finding in &findings {
            let place = finding.location.as_ref().expect("a finding has a place");
            assert!(!finding.help.is_empty(), "{finding:?}");
            found.insert((place.line, finding.code.id));
        }
        let alive: Vec<_> = parsed.set.each().map(|one| one.id().name.to_string()).collect();
        let broken: Vec<_> = parsed.set.broken.iter().map(|one| &*one.id.name).collect();
        let (used, aside) = if refused { (1, vec!["bad"]) } else { (2, Vec::new()) };
        assert!(alive.iter().any(|name| name == "good"), "{document}");
        if found != expected || alive.len() != used || broken != aside {
            let messages: Vec<_> = findings.iter().map(|finding| &finding.message).collect();
            wrong.push(format!("{document}found {found:?} {messages:?}, {alive:?} {broken:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} documents:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(set_aside, 187);
}

#[test]
fn what_istio_refuses_goes_on_as_it_was() {
    let spec = |kind: &str| match kind {
        "Gateway" => "{servers: [{hosts: [a.com], port: {number: 80, name: a, protocol: HTTP}}]}",
        "VirtualService" => "{hosts: [a.com], gateways: [g], http: [{redirect: {uri: /}}]}",
        "DestinationRule" => "{host: a}",
        "ServiceEntry" => "{hosts: [a.com], resolution: STATIC}",
        "WorkloadEntry" => "{address: 10.0.0.1}",
        _ => "{}",
    };
    for document in TABLE.split("---\n").skip(1).filter(|document| !loses_a_part(document)) {
        let file = |text: &str| ConfigFile { path: "a.yaml".into(), bytes: text.as_bytes().into() };
        let after = parse_file(&file(document));
        let Some(broken) = after.broken.first() else { continue };
        let head: Vec<_> = document.lines().take(3).collect();
        let good = format!("{}\nspec: {}\n", head.join("\n"), spec(broken.id.kind));
        let before = parse(&[file(&good)]);
        assert_eq!(before.set.each().count(), 1, "{good}{:?}", before.diagnostics);
        let Parsed { set, last_good, .. } =
            assemble(std::slice::from_ref(&after), &before, Generation(7));
        let kept: Vec<_> = set.each().map(|one| one.id().clone()).collect();
        assert_eq!(kept, std::slice::from_ref(&broken.id), "{document}");
        assert_eq!(last_good.get(&broken.id), Some(&Generation(7)), "{document}");
        assert!(set.broken.is_empty(), "{document}");
    }
}
