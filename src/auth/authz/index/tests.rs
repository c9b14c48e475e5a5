use http::HeaderMap;
use proptest::prelude::*;

use super::super::{HttpFacts, Peer, PeerId};
use super::*;
use crate::auth::jwt::Verdict;

const PATHS: &[&str] = &["/a", "/a/b", "/ab", "/b", "/a*", "/a/*", "*b", "*", "/a/{*}", "/{**}/b"];
const HOSTS: &[&str] = &["a.com", "A.com", "a.com:80", "b.com", "*.com", "a*"];
const PRINCIPALS: &[&str] = &["td/ns/x/sa/y", "td/ns/z/sa/y", "td*", "*"];
const NAMESPACES: &[&str] = &["x", "z", "x*"];
const NAMES: &[&str] = &["a.com", "b.com", "*"];

/// A field of the kind and values that the numbers say.
fn field((kind, first, second, negated): (u8, usize, usize, bool)) -> Field {
    let texts = |words: &[&str]| {
        let word = |number: usize| TextMatch::parse(words[number % words.len()]);
        vec![word(first), word(second)]
    };
    let text = |subject, words| Subject::Text(subject, texts(words));
    let subject = match kind {
        0 | 1 => {
            let path = |number: usize| PathMatch::parse(PATHS[number % PATHS.len()]).unwrap();
            Subject::Path(vec![path(first), path(second)])
        }
        2 => text(TextSubject::Host, HOSTS),
        3 => text(TextSubject::Principal, PRINCIPALS),
        4 => text(TextSubject::Namespace, NAMESPACES),
        5 => {
            let accounts = texts(&["x", "z"]).into_iter();
            Subject::ServiceAccount(accounts.map(|ns| (ns, TextMatch::parse("y"))).collect())
        }
        6 => text(TextSubject::ServerName, NAMES),
        _ => text(TextSubject::Method, &["GET", "PUT"]),
    };
    Field { subject, negated: negated && first % 3 == 0 }
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let field = (0_u8..8, 0_usize..60, 0_usize..60, any::<bool>()).prop_map(field);
    let list = prop::collection::vec(prop::collection::vec(field.clone(), 1..3), 0..3);
    let when = prop::collection::vec(field, 0..2);
    let rule = (list.clone(), list, when).prop_map(|(from, to, when)| Rule { from, to, when });
    prop::collection::vec(rule, 1..40)
}

/// The index finds what a scan finds, for both purposes, with and without HTTP.
fn check(rules: &[Rule], path: &str, authority: &str, namespace: &str, server_name: Option<&str>) {
    let id = PeerId {
        principal: format!("td/ns/{namespace}/sa/y").into(),
        trust_domain: Some("td".into()),
        workload: Some((namespace.into(), "y".into())),
    };
    let peer = Peer { named: true, ids: vec![id] };
    let paths = [path.into()];
    let http = HttpFacts {
        authority,
        method: "GET",
        scheme: "https",
        paths: &paths,
        reading: 0,
        query: None,
        headers: &HeaderMap::new(),
        verdict: &Verdict::Anonymous,
    };
    let index = RuleIndex::new(rules);
    for http in [Some(http), None] {
        let facts = Facts {
            peer: (namespace != "none").then_some(&peer),
            source: [127, 0, 0, 1].into(),
            remote: [127, 0, 0, 1].into(),
            local: ([127, 0, 0, 1], 443).into(),
            server_name,
            http,
        };
        for purpose in [Purpose::Pass, Purpose::HoldBack] {
            let matches = |number: u32| rules[number as usize].matches(&facts, purpose);
            let scanned = (0..u32::try_from(rules.len()).unwrap()).find(|number| matches(*number));
            assert_eq!(index.first(&facts, purpose, matches), scanned, "{rules:?} {facts:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_index_finds_what_a_scan_finds(
        rules in rules(),
        path in prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/c/b", "/b"]),
        authority in prop::sample::select(vec!["a.com", "A.COM:80", "a.com.:80", "b.com", "c.org"]),
        namespace in prop::sample::select(vec!["x", "z", "w", "none"]),
        name in prop::sample::select(vec![None, Some("a.com"), Some("c.com")]),
    ) {
        check(&rules, path, authority, namespace, name);
    }
}

#[test]
fn what_few_rules_share_is_what_they_are_filed_under() {
    let path =
        Field { subject: Subject::Path(vec![PathMatch::parse("/*").unwrap()]), negated: false };
    let rule = |number: u32| {
        let principal = vec![TextMatch::parse(&format!("td/ns/x/sa/{number}"))];
        let principal = Subject::Text(TextSubject::Principal, principal);
        let from = vec![vec![Field { subject: principal, negated: false }]];
        Rule { from, to: vec![vec![path.clone()]], when: Vec::new() }
    };
    let rules: Vec<_> = (0..100).map(rule).collect();
    let index = RuleIndex::new(&rules);
    assert_eq!(index.tables[Attribute::Principal as usize].len(), 100);
    assert!(index.others.is_empty() && index.of_http.is_empty());
}
