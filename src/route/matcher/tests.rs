use http::HeaderValue;

use super::*;
use crate::base::pattern::{InvalidRegex, whole_value};

fn regex(pattern: &str) -> ValueMatch {
    ValueMatch::Regex(Box::new(whole_value(pattern).unwrap()))
}

fn check(condition: &RequestMatch, path_and_query: &str, headers: &[(&str, &str)]) -> bool {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    let head = RequestHead {
        method: &Method::GET,
        scheme: "https",
        authority: "Shop.example.com:8443",
        path,
        query,
        headers: &map,
        token: None,
    };
    condition.mismatch(&head).is_none()
}

#[test]
fn prefix_is_a_plain_string_prefix() {
    let m = RequestMatch { uri: Some(ValueMatch::Prefix("/foo".into())), ..Default::default() };
    assert!(check(&m, "/foobar?x", &[]) && check(&m, "/foo/x", &[]) && !check(&m, "/Foo", &[]));
}

#[test]
fn regex_matches_the_whole_path_and_longer_alternatives() {
    let m = RequestMatch { uri: Some(regex("/a|/ab")), ..Default::default() };
    assert!(check(&m, "/ab", &[]) && check(&m, "/a", &[]) && !check(&m, "/abc", &[]));
}

#[test]
fn a_second_header_line_cannot_hide_the_first() {
    let key = HeaderKey::Field(HeaderName::from_static("x-user"));
    let m = RequestMatch {
        headers: vec![HeaderMatch { key, value: ValueMatch::Exact("a".into()) }],
        ..Default::default()
    };
    assert!(check(&m, "/", &[("x-user", "b"), ("x-user", "a")]));
    assert!(!check(&m, "/", &[("x-user", "a,b")]) && !check(&m, "/", &[]));
}

#[test]
fn without_headers_takes_a_missing_header_for_an_empty_one() {
    let without = |value| RequestMatch {
        without_headers: vec![HeaderMatch {
            key: HeaderKey::Field(HeaderName::from_static("x-a")),
            value,
        }],
        ..Default::default()
    };
    assert!(!check(&without(ValueMatch::Exact("".into())), "/", &[]));
    assert!(check(&without(ValueMatch::Exact("v".into())), "/", &[]));
    assert!(check(&without(ValueMatch::Present), "/", &[]));
    assert!(!check(&without(ValueMatch::Present), "/", &[("x-a", "1")]));
}

#[test]
fn query_looks_at_the_first_parameter_undecoded() {
    let m = RequestMatch {
        query: vec![QueryMatch { name: "q".into(), value: ValueMatch::Exact("a%20b".into()) }],
        ..Default::default()
    };
    assert!(check(&m, "/?x=1&q=a%20b&q=c", &[]));
    assert!(!check(&m, "/?q=c&q=a%20b", &[]) && !check(&m, "/", &[]));
}

#[test]
fn authority_is_matched_raw() {
    let m = RequestMatch {
        authority: Some(ValueMatch::Exact("shop.example.com".into())),
        ..Default::default()
    };
    assert!(!check(&m, "/", &[]));
}

#[test]
fn bad_regexes_are_refused() {
    for pattern in ["(", "a)|(b", "(?=x)", r"(a)\1"] {
        assert!(whole_value(pattern).is_err(), "{pattern}");
    }
    assert!(matches!(whole_value(&"a".repeat(1025)), Err(InvalidRegex::TooLong(1025))));
    assert!(whole_value("(a{1000}){1000}").is_err());
}
