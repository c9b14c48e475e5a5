//! What `check` says is true, says what to do, and shows no key.

use std::process::Command;

use crate::gateway::{Site, gateway, routes};

/// What `check` says of a configuration.
fn told(site: &Site) -> String {
    let output = site.command(&["check"]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rule(rules: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r, \
         namespace: istio-system}}\nspec: {{jwtRules: [{rules}]}}\n"
    )
}

#[test]
fn tls_that_cannot_work_is_told_as_what_it_is() {
    let site = Site::new();
    site.certificate("a", &["a.com"]);
    site.client_ca("a");
    let check = |tls: &str, messages: &[&str]| {
        let tls = format!("credentialName: a, {tls}");
        site.config("all", &gateway("g", 443, "HTTPS", "a.com", &tls));
        let told = told(&site);
        for message in messages {
            assert_eq!(told.matches(message).count(), 1, "{message}: {told}");
        }
        assert!(!told.contains("the name of a Secret"), "{told}");
    };
    check(
        "mode: MUTUAL, verifyCertificateSpki: ['!!', '??'], verifyCertificateHash: [zz]",
        &[
            "\"!!\" is not a base64 SHA-256 of a public key",
            "\"??\" is not a base64 SHA-256 of a public key",
            "\"zz\" is not a hex SHA-256 of a certificate",
            "PC019",
        ],
    );
    check(
        "mode: SIMPLE, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2",
        &["is above the highest version"],
    );
    let cipher = "ECDHE-ECDSA-AES256-GCM-SHA384";
    check(
        &format!("mode: SIMPLE, cipherSuites: [{cipher}, {cipher}]"),
        &["the cipher suite is repeated"],
    );
    site.config("all", &gateway("g", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: ../a"));
    assert!(told(&site).contains("the name of a Secret"));
}

#[test]
fn keys_written_in_a_rule_are_not_shown() {
    let site = Site::new();
    let keys = r#"{"keys":[{"kty":"oct","k":"c3VwZXJzZWNyZXQ"}]}"#;
    site.config("all", &rule(&format!("{{issuer: x, jwks: '{keys}', bogus: 1}}")));
    let told = told(&site);
    assert!(told.contains("bogus") && !told.contains("c3VwZXJzZWNyZXQ"), "{told}");
}

#[test]
fn a_server_whose_routes_cannot_be_used_is_not_told_to_have_none() {
    let site = Site::new();
    let plain = gateway("plain", 80, "HTTP", "'*'", "");
    let broken = routes("r", "istio-system/plain", "a.com", "  http: 5\n");
    site.config("all", &(plain.clone() + &broken));
    let said = told(&site);
    assert!(said.contains("PC045") && !said.contains("PC034"), "{said}");
    let elsewhere = routes("r", "istio-system/other", "a.com", "  http: 5\n");
    site.config("all", &(plain + &elsewhere));
    assert!(told(&site).contains("PC034"));
}

#[test]
fn addresses_of_keys_that_can_never_be_fetched_are_told() {
    let site = Site::new();
    let uri = |uri: &str| rule(&format!("{{issuer: x, jwksUri: '{uri}'}}"));
    for (address, reason) in [
        ("http://host:99999/k", "between 1 and 65535"),
        ("http://", "no host"),
        ("https://[::1/k", "no URL"),
        ("https://h h/k", "no URL"),
        ("https://u:s3cret@h/k", "a user and password"),
    ] {
        site.config("all", &uri(address));
        let told = told(&site);
        let said = told.lines().find(|line| line.contains("PC050")).unwrap_or_default();
        assert!(said.contains(reason) && said.contains("jwksUri"), "{address}: {told}");
        assert!(!said.contains("s3cret"), "{told}");
    }
    site.config("all", &uri("HTTPS://h/k"));
    let told = told(&site);
    assert!(!told.contains("jwksUri") && !told.contains("PC052"), "{told}");
}

#[test]
fn flags_that_cannot_be_meant_are_usage_errors() {
    for flags in [
        ["--log-level", "bogus"],
        ["--namespace", "A_B"],
        ["--trust-domain", "a/b"],
        ["--labels", "a=b=c,,"],
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("run").args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(flags[0]), "{said}");
    }
}
