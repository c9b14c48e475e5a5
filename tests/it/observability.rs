//! What the gateway tells of itself: metrics, access log, program log, admin port.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::backend::Backend;
use crate::client::{Http, proven, raw, tls};
use crate::fixture::issuer;
use crate::gateway::{Gateway, Site, gateway, routes, service, to};

const TOKENS: &str = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: \
                      {name: tokens, namespace: istio-system}\nspec: {jwtRules: [{issuer: \
                      'https://i', fromParams: [key], jwks: 'KEYS'}]}\n";

async fn start(arguments: &[&str]) -> (Site, Backend, Gateway) {
    let echo = Backend::http1().await;
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &gateway("secure", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
            + &routes("r", "istio-system/plain, istio-system/secure", "a.com", &to("echo"))
            + &service("echo", "HTTP", echo.port)
            + &TOKENS.replace("KEYS", &issuer().key_set("RS256", "k"))),
    );
    let gateway = site.start_with(&[80, 443], arguments);
    (site, echo, gateway)
}

/// The samples of a metric, each with its labels.
fn samples<'a>(metrics: &'a str, name: &str) -> Vec<&'a str> {
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    metrics.lines().filter(of).collect()
}

#[tokio::test]
async fn request_metrics_have_istios_names_labels_and_buckets() {
    let (_site, _echo, gateway) = start(&[]).await;
    let mut http = Http::plain(gateway.port(80)).await;
    for (path, status) in [("/", 200), ("/status/500", 500), ("/", 200)] {
        assert_eq!(http.get(&format!("http://a.com{path}")).await.status.as_u16(), status);
    }
    assert_eq!(http.get("http://nowhere.com/").await.status, 404);
    let counted = || samples(&gateway.metrics(), "istio_requests_total").len() == 3;
    gateway.wait("all are counted", counted);
    let metrics = gateway.metrics();
    let good = samples(&metrics, "istio_requests_total");
    let good = good.iter().find(|line| line.contains("response_code=\"200\"")).unwrap();
    assert!(good.ends_with(" 2"), "{good}");
    for label in [
        "reporter=\"source\"",
        "source_workload=\"",
        "source_canonical_service=\"",
        "source_canonical_revision=\"",
        "source_workload_namespace=\"",
        "source_principal=\"",
        "source_app=\"",
        "source_version=\"",
        "source_cluster=\"",
        "destination_workload=\"",
        "destination_workload_namespace=\"",
        "destination_principal=\"",
        "destination_app=\"",
        "destination_version=\"",
        "destination_service=\"echo.shop.internal\"",
        "destination_canonical_service=\"",
        "destination_canonical_revision=\"",
        "destination_service_name=\"echo.shop.internal\"",
        "destination_service_namespace=\"shop\"",
        "destination_cluster=\"",
        "request_protocol=\"http\"",
        "response_flags=\"-\"",
        "grpc_response_status=\"\"",
        "connection_security_policy=\"unknown\"",
    ] {
        assert!(good.contains(label), "{label} is not in {good}");
    }
    for name in
        ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"]
    {
        let bounds: Vec<_> = samples(&metrics, &format!("{name}_bucket"))
            .into_iter()
            .filter(|line| line.contains("response_code=\"200\""))
            .map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap())
            .collect();
        let expected = "0.5 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 600000 \
                        1800000 3600000 +Inf";
        assert_eq!(bounds.join(" "), expected, "{name}");
    }
    let lost = samples(&metrics, "istio_requests_total");
    assert!(lost.iter().any(|line| line.contains("response_flags=\"NR\"")), "{lost:?}");
    assert!(!metrics.contains("nowhere.com"), "a client's bytes are no label");
}

#[tokio::test]
async fn routes_that_are_to_be_counted_are() {
    let (site, echo, gateway) = start(&[]).await;
    let rules = "  http:\n  - match: [{uri: {prefix: /status}, statPrefix: errors}, {uri: {prefix: \
                 /none}}]\n    route: [{destination: {host: echo.shop.internal}}]\n  - match: [{uri: \
                 {prefix: /}, statPrefix: rest}]\n    directResponse: {status: 204}\n";
    let counts = || {
        let metrics = gateway.metrics();
        let found = samples(&metrics, "portcullis_route_requests_total");
        found.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()
    };
    assert!(counts().is_empty(), "none is, unless it is written");
    let config = crate::gateway::gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "a.com", rules);
    gateway.reload(|| {
        site.config("all", &(config + &service("echo", "HTTP", echo.port)));
    });
    let mut http = Http::plain(gateway.port(80)).await;
    for (path, status) in [("/status/503", 503), ("/status/503", 503), ("/none", 200), ("/x", 204)]
    {
        assert_eq!(http.get(&format!("http://a.com{path}")).await.status.as_u16(), status);
    }
    let line = |route: &str, code: u16, count: u32| {
        let labels = format!("response_code=\"{code}\",route=\"{route}\"");
        format!("portcullis_route_requests_total{{{labels}}} {count}")
    };
    let expected = [line("errors", 503, 2), line("rest", 204, 1)];
    gateway.wait("all are counted", || counts() == expected);
}

