//! The engine against a small issuer on loopback; every wait is for an event, with a deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::auth::jwt::fixture::{issuer, stranger};
use crate::auth::jwt::{
    Audiences, Authenticator, DeclaredEndpoints, ForwardToken, JwtRule, Locations, RequestTokens,
    TokenCache, Verdict,
};
use crate::base::id::{Origin, ResourceId};
use crate::base::limit;

/// What the issuer says to a path; nothing: it never answers.
type Answer = Box<dyn Fn(&str) -> Option<Response<Full<Bytes>>> + Send>;

#[derive(Clone)]
struct Server(Arc<Mutex<Answer>>);

impl Server {
    fn new(answer: impl Fn(&str) -> Option<Response<Full<Bytes>>> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(answer))))
    }

    fn say(&self, answer: impl Fn(&str) -> Option<Response<Full<Bytes>>> + Send + 'static) {
        *self.0.lock().unwrap() = Box::new(answer);
    }

    async fn start(&self) -> SocketAddr {
        self.start_at("127.0.0.1:0".parse().unwrap(), None).await
    }

    async fn start_at(&self, address: SocketAddr, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        address
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(async |request: Request<Incoming>| {
            let answer = (self.0.lock().unwrap())(request.uri().path());
            match answer {
                Some(answer) => Ok::<_, Infallible>(answer),
                None => std::future::pending().await,
            }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of an answer")]
fn answer(status: u16, body: impl Into<Bytes>) -> Option<Response<Full<Bytes>>> {
    Some(Response::builder().status(status).body(Full::new(body.into())).unwrap())
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of an answer")]
fn redirect(to: &str) -> Option<Response<Full<Bytes>>> {
    Some(Response::builder().status(302).header("location", to).body(Full::default()).unwrap())
}

fn good_keys() -> String {
    issuer().key_set("ES256", "k")
}

fn quick() -> Pace {
    let short = Duration::from_millis(10);
    let long = Duration::from_hours(1);
    Pace {
        retry_first: short,
        retry_missing: short,
        retry_stale: short,
        asked_missing: short,
        asked_unknown: short,
        refresh: (long, long),
    }
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(crate::telemetry::WorkloadLabels::default()).unwrap()
}

fn source(uri: &str) -> JwksSource {
    JwksSource {
        issuer: "i".into(),
        location: KeyLocation::Uri(uri.into()),
        timeout: Duration::from_secs(5),
        endpoints: None,
    }
}

fn engine(pace: Pace) -> JwksEngine {
    engine_with(pace, Vec::new(), Proxies::default())
}

fn engine_with(pace: Pace, roots: Vec<CertificateDer<'static>>, proxies: Proxies) -> JwksEngine {
    JwksEngine::with_client(Handle::current(), Client::new(roots, proxies), metrics(), pace)
}

/// Waits until the only source's progress is as wanted.
async fn reached(engine: &JwksEngine, wanted: impl FnMut(&Progress) -> bool) -> JwksStatus {
    let mut progress = engine.entries().values().next().unwrap().progress.subscribe();
    tokio::time::timeout(Duration::from_secs(20), progress.wait_for(wanted))
        .await
        .unwrap()
        .unwrap();
    engine.status().remove(0)
}

/// Status after the first fetch of an answer.
async fn check(
    say: impl Fn(&str) -> Option<Response<Full<Bytes>>> + Send + 'static,
    state: JwksState,
    error: Option<&str>,
) {
    let address = Server::new(say).start().await;
    let engine = engine(quick());
    engine.update(&[source(&format!("http://{address}/keys"))]);
    let status = reached(&engine, |progress| progress.fetches > 0).await;
    assert_eq!(status.state, state, "{status:?}");
    match error {
        None => assert_eq!((status.last_error, status.failures), (None, 0)),
        Some(text) => {
            let (class, shown) = status.last_error.unwrap();
            assert!(shown.contains(text), "{shown}");
            assert!(!class.is_empty());
        }
    }
}

#[tokio::test]
async fn a_good_set_is_ready() {
    check(|_| answer(200, good_keys()), JwksState::Ready, None).await;
}

#[tokio::test]
async fn failures_leave_the_issuer_without_keys() {
    let never = JwksState::NeverFetched;
    check(|_| answer(500, "no"), never, Some("status 500")).await;
    check(|_| answer(200, "<html>"), never, Some("not a JSON object")).await;
    check(|_| answer(200, "{}"), never, Some("no list \"keys\"")).await;
    let large = vec![b' '; limit::JWKS_BYTES + 1];
    check(move |_| answer(200, large.clone()), never, Some("longer than")).await;
    let empty = r#"{"keys":[]}"#;
    check(move |_| answer(200, empty), JwksState::Unusable, Some("no usable public key")).await;
}

#[tokio::test]
async fn redirects_are_followed_a_few_times() {
    let twice = |path: &str| match path {
        "/keys" => redirect("/b"),
        "/b" => redirect("c"),
        "/c" => answer(200, good_keys()),
        _ => answer(404, ""),
    };
    check(twice, JwksState::Ready, None).await;
    check(|_| redirect("/keys"), JwksState::NeverFetched, Some("redirects")).await;
    check(|_| answer(302, ""), JwksState::NeverFetched, Some("redirects")).await;
}

#[tokio::test]
async fn redirects_to_metadata_services_are_refused() {
    for to in [
        "http://169.254.169.254/latest",
        "http://[fd00:ec2::254]/",
        "//[::ffff:169.254.0.1]/",
        // A name to everyone but the resolver.
        "http://2852039166/latest",
    ] {
        check(move |_| redirect(to), JwksState::NeverFetched, Some("metadata")).await;
    }
    check(|_| redirect("ftp://a/"), JwksState::NeverFetched, Some("must begin with http(s)")).await;
}

#[tokio::test]
async fn a_silent_issuer_is_given_up_at_the_deadline() {
    let address = Server::new(|_| None).start().await;
    let engine = engine(quick());
    let slow = JwksSource {
        timeout: Duration::from_millis(20),
        ..source(&format!("http://{address}/keys"))
    };
    engine.update(&[slow]);
    let status = reached(&engine, |progress| progress.failures > 0).await;
    assert_eq!(status.last_error, Some(("timeout", "no answer within 20 ms".to_owned())));
    assert!(status.next_fetch_unix.is_some());
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_is_tried_again() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let engine = engine(quick());
    engine.update(&[source(&format!("http://{address}/keys"))]);
    let status = reached(&engine, |progress| progress.failures > 1).await;
    assert_eq!(status.state, JwksState::NeverFetched);
    assert!(status.last_error.unwrap().1.contains("no connection"));
    Server::new(|_| answer(200, good_keys())).start_at(address, None).await;
    let status = reached(&engine, |progress| progress.last_success_unix.is_some()).await;
    assert_eq!((status.state, status.keys, status.last_error), (JwksState::Ready, 1, None));
}

fn authenticator(keys: Arc<IssuerKeys>) -> Authenticator {
    Authenticator::new(vec![JwtRule {
        issuer: None,
        audiences: Audiences::default(),
        locations: Locations::default(),
        forward: ForwardToken::Keep,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: Arc::new([]),
        keys,
        fetched: true,
        origin: Origin {
            resource: ResourceId::new("RequestAuthentication", "a", "b"),
            file: "f".into(),
            line: 1,
        },
    }])
}

fn passes(authenticator: &Authenticator, token: &str) -> bool {
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let request = RequestTokens { headers: &headers, path_and_query: "/" };
    matches!(authenticator.authenticate(request, 0, &TokenCache::none()), Ok(Verdict::Verified(_)))
}

#[tokio::test]
async fn a_rotated_key_is_fetched_when_a_token_names_it() {
    let server = Server::new(|_| answer(200, stranger().key_set("ES256", "old")));
    let address = server.start().await;
    let engine = engine(quick());
    let source = source(&format!("http://{address}/keys"));
    let authenticator = authenticator(engine.keys(&source));
    engine.update(std::slice::from_ref(&source));
    reached(&engine, |progress| progress.fetches == 1).await;
    server.say(|_| answer(200, issuer().key_set("ES256", "new")));
    let token = issuer().token(&json!({"alg": "ES256", "kid": "new"}), &json!({}));
    assert!(!passes(&authenticator, &token));
    reached(&engine, |progress| progress.fetches == 2).await;
    assert!(passes(&authenticator, &token));
}

#[tokio::test]
async fn the_last_good_keys_outlive_failures() {
    let server = Server::new(|_| answer(200, good_keys()));
    let address = server.start().await;
    let short = Duration::from_millis(10);
    let engine = engine(Pace { refresh: (short, short), ..quick() });
    let source = source(&format!("http://{address}/keys"));
    let authenticator = authenticator(engine.keys(&source));
    engine.update(std::slice::from_ref(&source));
    reached(&engine, |progress| progress.fetches > 0).await;
    let token = issuer().token(&json!({"alg": "ES256"}), &json!({}));
    for bad in ["{", r#"{"keys":[]}"#] {
        server.say(move |_| answer(200, bad));
        let failures = engine.status()[0].failures;
        let status = reached(&engine, |progress| progress.failures > failures + 1).await;
        assert_eq!(status.state, JwksState::Ready);
        assert!(passes(&authenticator, &token));
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_cannot_make_the_engine_fetch_faster_than_its_pace() {
    let engine = engine(Pace::default());
    let source = source("http://169.254.169.254/keys");
    let authenticator = authenticator(engine.keys(&source));
    engine.update(std::slice::from_ref(&source));
    let token = issuer().token(&json!({"alg": "ES256"}), &json!({}));
    let mut progress = engine.entries().values().next().unwrap().progress.subscribe();
    progress.wait_for(|progress| progress.fetches >= 10).await.unwrap();
    let started = tokio::time::Instant::now();
    while progress.borrow_and_update().fetches < 20 {
        assert!(!passes(&authenticator, &token));
        progress.changed().await.unwrap();
    }
    let elapsed = started.elapsed();
    assert!(elapsed >= 10 * limit::JWKS_MISSING_TIME, "{elapsed:?}");
    assert!(elapsed < 15 * limit::JWKS_MISSING_TIME, "tokens hasten fetches: {elapsed:?}");
}

#[tokio::test]
async fn keys_survive_a_reload_and_unused_ones_are_forgotten() {
    let address = Server::new(|_| answer(200, good_keys())).start().await;
    let engine = engine(quick());
    let kept = source(&format!("http://{address}/keys"));
    let keys = engine.keys(&kept);
    engine.update(std::slice::from_ref(&kept));
    reached(&engine, |progress| progress.fetches == 1).await;
    let other = source("http://127.0.0.1:1/keys");
    engine.update(&[kept.clone(), other.clone(), kept.clone()]);
    assert!(Arc::ptr_eq(&keys, &engine.keys(&kept)));
    assert_eq!(engine.status().len(), 2);
    engine.update(&[other]);
    assert_eq!(engine.status().len(), 1);
    assert!(!Arc::ptr_eq(&keys, &engine.keys(&kept)));
}

mod ways;
