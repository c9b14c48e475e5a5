use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::super::destination::Protocol;
use super::*;
use crate::base::id::{Origin, ResourceId};

fn record() -> (RequestRecord, LogFields) {
    let start = Instant::now();
    let mut record = RequestRecord::new(start, Protocol::Http, None);
    record.code = 200;
    record.details = "via_upstream".into();
    record.bytes_sent = 1024;
    let header = |text: &'static str| Some(HeaderValue::from_static(text));
    let fields = LogFields {
        start_time: Some(UNIX_EPOCH + Duration::from_millis(1_704_164_645_678)),
        method: Some(Method::GET),
        path: Some("/cart?id=1".parse().unwrap()),
        version: Some(Version::HTTP_2),
        upstream_service_milliseconds: Some(4),
        forwarded_for: header("192.0.2.1"),
        user_agent: header("curl/8.5.0"),
        request_id: header("3f2b"),
        authority: header("shop.example.com"),
        upstream_host: Some("10.0.0.1:8080".parse().unwrap()),
        upstream_cluster: Some("outbound|80||cart.shop.svc.cluster.local".into()),
        upstream_local: Some("10.0.0.9:41000".parse().unwrap()),
        downstream_local: Some("[2001:db8::1]:443".parse().unwrap()),
        downstream_remote: Some("192.0.2.1:5555".parse().unwrap()),
        server_name: Some("shop.example.com".into()),
        route_name: Some("cart".into()),
        ..LogFields::default()
    };
    (record, fields)
}

fn lines(record: &RequestRecord, fields: &LogFields, names: Option<&[&str]>) -> (String, String) {
    let names: Option<Vec<Box<str>>> =
        names.map(|names| names.iter().map(|name| (*name).into()).collect());
    let mut clock = Clock::default();
    let mut context = Context { clock: &mut clock, token_parameters: names.as_deref() };
    let (mut plain, mut object) = (Vec::new(), Vec::new());
    let duration = Duration::from_micros(5900);
    text(&mut plain, record, fields, duration, &mut context);
    json(&mut object, record, fields, duration, &mut context);
    (String::from_utf8(plain).unwrap(), String::from_utf8(object).unwrap())
}

fn check(record: &RequestRecord, fields: &LogFields, text: &str, json: &str) {
    let (plain, object) = lines(record, fields, Some(&[]));
    assert_eq!(plain, format!("{text}\n"));
    assert_eq!(object, format!("{json}\n"));
    serde_json::from_str::<serde_json::Value>(&object).unwrap();
}

#[test]
fn proxied_request_has_istios_fields() {
    let (record, fields) = record();
    check(
        &record,
        &fields,
        r#"[2024-01-02T03:04:05.678Z] "GET /cart?id=1 HTTP/2" 200 - via_upstream - "-" 0 1024 5 4 "192.0.2.1" "curl/8.5.0" "3f2b" "shop.example.com" "10.0.0.1:8080" outbound|80||cart.shop.svc.cluster.local 10.0.0.9:41000 [2001:db8::1]:443 192.0.2.1:5555 shop.example.com cart "-" "-" "-""#,
        r#"{"start_time":"2024-01-02T03:04:05.678Z","route_name":"cart","method":"GET","path":"/cart?id=1","protocol":"HTTP/2","response_code":200,"response_flags":"-","response_code_details":"via_upstream","connection_termination_details":null,"bytes_received":0,"bytes_sent":1024,"duration":5,"upstream_service_time":"4","x_forwarded_for":"192.0.2.1","user_agent":"curl/8.5.0","request_id":"3f2b","authority":"shop.example.com","upstream_host":"10.0.0.1:8080","upstream_cluster":"outbound|80||cart.shop.svc.cluster.local","upstream_local_address":"10.0.0.9:41000","downstream_local_address":"[2001:db8::1]:443","downstream_remote_address":"192.0.2.1:5555","requested_server_name":"shop.example.com","upstream_transport_failure_reason":null,"reason":null,"resource":null,"shadow":null}"#,
    );
}

