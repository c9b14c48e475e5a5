//! External authorization by Envoy's gRPC API against the real binary.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response, request};
use http_body_util::{BodyExt as _, Full};
use portcullis::grpc::ext_authz::{
    BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption,
    HttpRequest, HttpStatus, OkHttpResponse, Status,
};
use prost::Message as _;

use crate::client::{Http, Reply};
use crate::external::{Body, Provider, mesh, start};

fn set(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: name.into(), value: value.into(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append: None, append_action: 0 }
}

/// What would say who serves, which the gateway does.
fn served() -> HeaderValueOption {
    set("server", "evil")
}

/// What would frame or address a message anew.
fn framing() -> [HeaderValueOption; 5] {
    [
        set("host", "evil"),
        set("content-length", "1"),
        set("transfer-encoding", "chunked"),
        set("connection", "close, x-user"),
        set("trailer", "x-user"),
    ]
}

/// The same changes of the request and of its answer.
fn allowing(changes: Vec<HeaderValueOption>) -> CheckResponse {
    CheckResponse {
        status: Some(Status { code: 0 }),
        ok_response: Some(OkHttpResponse {
            headers: changes.clone(),
            headers_to_remove: Vec::new(),
            response_headers_to_add: changes,
        }),
        denied_response: None,
    }
}

/// A way to change a header, and what becomes of one that is there (`old`) and of one that is not: of the
/// request, and of its answer.
struct Mode {
    name: &'static str,
    append: Option<bool>,
    action: i32,
    request: [&'static str; 2],
    answer: [&'static str; 2],
}

const fn mode(
    (name, append, action): (&'static str, Option<bool>, i32),
    request: [&'static str; 2],
    answer: [&'static str; 2],
) -> Mode {
    Mode { name, append, action, request, answer }
}

const MODES: [Mode; 7] = [
    mode(("default", None, 0), ["new", "new"], ["old, new", "new"]),
    mode(("append", Some(true), 2), ["old, new", ""], ["old, new", "new"]),
    mode(("replace", Some(false), 0), ["new", "new"], ["new", "new"]),
    mode(("absent", None, 1), ["old", "new"], ["old", "new"]),
    mode(("overwrite", None, 2), ["new", "new"], ["new", "new"]),
    mode(("present", None, 3), ["new", ""], ["new", ""]),
    mode(("unknown", None, 9), ["new", "new"], ["new", "new"]),
];

impl Mode {
    fn options(&self) -> [HeaderValueOption; 2] {
        ["there", "fresh"].map(|prefix| HeaderValueOption {
            append: self.append.map(|value| BoolValue { value }),
            append_action: self.action,
            ..set(&format!("{prefix}-{}", self.name), "new")
        })
    }
}

/// Answers a check by its path; the path's last part says how.
fn by_grpc(head: &request::Parts, body: &Bytes) -> Response<Body> {
    let http = told(head, body);
    let answer = match http.path.rsplit('/').next().unwrap() {
        "allow" => CheckResponse {
            status: Some(Status { code: 0 }),
            ok_response: Some(OkHttpResponse {
                headers: [&[set("x-user", "alice"), set(":path", "/x")], &framing()[..]].concat(),
                headers_to_remove: vec!["x-drop".into(), "host".into()],
                response_headers_to_add: [&[set("x-seen", "yes"), served()], &framing()[..]]
                    .concat(),
            }),
            denied_response: None,
        },
        "changes" => allowing(MODES.iter().flat_map(Mode::options).collect()),
        "many" => allowing(vec![set("x", "y"); 129]),
        "deny" => CheckResponse {
            status: Some(Status { code: 7 }),
            ok_response: None,
            denied_response: Some(DeniedHttpResponse {
                status: Some(HttpStatus { code: 402 }),
                headers: [&[set("x-why", "money"), served()], &framing()[..]].concat(),
                body: "pay".into(),
            }),
        },
        "bare" => CheckResponse { status: Some(Status { code: 16 }), ..Default::default() },
        "odd" => CheckResponse {
            status: Some(Status { code: 7 }),
            denied_response: Some(DeniedHttpResponse {
                status: Some(HttpStatus { code: 7 }),
                ..Default::default()
            }),
            ok_response: None,
        },
        other => return broken(other),
    };
    verdict(&answer)
}

/// An answer to a check.
pub fn verdict(answer: &CheckResponse) -> Response<Body> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(answer.encoded_len().try_into().unwrap());
    answer.encode(&mut framed).unwrap();
    reply(framed.freeze(), "0")
}

fn broken(how: &str) -> Response<Body> {
    match how {
        "status" => reply(Bytes::new(), "14"),
        "short" => reply(Bytes::from_static(b"\0\0"), "0"),
        "compressed" => reply(Bytes::from_static(b"\x01\0\0\0\0"), "0"),
        "length" => reply(Bytes::from_static(b"\0\0\0\0\x09x"), "0"),
        "message" => reply(Bytes::from_static(b"\0\0\0\0\x02\xff\xff"), "0"),
        "plain" => Response::new(Full::new(Bytes::from_static(b"hello")).boxed()),
        _ => Response::builder().status(404).body(Full::default().boxed()).unwrap(),
    }
}

pub fn reply(message: Bytes, status: &'static str) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(status),
    )]);
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}

/// What a check says of the request.
fn told(head: &request::Parts, body: &Bytes) -> HttpRequest {
    assert_eq!(head.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(head.headers["content-type"], "application/grpc");
    assert_eq!(client(body), "127.0.0.1");
    let check = CheckRequest::decode(&body[5..]).unwrap();
    check.attributes.unwrap().request.unwrap().http.unwrap()
}

/// The client's address in a check.
pub fn client(body: &Bytes) -> String {
    let source = CheckRequest::decode(&body[5..]).unwrap().attributes.unwrap().source.unwrap();
    source.address.unwrap().socket_address.unwrap().address
}

/// Every line of an answer that says who serves.
pub fn servers(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all("server").iter().map(|line| line.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_provider_by_grpc_allows_denies_and_fails() {
    let provider = Provider::start(true, by_grpc).await;
    let fields =
        ", timeout: 1s, includeRequestBodyInCheck: {maxRequestBytes: 64, packAsBytes: true}";
    let (_site, backend, gateway) =
        start(&mesh("envoyExtAuthzGrpc", fields), "GRPC", provider.port).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let headers = [("x-drop", "1"), ("x-user", "mallory"), ("x-two", "a"), ("x-two", "b")];
    let post = http.request("POST", "http://a.com/private/allow", &headers, "hello");
    let reply = http.send(post).await;
    assert_eq!((reply.status.as_u16(), reply.header("x-seen")), (200, "yes"));
    assert_eq!(servers(&reply), ["istio-envoy"]);
    let seen = reply.json();
    assert_eq!(seen["headers"]["x-user"], "alice");
    assert!(seen["headers"]["x-drop"].is_null());
    assert_eq!(
        (&seen["headers"]["host"], &seen["path"]),
        (&"a.com".into(), &"/private/allow".into())
    );
    assert_eq!(seen["body_bytes"], 5);
    let (head, body) = provider.last();
    let authority = head.uri.authority().unwrap();
    assert_eq!(authority.as_str(), "outbound_.80_._.provider.shop.internal");
    let asked = told(&head, &body);
    assert_eq!((asked.method.as_str(), asked.host.as_str(), asked.size), ("POST", "a.com", 5));
    assert_eq!((&*asked.raw_body, asked.body.as_str()), (&b"hello"[..], ""));
    assert_eq!((asked.scheme.as_str(), asked.protocol.as_str()), ("http", "HTTP/1.1"));
    assert_eq!((&*asked.headers["x-two"], &*asked.headers[":authority"]), ("a,b", "a.com"));
    let received = backend.requests();
    let reply = http.get("http://a.com/private/deny").await;
    assert_eq!((reply.status.as_u16(), reply.text(), reply.header("x-why")), (402, "pay", "money"));
    assert_eq!(servers(&reply), ["istio-envoy"]);
    assert_eq!(http.get("http://a.com/private/bare").await.status, 403);
    let call = [("content-type", "application/grpc")];
    let reply = http.ask("http://a.com/private/deny", &call).await;
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "2"));
    for how in ["many", "odd", "status", "short", "compressed", "length", "message", "plain", "404"]
    {
        let reply = http.get(&format!("http://a.com/private/{how}")).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (403, ""), "{how}");
    }
    assert_eq!(backend.requests(), received);
    let mut stream = crate::client::connect(gateway.port(9000)).await;
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
    // The rule's path is HTTP's: left out, it holds for every stream of bytes.
    let mut all = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all).await;
    assert_eq!(all, b"");
}

