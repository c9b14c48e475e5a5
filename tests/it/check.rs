//! `portcullis check`: every mistake is found where it was written.

use crate::gateway::{Site, gateway, policy, routes, service, to};

const JWT: &str = "---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec: {jwtRules: [{issuer: i, jwks: '{\"keys\": []}'}]}
";

/// A configuration without a finding.
fn good() -> (Site, String) {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    let text = gateway("g", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
        + &routes("r", "istio-system/g", "a.com", &to("echo"))
        + &service("echo", "HTTP", 9000);
    site.config("all", &text);
    (site, text)
}

fn report(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.command(&[&["check"], arguments].concat());
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_good_configuration_is_clean() {
    let (site, _) = good();
    let (code, said) = report(&site, &["--strict"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Changes the good configuration and expects a code, at a line that holds `at`.
fn check(change: impl FnOnce(&Site, &str) -> String, code: &str, at: &str) {
    let (site, text) = good();
    let text = change(&site, &text);
    site.config("all", &text);
    let (exit, said) = report(&site, &["-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    let all = found["diagnostics"].as_array().unwrap();
    let one = all.iter().find(|one| one["code"] == code);
    let one = one.unwrap_or_else(|| panic!("no {code} in {said}"));
    let line = usize::try_from(one["line"].as_u64().unwrap()).unwrap();
    assert!(
        text.lines().nth(line - 1).unwrap_or_default().contains(at),
        "{code} at line {line}: {said}"
    );
    let errors = found["errors"].as_u64().unwrap();
    assert_eq!(exit, Some(i32::from(errors > 0)), "{said}");
    assert_eq!(report(&site, &["--strict"]).0, Some(1));
    let text = report(&site, &[]).1;
    assert!(text.contains(&format!("config/all.yaml:{line}:")) && text.contains(at), "{text}");
    assert!(!said.contains("PRIVATE KEY") && !text.contains("PRIVATE KEY"));
}

fn replaced(from: &'static str, to: &'static str) -> impl FnOnce(&Site, &str) -> String {
    move |_, text| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replace(from, to)
    }
}

fn with(more: String) -> impl FnOnce(&Site, &str) -> String {
    move |_, text| format!("{text}{more}")
}

#[test]
fn mistakes_in_fields_are_found() {
    check(replaced("protocol: HTTPS", "protocoll: HTTPS"), "PC010", "protocoll");
    check(replaced("number: 443", "number: [443]"), "PC011", "443");
    check(
        with(
            "---\napiVersion: networking.istio.io/v1\nkind: Gatewaay\nmetadata: {name: x}\n".into(),
        ),
        "PC014",
        "Gatewaay",
    );
    check(with("---\napiVersion: [\n".into()), "PC004", "");
    check(replaced("tls: {mode", "tsl: {mode"), "PC010", "tsl");
    check(replaced("mode: SIMPLE", "mdoe: SIMPLE"), "PC052", "mdoe");
}

#[test]
fn what_has_no_meaning_at_a_gateway_is_told() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: far}\n\
                 spec:\n  hosts: ['*.far.example']\n  ports: [{number: 80, name: http, protocol: \
                 HTTP}]\n  resolution: DYNAMIC_DNS\n";
    check(with(entry.into()), "PC062", "DYNAMIC_DNS");
    let zones = "loadBalancer: {zoneAwareLbSetting: {minClusterSize: 3}}";
    check(with(policy("echo", zones)), "PC060", "minClusterSize");
    check(with(policy("echo", "outlierDetection: {consecutiveErrors: 3}")), "PC060", "consecutive");
}

#[test]
fn mistakes_in_references_are_found() {
    check(replaced("host: echo.shop", "host: ecco.shop"), "IST0101", "ecco.shop");
    check(
        replaced("gateways: [istio-system/g]", "gateways: [istio-system/h]"),
        "IST0101",
        "istio-system/h",
    );
    check(
        replaced("host: echo.shop.internal}", "host: echo.shop.internal, subset: v9}"),
        "IST0101",
        "v9",
    );
    check(replaced("credentialName: a", "credentialName: b"), "IST0101", "credentialName: b");
    check(
        with(gateway("g2", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")),
        "IST0145",
        "a.com",
    );
}

#[test]
fn mistakes_in_certificates_are_found() {
    let names = |site: &Site, names: &[&str], text: &str| {
        site.certificate("a", names);
        text.to_owned()
    };
    check(|site, text| names(site, &["b.com"], text), "PC027", "a.com");
    check(
        |site, text| {
            let other = site.edge.leaf(&["a.com"], 9);
            site.write("certs/a/tls.key", &other.key);
            text.to_owned()
        },
        "PC022",
        "credentialName",
    );
    check(
        |site, text| {
            let leaf = site.edge.leaf(&["a.com"], 1);
            site.write("certs/a/tls.key", &leaf.key);
            site.write("certs/a/tls.crt", leaf.chain + site.clients.pem());
            text.to_owned()
        },
        "PC026",
        "credentialName",
    );
    check(
        |site, text| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(["a.com".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(2095, 1, 1);
            site.write("certs/a/tls.key", key.serialize_pem());
            site.write("certs/a/tls.crt", params.self_signed(&key).unwrap().pem());
            text.to_owned()
        },
        "PC025",
        "credentialName",
    );
}

#[test]
fn tls_parameters_that_are_not_offered_are_found() {
    check(
        replaced("mode: SIMPLE", "mode: SIMPLE, minProtocolVersion: TLSV1_0"),
        "PC029",
        "TLSV1_0",
    );
    let suites = "mode: SIMPLE, cipherSuites: [AES128-SHA, ECDHE-RSA-AES128-GCM-SHA256]";
    check(replaced("mode: SIMPLE", suites), "PC029", "AES128-SHA");
}

#[test]
fn files_that_hold_something_else_are_found() {
    let garbage = |file: &'static str, mode: &'static str| {
        move |site: &Site, text: &str| {
            site.write(&format!("certs/a/{file}"), "hello");
            text.replace("mode: SIMPLE", mode)
        }
    };
    check(garbage("tls.crt", "mode: SIMPLE"), "PC020", "credentialName");
    check(garbage("tls.key", "mode: SIMPLE"), "PC021", "credentialName");
    check(garbage("ca.crt", "mode: MUTUAL"), "PC028", "credentialName");
    let (site, _) = good();
    site.write("certs/a/tls.key", "hello");
    let said = report(&site, &[]).1;
    assert!(said.contains("\"certs/a/tls.key\": there is no private key block"), "{said}");
}

#[test]
fn clashes_of_ports_and_kinds_of_others_are_found() {
    check(with(gateway("g2", 443, "TCP", "'*'", "")), "PC030", "");
    let foreign = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\n";
    check(with(foreign.into()), "PC061", "kind: Sidecar");
    let two =
        "ports: [{number: 80, name: p, protocol: HTTP}, {number: 81, name: q, protocol: HTTP}]";
    check(replaced("ports: [{number: 80, name: p, protocol: HTTP}]", two), "IST0112", "host: echo");
}

#[test]
fn ports_of_the_programs_own_are_found() {
    let own = |port| with(gateway("g2", port, "HTTP", "'*'", ""));
    for port in [15021, 15090, 15000] {
        check(own(port), "PC030", &port.to_string());
    }
    let (site, text) = good();
    site.config("all", &own(15021)(&site, &text));
    let said = report(&site, &[]).1;
    assert!(said.contains("--status has 0.0.0.0:15021"), "{said}");
    let (code, said) = report(&site, &["--status", "0.0.0.0:15022"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = report(&site, &["--status", "off", "--metrics", "[::]:443"]);
    assert!(code == Some(1) && said.contains("--metrics has [::]:443"), "{said}");
}

#[test]
fn a_port_that_is_moved_and_no_servers_is_found() {
    let (site, _) = good();
    let (code, said) = report(&site, &["--port-map", "443=8443,1=2"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("PC037") && said.contains("--port-map 1=2") && !said.contains("8443"),
        "{said}"
    );
    assert_eq!(report(&site, &["--port-map", "443=8443", "--strict"]).0, Some(0));
    // Who cannot be read may have the port.
    site.config("broken", &gateway("broken", 1, "HTTP", "5", "").replace("hosts: [5]", "hosts: 5"));
    let said = report(&site, &["--port-map", "1=2"]).1;
    assert!(!said.contains("PC037"), "{said}");
}

#[test]
fn mistakes_in_rules_are_found() {
    check(
        replaced("http: [{route", "http: [{match: [{uri: {regex: '[a'}}], route"),
        "IST0106",
        "regex",
    );
    check(
        replaced(
            "route: [{destination: {host: echo.shop.internal}}]",
            "route: [{destination: {host: echo.shop.internal}, weight: 30}, {destination: {host: echo.shop.internal}, weight: 30}]",
        ),
        "PC041",
        "weight",
    );
    check(
        replaced(
            "http: [{route",
            "http: [{match: [{uri: {prefix: /}}], redirect: {uri: /x}}, {route",
        ),
        "IST0130",
        "redirect: {uri: /x}",
    );
    check(
        replaced(
            "http: [{route",
            "http: [{match: [{uri: {prefix: /a}}, {uri: {exact: /a}}], redirect: {uri: /x}}, {route",
        ),
        "IST0131",
        "exact: /a",
    );
    check(with(JWT.into()), "PC050", "jwks");
    check(
        with(
            policy("echo", "tls: {mode: SIMPLE}")
                + &policy("echo", "loadBalancer: {simple: RANDOM}"),
        ),
        "PC013",
        "name: echo",
    );
}

#[test]
fn sarif_names_rules_and_places() {
    let (site, text) = good();
    site.config("all", &text.replace("credentialName: a", "credentialName: b"));
    let (code, said) = report(&site, &["-o", "sarif"]);
    assert_eq!(code, Some(1));
    let sarif: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let result = &sarif["runs"][0]["results"][0];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "config/all.yaml");
    assert!(place["region"]["startLine"].as_u64().unwrap() > 1);
}

#[test]
fn a_missing_folder_is_an_error_with_advice() {
    let site = Site::new();
    std::fs::remove_dir(site.path("config")).unwrap();
    let (code, said) = report(&site, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("error[PC001] config:1:1") && said.contains("check --config"), "{said}");
    let (code, said) = report(&site, &["-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, found["errors"].as_u64()), (Some(1), Some(1)), "{said}");
    assert_eq!(found["diagnostics"][0]["file"], "config");
    let sarif: serde_json::Value =
        serde_json::from_str(&report(&site, &["-o", "sarif"]).1).unwrap();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "PC001");
    // The start says the cause once.
    let output = site.command(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}

#[test]
fn what_is_left_out_is_a_finding() {
    use std::os::unix::fs::symlink;

    let (site, _) = good();
    symlink("/dev/zero", site.path("config/zero.yaml")).unwrap();
    symlink(".", site.path("config/again")).unwrap();
    let (code, said) = report(&site, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("error[PC001] config/zero.yaml:1:1"), "{said}");
    assert!(said.contains("info[PC017] config/again:1:1"), "{said}");
    let empty = Site::new();
    let (code, said) = report(&empty, &["--strict"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("warning[PC018] config:1:1"), "{said}");
}

#[test]
fn client_certificates_without_a_ca_are_told_as_that() {
    let (site, text) = good();
    let files = "mode: MUTUAL, tlsCertificates: [{serverCertificate: certs/a/tls.crt, privateKey: \
                 certs/a/tls.key}]";
    site.config("all", &text.replace("mode: SIMPLE, credentialName: a", files));
    let (code, said) = report(&site, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("IST0106") && said.contains("need a CA to be checked against"), "{said}");
    site.client_ca("a");
    let files = format!("{files}, caCertificates: certs/a/ca.crt");
    site.config("all", &text.replace("mode: SIMPLE, credentialName: a", &files));
    let (code, said) = report(&site, &["--strict"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn revocation_lists_that_are_overdue_or_soon_will_be_are_found() {
    let site = Site::new();
    site.certificate("m", &["m.com"]);
    site.client_ca("m");
    site.config(
        "all",
        &(gateway("m", 443, "HTTPS", "m.com", "mode: MUTUAL, credentialName: m")
            + &routes("r", "istio-system/m", "m.com", &to("echo"))
            + &service("echo", "HTTP", 9000)),
    );
    let now = time::OffsetDateTime::now_utc();
    let (overdue, due, later) = (
        now - time::Duration::days(1),
        now + time::Duration::days(1),
        now + time::Duration::days(3_650),
    );
    for (next, code, exit) in
        [(overdue, Some("PC048"), 1), (due, Some("PC049"), 0), (later, None, 0)]
    {
        site.write("certs/m/ca.crl", site.clients.revoke_until(&[9], next).0);
        let (status, said) = report(&site, &["-o", "json"]);
        assert_eq!(status, Some(exit), "{said}");
        let found: serde_json::Value = serde_json::from_str(&said).unwrap();
        let told = found["diagnostics"].as_array().unwrap().iter().map(|one| &one["code"]);
        let told: Vec<_> = told.filter(|code| code.as_str().unwrap().starts_with("PC04")).collect();
        assert_eq!(told, code.into_iter().collect::<Vec<_>>(), "{said}");
        assert_eq!(report(&site, &["--strict"]).0, Some(i32::from(code.is_some())));
    }
}
