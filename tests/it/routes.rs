//! Which rule takes a request: every kind of match, delegates, and several VirtualServices together.

use std::fmt::Write as _;

use serde_json::json;

use crate::client::Http;
use crate::fixture::issuer;
use crate::gateway::{Gateway, Site, gateway, routes};

/// Rules that answer with the name of the one that matched.
fn rules(matches: &[(&str, &str)]) -> String {
    let mut text = "  http:\n".to_owned();
    for (name, condition) in matches {
        writeln!(
            text,
            "    - {{match: [{condition}], directResponse: {{status: 200, body: {{string: {name}}}}}}}"
        )
        .unwrap();
    }
    text
}

fn start(resources: &str) -> (Site, Gateway) {
    let site = Site::new();
    site.config("all", &(gateway("plain", 80, "HTTP", "'*'", "") + resources));
    let gateway = site.start(&[80]);
    (site, gateway)
}

async fn check(http: &mut Http, url: &str, headers: &[(&str, &str)], expected: &str) {
    let reply = http.ask(url, headers).await;
    let found = if reply.status == 404 { "404" } else { reply.text() };
    assert_eq!(found, expected, "{url} {headers:?}");
}

#[tokio::test]
async fn every_kind_of_match_takes_what_it_says_and_nothing_else() {
    let matches = [
        ("exact", "{uri: {exact: /exact}}"),
        ("nocase", "{uri: {prefix: /NoCase}, ignoreUriCase: true}"),
        ("prefix", "{uri: {prefix: /pre}}"),
        ("regex", "{uri: {regex: '/r/[0-9]+'}}"),
        ("scheme", "{uri: {exact: /scheme}, scheme: {exact: http}}"),
        ("https", "{uri: {exact: /https}, scheme: {exact: https}}"),
        ("authority", "{uri: {exact: /authority}, authority: {exact: 'A.com:80'}}"),
        ("header", "{uri: {exact: /header}, headers: {x-kind: {regex: 'a+'}, x-there: {}}}"),
        ("without", "{uri: {exact: /without}, withoutHeaders: {x-kind: {}}}"),
        ("query", "{uri: {exact: /query}, queryParams: {q: {prefix: a}, there: {}}}"),
        ("port", "{uri: {exact: /port}, port: 80}"),
        ("otherport", "{uri: {exact: /port2}, port: 81}"),
        ("gateway", "{uri: {exact: /gw}, gateways: [istio-system/plain]}"),
        ("othergateway", "{uri: {exact: /gw2}, gateways: [plain]}"),
        ("labels", "{uri: {exact: /labels}, sourceLabels: {istio: ingressgateway}}"),
        ("otherlabels", "{uri: {exact: /labels2}, sourceLabels: {istio: other}}"),
        ("space", "{uri: {exact: /space}, sourceNamespace: istio-system}"),
        ("otherspace", "{uri: {exact: /space2}, sourceNamespace: shop}"),
    ];
    let (_site, gateway) = start(&routes("r", "istio-system/plain", "a.com", &rules(&matches)));
    let http = &mut Http::plain(gateway.port(80)).await;
    for (path, expected) in [
        ("/exact", "exact"),
        ("/exact?q", "exact"),
        ("/exact/", "404"),
        ("/nocAse/x", "nocase"),
        ("/prefixed", "prefix"),
        ("/Pre", "404"),
        ("/r/12", "regex"),
        ("/r/12x", "404"),
        ("/scheme", "scheme"),
        ("/https", "404"),
        ("/query?x&q=ab&there", "query"),
        ("/query?q=b&there", "404"),
        ("/query?q=ab", "404"),
        ("/port", "port"),
        ("/port2", "404"),
        ("/gw", "gateway"),
        ("/gw2", "404"),
        ("/labels", "labels"),
        ("/labels2", "404"),
        ("/space", "space"),
        ("/space2", "404"),
        ("/without", "without"),
    ] {
        check(http, &format!("http://a.com{path}"), &[], expected).await;
    }
    check(http, "http://a.com/authority", &[], "404").await;
    check(http, "http://A.com:80/authority", &[], "authority").await;
    let url = "http://a.com/header";
    check(http, url, &[("X-Kind", "aa"), ("x-there", "")], "header").await;
    check(http, url, &[("x-kind", "b"), ("x-kind", "a"), ("x-there", "")], "header").await;
    check(http, url, &[("x-kind", "aa")], "404").await;
    check(http, url, &[("x-kind", "ab"), ("x-there", "")], "404").await;
    check(http, "http://a.com/without", &[("x-kind", "a")], "404").await;
}