#[test]
fn refused_request_names_reason_and_resource() {
    let (mut record, _) = record();
    record.code = 401;
    record.reason = Some("jwt_expired");
    record.details = "jwt_authn_access_denied{Jwt is expired}".into();
    let fields = LogFields {
        resource: Some(Origin {
            resource: ResourceId::new("RequestAuthentication", "shop", "jwt"),
            file: "gateways/shop.yaml".into(),
            line: 12,
        }),
        ..LogFields::default()
    };
    check(
        &record,
        &fields,
        r#"[-] "- - -" 401 - jwt_authn_access_denied{Jwt_is_expired} - "-" 0 1024 5 - "-" "-" "-" "-" "-" - - - - - - "jwt_expired" "RequestAuthentication shop/jwt gateways/shop.yaml:12" "-""#,
        r#"{"start_time":null,"route_name":null,"method":null,"path":null,"protocol":null,"response_code":401,"response_flags":"-","response_code_details":"jwt_authn_access_denied{Jwt is expired}","connection_termination_details":null,"bytes_received":0,"bytes_sent":1024,"duration":5,"upstream_service_time":null,"x_forwarded_for":null,"user_agent":null,"request_id":null,"authority":null,"upstream_host":null,"upstream_cluster":null,"upstream_local_address":null,"downstream_local_address":null,"downstream_remote_address":null,"requested_server_name":null,"upstream_transport_failure_reason":null,"reason":"jwt_expired","resource":"RequestAuthentication shop/jwt gateways/shop.yaml:12","shadow":null}"#,
    );
}

#[test]
fn hostile_values_stay_inside_their_field() {
    let hostile: [(&[u8], &str, &str); 5] = [
        (b"a\" 200 \"b", r#""a\" 200 \"b""#, r#""user_agent":"a\" 200 \"b""#),
        (b"a\\\"", r#""a\\\"""#, r#""user_agent":"a\\\"""#),
        (b"tab\there", r#""tab\x09here""#, r#""user_agent":"tab\u0009here""#),
        (
            "a\u{202e}b\u{2028}\u{85}".as_bytes(),
            r#""a\u{202e}b\u{2028}\u{0085}""#,
            "\"user_agent\":\"a\\u202eb\\u2028\\u0085\"",
        ),
        (b"\xff\xc3\xa9", "\"\\xff\u{e9}\"", "\"user_agent\":\"\u{fffd}\u{e9}\""),
    ];
    for (value, text, json) in hostile {
        let (record, mut fields) = record();
        fields.user_agent = Some(HeaderValue::from_bytes(value).unwrap());
        let (plain, object) = lines(&record, &fields, Some(&[]));
        assert!(plain.contains(text), "{text} is not in {plain}");
        assert!(object.contains(json), "{json} is not in {object}");
        serde_json::from_str::<serde_json::Value>(&object).unwrap();
    }
}

#[test]
fn a_value_outside_quotes_holds_no_space_and_no_line_feed() {
    let (record, mut fields) = record();
    fields.server_name = Some("a b\n[2024] \u{a0}\u{1b}[0m".into());
    let (plain, object) = lines(&record, &fields, Some(&[]));
    assert!(plain.contains(" a_b\\x0a[2024]__\\x1b[0m cart "), "{plain}");
    assert_eq!(plain.matches('\n').count() + object.matches('\n').count(), 2);
}

#[test]
fn token_parameters_are_cut() {
    let (record, mut fields) = record();
    for (path, logged) in [
        ("/a?access_token=s3cret", "/a?access_token=[redacted]"),
        ("/a?x=1&Token=s3cret&y=2", "/a?x=1&Token=[redacted]&y=2"),
        ("/a?%61ccess_token=s3cret", "/a?%61ccess_token=[redacted]"),
        (
            "/a?access_token=1&access_token=s3cret=",
            "/a?access_token=[redacted]&access_token=[redacted]",
        ),
        ("/a?my_access_token=1&b", "/a?my_access_token=1&b"),
        ("/a?", "/a?"),
    ] {
        fields.path = Some(path.parse().unwrap());
        let (plain, object) = lines(&record, &fields, Some(&["token"]));
        assert!(plain.contains(&format!("GET {logged} HTTP/2")), "{plain}");
        assert!(object.contains(&format!("\"path\":\"{logged}\"")), "{object}");
        assert!(!plain.contains("s3cret") && !object.contains("s3cret"));
    }
}

#[test]
fn without_names_the_query_is_cut() {
    let (record, mut fields) = record();
    for (path, logged) in [("/a?x=s3cret&y", "/a?[redacted]"), ("/a", "/a")] {
        fields.path = Some(path.parse().unwrap());
        let (plain, object) = lines(&record, &fields, None);
        assert!(plain.contains(&format!("GET {logged} HTTP/2")), "{plain}");
        assert!(object.contains(&format!("\"path\":\"{logged}\"")), "{object}");
    }
}
