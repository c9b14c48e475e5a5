//! What Istio's webhook refuses is not used: the last good version goes on, and from a cold start nothing
//! takes its place.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::{Backend, counter};
use crate::client::{Http, connect, proven, tls};
use crate::gateway::{Gateway, Site, gateway, policy, routes, service, to};

fn answering(status: u16) -> String {
    format!("  http: [{{directResponse: {{status: {status}}}}}]\n")
}

/// A rule that Istio refuses: both a route and a redirect.
const REFUSED: &str =
    "  http: [{route: [{destination: {host: b.shop.internal}}], redirect: {uri: /x}}]\n";

async fn status(gateway: &Gateway, host: &str) -> u16 {
    status_of(gateway, &format!("{host}/")).await
}

async fn status_of(gateway: &Gateway, target: &str) -> u16 {
    Http::plain(gateway.port(80)).await.get(&format!("http://{target}")).await.status.as_u16()
}

#[tokio::test]
async fn routes_that_istio_refuses_go_on_as_they_were_and_the_rest_of_the_file_is_new() {
    let site = Site::new();
    let plain = gateway("plain", 80, "HTTP", "'*'", "");
    let text = |a: &str, b: u16| {
        let plain = plain.clone() + &routes("a", "istio-system/plain", "a.com", a);
        plain + &routes("b", "istio-system/plain", "b.com", &answering(b))
    };
    site.config("all", &text(&answering(201), 202));
    let gateway = site.start(&[80]);
    gateway.reload(|| _ = site.config("all", &text(REFUSED, 203)));
    assert_eq!(status(&gateway, "a.com").await, 201);
    assert_eq!(status(&gateway, "b.com").await, 203);
    gateway.tells("IST0106");
    gateway.tells("VirtualService shop/a goes on as it was");
    gateway.reload(|| _ = site.config("all", &text(&answering(204), 203)));
    assert_eq!(status(&gateway, "a.com").await, 204);
}

#[tokio::test]
async fn a_policy_that_istio_refuses_goes_on_and_from_a_cold_start_refuses() {
    let site = Site::new();
    let denied = |rule: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: d, \
             namespace: istio-system}}\nspec: {{action: DENY, rules: [{{{rule}}}]}}\n"
        )
    };
    let rest = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("a", "istio-system/plain", "a.com", &answering(201));
    site.config("all", &(rest.clone() + &denied("to: [{operation: {paths: [/x]}}]")));
    let refused = rest + &denied("to: [{operation: {paths: [/x]}}], from: [{source: {}}]");
    let warm = site.start(&[80]);
    let asked = async |gateway: &Gateway, path: &str| {
        let mut http = Http::plain(gateway.port(80)).await;
        http.get(&format!("http://a.com{path}")).await.status.as_u16()
    };
    assert_eq!((asked(&warm, "/x").await, asked(&warm, "/y").await), (403, 201));
    warm.reload(|| _ = site.config("all", &refused));
    assert_eq!((asked(&warm, "/x").await, asked(&warm, "/y").await), (403, 201));
    drop(warm);
    let cold = site.start(&[80]);
    assert_eq!((asked(&cold, "/x").await, asked(&cold, "/y").await), (403, 403));
}

/// No token is logged while the policy that says where tokens are cannot be used.
#[tokio::test]
async fn tokens_of_a_policy_that_cannot_be_used_are_not_logged() {
    let site = Site::new();
    let rest = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("a", "istio-system/plain", "a.com", &answering(201));
    let asked = async |spec: &str, status: u16, logged: &str| {
        let policy = format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
             t, namespace: istio-system}}\nspec: {spec}\n"
        );
        site.config("all", &(rest.clone() + &policy));
        let gateway = site.start(&[80]);
        assert_eq!(status_of(&gateway, "a.com/p?tok=s3cret&x=1").await, status, "{spec}");
        gateway.wait("it is logged", || gateway.out().contains(logged));
        assert!(!gateway.out().contains("s3cret"), "{spec}");
    };
    let refused = "{jwtRules: [{issuer: a, fromParams: [tok]}, {issuer: b, jwksUri: 'ftp://x'}]}";
    asked(refused, 403, "GET /p?tok=[redacted]&x=1 ").await;
    asked("{jwtRules: [{issuer: a, fromParams: tok: 1}]}", 403, "GET /p?[redacted] ").await;
    asked("{jwtRules: [{issuer: a, fromParams: {tok: 1}}]}", 403, "GET /p?[redacted] ").await;
    asked("{jwtRules: [{issuer: a, fromParam: [tok]}]}", 201, "GET /p?[redacted] ").await;
}

