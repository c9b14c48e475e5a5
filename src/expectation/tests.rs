use super::*;
use crate::explain::Share;

fn check(expected: &Expected, fields: &[(&str, &str, Option<&str>)]) {
    let outcome = Outcome {
        action: "forward",
        host: Some("a.com".to_owned()),
        clusters: vec![
            Share { cluster: Some("red".to_owned()), weight: 1, reason: None },
            Share { cluster: None, weight: 2, reason: None },
        ],
        ..Outcome::default()
    };
    let found = compare(expected, &outcome);
    let found: Vec<_> =
        found.iter().map(|d| (d.field, d.expected.as_str(), d.actual.as_deref())).collect();
    assert_eq!(found, fields);
}

#[test]
fn what_is_not_expected_is_not_looked_at() {
    check(&Expected::default(), &[]);
    check(&Expected { host: Some("a.com".to_owned()), ..Expected::default() }, &[]);
}

#[test]
fn each_field_that_differs_is_told() {
    check(
        &Expected { action: Some("reject".to_owned()), status: Some(403), ..Expected::default() },
        &[("action", "reject", Some("forward")), ("status", "403", None)],
    );
    check(&Expected { grpc_status: Some(7), ..Expected::default() }, &[("grpcStatus", "7", None)]);
    check(
        &Expected { clusters: Some(vec!["red".to_owned()]), ..Expected::default() },
        &[("clusters", "red", Some("red, unknown"))],
    );
    check(
        &Expected { clusters: Some(Vec::new()), ..Expected::default() },
        &[("clusters", "", Some("red, unknown"))],
    );
}

#[test]
fn a_request_that_is_none_is_told() {
    let check = |request: Request, said: &str| {
        let means = Means {
            sign: &|_| Err("no key".to_owned()),
            certificates: &|file| Err(format!("no {file}")),
            now: 0,
        };
        let test = Test { request, ..Test::default() };
        let location = Location::new("a.test.yaml".into(), 1, 1);
        let judged = judge(&Snapshot::empty(), &test, location, means);
        assert!(!judged.passed());
        let why = judged.told.unwrap_err();
        assert!(why.contains(said), "{why}");
        let judged = Judged { told: Err(why), ..judged };
        assert!(text(std::slice::from_ref(&judged)).contains("0 passed, 1 failed"));
        assert_eq!(json(&[judged])["failed"], 1);
    };
    let url = || "https://a.com/".to_owned();
    check(Request::default(), "no URL");
    check(Request { url: "ftp://a.com/".to_owned(), ..Request::default() }, "https://host/path");
    check(
        Request { url: url(), method: Some("a b".to_owned()), ..Request::default() },
        "no method",
    );
    let protocol = Some("websocket".to_owned());
    check(
        Request { url: url(), method: Some("GET".to_owned()), protocol, ..Request::default() },
        "exclude each other",
    );
    check(
        Request { url: url(), source_ip: Some("x".to_owned()), ..Request::default() },
        "no address",
    );
    check(
        Request { url: url(), client_cert: Some("x.pem".to_owned()), ..Request::default() },
        "no x.pem",
    );
    check(Request { url: url(), claims: Some(Claims::new()), ..Request::default() }, "no key");
    let headers = [("a b".to_owned(), String::new())].into();
    check(Request { url: url(), headers, ..Request::default() }, "no header");
    check(Request { url: url(), ..Request::default() }, "nothing is expected");
}
