//! Request heads: those refused before they become requests, of which clients and operators are told, and
//! fields that do not pass.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::client::{Http, connect, raw};
use crate::fixture::issuer;
use crate::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, fields, frame, head,
};
use crate::gateway::{Gateway, front};

/// Whether a reason was counted so often.
fn counted(gateway: &Gateway, reason: &str, count: usize) {
    let line = format!("portcullis_rejections_total{{reason=\"{reason}\"}} {count}\n");
    gateway.wait(&format!("{count} {reason}"), || gateway.metrics().contains(&line));
}

#[tokio::test]
async fn a_head_too_large_or_with_too_many_fields_is_refused_counted_and_logged() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let long = format!("GET / HTTP/1.1\r\nhost: a.com\r\nx: {}\r\n\r\n", "y".repeat(70 << 10));
    let many = format!("GET / HTTP/1.1\r\nhost: a.com\r\n{}\r\n", "x: y\r\n".repeat(200));
    let target = format!("GET /{} HTTP/1.1\r\nhost: a.com\r\n\r\n", "y".repeat(61 << 10));
    for head in [long, many, target] {
        let answer = String::from_utf8(raw(gateway.port(80), head.as_bytes()).await).unwrap();
        assert_eq!(answer.get(9..12), Some("431"), "{answer}");
    }
    counted(&gateway, "too_many_headers", 3);
    let mut http = Http::plain2(gateway.port(80)).await;
    let value = "y".repeat(70 << 10);
    for (url, own, expected) in [
        (format!("http://a.com/{}", "y".repeat(61 << 10)), "", 431),
        ("http://a.com/".to_owned(), value.as_str(), 431),
        ("http://a.com/".to_owned(), &value[..50 << 10], 200),
    ] {
        let request = http.request("GET", &url, &[("x", own)], "");
        assert_eq!(http.send(request).await.status, expected);
    }
    counted(&gateway, "too_many_headers", 5);
    let lines = || gateway.out().matches(" 431 - too_many_headers").count();
    gateway.wait("each is logged", || lines() == 5);
}

#[tokio::test]
async fn streams_that_are_refused_for_another_reason_are_counted_too() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let mut raw = Raw::client(gateway.port(80), &[]).await;
    let connection = [head("GET", "/"), fields(&[("connection", "close")])].concat();
    let te = [head("GET", "/"), fields(&[("te", "gzip")])].concat();
    for (stream, block) in [(1, connection), (3, te)] {
        // The head comes in two frames, and the second in two pieces.
        let (first, second) = block.split_at(9);
        let second = frame(CONTINUATION, END_HEADERS, stream, second);
        raw.send(&frame(HEADERS, END_STREAM, stream, first)).await;
        raw.send(&second[..12]).await;
        raw.send(&second[12..]).await;
        assert_eq!(raw.wait(RST_STREAM).await.unwrap().stream, stream);
    }
    counted(&gateway, "http2_head_refused", 2);
    // More streams at once than were allowed.
    let open = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/never"));
    let many: Vec<u8> = (0..130).flat_map(|index| open(5 + 2 * index)).collect();
    raw.send(&many).await;
    counted(&gateway, "http2_head_refused", 4);
    assert_eq!(Http::plain2(gateway.port(80)).await.get("http://a.com/").await.status, 200);
    assert!(!gateway.metrics().contains("reason=\"too_many_headers\""));
}

#[tokio::test]
async fn fields_that_a_backend_may_take_for_ours_do_not_pass() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let port = gateway.port(80);
    for mut http in [Http::plain(port).await, Http::plain2(port).await] {
        let said = [
            ("x_forwarded_for", "forged"),
            ("x-forwarded_proto", "forged"),
            ("x_forwarded_client_cert", "forged"),
            ("x_envoy_external_address", "forged"),
            ("x_request_id", "forged"),
            ("client_cert", "forged"),
            ("x_own", "1"),
            ("client_name", "2"),
        ];
        let headers = http.ask("http://a.com/", &said).await.json()["headers"].clone();
        assert!(!headers.to_string().contains("forged"), "{headers}");
        assert_eq!((&headers["x_own"], &headers["client_name"]), (&"1".into(), &"2".into()));
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    }
}

#[tokio::test]
async fn trailers_say_nothing_in_the_gateways_name() {
    const SENT: &str = "POST / HTTP/1.1\r\nhost: a.com\r\nte: trailers\r\n\
        trailer: x-sum, x-forwarded-for, client_cert, x_sub\r\ntransfer-encoding: chunked\r\n\r\n\
        2\r\nok\r\n0\r\nx-sum: 7\r\nx-forwarded-for: forged\r\nclient_cert: forged\r\nx_sub: forged\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (site, gateway) = front("HTTP", listener.local_addr().unwrap().port());
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, \
                  namespace: istio-system}\nspec: {jwtRules: [{issuer: i, jwks: 'KEYS', \
                  outputClaimToHeaders: [{header: x-sub, claim: sub}]}]}\n";
    let keys = issuer().key_set("ES256", "k");
    gateway.reload(|| _ = site.config("tokens", &tokens.replace("KEYS", &keys)));
    let mut client = connect(gateway.port(80)).await;
    client.write_all(SENT.as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = String::new();
    while !(seen.contains("\r\n0\r\n") && seen.ends_with("\r\n\r\n")) {
        seen.push(stream.read_u8().await.unwrap().into());
    }
    assert!(seen.contains("x-sum: 7") && !seen.contains("forged"), "{seen}");
}
