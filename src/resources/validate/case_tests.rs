//! `cases/*.txt` say what Istio's webhook takes and what it refuses, one case a line. `kind` begins a
//! kind, `meta` gives the metadata, and `with` a spec in which `$` stands for what each line below it
//! begins with. After `->` stands what becomes of the resource, then code and field of each finding.

use std::fmt::Write as _;

use crate::resources::{ConfigFile, parse};

const CASES: [&str; 5] = [
    include_str!("cases/gateway.txt"),
    include_str!("cases/virtual-service.txt"),
    include_str!("cases/destination-rule.txt"),
    include_str!("cases/services.txt"),
    include_str!("cases/policies.txt"),
];

/// A resource that nothing is wrong with, in the same file.
const GOOD: &str = "---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: \
                    good}, spec: {address: 10.0.0.1}}\n";

/// What becomes of a document, in the words of a case.
fn verdict(document: &str) -> String {
    let text = format!("{document}\n{GOOD}");
    let parsed = parse(&[ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() }]);
    let alive = parsed.set.each().count();
    let mut out = String::from(match (alive, parsed.set.broken.len()) {
        (2, 0) => "taken",
        (1, 1) => "refused",
        _ => "neither",
    });
    let all = parsed.diagnostics.iter().chain(parsed.set.findings());
    let mut found: Vec<_> = all
        .map(|finding| {
            let placed = finding.location.as_ref().is_some_and(|place| place.line == 1);
            let nowhere = if placed { "" } else { " nowhere" };
            format!("{} {}{nowhere}", finding.code.id, finding.field)
        })
        .collect();
    found.sort_unstable();
    for (index, finding) in found.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(out, "{comma} {finding}").unwrap();
    }
    out.trim_end().to_owned()
}

#[test]
fn what_istio_takes_is_taken_and_what_it_refuses_is_set_aside() {
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for text in CASES {
        let (mut kind, mut metadata, mut with) = ("", "", "");
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(' ') {
                Some(("kind", name)) => (kind, metadata) = (name, "{name: a}"),
                Some(("meta", text)) => metadata = text,
                Some(("with", text)) => with = text,
                _ => {
                    let (case, expected) = line.rsplit_once("->").expect("a case has a verdict");
                    let security = kind.ends_with("Policy") || kind.ends_with("Authentication");
                    let group = if security { "security" } else { "networking" };
                    let spec = with.replace('$', case.trim());
                    let found = verdict(&format!(
                        "{{apiVersion: {group}.istio.io/v1, kind: {kind}, metadata: {metadata}, spec: \
                         {spec}}}"
                    ));
                    cases += 1;
                    if found != expected.trim() {
                        wrong.push(format!("{kind} {spec}\n  {}\n  {found}", expected.trim()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
}
