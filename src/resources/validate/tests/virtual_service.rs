//! What Istio refuses of a VirtualService.

use super::check;

fn route(rest: &str, expected: &[&str]) {
    check("VirtualService", &format!("{{hosts: [a.com], http: [{{{rest}}}]}}"), expected);
}

#[test]
fn a_virtual_service_that_istio_admits_passes() {
    route("route: [{destination: {host: a}}]", &[]);
    route("match: [{uri: {prefix: ''}, headers: {a: {}}}], redirect: {uri: /}", &[]);
    route("directResponse: {status: 200}", &[]);
    route(
        "route: [{destination: {host: a}, weight: 1}, {destination: {host: b}}], retries: {attempts: 1, retryOn: '5xx,503'}, timeout: 1s",
        &[],
    );
    check(
        "VirtualService",
        "{hosts: ['*.a.com'], tls: [{match: [{sniHosts: [b.a.com]}], route: [{destination: {host: a}}]}]}",
        &[],
    );
    check("VirtualService", "{http: [{route: [{destination: {host: a}}]}]}", &[]);
    route("delegate: {name: a}, directResponse: {status: 200}", &[]);
}

#[test]
fn delegates_that_istio_refuses_are_reported() {
    let own = "IST0106 spec.http[0]";
    route("delegate: {name: a}, redirect: {uri: /}", &[own]);
    route("delegate: {name: a}, route: [{destination: {host: a}}]", &[own]);
    check("VirtualService", "{http: [{delegate: {name: a}}]}", &["IST0106 spec.http[0].delegate"]);
}

/// As [`route`], of a rule with a destination.
fn with(rest: &str, expected: &[&str]) {
    route(&format!("route: [{{destination: {{host: a}}}}], {rest}"), expected);
}

#[test]
fn who_serves_an_answer_is_not_a_rules_to_say() {
    let at = |list: &str| format!("PC062 spec.http[0].headers.response.{list}");
    with("headers: {response: {set: {Server: x, x-a: b}}}", &[&at("set.Server")]);
    with("headers: {response: {add: {server: x}}}", &[&at("add.server")]);
    with("headers: {response: {remove: [x-a, server]}}", &[&at("remove[1]")]);
    with("headers: {request: {set: {server: x}, remove: [server]}}", &[]);
}

#[test]
fn matches_and_expressions_that_istio_refuses_are_reported() {
    with("match: [{uri: {regex: ''}}]", &["IST0106 spec.http[0].match[0].uri"]);
    with("match: [{uri: {regex: '('}}]", &["IST0106 spec.http[0].match[0].uri"]);
    with("match: [{method: {regex: 'a)(b'}}]", &["IST0106 spec.http[0].match[0].method"]);
    with("match: [{withoutHeaders: {x-a: {regex: '*'}, ':path': {regex: '/a.*'}}}]", &[]);
    with(
        "match: [{headers: {'x a': {exact: b}}, withoutHeaders: {'x:a': {exact: b}}}]",
        &[
            "IST0106 spec.http[0].match[0].headers.x a",
            "IST0106 spec.http[0].match[0].withoutHeaders.x:a",
        ],
    );
    with("match: [{queryParams: {'x a': {exact: b}}}]", &[]);
    with(
        "rewrite: {uriRegexRewrite: {match: '*', rewrite: /}}",
        &["IST0106 spec.http[0].rewrite.uriRegexRewrite.match"],
    );
    with(
        "corsPolicy: {allowOrigins: [{regex: '['}]}",
        &["IST0106 spec.http[0].corsPolicy.allowOrigins[0]"],
    );
    with("corsPolicy: {allowOrigin: [a]}", &[]);
    with(
        "corsPolicy: {allowOrigin: [a], allowOrigins: [{exact: b}]}",
        &["IST0133 spec.http[0].corsPolicy.allowOrigin"],
    );
}

