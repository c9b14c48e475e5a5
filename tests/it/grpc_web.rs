//! gRPC-Web on a port of protocol `GRPC-WEB`, before a backend that speaks gRPC.

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::client::{Http, Reply};
use crate::gateway::{Gateway, Site, free_port, gateway, routes, service, to};

const WEB: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
const HELLO: &str = "\0\0\0\0\x05hello";
const TRAILERS: &str = "grpc-status:0\r\ngrpc-message:fine\r\n";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Echoes the body of a call in pieces of three bytes, then trailers.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body =
        body.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let field =
        |name| head.headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap());
    let seen = [field("content-type"), field("te"), field("grpc-accept-encoding")];
    assert_eq!(seen, ["application/grpc", "trailers", "identity"]);
    let response = Response::builder().header("content-type", "application/grpc+proto");
    Ok(match head.uri.path() {
        "/page" => Response::builder()
            .status(404)
            .header("content-type", "text/html")
            .body(Full::from("<html>").boxed_unsync())
            .unwrap(),
        "/fails" => response.header("grpc-status", "5").body(Body::default()).unwrap(),
        _ => {
            let trailers = HeaderMap::from_iter([
                ("grpc-status".parse().unwrap(), HeaderValue::from_static("0")),
                ("grpc-message".parse().unwrap(), HeaderValue::from_static("fine")),
            ]);
            let data = body.chunks(3).map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
            let frames: Vec<_> =
                data.chain([Frame::trailers(trailers)]).map(Ok::<_, Infallible>).collect();
            let stream = futures_util::stream::iter(frames);
            response.body(StreamBody::new(stream).boxed_unsync()).unwrap()
        }
    })
}

async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    port
}

fn before(protocol: &str, (kind, port): (&str, u16)) -> (Site, Gateway) {
    let rules = to("echo").replace(
        "[{route",
        "[{match: [{uri: {exact: /moved}}], redirect: {uri: /}}, {match: [{uri: {exact: /shut}}], \
         directResponse: {status: 403, body: {string: closed}}}, {corsPolicy: {allowOrigins: [{exact: 'https://b.com'}], allowMethods: [POST], allowHeaders: \
         [x-grpc-web, content-type], exposeHeaders: [grpc-status, grpc-message]}, route",
    );
    let site = Site::new();
    site.config(
        "all",
        &(gateway("web", 80, protocol, "'*'", "")
            + &routes("r", "istio-system/web", "a.com", &rules)
            + &service("echo", kind, port)),
    );
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    (site, gateway)
}

async fn call(http: &mut Http, path: &str, types: (&str, &str), body: &str) -> Reply {
    let (own, accept) = types;
    let headers = [
        ("content-type", own),
        ("accept", accept),
        ("x-grpc-web", "1"),
        ("origin", "https://b.com"),
    ];
    let request = http.request("POST", &format!("http://a.com{path}"), &headers, body);
    http.send(request).await
}

fn trailers() -> String {
    format!("\u{80}\0\0\0{}{TRAILERS}", char::from(u8::try_from(TRAILERS.len()).unwrap()))
}

