use super::*;

fn check(fields: &[(&'static str, &str)], seconds: Option<u64>) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    let now = httpdate::parse_http_date("Thu, 26 Nov 2026 12:00:00 GMT").unwrap();
    assert_eq!(freshness(&headers, now), seconds.map(Duration::from_secs), "{fields:?}");
}

#[test]
fn freshness_is_what_the_answer_says() {
    let control = |value, seconds| check(&[("cache-control", value)], seconds);
    control("public, Max-Age=300, must-revalidate", Some(300));
    control("no-transform, max-age=\"5\"", Some(5));
    control("s-maxage=5", None);
    control("max-age=-1", None);
    control("max-age=99999999999999999999999", None);
    control("max-age=300, no-store", Some(0));
    control("no-cache", Some(0));
    check(&[("cache-control", "max-age=300"), ("age", "200")], Some(100));
    check(&[("cache-control", "max-age=300"), ("age", "900")], Some(0));
    let later = ("expires", "Thu, 26 Nov 2026 12:10:00 GMT");
    check(&[later], Some(600));
    check(&[later, ("cache-control", "max-age=1")], Some(1));
    check(&[("expires", "Thu, 26 Nov 2026 11:00:00 GMT")], Some(0));
    check(&[("expires", "0")], None);
    check(&[], None);
}

#[test]
fn a_discovery_document_is_believed_about_its_own_issuer_alone() {
    let check = |issuer: &str, document: &str, expected: Result<&str, &str>| {
        let from = Target::parse("https://i/.well-known/openid-configuration").unwrap();
        let found = discovered(&from, issuer, document.as_bytes());
        let found = found.map(|target| target.uri().to_string());
        let found = found.map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
            _ => panic!("{document}: {found:?}"),
        }
    };
    let good = r#"{"issuer":"https://i","jwks_uri":"https://k/keys"}"#;
    check("https://i", good, Ok("https://k/keys"));
    check("https://i/", good, Err("of the issuer \"https://i\""));
    check("https://i", r#"{"jwks_uri":"https://k/"}"#, Err("of the issuer \"\""));
    check("https://i", r#"{"issuer":["https://i"],"jwks_uri":"https://k/"}"#, Err("issuer"));
    check("https://i", r#"{"issuer":"https://i"}"#, Err("jwks_uri"));
    check("https://i", r#"{"issuer":"https://i","jwks_uri":1}"#, Err("jwks_uri"));
    let plain = r#"{"issuer":"https://i","jwks_uri":"http://k/"}"#;
    check("https://i", plain, Err("from https to \"http://k/\""));
    for document in ["", "[]", "{", "1"] {
        check("https://i", document, Err("discovery document"));
    }
}