/// Nor while it goes on as it was: its new text may be what clients go by already.
#[tokio::test]
async fn tokens_that_a_broken_text_speaks_of_are_not_logged_while_the_last_good_one_goes_on() {
    let site = Site::new();
    let rest = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("a", "istio-system/plain", "a.com", &answering(201));
    let policy = |rules: &str| {
        let policy = format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
             t, namespace: istio-system}}\nspec: {{jwtRules: {rules}}}\n"
        );
        site.config("all", &(rest.clone() + &policy));
    };
    let good = "[{issuer: a, jwks: '{\"keys\":[]}', fromParams: [old]}]";
    policy(good);
    let gateway = site.start(&[80]);
    let asked = async |logged: &str| {
        // The last good one is in force: a bad token is refused where it says, and elsewhere is none.
        assert_eq!(status_of(&gateway, "a.com/p?old=s3cret").await, 401);
        assert_eq!(status_of(&gateway, "a.com/p?new=s3cret&x=1").await, 201);
        gateway.wait("it is logged", || gateway.out().contains(logged));
        assert!(!gateway.out().contains("s3cret"), "{}", gateway.out());
    };
    let refused = "[{issuer: a, fromParams: [new]}, {issuer: b, jwksUri: 'ftp://x'}]";
    gateway.reload(|| policy(refused));
    asked("GET /p?new=[redacted]&x=1 ").await;
    for unclear in ["[{issuer: a, fromParams: new: 1}]", "[{issuer: a, fromParams: [new}]"] {
        gateway.reload(|| policy(unclear));
        asked("GET /p?[redacted] ").await;
    }
}

#[tokio::test]
async fn a_destination_rule_that_istio_refuses_sends_nothing_in_clear() {
    let backend = Backend::http1().await;
    let site = Site::new();
    let rest = gateway("plain", 80, "HTTP", "'*'", "")
        + &service("b", "HTTP", backend.port)
        + &routes("a", "istio-system/plain", "a.com", &to("b"));
    let refused = policy("b", "tls: {mode: MUTUAL, clientCertificate: /c}");
    site.config("all", &(rest.clone() + &refused));
    let gateway = site.start(&[80]);
    assert_eq!(status(&gateway, "a.com").await, 503);
    assert_eq!(backend.connections(), 0);
    gateway.reload(|| _ = site.config("all", &rest));
    assert_eq!(status(&gateway, "a.com").await, 200);
}

#[tokio::test]
async fn a_wider_host_does_not_take_the_requests_of_routes_that_cannot_be_used() {
    let site = Site::new();
    let wide = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("wide", "istio-system/plain", "'*.com'", &answering(201))
        + &routes("beside", "istio-system/plain", "both.com", &answering(202));
    let cases = [REFUSED.to_owned(), "  http: 5\n".to_owned(), "  http: [}\n".to_owned()];
    for rules in &cases {
        let text = wide.clone() + &routes("a", "istio-system/plain", "a.com, both.com", rules);
        site.config("all", &text);
        let gateway = site.start(&[80]);
        assert_eq!(status(&gateway, "a.com").await, 503, "{rules}");
        gateway.wait("the log tells", || gateway.out().contains(" 503 NC cluster_not_found"));
        // What another resource serves under just this host goes on, and so do others.
        assert_eq!(status(&gateway, "both.com").await, 202, "{rules}");
        assert_eq!(status(&gateway, "b.com").await, 201, "{rules}");
        gateway.reload(|| _ = site.config("all", &wide));
        assert_eq!(status(&gateway, "a.com").await, 201, "deleted, it is the wider host's");
    }
}

#[tokio::test]
async fn routes_of_other_gateways_that_cannot_be_used_take_nothing() {
    let site = Site::new();
    let text = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("wide", "istio-system/plain", "'*.com'", &answering(201))
        + &routes("a", "istio-system/other", "a.com", REFUSED)
        + &routes("m", "mesh", "m.com", REFUSED);
    site.config("all", &text);
    let gateway = site.start(&[80]);
    assert_eq!((status(&gateway, "a.com").await, status(&gateway, "m.com").await), (201, 201));
}

#[tokio::test]
async fn a_redirect_of_a_gateway_that_cannot_be_used_holds() {
    let site = Site::new();
    let text = gateway("wide", 80, "HTTP", "'*.com', both.com", "")
        + &routes("r", "istio-system/wide", "'*'", &answering(201))
        + &gateway("a", 80, "HTTP", "a.com, both.com", "httpsRedirect: true, mode: SIMPLE")
        + &gateway("b", 80, "HTTP", "b.com", "mode: SIMPLE")
        + &gateway("c", 443, "HTTP", "c.com", "mode: SIMPLE")
        + &gateway("d", 80, "HTTP", "d.com", "mode: SIMPLE").replace("ingressgateway", "other");
    site.config("all", &text);
    let gateway = site.start(&[80]);
    // Also where another server has just this host; its own routes are nobody's.
    assert_eq!((status(&gateway, "a.com").await, status(&gateway, "both.com").await), (301, 301));
    assert_eq!(status(&gateway, "b.com").await, 503);
    // Of another port, or of another gateway.
    assert_eq!((status(&gateway, "c.com").await, status(&gateway, "d.com").await), (201, 201));
}

