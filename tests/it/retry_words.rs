//! Every word of `retryOn` before backends that answer, refuse, reset, leave and stall.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::Http;
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, fields, frame,
};
use crate::gateway::{Site, free_port, gateway, routes, service};

/// What a backend does with each request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// HTTP/1.1: a head after the version, a line.
    Answer(&'static str),
    Leave,
    Reset,
    /// Nothing, for longer than a try may take.
    Stall,
    /// Nobody listens.
    Absent,
    /// HTTP/2: `RST_STREAM` with this code.
    ResetStream(u8),
    /// HTTP/2: `GOAWAY` that says that the request was not looked at.
    GoAway,
    /// HTTP/2: `grpc-status` in the only head.
    TrailersOnly(&'static str),
    /// HTTP/2: `grpc-status` after a message.
    Trailers(&'static str),
}

use Does::{Absent, Answer, GoAway, Leave, Reset, ResetStream, Stall, Trailers, TrailersOnly};

const LIMITED: Does = Answer("429 Slow\r\nx-envoy-ratelimited: true");
const REFUSED: Does = ResetStream(7);
const INTERNAL: Does = ResetStream(2);

const ALL: [Does; 25] = [
    Answer("200 OK"),
    Answer("404 No"),
    Answer("409 Conflict"),
    Answer("429 Slow"),
    LIMITED,
    Answer("500 Broken"),
    Answer("502 Bad"),
    Answer("503 Busy"),
    Answer("504 Late"),
    Answer("599 Odd"),
    Leave,
    Reset,
    Stall,
    Absent,
    REFUSED,
    INTERNAL,
    GoAway,
    TrailersOnly("0"),
    TrailersOnly("1"),
    TrailersOnly("4"),
    TrailersOnly("8"),
    TrailersOnly("13"),
    TrailersOnly("14"),
    TrailersOnly("2"),
    Trailers("14"),
];

/// Everything that ends a request without an answer.
const RESETS: [Does; 7] = [Leave, Reset, Stall, Absent, REFUSED, INTERNAL, GoAway];

/// A word, or several, and what is tried again for it.
type Word = (&'static str, Vec<Does>);

fn table() -> Vec<Word> {
    let gateway = [Answer("502 Bad"), Answer("503 Busy"), Answer("504 Late")];
    let unprocessed = [REFUSED, GoAway];
    let with_resets = |more: &[Does]| [more, &RESETS[..]].concat();
    let five = [Answer("500 Broken"), Answer("599 Odd")];
    vec![
        ("5xx", with_resets(&[&gateway[..], &five].concat())),
        ("gateway-error", with_resets(&gateway)),
        ("reset", with_resets(&[])),
        ("reset-before-request", vec![Absent]),
        ("connect-failure", vec![Absent]),
        ("refused-stream", unprocessed.to_vec()),
        ("retriable-4xx", vec![Answer("409 Conflict")]),
        ("retriable-status-codes", vec![]),
        ("404,503", vec![Answer("404 No"), Answer("503 Busy")]),
        ("retriable-status-codes,429", vec![Answer("429 Slow")]),
        ("retriable-headers", vec![]),
        ("envoy-ratelimited", vec![LIMITED]),
        ("http3-post-connect-failure", vec![]),
        ("cancelled", vec![TrailersOnly("1")]),
        ("deadline-exceeded", vec![TrailersOnly("4")]),
        ("resource-exhausted", vec![TrailersOnly("8")]),
        ("internal", vec![TrailersOnly("13")]),
        ("unavailable", vec![TrailersOnly("14")]),
        ("", [&[Absent][..], &unprocessed].concat()),
        ("connect-failure,503", vec![Absent, Answer("503 Busy")]),
    ]
}

/// A backend, and the requests that it has seen.
struct Behaved {
    does: Does,
    port: u16,
    seen: Arc<AtomicUsize>,
}

impl Behaved {
    async fn start(does: Does) -> Self {
        let seen = Arc::<AtomicUsize>::default();
        if does == Absent {
            return Self { does, port: free_port(), seen };
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, does, count.clone()));
            }
        });
        Self { does, port, seen }
    }

    fn protocol(&self) -> &'static str {
        match self.does {
            ResetStream(_) | GoAway | TrailersOnly(_) | Trailers(_) => "HTTP2",
            _ => "HTTP",
        }
    }
}