#[tokio::test]
async fn own_metrics_tell_of_handshakes_connections_reloads_and_certificates() {
    let (site, _echo, gateway) = start(&[]).await;
    let config = tls(&site.edge, None, &["http/1.1"]);
    proven(&config, gateway.port(443), "a.com").await.unwrap();
    let mut http = Http::secure(&config, gateway.port(443), "a.com").await;
    assert_eq!(http.get("https://a.com/").await.status, 200);
    gateway
        .reload(|| _ = site.config("more", "apiVersion: v1\nkind: Unheard\nmetadata: {name: x}\n"));
    let metrics = gateway.metrics();
    for (name, labels, value) in [
        ("portcullis_connections_active", "kind=\"http\"", "1"),
        ("portcullis_config_generation", "", "2"),
        ("portcullis_reloads_total", "result=\"published\"", "2"),
        ("portcullis_upstream_connections", "state=\"idle\"", "1"),
        ("portcullis_upstream_connects_total", "outcome=\"ok\"", "1"),
        ("portcullis_requests_active", "", "0"),
    ] {
        let found = samples(&metrics, name);
        let told = |line: &&str| line.contains(labels) && line.ends_with(&format!(" {value}"));
        assert!(found.iter().any(told), "{name} {labels} {value}: {found:?}");
    }
    let handshakes = samples(&metrics, "portcullis_tls_handshakes_total");
    let good = |line: &&str| line.contains("=\"ok\"") || line.contains("=\"resumed\"");
    assert!(handshakes.iter().any(good), "{handshakes:?}");
    let expiry = "portcullis_certificate_expiry_timestamp_seconds";
    let leaf = samples(&metrics, expiry);
    let leaf = leaf.iter().find(|line| line.contains("kind=\"server\"")).unwrap();
    assert!(leaf.contains("secure/a.com\"") && leaf.ends_with(" 3976214400"), "{leaf}");
    let hash = samples(&metrics, "portcullis_config_hash_info");
    let live = gateway.admin("/config_dump")["hash"].as_str().unwrap().to_owned();
    assert!(hash[0].contains(&live), "{hash:?} {live}");
    assert_eq!(gateway.status("/healthz/ready"), Some(200));
}