#[tokio::test]
async fn each_way_to_change_a_header_does_what_it_says_of_requests_and_of_answers() {
    let provider = Provider::start(true, by_grpc).await;
    let (_site, _backend, gateway) =
        start(&mesh("envoyExtAuthzGrpc", ""), "GRPC", provider.port).await;
    let old: Vec<_> = MODES.iter().map(|mode| format!("there-{}", mode.name)).collect();
    let old: Vec<_> = old.iter().map(|name| (name.as_str(), "old")).collect();
    for mut http in [Http::plain(gateway.port(80)).await, Http::plain2(gateway.port(80)).await] {
        let reply = http.ask("http://a.com/private/changes", &old).await;
        assert_eq!(reply.status, 200);
        let seen = reply.json()["headers"].clone();
        for Mode { name, request, answer, .. } in &MODES {
            let names = ["there", "fresh"].map(|prefix| format!("{prefix}-{name}"));
            let told = names.each_ref().map(|name| seen[name].as_str().unwrap_or_default());
            assert_eq!(told, *request, "{name}");
            let lines = |name: &String| {
                let lines = reply.headers.get_all(name).iter().map(|line| line.to_str().unwrap());
                lines.collect::<Vec<_>>().join(", ")
            };
            assert_eq!(names.each_ref().map(lines), *answer, "{name}");
        }
    }
}