#[tokio::test]
async fn a_tokens_claims_choose_the_rule() {
    let matches = [
        ("nested", "{headers: {'@request.auth.claims.realm.roles': {exact: admin}}}"),
        ("quoted", "{headers: {'@request.auth.claims[https://a.b/c][d]': {prefix: x}}}"),
        ("scope", "{headers: {'@request.auth.claims.scope': {exact: write}}}"),
        ("known", "{headers: {'@request.auth.claims.sub': {}}}"),
        ("number", "{headers: {'@request.auth.claims.n': {regex: '.*'}}}"),
        ("unknown", "{withoutHeaders: {'@request.auth.claims.sub': {regex: '.*'}}}"),
    ];
    let tokens = format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: t, \
         namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: i, jwks: '{}'}}]}}\n",
        issuer().key_set("RS256", "k")
    );
    let (_site, gateway) =
        start(&(routes("r", "istio-system/plain", "a.com", &rules(&matches)) + &tokens));
    let http = &mut Http::plain(gateway.port(80)).await;
    for (claims, expected) in [
        (json!({"realm": {"roles": ["user", "admin"]}}), "nested"),
        (json!({"realm": {"roles": "admin"}}), "nested"),
        (json!({"https://a.b/c": {"d": "xy"}}), "quoted"),
        (json!({"scope": "read write"}), "scope"),
        (json!({"realm": {"roles": ["user"]}, "sub": "alice"}), "known"),
        (json!({"n": 1}), "unknown"),
    ] {
        let mut all = json!({"iss": "i", "exp": 4_000_000_000_u64});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let token = issuer().token(&json!({"alg": "RS256", "kid": "k"}), &all);
        check(http, "http://a.com/", &[("authorization", &format!("Bearer {token}"))], expected)
            .await;
    }
    check(http, "http://a.com/", &[], "unknown").await;
}

#[tokio::test]
async fn services_of_one_host_are_joined_and_delegates_take_their_place() {
    let catch_all = "  http: [{directResponse: {status: 200, body: {string: rest}}}]\n";
    let root = "  http:
    - {match: [{uri: {prefix: /shop}}], delegate: {name: part, namespace: team}}
    - {match: [{uri: {prefix: /hidden}}], delegate: {name: hidden, namespace: team}}
";
    let delegate = |name: &str, export: &str, rules: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
             {name}, namespace: team}}\nspec:\n  exportTo: ['{export}']\n{rules}"
        )
    };
    let part = rules(&[("cart", "{uri: {prefix: /shop/cart}}"), ("stray", "{uri: {prefix: /x}}")]);
    let (_site, gateway) = start(
        &(routes("a", "istio-system/plain", "a.com", catch_all)
            + &routes("b", "istio-system/plain", "a.com", root)
            + &routes("c", "istio-system/plain", "'*.com'", &rules(&[("wild", "{}")]))
            + &delegate("part", "*", &part)
            + &delegate("hidden", ".", &rules(&[("hidden", "{}")]))),
    );
    let http = &mut Http::plain(gateway.port(80)).await;
    for (url, expected) in [
        ("http://a.com/shop/cart/1", "cart"),
        ("http://a.com/shop", "rest"),
        ("http://a.com/x", "rest"),
        ("http://a.com/hidden", "rest"),
        ("http://b.com/shop/cart", "wild"),
    ] {
        check(http, url, &[], expected).await;
    }
}

#[tokio::test]
async fn among_many_rules_the_first_that_matches_wins() {
    let mut matches: Vec<(String, String)> =
        (0..60).map(|n| (format!("r{n}"), format!("{{uri: {{regex: '/r/x*{n}'}}}}"))).collect();
    matches.extend((0..60).map(|n| (format!("p{n}"), format!("{{uri: {{prefix: /p/{n}/}}}}"))));
    matches.push(("late".into(), "{uri: {prefix: /r/x7}}".into()));
    matches.push(("any".into(), "{uri: {prefix: /r}}".into()));
    let list: Vec<_> = matches.iter().map(|(name, m)| (name.as_str(), m.as_str())).collect();
    let (_site, gateway) = start(&routes("r", "istio-system/plain", "a.com", &rules(&list)));
    let http = &mut Http::plain(gateway.port(80)).await;
    for (path, expected) in
        [("/r/xx7", "r7"), ("/r/x7", "r7"), ("/r/x7z", "late"), ("/r/z", "any"), ("/p/59/x", "p59")]
    {
        check(http, &format!("http://a.com{path}"), &[], expected).await;
    }
    check(http, "http://a.com/q", &[], "404").await;
}

#[tokio::test]
async fn each_form_of_redirect_leads_where_it_says() {
    let cases = [
        ("uri: /new", 301, "http://a.com:8080/new?q=1"),
        ("uri: '/new?z', redirectCode: 302", 302, "http://a.com:8080/new?z"),
        ("authority: b.com, redirectCode: 307", 307, "http://b.com/x?q=1"),
        ("scheme: https", 301, "https://a.com:8080/x?q=1"),
        ("port: 99, redirectCode: 308", 308, "http://a.com:99/x?q=1"),
        ("port: 443, scheme: https, redirectCode: 303", 303, "https://a.com/x?q=1"),
        ("derivePort: FROM_REQUEST_PORT", 301, "http://a.com:8081/x?q=1"),
        ("derivePort: FROM_PROTOCOL_DEFAULT", 301, "http://a.com/x?q=1"),
    ];
    let mut rules = "  http:\n".to_owned();
    for (case, (redirect, ..)) in cases.iter().enumerate() {
        let when = format!("match: [{{headers: {{case: {{exact: '{case}'}}}}}}]");
        writeln!(rules, "    - {{{when}, redirect: {{{redirect}}}}}").unwrap();
    }
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 8081, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &rules)),
    );
    let gateway = site.start(&[8081]);
    let mut http = Http::plain(gateway.port(8081)).await;
    for (case, (redirect, status, location)) in cases.iter().enumerate() {
        let reply = http.ask("http://a.com:8080/x?q=1", &[("case", &case.to_string())]).await;
        let seen = (reply.status.as_u16(), reply.header("location"));
        assert_eq!(seen, (*status, *location), "{redirect}");
    }
}
