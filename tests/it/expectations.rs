//! `portcullis test`: expectations that are met, that are not, and that cannot be read.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::gateway::{Site, gateway, routes, service};

const GATEWAY_RULES: &str = "  http:\n  - name: only\n    match: [{uri: {exact: /only}}]\n    \
                             directResponse: {status: 204}\n  - name: echo\n    match: [{uri: {prefix: \
                             /v1/}}]\n    rewrite: {uri: /}\n    route: [{destination: {host: \
                             echo.shop.internal}}]\n";

const TOKENS: &str = "---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec: {jwtRules: [{issuer: https://i.com, jwksUri: https://i.com/keys}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: staff, namespace: istio-system}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/v1/staff]}}], when: [{key: 'request.auth.claims[group]', notValues: [staff]}]}]
";

fn site() -> Site {
    let site = Site::new();
    site.config(
        "all",
        &(gateway("g", 80, "HTTP", "a.com", "")
            + &routes("r", "istio-system/g", "a.com", GATEWAY_RULES)
            + &service("echo", "HTTP", 9)
            + TOKENS),
    );
    site
}

/// Runs tests as written; exit code, standard output, standard error.
fn run(site: &Site, tests: &str, arguments: &[&str]) -> (i32, String, String) {
    site.write("config/all.test.yaml", tests);
    let output = site.command(&[&["test"], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn test(request: &str, expect: &str) -> String {
    format!("tests:\n  - name: one\n    request: {{{request}}}\n    expect: {{{expect}}}\n")
}

/// One test, and the fields in which it differs.
fn check(request: &str, expect: &str, differs: &[&str]) {
    let (code, out, err) = run(&site(), &test(request, expect), &["-o", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    let one = &report["tests"][0];
    let fields = one["differences"].as_array().unwrap().iter();
    let fields: Vec<_> = fields.map(|one| one["field"].as_str().unwrap()).collect();
    assert_eq!(fields, differs, "{request} {expect}: {out}");
    assert_eq!(one["passed"], differs.is_empty());
    assert_eq!(code, i32::from(!differs.is_empty()));
}

#[test]
fn outcomes_are_compared_field_by_field() {
    let url = "url: http://a.com/v1/x?q=1";
    check(url, "action: forward, route: echo, host: a.com, path: /x?q=1, authority: a.com", &[]);
    check(url, "clusters: [outbound|80||echo.shop.internal], server: http/80", &[]);
    check(url, "clusters: [outbound|80||red.shop.internal]", &["clusters"]);
    check(url, "action: respond, status: 200, path: /v1/x?q=1", &["action", "status", "path"]);
    check(url, "route: only", &["route"]);
    check("url: http://a.com/only", "action: respond, status: 204, route: only", &[]);
    check("url: http://a.com/else", "status: 404, reason: route_not_found", &[]);
}

#[test]
fn requests_may_be_websockets_or_connections_alone() {
    let websocket = "url: http://a.com/v1/x, protocol: ";
    check(&format!("{websocket}websocket"), "action: forward, route: echo, path: /x", &[]);
    check(&format!("{websocket}websocket"), "action: reject", &["action"]);
    check(&format!("{websocket}connect-udp"), "action: reject, status: 403", &[]);
    check("url: tcp://a.com:81", "action: close", &[]);
    check("url: tls://a.com:80", "action: stream", &["action"]);
}

#[test]
fn claims_are_signed_and_judged_as_a_token_is() {
    let claims = "url: http://a.com/v1/staff, claims: {iss: https://i.com, sub: ann, group: ";
    check(&format!("{claims}staff}}"), "action: forward, principal: https://i.com/ann", &[]);
    let denied =
        "status: 403, reason: authorization_denied, policy: AuthorizationPolicy istio-system/staff";
    check(&format!("{claims}guest}}"), denied, &[]);
    check(&format!("{claims}guest}}"), "action: forward", &["action"]);
    check("url: http://a.com/v1/x, token: a.b.c", "status: 401", &[]);
    let old = "url: http://a.com/v1/x, claims: {iss: https://i.com, exp: 1}";
    check(old, "status: 401, action: reject", &[]);
}

#[test]
fn a_failure_shows_what_was_decided_and_where() {
    let tests = test("url: http://a.com/v1/x", "route: only") + "  - {request: {url: 'a b'}}\n";
    let (code, out, _) = run(&site(), &tests, &[]);
    assert_eq!(code, 1);
    for part in [
        "FAILED config/all.test.yaml:2",
        "route     - only",
        "+ echo",
        "VirtualService shop/r at config/all.yaml:",
        "FAILED config/all.test.yaml:5",
        "\"a b\" is no URL",
        "0 passed, 2 failed",
    ] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
}

#[test]
fn what_cannot_be_read_fails_with_its_place() {
    let check = |tests: &str, said: &[&str]| {
        let (code, out, err) = run(&site(), tests, &[]);
        assert_eq!(code, 1, "{out}{err}");
        for part in said {
            assert!(out.contains(part) || err.contains(part), "{part} is not in {out}{err}");
        }
    };
    let misspelt = "tests:\n  - request: {url: http://a.com/}\n    expects: {status: 200}\n";
    check(misspelt, &["config/all.test.yaml:3:5", "did you mean \"expect\"?"]);
    check(&test("url: http://a.com/", "status: many"), &["all.test.yaml:4", "a whole number"]);
    check("tests: [", &["PC004", "all.test.yaml"]);
    check("", &["no test was found"]);
    check(
        &test("url: http://a.com/, clientCert: no.pem", ""),
        &["config/no.pem", "cannot be read"],
    );
    let both = test("url: http://a.com/, token: a.b.c, claims: {}", "");
    check(&both, &["exclude each other"]);
}

#[test]
fn tests_are_no_resources() {
    let site = site();
    site.write("config/all.test.yaml", "tests: [");
    let output = site.command(&["check", "--strict"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_shipped_tests_pass() {
    let dir = tempfile::tempdir().unwrap();
    let portcullis = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).current_dir(dir.path()).output().unwrap()
    };
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateways/shop");
    fs::create_dir_all(dir.path().join("gateways/shop")).unwrap();
    for entry in fs::read_dir(shop).unwrap() {
        let path = entry.unwrap().path();
        let name = Path::new("gateways/shop").join(path.file_name().unwrap());
        fs::copy(&path, dir.path().join(name)).unwrap();
    }
    assert!(portcullis(&["certs"]).status.success());
    let output = portcullis(&["test", "gateways"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("15 passed, 0 failed"), "{said}");
}

#[test]
fn a_test_that_expects_nothing_fails() {
    for tests in [
        test("url: http://a.com/v1/x", ""),
        "tests:\n  - name: one\n    request: {url: http://a.com/v1/x}\n".to_owned(),
    ] {
        let (code, out, _) = run(&site(), &tests, &[]);
        assert_eq!(code, 1, "{out}");
        assert!(out.contains("FAILED") && out.contains("nothing is expected"), "{out}");
    }
}
