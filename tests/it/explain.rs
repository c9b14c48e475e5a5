//! `explain`: each decision with its resource. `pairs` compares it with the running gateway.

use serde_json::Value;

use crate::gateway::{Site, endpoints, gateway, policy, routes, service, to};

/// Explains through the command line; the answer as JSON.
fn told(site: &Site, arguments: &[&str]) -> Value {
    let output = site.command(&[&["explain", "-o", "json"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

/// The step of a name: its decision, and who decided.
fn step<'a>(told: &'a Value, name: &str) -> (&'a str, &'a str) {
    let steps = told["steps"].as_array().unwrap();
    let found = steps.iter().rfind(|step| step["step"] == name).unwrap_or(&Value::Null);
    (found["decision"].as_str().unwrap_or_default(), found["by"].as_str().unwrap_or_default())
}

fn site() -> Site {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.certificate("m", &["m.com"]);
    site.client_ca("m");
    site.write("client.pem", site.clients.leaf(&["alice"], 1).chain);
    site.write("foreign.pem", site.edge.leaf(&["alice"], 1).chain);
    let rules = "  http:\n  - match: [{uri: {exact: /only}}]\n    directResponse: {status: 204}\n  \
                 - match: [{uri: {prefix: /v1/}}]\n    rewrite: {uri: /}\n    route: [{destination: \
                 {host: echo.shop.internal}}]\n";
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "a.com", "httpsRedirect: true")
            + &gateway("a", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
            + &gateway("m", 443, "HTTPS", "m.com", "mode: MUTUAL, credentialName: m")
            + &gateway("p", 443, "TLS", "p.com", "mode: PASSTHROUGH")
            + &routes("r", "istio-system/a, istio-system/m", "a.com, m.com", rules)
            + &routes(
                "p",
                "istio-system/p",
                "p.com",
                "  tls: [{match: [{sniHosts: [p.com]}], route: \
                 [{destination: {host: echo.shop.internal}}]}]\n",
            )
            + &service("echo", "HTTP", 9)
            + &policy(
                "echo",
                "tls: {mode: ISTIO_MUTUAL}, tunnel: {targetHost: far.example, targetPort: 443}",
            )),
    );
    site
}

#[test]
fn each_decision_names_what_made_it() {
    let site = site();
    let seen = told(&site, &["https://a.com/v1/x?q=1"]);
    assert_eq!(step(&seen, "certificate").0, "TLS 1.3 and TLS 1.2");
    assert!(step(&seen, "server").1.starts_with("Gateway istio-system/a at config/all.yaml:"));
    assert!(step(&seen, "route").1.starts_with("VirtualService shop/r at config/all.yaml:"));
    let outcome = &seen["outcome"];
    assert_eq!((&outcome["action"], &outcome["path"]), (&"forward".into(), &"/x?q=1".into()));
    assert_eq!(outcome["clusters"][0]["cluster"], "outbound|80||echo.shop.internal");
    let destination = seen["steps"].as_array().unwrap().last().unwrap().to_string();
    for part in
        ["outbound_.80_._.echo.shop.internal", "istio-http/1.1", "sa/gateway", "127.0.0.1:9"]
    {
        assert!(destination.contains(part), "{destination}");
    }
}

#[test]
fn what_a_rule_does_besides_is_told() {
    let site = Site::new();
    let rules = "  http:\n  - name: only\n    match: [{uri: {exact: /only}}]\n    directResponse: \
                 {status: 204}\n  - name: rich\n    match: [{uri: {prefix: /}, statPrefix: riches}]\n    route:\n    - destination: {host: \
                 red.shop.internal}\n      weight: 25\n      headers: {request: {set: {x-key: \
                 hidden}, remove: [x-old]}}\n    - {destination: {host: green.shop.internal, \
                 subset: v1}, weight: 75}\n    timeout: 9s\n    retries: {attempts: 3, perTryTimeout: 2s, retryOn: \
                 'gateway-error,418', retryRemoteLocalities: true}\n    mirrors: [{destination: {host: green.shop.internal}, \
                 percentage: {value: 12.5}}]\n    fault: {delay: {fixedDelay: 4s, percentage: \
                 {value: 0.0001}}}\n    corsPolicy: {allowOrigins: [{exact: 'https://b.com'}], \
                 allowMethods: [PATCH]}\n";
    site.config(
        "all",
        &(gateway("g", 80, "HTTP", "a.com", "")
            + &routes("r", "istio-system/g", "a.com", rules)
            + &service("red", "HTTP", 9)
            + &endpoints("green", "HTTP", &[(9, ", locality: eu/a"), (8, ", weight: 3")])
            + &policy(
                "green",
                "portLevelSettings: [{port: {number: 81}, tls: {}}, {port: {number: 79}, tls: {}},\n    {port: \
                 {number: 80}, loadBalancer: {warmup: {duration: 20s}, zoneAwareLbSetting: \
                 {enabled: true}}}]",
            )
            .replace("spec: {", "spec: {subsets: [{name: v1, labels: {}}], ")
            + &policy(
                "red",
                "loadBalancer: {consistentHash: {httpHeaderName: x-user}}, retryBudget: {percent: \
                 12.5, budgetInterval: 10s}, connectionPool: {tcp: {maxConnections: 7}, http: \
                 {http1MaxPendingRequests: 6, maxRequestsPerConnection: 5}}, outlierDetection: \
                 {consecutive5xxErrors: 4, baseEjectionTime: 8s}",
            )),
    );
    let seen = told(&site, &["http://a.com/x"]);
    let text = seen["steps"].to_string();
    let written = std::fs::read_to_string(site.path("config/all.yaml")).unwrap();
    let entry = 1 + written.lines().position(|line| line.contains("{number: 80}")).unwrap();
    for part in [
        "only: uri does not match",
        "counted as riches",
        "0.0001 % wait 4s first",
        "timeout 9s",
        "up to 3 retries on gateway-error 418, 2s for each try",
        "12.5 % are mirrored to outbound|80||green.shop.internal",
        "allowOrigins has 1 form,",
        "outbound|80||red.shop.internal, weight 25 of 100",
        "one client, one endpoint: by header x-user",
        "HTTP/1.1, by a ring of 1024 places",
        "HTTP/1.1, by LEAST_REQUEST",
        "from the second on in localities that were not tried",
        "retries at a time: 3 or 12.5 % of the requests of the last 10s",
        "endpoint 127.0.0.1:9, plaintext, weight 1, priority 2",
        "endpoint 127.0.0.1:8, plaintext, weight 3",
        "as DestinationRule shop/red at config/all.yaml:",
        &format!("as DestinationRule shop/green at config/all.yaml:{entry}"),
        "connections: at most 7",
        "requests that wait for a connection: at most 6",
        "requests of a connection: at most 5",
        "4 of 500 and above, for 8s and at most 10 % of them",
        "whole share after 20s, 10 % first",
        "request headers: removes x-old, sets x-key",
    ] {
        assert!(text.contains(part), "{part} is not in {seen:#}");
    }
    assert!(!text.contains("hidden"), "{seen:#}");
    let headers =
        ["--header", "origin: https://b.com", "--header", "access-control-request-method: PATCH"];
    let preflight =
        told(&site, &[&["http://a.com/x", "--method", "OPTIONS"], &headers[..]].concat());
    assert!(preflight["steps"].to_string().contains("access-control-allow-methods: PATCH"));
}

#[test]
fn of_several_destinations_one_that_exists_is_told() {
    let site = Site::new();
    let ask = |destinations: &[(&str, u8)]| {
        let one = |(name, weight): &(&str, u8)| {
            format!("{{destination: {{host: {name}.shop.internal}}, weight: {weight}}}")
        };
        let list: Vec<_> = destinations.iter().map(one).collect();
        let rules = format!("  http: [{{route: [{}]}}]\n", list.join(", "));
        site.config(
            "all",
            &(gateway("g", 80, "HTTP", "a.com", "")
                + &routes("r", "istio-system/g", "a.com", &rules)
                + &service("red", "HTTP", 9)
                + &endpoints("empty", "HTTP", &[])),
        );
        told(&site, &["http://a.com/x"])
    };
    let check = |seen: &Value, shares: &[(&str, u8, &str)], (action, answer): (&str, &str)| {
        let one = |(cluster, weight, reason): &(&str, u8, &str)| {
            let cluster =
                (!cluster.is_empty()).then(|| format!("outbound|80||{cluster}.shop.internal"));
            let mut share = serde_json::json!({"cluster": cluster, "weight": weight});
            if !reason.is_empty() {
                share["reason"] = (*reason).into();
            }
            share
        };
        let expected: Value = shares.iter().map(one).collect();
        let clusters = seen["outcome"]["clusters"].as_array().cloned();
        assert_eq!(Value::from(clusters.unwrap_or_default()), expected, "{seen:#}");
        assert_eq!(seen["outcome"]["action"], action, "{seen:#}");
        assert_eq!(step(seen, "answer").0, answer);
    };
    let gone = "cluster_not_found";
    let part =
        "as told for the destinations that exist; 30 of 100 requests get 503: cluster_not_found";
    check(
        &ask(&[("none", 30), ("red", 70)]),
        &[("", 30, gone), ("red", 70, "")],
        ("forward", part),
    );
    check(
        &ask(&[("empty", 60), ("none", 30), ("red", 10)]),
        &[("empty", 60, "no_endpoint"), ("", 30, gone), ("red", 10, "")],
        ("forward", part),
    );
    check(&ask(&[("red", 1)]), &[("red", 1, "")], ("forward", ""));
    let none = ask(&[("none", 30), ("nobody", 70)]);
    let all = [("", 30, gone), ("", 70, gone)];
    check(&none, &all, ("reject", "503: cluster_not_found"));
    assert_eq!(step(&none, "destination").0, "an unknown service, weight 70 of 100: 503");
    check(&ask(&[("none", 1)]), &[], ("reject", "503: cluster_not_found"));
}

#[test]
fn each_rule_of_the_policies_is_told_with_its_verdict() {
    let site = Site::new();
    let policy = |name: &str, action: &str, rules: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, \
             namespace: istio-system}}\nspec:\n  action: {action}\n  rules:\n{rules}---\n"
        )
    };
    let paths = |value: &str| format!("  - to: [{{operation: {{paths: ['{value}']}}}}]\n");
    let posts = "  - to: [{operation: {methods: [POST]}}]\n";
    let allow = policy("pass", "ALLOW", &(posts.to_owned() + &paths("/a*")));
    site.config("access", &(policy("stop", "DENY", &paths("/ab")) + &allow));
    let rules = "  http: [{directResponse: {status: 204}}]\n";
    let routes = routes("r", "istio-system/g", "a.com", rules);
    site.config("all", &(gateway("g", 80, "HTTP", "a.com", "") + &routes));
    let check = |path: &str, deny: &str, post: &str, allow: &str| {
        let told = told(&site, &[&format!("http://a.com{path}")]);
        let steps = told["steps"].as_array().unwrap();
        let access = steps.iter().find(|step| step["step"] == "access").unwrap();
        let at = |name: &str, line: u8| {
            format!("AuthorizationPolicy istio-system/{name} at config/access.yaml:{line}")
        };
        let (no, first, second) = (at("stop", 7), at("pass", 15), at("pass", 16));
        let expected = [
            format!("DENY {deny}: {no}"),
            format!("ALLOW {post}: {first}"),
            format!("ALLOW {allow}: {second}"),
        ];
        assert_eq!(access["considered"], serde_json::json!(expected), "{path}");
    };
    let (yes, no) = ("matches", "does not match");
    check("/", no, no, no);
    check("/ab", yes, no, yes);
    check("/a", no, no, yes);
    // Read as `/ab`, and as it is.
    check("/a/%2e%2e/ab", yes, no, yes);
    check("//a", no, no, "matches some readings of the path");
}