#[test]
fn a_gateway_that_is_named_in_the_older_form_is_told() {
    let named = |name: &str, expected: &[&str]| {
        let hosts = format!("hosts: [a], gateways: [e/g, {name}]");
        let to = "route: [{destination: {host: b}}]";
        let of = |rules: &str| format!("{{{hosts}, {rules}}}");
        let at = |path: &str| expected.iter().map(|code| format!("{code} {path}")).collect();
        let compare = |spec: &str, paths: &[&str]| {
            let all: Vec<String> =
                paths.iter().flat_map(|path| -> Vec<String> { at(path) }).collect();
            check("VirtualService", spec, &all.iter().map(String::as_str).collect::<Vec<_>>());
        };
        compare(&of(&format!("http: [{{{to}}}]")), &["spec.gateways[1]"]);
        for (kind, more) in [("http", ""), ("tls", "sniHosts: [a], "), ("tcp", "")] {
            let spec = of(&format!("{kind}: [{{match: [{{{more}gateways: [{name}]}}], {to}}}]"));
            let path = format!("spec.{kind}[0].match[0].gateways[0]");
            compare(&spec, &["spec.gateways[1]", &path]);
        }
    };
    named("gw.edge.svc.cluster.local", &["IST0002"]);
    named("edge/gw", &[]);
    named("edge/gw.a", &["IST0106"]);
}

#[test]
fn a_virtual_service_that_istio_refuses_is_reported() {
    check("VirtualService", "{hosts: [a, a]}", &["IST0106 spec", "IST0106 spec.hosts[1]"]);
    route("name: x", &["IST0106 spec.http[0]"]);
    route("route: [{destination: {host: a}}], redirect: {uri: /}", &["IST0106 spec.http[0]"]);
    route("route: [{}]", &["IST0106 spec.http[0].route[0]"]);
    route(
        "route: [{destination: {host: a}}, {destination: {host: b}}]",
        &["IST0106 spec.http[0].route"],
    );
    route("redirect: {}", &["IST0106 spec.http[0].redirect"]);
    route("redirect: {port: 65535}", &[]);
    route("redirect: {port: 65536}", &["IST0106 spec.http[0].redirect.port"]);
    route("redirect: {port: 0}", &["IST0133 spec.http[0].redirect.port"]);
    route("redirect: {uri: /, redirectCode: 200}", &["IST0106 spec.http[0].redirect.redirectCode"]);
    route("directResponse: {status: 99}", &["IST0106 spec.http[0].directResponse.status"]);
    with("timeout: 0.5ms", &["IST0106 spec.http[0].timeout"]);
    with("retries: {attempts: 1, retryOn: sometimes}", &["IST0106 spec.http[0].retries.retryOn"]);
    with("retries: {retryOn: 5xx}", &["IST0106 spec.http[0].retries.attempts"]);
    with("fault: {abort: {http2Error: A}}", &["IST0106 spec.http[0].fault.abort.http2Error"]);
    with(
        "fault: {abort: {httpStatus: 503, percentage: {value: 101}}}",
        &["IST0106 spec.http[0].fault.abort.percentage"],
    );
    with("headers: {request: {set: {'a b': c}}}", &[]);
    with(
        "mirror: {host: a}, mirrors: [{destination: {host: b}}]",
        &["IST0106 spec.http[0].mirrors"],
    );
    check(
        "VirtualService",
        "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a}}]}]}",
        &["IST0106 spec.tls[0].match[0].sniHosts[0]"],
    );
    with(
        "rewrite: {authority: b}, headers: {request: {set: {host: c}}}",
        &["IST0106 spec.http[0]"],
    );
    with(
        "match: [{headers: {'@request.auth.claims.a': {exact: b}}}]",
        &["IST0106 spec.http[0].match[0]"],
    );
    check(
        "VirtualService",
        "{hosts: ['*', a.com], http: [{route: [{destination: {host: a}}]}]}",
        &["IST0106 spec.hosts[1]", "IST0106 spec.hosts[0]"],
    );
    check(
        "VirtualService",
        "{hosts: ['*'], gateways: [gw], tls: [{match: [{sniHosts: ['*']}], route: [{destination: {host: \
         a}}]}]}",
        &[],
    );
}