#[tokio::test]
async fn a_server_of_client_certificates_that_cannot_be_used_gives_its_name_to_no_other() {
    let site = Site::new();
    site.certificate("w", &["*.com", "a.com", "b.com"]);
    let text = gateway("wide", 443, "HTTPS", "'*.com'", "mode: SIMPLE, credentialName: w")
        + &routes("r", "istio-system/wide", "'*.com'", &answering(201))
        + &gateway(
            "a",
            443,
            "HTTPS",
            "shop/a.com",
            "mode: MUTUAL, serverCertificate: /c, privateKey: /k",
        );
    site.config("all", &text);
    let gateway = site.start(&[443]);
    let client = tls(&site.edge, None, &[]);
    assert!(proven(&client, gateway.port(443), "b.com").await.is_ok());
    assert!(proven(&client, gateway.port(443), "a.com").await.is_err());
}

#[tokio::test]
async fn a_name_that_is_passed_through_goes_to_no_wider_route() {
    let backend = Backend::http1().await;
    let site = Site::new();
    let tls_rules =
        |host: &str, rest: &str| format!("  tls: [{{match: [{{sniHosts: ['{host}']}}]{rest}}}]\n");
    let sent = ", route: [{destination: {host: b.shop.internal}}]";
    let text = gateway("through", 443, "TLS", "'*.com'", "mode: PASSTHROUGH")
        + &service("b", "TLS", backend.port)
        + &routes("wide", "istio-system/through", "'*.com'", &tls_rules("*.com", sent))
        + &routes("a", "istio-system/through", "a.com", &tls_rules("a.com", ""));
    site.config("all", &text);
    let gateway = site.start(&[443]);
    let client = tls(&site.edge, None, &[]);
    assert!(proven(&client, gateway.port(443), "a.com").await.is_err());
    assert_eq!(backend.connections(), 0);
    assert!(proven(&client, gateway.port(443), "b.com").await.is_err());
    gateway.wait("the other name arrives", || backend.connections() == 1);
}

#[tokio::test]
async fn what_a_refused_delegate_was_to_serve_is_taken_by_no_later_rule() {
    let site = Site::new();
    let root = "  http:\n  - {match: [{uri: {prefix: /part}}], delegate: {name: part}}\n  - \
                {directResponse: {status: 201}}\n";
    let rest = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("root", "istio-system/plain", "a.com", root);
    let part = |rules: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: part, \
             namespace: shop}}\nspec:\n{rules}"
        )
    };
    for refused in ["  http: [{delegate: {name: other}}]\n", REFUSED] {
        site.config("all", &(rest.clone() + &part(refused)));
        let gateway = site.start(&[80]);
        assert_eq!(status(&gateway, "a.com").await, 201);
        assert_eq!(status_of(&gateway, "a.com/part").await, 503);
        gateway.tells("what this rule takes is refused");
    }
    let gateway = site.start(&[80]);
    gateway.reload(|| _ = site.config("all", &(rest.clone() + &part(&answering(202)))));
    assert_eq!(status_of(&gateway, "a.com/part").await, 202);
    gateway.reload(|| _ = site.config("all", &rest));
    assert_eq!(status_of(&gateway, "a.com/part").await, 201, "Istio leaves such a rule out");
}