#[tokio::test]
async fn access_log_lines_are_objects_with_istios_keys_and_no_token() {
    let (_site, _echo, gateway) = start(&["--access-log", "json", "--log-format", "json"]).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let claims = serde_json::json!({"iss": "https://i", "sub": "alice"});
    let token = issuer().token(&serde_json::json!({"alg": "RS256", "kid": "k"}), &claims);
    let bearer = format!("Bearer {token}");
    let path = format!("http://a.com/p?key={token}&x=\"1");
    assert_eq!(http.get(&path.replace('"', "%22")).await.status, 200);
    let reply = http.ask("http://a.com/bearer", &[("authorization", &bearer)]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(http.get("http://a.com/forged?key=a.b.c").await.status, 401);
    assert_eq!(http.get("http://b.com/lost").await.status, 404);
    let lines = || -> Vec<Value> {
        gateway.out().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    gateway.wait("four lines", || lines().len() == 4);
    let lines = lines();
    let keys = "start_time route_name method path protocol response_code response_flags \
                response_code_details connection_termination_details bytes_received bytes_sent \
                duration upstream_service_time x_forwarded_for user_agent request_id authority \
                upstream_host upstream_cluster upstream_local_address downstream_local_address \
                downstream_remote_address requested_server_name upstream_transport_failure_reason \
                reason resource";
    for key in keys.split_whitespace() {
        assert!(lines.iter().all(|line| line.get(key).is_some()), "{key}: {lines:?}");
    }
    let [first, _, forged, lost] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(first["path"], "/p?key=[redacted]&x=%221");
    assert_eq!(first["upstream_cluster"], "outbound|80||echo.shop.internal");
    assert_eq!(first["response_code_details"], "via_upstream");
    assert_eq!(
        (&forged["response_code"], &forged["reason"]),
        (&401.into(), &"jwt_malformed".into())
    );
    let decided = forged["resource"].as_str().unwrap();
    assert!(
        decided.contains("RequestAuthentication") && decided.contains("config/all.yaml:"),
        "{decided}"
    );
    assert_eq!(
        (&lost["response_flags"], &lost["reason"]),
        (&"NR".into(), &"route_not_found".into())
    );
    let told = gateway.err();
    assert!(told.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{told}");
    let dump =
        gateway.admin("/config_dump").to_string() + &gateway.metrics() + &told + &gateway.out();
    assert!(!dump.contains(&token) && !dump.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn access_log_lines_have_istios_text_form() {
    let (_site, echo, gateway) = start(&["--access-log", "text"]).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let forged = "a\" 200 - x";
    let reply = http.ask("http://a.com/x?y", &[("user-agent", forged)]).await;
    let id = reply.json()["headers"]["x-request-id"].as_str().unwrap().to_owned();
    gateway.wait("the line is there", || gateway.out().contains(&id));
    let log = gateway.out();
    let line = log.lines().find(|line| line.contains(&id)).unwrap();
    let (time, rest) = line.split_once("] ").unwrap();
    assert!(time.starts_with("[2") && time.ends_with('Z'), "{time}");
    assert!(rest.starts_with("\"GET /x?y HTTP/1.1\" 200 - via_upstream - \"-\" 0 "), "{rest}");
    let agent = format!(" \"127.0.0.1\" \"a\\\" 200 - x\" \"{id}\" \"a.com\" ");
    assert!(rest.contains(&agent), "{rest}");
    let upstream = format!("\"127.0.0.1:{}\" outbound|80||echo.shop.internal ", echo.port);
    assert!(rest.contains(&upstream), "{rest}");
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() {
    let (_site, _echo, gateway) = start(&[]).await;
    assert!(gateway.post("/logging?level=debug").starts_with("HTTP/1.0 200"));
    let foreign = tls(&crate::pki::Authority::new("foreign"), None, &[]);
    assert!(proven(&foreign, gateway.port(443), "a.com").await.is_err());
    gateway.tells("handshake failed");
    assert!(gateway.post("/logging?level=nonsense").starts_with("HTTP/1.0 400"));
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_counted_and_logged() {
    let (_site, _backend, gateway) = start(&["--access-log", "json"]).await;
    let port = gateway.port(80);
    raw(port, b"GARBAGE\r\n\r\n").await;
    let many = format!("GET / HTTP/1.1\r\nhost: a.com\r\n{}\r\n", "x: y\r\n".repeat(200));
    raw(port, many.as_bytes()).await;
    for (code, reason) in [("400", "http1.codec_error"), ("431", "too_many_headers")] {
        gateway.wait("it is counted", || {
            let metrics = gateway.metrics();
            let rejected = format!("portcullis_rejections_total{{reason=\"{reason}\"}} 1");
            metrics.contains(&rejected) && metrics.contains(&format!("response_code=\"{code}\""))
        });
        gateway.wait("it is logged", || gateway.out().contains(reason));
    }
}

#[tokio::test]
async fn grpc_messages_and_statuses_are_counted() {
    let (_site, _echo, gateway) = start(&[]).await;
    let mut http = Http::plain(gateway.port(80)).await;
    let two = Bytes::from_static(b"\0\0\0\0\x01a\0\0\0\0\0");
    for kind in ["application/grpc+proto", "application/json"] {
        let request = Request::post("http://a.com/echo.Echo/One").header("content-type", kind);
        let request = request.body(Full::new(two.clone())).unwrap();
        assert_eq!(http.send(request).await.status, 200);
    }
    let of_echo = |name: &str| -> Vec<String> {
        let metrics = gateway.metrics();
        let of_echo = |line: &&&str| line.contains("destination_service=\"echo.shop.internal\"");
        samples(&metrics, name).iter().filter(of_echo).map(|line| (*line).to_owned()).collect()
    };
    gateway.wait("both are counted", || of_echo("istio_requests_total").len() == 2);
    let [messages] = &of_echo("istio_request_messages_total")[..] else { panic!("one series") };
    assert!(messages.ends_with("destination_cluster=\"unknown\"} 2"), "{messages}");
    // The backend answered, but not by gRPC.
    assert_eq!(of_echo("istio_response_messages_total").len(), 1);
    assert!(of_echo("istio_response_messages_total")[0].ends_with(" 0"));
    let requests = of_echo("istio_requests_total");
    let status = |protocol: &str, code: &str| {
        let of_protocol = format!("request_protocol=\"{protocol}\"");
        let line = requests.iter().find(|line| line.contains(&of_protocol)).unwrap();
        assert!(line.contains(&format!("grpc_response_status=\"{code}\"")), "{line}");
    };
    status("grpc", "2");
    status("http", "");
}