#[test]
fn connections_and_refusals_are_told() {
    let site = site();
    let check =
        |arguments: &[&str], action: &str, status: Option<u64>, (name, decision): (&str, &str)| {
            let seen = told(&site, arguments);
            assert_eq!(seen["outcome"]["action"], action, "{arguments:?}");
            assert_eq!(seen["outcome"]["status"].as_u64(), status, "{arguments:?}");
            assert!(step(&seen, name).0.contains(decision), "{arguments:?}: {seen:#}");
        };
    check(&["http://a.com/x"], "redirect", Some(301), ("answer", "https://a.com/x"));
    check(&["https://a.com/only"], "respond", Some(204), ("answer", "204"));
    check(&["https://a.com/"], "reject", Some(404), ("route", "no rule of a.com matches"));
    check(&["https://m.com/only", "--sni", "a.com"], "reject", Some(421), ("host", "misdirected"));
    check(&["https://a.com/", "--sni", ""], "close", None, ("server", "unrecognized_name"));
    check(&["https://b.com/"], "close", None, ("server", "unrecognized_name"));
    check(&["https://a.com:444/"], "close", None, ("listener", "nothing listens"));
    check(&["http://a.com:443/"], "close", None, ("server", "TLS is expected"));
    check(&["tls://p.com:443"], "stream", None, ("server", "undecrypted"));
    let seen = told(&site, &["tls://p.com:443"]);
    let proxy = "through a proxy, by CONNECT to far.example:443 over HTTP/1.1";
    assert!(seen["steps"].to_string().contains(proxy), "{seen:#}");
    assert!(step(&seen, "destination").0.ends_with(", weight 1 of 1"), "{seen:#}");
    site.config(
        "access",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {name: stop, namespace: istio-system}\nspec:\n  action: DENY\n  \
         rules: [{from: [{source: {ipBlocks: [192.0.2.9]}}]}]\n",
    );
    check(&["tls://p.com:443"], "stream", None, ("server", "undecrypted"));
    let denied = ("authorization", "the connection is closed");
    check(&["tls://p.com:443", "--source-ip", "192.0.2.9"], "close", None, denied);
    for (source, says) in [("192.0.2.9", "matches"), ("192.0.2.8", "does not match")] {
        let seen = told(&site, &["tls://p.com:443", "--source-ip", source]);
        let steps = seen["steps"].as_array().unwrap();
        let access = steps.iter().find(|step| step["step"] == "access").unwrap();
        let place = "AuthorizationPolicy istio-system/stop at config/access.yaml:6";
        let expected = serde_json::json!([format!("DENY {says}: {place}")]);
        assert_eq!(access["considered"], expected, "{source}");
    }
    let none = ("client certificate", "there is no client certificate");
    check(&["https://m.com/only"], "close", None, none);
    let foreign = ("client certificate", "UnknownIssuer");
    check(&["https://m.com/only", "--client-cert", "foreign.pem"], "close", None, foreign);
    let verified = ("client certificate", "verified");
    check(&["https://m.com/only", "--client-cert", "client.pem"], "respond", Some(204), verified);
    let output = site.command(&["explain", "ftp://a.com/"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("https://host/path"));
}

#[test]
fn websockets_are_told_in_each_version() {
    let site = site();
    let two = told(&site, &["https://a.com/v1/x", "--protocol", "websocket"]);
    assert!(step(&two, "websocket").0.starts_with("an extended CONNECT"), "{two}");
    let headers = ["--header", "connection: Upgrade", "--header", "upgrade: websocket"];
    let one = told(&site, &[&["https://a.com/v1/x"], &headers[..]].concat());
    assert_eq!(step(&one, "websocket").0, "");
    for told in [&one, &two] {
        assert!(step(told, "upgrade").0.starts_with("to a WebSocket"), "{told}");
        assert_eq!(told["outcome"]["action"], "forward");
    }
    for refused in [&["--protocol", "connect-udp"], &["--method", "CONNECT"]] {
        let told = told(&site, &[&["https://a.com/v1/x"], &refused[..]].concat());
        assert_eq!(
            (&told["outcome"]["action"], &told["outcome"]["status"]),
            (&"reject".into(), &403.into())
        );
    }
}

#[test]
fn calls_of_grpc_web_are_told() {
    let site = Site::new();
    site.config(
        "all",
        &(gateway("w", 82, "GRPC-WEB", "w.com", "")
            + &gateway("h", 83, "HTTP", "w.com", "")
            + &routes("r", "istio-system/w, istio-system/h", "w.com", &to("echo"))
            + &service("echo", "GRPC", 9)),
    );
    let asked = |port: u16, kind: &str| {
        let (url, header) = (format!("http://w.com:{port}/a.B/C"), format!("content-type: {kind}"));
        let told = told(&site, &[&url, "--method", "POST", "--header", &header]);
        let (decision, by) = step(&told, "grpc-web");
        (decision.to_owned(), by.to_owned())
    };
    let (decision, by) = asked(82, "application/grpc-web-text");
    assert_eq!(decision, "becomes gRPC; its body is base64, the answer's will be binary");
    assert!(by.starts_with("Gateway istio-system/w"), "{by}");
    let (decision, by) = asked(83, "application/grpc-web");
    assert!(decision.starts_with("treated as it is"), "{decision}");
    assert!(by.starts_with("Gateway istio-system/h"), "{by}");
    assert_eq!(asked(82, "application/grpc").0, "");
}
