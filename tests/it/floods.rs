//! HTTP/2 peers that send frames without end: they are ended, and others are served.

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::Http;
use crate::frames::{
    ACK, CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
    RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, fields, frame, head,
};
use crate::gateway::{Gateway, PATIENCE, front};

/// Sends bytes after a request that is not answered; the connection ends for this reason.
async fn check(gateway: &Gateway, bytes: &[u8], reason: &str) {
    let mut raw = Raw::client(gateway.port(80), &[]).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head("POST", "/never"))).await;
    raw.send(bytes).await;
    assert_eq!(raw.ended().await, Some(CALM), "{reason}");
    let counted = format!("portcullis_rejections_total{{reason=\"{reason}\"}} ");
    gateway.wait("it is counted", || gateway.metrics().contains(&counted));
    let logged = " 0 DPE http2.frames_flood";
    gateway.wait("it is logged", || gateway.out().contains(logged));
}

#[tokio::test]
async fn clients_that_flood_are_told_to_calm_down() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let block = frame(HEADERS, 0, 3, &head("GET", "/"));
    for (bytes, reason) in [
        (frame(PING, 0, 0, &[0; 8]).repeat(3_000), "http2_ping_flood"),
        (frame(PING, ACK, 0, &[0; 8]).repeat(3_000), "http2_ping_flood"),
        (frame(SETTINGS, 0, 0, &[]).repeat(3_000), "http2_settings_flood"),
        (frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 9]).repeat(3_000), "http2_priority_flood"),
        (frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(3_000), "http2_window_update_flood"),
        (frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(3_000), "http2_window_update_flood"),
        (frame(DATA, 0, 1, &[]).repeat(3_000), "http2_data_flood"),
        (frame(DATA, 0, 1, &[0]).repeat(30_000), "http2_data_flood"),
        (frame(0x20, 0, 0, b"x").repeat(3_000), "http2_unknown_flood"),
        (
            [block.clone(), frame(CONTINUATION, 0, 3, &[]).repeat(3_000)].concat(),
            "http2_continuation_flood",
        ),
    ] {
        check(&gateway, &bytes, reason).await;
    }
    let reply = Http::plain2(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 200);
    // A flood of frames is no flood of lines.
    assert!(gateway.err().lines().count() < 20, "{}", gateway.err());
}

#[tokio::test]
async fn rapid_resets_end_the_connection_whether_they_come_early_or_late() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    // All at once: before the streams are looked at.
    let mut bytes = Vec::new();
    for stream in (3..2_001).step_by(2) {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/never")));
        bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    check(&gateway, &bytes, "http2_reset_flood").await;
    // Each once its stream is under way.
    let mut raw = Raw::client(gateway.port(80), &[]).await;
    let mut opened = 0;
    while opened < 5_000 && raw.settle().await {
        let streams = (0..100).map(|index| 1 + 2 * (opened + index));
        let open =
            |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/never"));
        raw.send(&streams.clone().flat_map(open).collect::<Vec<_>>()).await;
        if !raw.settle().await {
            break;
        }
        let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        raw.send(&streams.flat_map(reset).collect::<Vec<_>>()).await;
        opened += 100;
    }
    // Time gives credit, too.
    assert!((300..5_000).contains(&opened), "{opened}");
    assert_eq!(raw.ended().await.unwrap_or(CALM), CALM);
    assert_eq!(Http::plain2(gateway.port(80)).await.get("http://a.com/").await.status, 200);
}

#[tokio::test]
async fn a_client_that_asks_a_lot_keeps_its_connection() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let mut raw = Raw::client(gateway.port(80), &[]).await;
    for stream in (1..401).step_by(2) {
        let mut bytes = frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 9]).repeat(2);
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/")));
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]).repeat(4));
        bytes.extend(frame(PING, 0, 0, &[0; 8]).repeat(4));
        raw.send(&bytes).await;
        loop {
            let frame = raw.next().await.unwrap();
            assert_ne!(frame.kind, GOAWAY);
            if frame.stream == stream && frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(backend.requests(), 200);
}

#[tokio::test]
async fn a_head_larger_than_any_is_told_so() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let mut raw = Raw::client(gateway.port(80), &[]).await;
    assert!(raw.settle().await);
    raw.send(&frame(SETTINGS, ACK, 0, &[])).await;
    let large = "x".repeat(16_000);
    let mut block = head("GET", "/");
    block.extend(fields(&[("a", &large)]));
    raw.send(&frame(HEADERS, END_STREAM, 1, &block[..16_000])).await;
    raw.send(&frame(CONTINUATION, 0, 1, &block[16_000..])).await;
    for name in ["b", "c", "d", "e", "f", "g", "h"] {
        raw.send(&frame(CONTINUATION, 0, 1, &fields(&[(name, &large)]))).await;
    }
    raw.send(&frame(CONTINUATION, END_HEADERS, 1, &[])).await;
    let answer = raw.next().await;
    assert!(answer.is_some(), "it is answered or told");
    let reply = Http::plain2(gateway.port(80)).await.get("http://a.com/").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn backends_that_flood_are_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_site, gateway) = front("HTTP2", listener.local_addr().unwrap().port());
    let early = fields(&[(":status", "103")]);
    for bytes in [
        frame(PING, 0, 0, &[0; 8]).repeat(3_000),
        frame(SETTINGS, 0, 0, &[]).repeat(3_000),
        frame(HEADERS, END_HEADERS, 1, &early).repeat(3_000),
    ] {
        let port = gateway.port(80);
        let asked =
            tokio::spawn(async move { Http::plain2(port).await.get("http://a.com/").await });
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut raw = Raw::server(stream, &[]).await;
        raw.wait(HEADERS).await.unwrap();
        raw.send(&bytes).await;
        assert_eq!(raw.ended().await, Some(CALM));
        assert_eq!(asked.await.unwrap().status, 502);
    }
    gateway.wait("it is counted", || {
        gateway.metrics().contains("portcullis_rejections_total{reason=\"upstream_flood\"} 3")
    });
}

#[tokio::test]
async fn a_head_that_trickles_is_cut() {
    let backend = Backend::http1().await;
    let (_site, gateway) = front("HTTP", backend.port);
    let block = head("GET", "/");
    let whole = frame(HEADERS, END_HEADERS, 3, &block);
    let open = frame(HEADERS, 0, 3, &block);
    let announced = &whole[..20];
    let ends = [&open[..], announced].map(|last| {
        let last = last.to_vec();
        let port = gateway.port(80);
        tokio::spawn(async move {
            let mut raw = Raw::client(port, &[]).await;
            // Another stream of the connection makes no difference.
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/never"))).await;
            raw.send(&last).await;
            raw.ended().await
        })
    });
    for end in ends {
        end.await.unwrap();
    }
    gateway.wait("the streams are over", || gateway.metrics().contains("requests_active 0"));
}
