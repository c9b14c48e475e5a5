//! What a client may not send: refused with a reason, and never passed on.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::client::{connect, raw};
use crate::gateway::{Gateway, Site, gateway, routes, service, to};

/// A plaintext server for `a.com` before an echoing backend.
async fn start() -> (Site, Backend, Gateway) {
    let backend = Backend::http1().await;
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("secure", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
            + &routes("r", "istio-system/plain", "a.com", &to("echo"))
            + &service("echo", "HTTP", backend.port)),
    );
    let gateway = site.start(&[80, 443]);
    (site, backend, gateway)
}

const NEXT: &str = "GET /next HTTP/1.1\r\nhost: a.com\r\n\r\n";

#[tokio::test]
async fn heads_that_have_two_readings_are_refused() {
    let (_site, backend, gateway) = start().await;
    let post = "POST / HTTP/1.1\r\nhost: a.com\r\n";
    for request in [
        format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
        format!(
            "{post}Transfer-Encoding: chunked\r\nx: y\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"
        ),
        format!("{post}content-length: 0\r\ncontent-length: 0\r\n\r\n"),
        "GET / HTTP/1.1\nhost: a.com\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a.com\nx: y\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a.com\r\n\n".to_owned(),
        "\nGET / HTTP/1.1\r\nhost: a.com\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a.com\r\nx: y\r\n z\r\n\r\n".to_owned(),
    ] {
        let bytes = format!("{request}{NEXT}");
        let answer = String::from_utf8(raw(gateway.port(80), bytes.as_bytes()).await).unwrap();
        assert_eq!(answer.get(9..12), Some("400"), "{request:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer}");
    }
    assert_eq!(backend.requests(), 0);
    gateway
        .wait("the log tells", || gateway.out().matches(" 400 DPE http1.codec_error").count() == 9);
}

#[tokio::test]
async fn what_follows_a_message_in_the_same_bytes_is_judged_too() {
    let (_site, backend, gateway) = start().await;
    let bytes = "PUT /one HTTP/1.1\r\nhost: a.com\r\ncontent-length: 2\r\n\r\n\n\nPUT /two HTTP/1.1\r\n\
                 host: a.com\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\n\n\r\n0\r\n\r\nGET /three \
                 HTTP/1.1\nhost: a.com\r\n\r\n";
    let answer = String::from_utf8(raw(gateway.port(80), bytes.as_bytes()).await).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(answer.matches("\"body_bytes\":2").count(), 2, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{answer}");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_the_clients_fault() {
    let (_site, _backend, gateway) = start().await;
    let head = "POST /bad HTTP/1.1\r\nhost: a.com\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies = ["x\r\n", "1\nx\r\n0\r\n\r\n", "1\r\nxx\r\n", "11111111111111111\r\n", "-1\r\n"];
    for body in bodies {
        let bytes = format!("{head}{body}{NEXT}");
        let answer = String::from_utf8(raw(gateway.port(80), bytes.as_bytes()).await).unwrap();
        assert_eq!(answer.get(9..12), Some("400"), "{body:?}: {answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(!answer.contains("/next"), "{answer}");
    }
    gateway.wait("the log tells", || {
        gateway.out().matches(" 400 DPE http1.body_error").count() == bodies.len()
    });
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_is_logged_as_gone() {
    let (_site, _backend, gateway) = start().await;
    for head in ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n5\r\nabc"] {
        let bytes = format!("POST /left HTTP/1.1\r\nhost: a.com\r\n{head}");
        let mut client = connect(gateway.port(80)).await;
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        assert!(!answer.contains(" 200 ") && !answer.contains(" 50"), "{answer}");
    }
    gateway.wait("the log tells", || {
        gateway.out().matches(" 0 DC downstream_remote_disconnect").count() == 2
    });
}

#[tokio::test]
async fn a_client_hello_larger_than_any_gets_an_alert() {
    let (_site, _backend, gateway) = start().await;
    let mut stream = connect(gateway.port(443)).await;
    // A message of 64 KiB in records of one byte each.
    let mut bytes = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    for _ in 0..20_000 {
        bytes.extend([22, 3, 1, 0, 1, 0]);
    }
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
}