/// Bytes of text whose characters stand for one byte each.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_both_encodings_and_versions_reach_a_grpc_backend() {
    let (_site, gateway) = before("GRPC-WEB", ("GRPC", backend().await));
    let port = gateway.port(80);
    for mut http in [Http::plain(port).await, Http::plain2(port).await] {
        let two = HELLO.repeat(2);
        let reply = call(&mut http, "/s/m", (WEB, WEB), &two).await;
        assert_eq!(reply.header("content-type"), WEB);
        assert_eq!(reply.header("access-control-allow-origin"), "https://b.com");
        assert_eq!(reply.header("access-control-expose-headers"), "grpc-status,grpc-message");
        assert_eq!(reply.body, bytes(&(two.clone() + &trailers())));
        assert!(reply.trailers.is_none());

        // Each message is padded by itself, both ways.
        let message = STANDARD.encode(HELLO);
        let reply = call(&mut http, "/s/m", (TEXT, TEXT), &message.repeat(2)).await;
        assert_eq!(reply.header("content-type"), "application/grpc-web-text+proto");
        let last = STANDARD.encode(bytes(&trailers()));
        assert_eq!(reply.text(), message.repeat(2) + &last);

        let reply = call(&mut http, "/s/m", (TEXT, "*/*"), &message).await;
        assert_eq!(reply.body, bytes(&(HELLO.to_owned() + &trailers())));

        // An answer without a body has its status in the head.
        let reply = call(&mut http, "/fails", (WEB, WEB), HELLO).await;
        assert_eq!((reply.header("grpc-status"), reply.text()), ("5", ""));
        assert_eq!(reply.header("content-type"), WEB);
    }
    let counted = "istio_response_messages_total";
    gateway.wait("messages are counted", || {
        let metrics = gateway.metrics();
        let sample = metrics.lines().find(|line| line.starts_with(counted)).unwrap_or_default();
        sample.ends_with(" 10")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_as_a_status_of_grpc() {
    let (_site, gateway) = before("GRPC-WEB", ("GRPC", backend().await));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = call(&mut http, "/page", (WEB, WEB), HELLO).await;
    let seen = (reply.status.as_u16(), reply.header("grpc-status"), reply.header("content-type"));
    assert_eq!(seen, (404, "12", WEB));
    assert_eq!(reply.text(), "");
    // What the gateway answers itself where a rule is looked for.
    for (path, status, mapped, said) in
        [("/moved", 301, "2", "Moved Permanently"), ("/shut", 403, "7", "closed")]
    {
        let reply = call(&mut http, path, (WEB, WEB), HELLO).await;
        let seen =
            (reply.status.as_u16(), reply.header("grpc-status"), reply.header("content-type"));
        assert_eq!((seen, reply.text()), ((status, mapped, WEB), ""), "{path}");
        assert_eq!(reply.header("grpc-message"), said);
        let page = call(&mut http, path, ("text/plain", WEB), HELLO).await;
        assert_eq!((page.status.as_u16(), page.header("grpc-status")), (status, ""), "{path}");
    }
    for bad in ["AAA", "AA*A", "=AAA"] {
        let mut http = Http::plain(gateway.port(80)).await;
        let reply = call(&mut http, "/s/m", (TEXT, TEXT), bad).await;
        assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (400, "13"), "{bad}");
    }
    let (_site, gateway) = before("GRPC-WEB", ("GRPC", free_port()));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = call(&mut http, "/s/m", (WEB, TEXT), HELLO).await;
    let seen = (reply.status.as_u16(), reply.header("grpc-status"), reply.header("content-type"));
    assert_eq!(seen, (503, "14", "application/grpc-web-text+proto"));
    assert!(reply.header("grpc-message").contains("connection failure"), "{reply:?}");
}

#[tokio::test]
async fn other_requests_and_other_ports_are_left_alone() {
    let echo = Backend::http1().await;
    let (_site, gateway) = before("GRPC-WEB", ("HTTP", echo.port));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = call(&mut http, "/", ("application/json", "*/*"), "{}").await;
    assert_eq!(reply.json()["headers"]["content-type"], "application/json");
    let preflight = [
        ("origin", "https://b.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-grpc-web"),
    ];
    let request = http.request("OPTIONS", "http://a.com/s/m", &preflight, "");
    let reply = http.send(request).await;
    assert_eq!(reply.header("access-control-allow-headers"), "x-grpc-web,content-type");

    let (_site, gateway) = before("HTTP", ("HTTP", echo.port));
    let mut http = Http::plain(gateway.port(80)).await;
    let reply = call(&mut http, "/", (WEB, WEB), HELLO).await;
    assert_eq!(reply.json()["headers"]["content-type"], WEB);
}
