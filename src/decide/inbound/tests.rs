use super::*;
use crate::base::host::HostPattern;
use crate::base::id::{Origin, ResourceId};
use crate::route::hosts::HostIndex;
use crate::route::weight::Weighted;
use crate::snapshot::cluster::ClusterId;
use crate::snapshot::forwarded::ByHost;
use crate::snapshot::route::RouteTable;

fn origin() -> Origin {
    Origin { resource: ResourceId::new("PeerAuthentication", "a", "b"), file: "a".into(), line: 1 }
}

fn spoken(kind: &str) -> Spoken {
    let mut hosts = HostIndex::default();
    hosts.entry(&HostPattern::Any, || ());
    let (key, routes): (Arc<str>, _) = ("k".into(), RouteTable::default());
    let http = ServerBlock {
        key: key.clone(),
        origin: origin(),
        hosts,
        tls: None,
        grpc_web: false,
        forwarded: ByHost::default(),
        normalization: ByHost::default(),
        routes,
    };
    let tcp = TcpBlock {
        key,
        origin: origin(),
        server: origin(),
        tls: None,
        destinations: Weighted::single(None),
        idle_timeout: limit::TCP_IDLE_TIME,
        judged: true,
    };
    match kind {
        "http" => Spoken::Http(http.into()),
        "tcp" => Spoken::Tcp(tcp.into()),
        _ => Spoken::Either(http.into(), tcp.into()),
    }
}

fn port(mode: &str, kind: &str) -> Inbound {
    let plain = (mode != "STRICT").then(|| spoken(kind));
    let mutual = (mode != "DISABLE").then(|| spoken(kind));
    let port = Inbound { origin: origin(), application: ClusterId(0), plain, mutual };
    assert_eq!(port.mode(), mode);
    port
}

/// What takes a connection that begins so: `http`, `http2`, `tcp`, `tls`, `refused` or `more`.
fn check(mode: &str, kind: &str, seen: &[u8], expected: &str) {
    let port = port(mode, kind);
    let taken = match opening(&port, seen) {
        None => "more",
        Some(Opening::Tls) => "tls",
        Some(other) => match plain(&port, other) {
            None => "refused",
            Some(Plain::Http(_, Some(true))) => "http2",
            Some(Plain::Http(..)) => "http",
            Some(Plain::Tcp(_)) => "tcp",
        },
    };
    assert_eq!(taken, expected, "{mode} {kind} {:?}", String::from_utf8_lossy(seen));
}

const HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0];

#[test]
fn modes_and_protocols_say_who_takes_first_bytes() {
    let get = b"GET / HTTP/1.1\r\n";
    for (mode, kind, hello, request, text) in [
        ("STRICT", "http", "tls", "refused", "refused"),
        ("STRICT", "tcp", "tls", "refused", "refused"),
        ("STRICT", "either", "tls", "refused", "refused"),
        ("PERMISSIVE", "http", "tls", "http", "http"),
        ("PERMISSIVE", "tcp", "tls", "tcp", "tcp"),
        ("PERMISSIVE", "either", "tls", "http", "tcp"),
        ("DISABLE", "http", "http", "http", "http"),
        ("DISABLE", "tcp", "tcp", "tcp", "tcp"),
        ("DISABLE", "either", "tcp", "http", "tcp"),
    ] {
        check(mode, kind, HELLO, hello);
        check(mode, kind, get, request);
        check(mode, kind, b"hello there\n", text);
    }
}

#[test]
fn no_byte_is_waited_for_where_none_makes_a_difference() {
    check("DISABLE", "tcp", b"", "tcp");
    check("DISABLE", "http", b"", "http");
    check("DISABLE", "either", b"", "more");
    check("PERMISSIVE", "tcp", b"", "more");
    check("STRICT", "http", b"", "more");
}

#[test]
fn first_bytes_tell_one_by_one() {
    let preface = PREFACE;
    for (whole, told, taken) in [
        (HELLO, 6, "tls"),
        (b"GET /a HTTP/1.1\r\n", 17, "http"),
        (b"POST / HTTP/1.0\n", 16, "http"),
        (preface, preface.len(), "http2"),
        (b"PRINT\r\n", 6, "tcp"),
        (b"GET /a RTSP/1.0\r\n", 17, "tcp"),
        (b"get / HTTP/1.1\r\n", 1, "tcp"),
        (b"\x16\x03\x01\x50", 4, "tcp"),
        (b"\x00\x00", 1, "tcp"),
    ] {
        for count in 0..told {
            check("PERMISSIVE", "either", &whole[..count], "more");
        }
        check("PERMISSIVE", "either", &whole[..told], taken);
    }
    check("DISABLE", "either", &[b'A'; METHOD_BYTES + 1], "tcp");
    let long = [b"GET /".as_slice(), &vec![b'a'; limit::REQUEST_LINE_SEEN_BYTES]].concat();
    check("DISABLE", "either", &long, "http");
}

/// What takes TLS whose ClientHello offers these.
fn check_tls(mode: &str, kind: &str, offered: &[&[u8]], expected: &str) {
    let taken = match chain(&port(mode, kind), Some(offered.iter().copied())) {
        None => "refused",
        Some(Chain::Http(_)) => "http",
        Some(Chain::Tcp(_)) => "tcp",
        Some(Chain::Passthrough(_)) => "as it is",
        Some(Chain::AutoPassthrough(_)) => "service",
    };
    assert_eq!(taken, expected, "{mode} {kind} {offered:?}");
}

#[test]
fn tls_is_the_meshs_by_what_it_offers() {
    let http: &[&[u8]] = &[b"istio-http/1.1", b"istio", b"http/1.1"];
    let bytes: &[&[u8]] = &[b"istio"];
    for mode in ["STRICT", "PERMISSIVE"] {
        for (kind, offered, taken) in [
            ("http", http, "http"),
            ("http", bytes, "http"),
            ("tcp", http, "tcp"),
            ("tcp", bytes, "tcp"),
            ("either", http, "http"),
            ("either", &[b"istio-h2", b"istio", b"h2"], "http"),
            ("either", bytes, "tcp"),
            ("either", &[b"istio-peer-exchange", b"istio"], "tcp"),
        ] {
            check_tls(mode, kind, offered, taken);
        }
    }
    for (kind, permissive, strict) in
        [("http", "refused", "http"), ("tcp", "as it is", "tcp"), ("either", "as it is", "http")]
    {
        check_tls("PERMISSIVE", kind, &[b"h2", b"http/1.1"], permissive);
        check_tls("STRICT", kind, &[b"h2", b"http/1.1"], strict);
    }
    check_tls("STRICT", "either", &[], "tcp");
    check_tls("PERMISSIVE", "http", &[], "refused");
}