async fn answer(stream: TcpStream, does: Does, seen: Arc<AtomicUsize>) {
    match does {
        ResetStream(_) | GoAway | TrailersOnly(_) | Trailers(_) => two(stream, does, seen).await,
        _ => one(stream, does, seen).await,
    }
}

async fn one(mut stream: TcpStream, does: Does, seen: Arc<AtomicUsize>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        seen.fetch_add(1, Ordering::Relaxed);
        match does {
            Answer(head) => {
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            Stall => std::future::pending().await,
            Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            _ => return,
        }
    }
}

async fn two(stream: TcpStream, does: Does, seen: Arc<AtomicUsize>) {
    let mut raw = Raw::server(stream, &[]).await;
    while let Some(request) = raw.wait(HEADERS).await {
        seen.fetch_add(1, Ordering::Relaxed);
        let stream = request.stream;
        let kind = (":status", "200");
        let bytes = match does {
            ResetStream(code) => frame(RST_STREAM, 0, stream, &[0, 0, 0, code]),
            GoAway => {
                raw.send(&frame(GOAWAY, 0, 0, &[0; 8])).await;
                return;
            }
            TrailersOnly(status) => {
                let head = fields(&[kind, ("grpc-status", status)]);
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)
            }
            Trailers(status) => [
                frame(HEADERS, END_HEADERS, stream, &fields(&[kind])),
                frame(DATA, 0, stream, &[0; 5]),
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    stream,
                    &fields(&[("grpc-status", status)]),
                ),
            ]
            .concat(),
            _ => return,
        };
        raw.send(&bytes).await;
    }
}

/// Rules for a word at `wN.com`: a path for each backend. One that stalls is the word's own, so that all
/// can be waited for at once.
fn rules(word: usize, words: &str) -> String {
    let rule = |(path, does): (usize, &Does)| {
        let (to, time) = match does {
            Stall => (format!("s{word}"), ", perTryTimeout: 300ms"),
            _ => (format!("b{path}"), ""),
        };
        format!(
            "  - {{match: [{{uri: {{exact: /{path}}}}}], route: [{{destination: {{host: \
             {to}.shop.internal}}}}], retries: {{attempts: 1, backoff: 1ms, retryOn: \
             '{words}'{time}}}}}\n"
        )
    };
    let all: String = ALL.iter().enumerate().map(rule).collect();
    format!("  http:\n{all}")
}

/// Asks a backend once under each of these words.
async fn check(port: u16, path: usize, backend: Behaved, words: Vec<(usize, Word)>) {
    let mut http = Http::plain(port).await;
    for (index, (words, expected)) in words {
        let before = backend.seen.load(Ordering::Relaxed);
        let reply = http.get(&format!("http://w{index}.com/{path}")).await;
        let seen = backend.seen.load(Ordering::Relaxed) - before;
        let again = match backend.does {
            Absent => reply.text().contains("retried and the latest reset reason"),
            _ => seen == 2,
        };
        assert_eq!(again, expected.contains(&backend.does), "{words}: {:?}", backend.does);
        assert!(seen <= 2, "{words}: {seen} of {:?}", backend.does);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_word_repeats_what_it_names_and_nothing_else() {
    let table: Vec<_> = table().into_iter().enumerate().collect();
    let mut all = gateway("plain", 80, "HTTP", "'*'", "");
    let mut checks = Vec::new();
    for (index, (words, expected)) in &table {
        let (name, host) = (format!("w{index}"), format!("w{index}.com"));
        all += &routes(&name, "istio-system/plain", &host, &rules(*index, words));
        let backend = Behaved::start(Stall).await;
        all += &service(&format!("s{index}"), backend.protocol(), backend.port);
        let path = ALL.iter().position(|does| *does == Stall).unwrap();
        checks.push((path, backend, vec![(*index, (*words, expected.clone()))]));
    }
    for (path, does) in ALL.into_iter().enumerate().filter(|(_, does)| *does != Stall) {
        let backend = Behaved::start(does).await;
        all += &service(&format!("b{path}"), backend.protocol(), backend.port);
        checks.push((path, backend, table.clone()));
    }
    let site = Site::new();
    site.config("all", &all);
    let gateway = site.start(&[80]);
    let mut running = JoinSet::new();
    for (path, backend, words) in checks {
        running.spawn(check(gateway.port(80), path, backend, words));
    }
    while let Some(checked) = running.join_next().await {
        checked.unwrap();
    }
}