#[tokio::test]
async fn streams_of_tcp_rules_that_cannot_be_used_go_to_no_other_rule() {
    let counted = async |gateway: &Gateway, port: u16| {
        let mut stream = connect(gateway.port(port)).await;
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let site = Site::new();
    let rules = |port: u16, to: &str| {
        format!("  tcp: [{{match: [{{port: {port}}}], route: [{{destination: {{{to}}}}}]}}]\n")
    };
    let sent = "host: counter.shop.internal";
    let rest = gateway("one", 9000, "TCP", "'*'", "")
        + &gateway("two", 9001, "TCP", "'*'", "")
        + &routes("z1", "istio-system/one", "'*'", &rules(9000, sent))
        + &routes("z2", "istio-system/two", "'*'", &rules(9001, sent))
        + &service("counter", "TCP", counter().await);
    let broken = rules(9000, sent).replace("port: 9000", "port: 9000, sourceSubnet: [x]");
    let broken = routes("a", "istio-system/one, istio-system/two", "'*'", &broken);
    site.config("all", &(rest.clone() + &broken));
    let gateway = site.start(&[9000, 9001]);
    assert_eq!(counted(&gateway, 9000).await, "");
    gateway.tells("the streams of port 9000 are refused");
    gateway.wait("the log names it", || gateway.out().contains("VirtualService shop/a"));
    // It was for one port alone.
    assert_eq!(counted(&gateway, 9001).await, "5");
    gateway.reload(|| _ = site.config("all", &rest));
    assert_eq!(counted(&gateway, 9000).await, "5");
}

#[tokio::test]
async fn a_misspelt_redirect_leaves_no_other_server_answering_in_clear() {
    let site = Site::new();
    let misspelt = gateway("a", 80, "HTTP", "shop/a.com, c.com", "httpRedirect: true");
    let text = gateway("wide", 80, "HTTP", "a.com, '*.com'", "")
        + &routes("r", "istio-system/wide", "'*.com'", &answering(201));
    site.config("all", &(text.clone() + &misspelt));
    let gateway = site.start(&[80]);
    assert_eq!((status(&gateway, "a.com").await, status(&gateway, "c.com").await), (301, 301));
    assert_eq!(status(&gateway, "b.com").await, 201);
    gateway.reload(|| _ = site.config("all", &text));
    assert_eq!((status(&gateway, "a.com").await, status(&gateway, "c.com").await), (201, 201));
}

#[tokio::test]
async fn a_second_entry_of_one_name_demands_its_identities_though_it_is_set_aside() {
    let backend = Backend::http1().await;
    let site = Site::new();
    let entry = service("b", "HTTP", backend.port);
    let rest = gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("a", "istio-system/plain", "a.com", &to("b"))
        + &entry;
    let demands = entry.replace("spec: {", "spec: {subjectAltNames: ['spiffe://x/ns/a/sa/b'], ");
    assert_ne!(demands, entry);
    site.config("all", &(rest.clone() + &demands));
    let gateway = site.start(&[80]);
    assert_eq!(status(&gateway, "a.com").await, 503);
    assert_eq!(backend.connections(), 0);
    gateway.reload(|| _ = site.config("all", &rest));
    assert_eq!(status(&gateway, "a.com").await, 200);
}

/// What `check` says of a resource beside a server of every host.
fn told(broken: &str) -> String {
    let site = Site::new();
    site.config("all", &(gateway("plain", 80, "HTTP", "'*'", "") + broken));
    let output = site.command(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn hosts_that_cannot_be_read_are_told() {
    let more = "VirtualService shop/a cannot be used, and not all of its hosts can be read";
    let of = |hosts: &str| told(&routes("a", "istio-system/plain", hosts, "  http: 5\n"));
    assert!(of("a.com, 5").contains(more));
    assert!(!of("a.com").contains(more));
}

#[test]
fn refused_hosts_are_bounded() {
    let hosts: Vec<_> = (0..1_100).map(|host| format!("h{host}.com")).collect();
    let said = told(&routes("a", "istio-system/plain", &hosts.join(", "), "  http: 5\n"));
    assert_eq!(said.matches("com\" is refused").count(), 1_000);
    assert_eq!(said.matches("has more hosts than are refused").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_compiled_keeps_what_it_takes_and_refuses_it() {
    let site = Site::new();
    let rules = |condition: &str, value: &str| {
        format!(
            "  http: [{{match: [{{uri: {condition}}}], directResponse: {{status: 403}}, headers: \
             {{response: {{add: {{x-a: '{value}'}}}}}}}}, {{directResponse: {{status: 200}}}}]\n"
        )
    };
    let text = |condition: &str, value: &str| {
        gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("wide", "istio-system/plain", "'*.com'", &answering(201))
            + &routes("a", "istio-system/plain", "a.com", &rules(condition, value))
    };
    site.config("all", &text("{prefix: /closed}", "%NO_SUCH%"));
    let gateway = site.start(&[80]);
    gateway.tells("no later rule takes it until then");
    assert_eq!(status_of(&gateway, "a.com/closed/x").await, 503);
    assert_eq!(status_of(&gateway, "a.com/open").await, 200);
    gateway.reload(|| _ = site.config("all", &text("{regex: '/closed.*'}", "b")));
    assert_eq!(status_of(&gateway, "a.com/closed/x").await, 403);
    // A condition that does not compile: the last good version goes on, or all of the host is refused.
    gateway.reload(|| _ = site.config("all", &text("{regex: '/closed(.*'}", "c")));
    gateway.tells("VirtualService shop/a goes on as it was");
    assert_eq!(status_of(&gateway, "a.com/closed/x").await, 403);
    drop(gateway);
    let cold = site.start(&[80]);
    assert_eq!(status_of(&cold, "a.com/open").await, 503);
    assert_eq!(status_of(&cold, "b.com/open").await, 201);
}
