use std::borrow::Cow;

use http::HeaderMap;

use super::*;
use crate::auth::jwt::Verdict;
use crate::base::id::ResourceId;

fn policy(name: &str, rules: Vec<Rule>) -> Policy {
    let origin = |line| Origin {
        resource: ResourceId::new("AuthorizationPolicy", "edge", name),
        file: "a.yaml".into(),
        line,
    };
    let rules = rules.into_iter().zip(10..).map(|(rule, line)| (rule, origin(line))).collect();
    Policy { namespace: "edge".into(), name: name.into(), rules, origin: origin(1) }
}

fn paths(values: &[&str], negated: bool) -> Rule {
    let values = values.iter().map(|value| PathMatch::parse(value).unwrap()).collect();
    Rule { to: vec![vec![Field { subject: Subject::Path(values), negated }]], ..Rule::default() }
}

/// A GET in these readings of its path, or a TCP connection without any.
fn asked<R>(readings: &[&str], judge: impl FnOnce(&Facts<'_>) -> R) -> R {
    let readings: Vec<Cow<'_, str>> = readings.iter().map(|path| Cow::Borrowed(*path)).collect();
    let http = HttpFacts {
        authority: "a.com",
        method: "GET",
        scheme: "https",
        query: None,
        paths: &readings,
        reading: 0,
        headers: &HeaderMap::new(),
        verdict: &Verdict::Anonymous,
    };
    let facts = Facts {
        peer: None,
        source: [127, 0, 0, 1].into(),
        remote: [127, 0, 0, 1].into(),
        local: ([127, 0, 0, 1], 443).into(),
        server_name: None,
        http: (!readings.is_empty()).then_some(http),
    };
    judge(&facts)
}

fn judged(policies: &Policies, readings: &[&str]) -> Result<Option<u32>, (String, u32)> {
    let judged = asked(readings, |facts| policies.judge(facts).map(Option::<&Origin>::cloned));
    judged
        .map(|origin| origin.map(|origin| origin.line))
        .map_err(|denial| (denial.details.into(), denial.origin.line))
}

#[test]
fn without_allow_policies_everything_but_what_is_denied_passes() {
    let deny = vec![policy("d", vec![paths(&["/x"], false), paths(&["/admin*"], false)])];
    let policies = Policies::new(deny, Vec::new());
    assert_eq!(judged(&policies, &["/"]), Ok(None));
    let details = "rbac_access_denied_matched_policy[ns[edge]-policy[d]-rule[1]]";
    assert_eq!(judged(&policies, &["/admin/x"]), Err((details.into(), 11)));
}

#[test]
fn deny_comes_before_allow_and_one_allow_must_match() {
    let deny = vec![policy("d", vec![paths(&["/a/secret"], false)])];
    let allow = vec![policy("none", vec![]), policy("a", vec![paths(&["/a*"], false)])];
    let policies = Policies::new(deny, allow);
    assert_eq!(judged(&policies, &["/a/b"]), Ok(Some(10)));
    assert!(judged(&policies, &["/a/secret"]).is_err());
    let none = ("rbac_access_denied_matched_policy[none]".to_owned(), 1);
    assert_eq!(judged(&policies, &["/b"]), Err(none));
}

#[test]
fn an_empty_rule_matches_everything_and_no_rule_nothing() {
    let all = Policies::new(Vec::new(), vec![policy("a", vec![Rule::default()])]);
    assert_eq!(judged(&all, &["/"]), Ok(Some(10)));
    let nothing = Policies::new(Vec::new(), vec![policy("a", Vec::new())]);
    assert!(judged(&nothing, &["/"]).is_err());
}

#[test]
fn every_reading_of_a_path_is_judged() {
    let deny = Policies::new(vec![policy("d", vec![paths(&["/admin"], false)])], Vec::new());
    assert!(judged(&deny, &["//admin", "/admin"]).is_err());
    let allow = Policies::new(Vec::new(), vec![policy("a", vec![paths(&["/open*"], false)])]);
    assert!(judged(&allow, &["/open%2F..%2Fadmin", "/admin"]).is_err());
    assert!(judged(&allow, &["/open//a", "/open/a"]).is_ok());
    let others = Policies::new(Vec::new(), vec![policy("a", vec![paths(&["/admin"], true)])]);
    assert!(judged(&others, &["//admin", "/admin"]).is_err());
}

#[test]
fn http_fields_on_tcp_cannot_allow_and_do_not_hold_back_a_denial() {
    let rule = || vec![policy("p", vec![paths(&["/x"], false)])];
    assert!(judged(&Policies::new(Vec::new(), rule()), &[]).is_err());
    assert!(judged(&Policies::new(rule(), Vec::new()), &[]).is_err());
    let open = vec![policy("p", vec![Rule::default()])];
    assert!(judged(&Policies::new(Vec::new(), open), &[]).is_ok());
}

/// What is remarked: action, result, and the line of the rule.
fn remarked(shadow: &Shadow, readings: &[&str], expected: &[(&str, &str, Option<u32>)]) {
    let seen = asked(readings, |facts| {
        let remarks = shadow.judge(facts).into_iter();
        remarks.map(|one| (one.action, one.result, one.by.map(|by| by.line))).collect::<Vec<_>>()
    });
    assert_eq!(seen, expected, "{readings:?}");
}

#[test]
fn policies_that_are_not_enforced_say_what_they_would_do() {
    let set =
        |name, values: &[&str]| PolicySet::new(vec![policy(name, vec![paths(values, false)])]);
    remarked(&Shadow::default(), &["/"], &[]);
    let audit = Shadow { audit: set("u", &["/admin*"]), ..Shadow::default() };
    remarked(&audit, &["/"], &[]);
    remarked(&audit, &["/x", "/admin"], &[("audit", "matched", Some(10))]);
    let deny = Shadow { deny: set("d", &["/admin*"]), ..Shadow::default() };
    remarked(&deny, &["/"], &[("deny", "allowed", None)]);
    remarked(&deny, &["/admin"], &[("deny", "denied", Some(10))]);
    remarked(&deny, &[], &[("deny", "denied", Some(10))]);
    let allow = Shadow { allow: set("a", &["/open*"]), ..Shadow::default() };
    remarked(&allow, &["/open"], &[("allow", "allowed", Some(10))]);
    remarked(&allow, &["/open", "/admin"], &[("allow", "denied", Some(1))]);
    remarked(&allow, &[], &[("allow", "denied", Some(1))]);
}
