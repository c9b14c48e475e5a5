//! What a client may not send: refused with a reason, and never passed on.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::{connect, raw, shake, tls};
use crate::gateway::{Gateway, PATIENCE, Site, secured};

/// A plaintext server for `a.com` before an echoing backend.
async fn start() -> (Site, Backend, Gateway) {
    let backend = Backend::http1().await;
    let (site, gateway) = before(backend.port);
    (site, backend, gateway)
}

/// The same before a backend on this port.
fn before(port: u16) -> (Site, Gateway) {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.config("all", &secured(port));
    let gateway = site.start_with(&[80, 443], &["--workers", "1"]);
    (site, gateway)
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
    let bodies = [
        "x\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\r\nxx\r\n",
        "11111111111111111\r\n",
        "-1\r\n",
        // An extension, or a trailer, that a reader may take to end at its LF.
        "2;\nAA\r\n2a\r\n0\r\n\r\n",
        "2;a=b\r\nxx\r\n0;\n\r\n",
        "0\r\na: b\nc: d\r\n\r\n",
    ];
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

const UPGRADE: &str =
    "GET /up HTTP/1.1\r\nhost: a.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

/// Reads a head and nothing after it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(seen).unwrap()
}

async fn exactly(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut seen = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut seen)).await.unwrap().unwrap();
    assert!(seen == expected, "{} is not {}", seen.escape_ascii(), expected.escape_ascii());
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut seen = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut seen)).await.unwrap().unwrap();
    seen
}

#[tokio::test]
async fn bytes_that_come_before_the_protocol_is_switched_reach_the_backend_as_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (site, gateway) = before(listener.local_addr().unwrap().port());
    let tls = tls(&site.edge, None, &["http/1.1"]);
    let long: Vec<u8> = (0..30_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for early in [b"\x81\x03a\nb", &b"\n\n"[..], b"GET / HTTP/1.1\nx: y\n\n", &long] {
        for together in [true, false] {
            let client = connect(gateway.port(80)).await;
            switched(client, &listener, early, together).await;
            let client = shake(&tls, gateway.port(443), "a.com").await.unwrap();
            switched(client, &listener, early, together).await;
        }
    }
}

/// Sends bytes with the wish for another protocol, or while it is considered; then uses the protocol.
async fn switched(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    listener: &TcpListener,
    early: &[u8],
    together: bool,
) {
    let first = if together { early } else { b"" };
    client.write_all(&[UPGRADE.as_bytes(), first].concat()).await.unwrap();
    let (mut backend, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert!(head(&mut backend).await.contains("upgrade: websocket"));
    if !together {
        client.write_all(early).await.unwrap();
        client.flush().await.unwrap();
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: \
                  websocket\r\n\r\n";
    backend.write_all(switch.as_bytes()).await.unwrap();
    exactly(&mut backend, early).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    client.write_all(b"\nlater\n").await.unwrap();
    exactly(&mut backend, b"\nlater\n").await;
    backend.write_all(b"\nback").await.unwrap();
    exactly(&mut client, b"\nback").await;
}

#[tokio::test]
async fn bytes_that_come_before_an_upgrade_is_refused_are_judged() {
    const REFUSAL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_site, gateway) = before(listener.local_addr().unwrap().port());
    let mut client = connect(gateway.port(80)).await;
    client.write_all(format!("{UPGRADE}{NEXT}{UPGRADE}GET /last").as_bytes()).await.unwrap();
    let (mut backend, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    for path in ["/up", "/next", "/up"] {
        assert!(head(&mut backend).await.starts_with(&format!("GET {path} ")));
        backend.write_all(REFUSAL).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
        exactly(&mut client, b"no").await;
    }
    client.write_all(b" HTTP/1.1\nhost: a.com\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 400 "));

    for early in ["\u{1}\u{3}a\nb", "GET /next HTTP/1.1\nhost: a.com\n\n"] {
        let mut client = connect(gateway.port(80)).await;
        client.write_all(format!("{UPGRADE}{early}").as_bytes()).await.unwrap();
        // The connection of the first client is idle and used again.
        assert!(head(&mut backend).await.starts_with("GET /up "));
        backend.write_all(REFUSAL).await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("noHTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    }
    // One that the gateway itself answers, and one that it does not understand.
    let elsewhere = UPGRADE.replace("a.com", "b.com");
    let answer = raw(gateway.port(80), format!("{elsewhere}GET / HTTP/1.1\n\n").as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("HTTP/1.1 400 "), "{answer}");
    let other = UPGRADE.replace("websocket", "tls");
    let answer = raw(gateway.port(80), format!("{other}{NEXT}").as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    drop(gateway);
    assert_eq!(rest(&mut backend).await, "");
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
