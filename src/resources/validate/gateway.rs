//! Rules for `Gateway`.
//!
//! **Invariant**: a rule is reported once per server, at the field that breaks it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Findings, HTTP, TLS, is_any, is_protocol, repeated};
use crate::diag::catalog;
use crate::resources::gateway::{Gateway, Server, ServerPort, ServerTls, TlsMode, TlsProtocol};
use crate::resources::name::{is_label, is_socket, is_wildcard_domain};

pub(in super::super) fn check(gateway: &Gateway, findings: &mut Findings<'_>) {
    let dotted = !is_label(&findings.meta.name);
    findings.error_if(dotted, "metadata.name", "the name of a Gateway has no dots");
    findings.error_if(gateway.servers.is_empty(), "spec.servers", "a Gateway needs a server");
    let mut names = BTreeSet::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        check_server(server, &path, findings);
        if let Some(port) = &server.port
            && !port.name.is_empty()
            && !names.insert(&port.name)
        {
            let message = format!("port name \"{}\" is repeated in this Gateway", port.name);
            findings.error(&format!("{path}.port.name"), message);
        }
    }
}

fn check_server(server: &Server, path: &str, findings: &mut Findings<'_>) {
    let hosts = format!("{path}.hosts");
    findings.error_if(server.hosts.is_empty(), &hosts, "a server needs a host");
    for (index, host) in server.hosts.iter().enumerate() {
        check_host(host, &format!("{hosts}[{index}]"), findings);
    }
    let socket = server.bind.strip_prefix("unix://");
    let unix = socket.is_some();
    let ip = || server.bind.is_empty() || server.bind.parse::<IpAddr>().is_ok();
    if !socket.map_or_else(ip, is_socket) {
        let message = format!("\"{}\" is not an IP address or unix://path", server.bind);
        findings.error(&format!("{path}.bind"), message);
    }
    let Some(port) = &server.port else {
        return findings.error(&format!("{path}.port"), "a server needs a port");
    };
    check_port(port, unix, &format!("{path}.port"), findings);
    check_tls_presence(server, port, path, findings);
    if let Some(tls) = &server.tls {
        let path = format!("{path}.tls");
        check_tls(tls, &path, findings);
        if tls.https_redirect && !is_any(&port.protocol, &HTTP) {
            let message = "only a plaintext HTTP server redirects to HTTPS";
            findings.warning(&format!("{path}.httpsRedirect"), message);
        }
    }
}

fn check_host(host: &str, path: &str, findings: &mut Findings<'_>) {
    let (namespace, name) = host.split_once('/').unwrap_or(("*", host));
    if !matches!(namespace, "*" | ".") && !is_label(namespace) {
        findings.error(path, format!("\"{namespace}\" is not a namespace, \".\" or \"*\""));
    }
    let named = is_wildcard_domain(name) || name.parse::<IpAddr>().is_ok();
    let partial = name.starts_with('*') && name != "*" && !name.starts_with("*.");
    if named && name != "*" && !name.contains('.') {
        let message = format!("\"{name}\" is a short name, which no Gateway has: write it in full");
        return findings.refuse(&catalog::INVALID_HOST, path, message);
    }
    findings.host_if(named && !partial, name, path);
}

fn check_port(port: &ServerPort, unix: bool, path: &str, findings: &mut Findings<'_>) {
    let number = format!("{path}.number");
    if unix {
        findings.error_if(port.number != 0, &number, "a unix socket has no port: write 0");
    } else {
        findings.port(port.number, &number);
    }
    if !is_protocol(&port.protocol) {
        let message = format!("\"{}\" is not a protocol", port.protocol);
        findings.error(&format!("{path}.protocol"), message);
    }
    findings.not_empty(&port.name, &format!("{path}.name"));
    let target = format!("{path}.targetPort");
    findings.error_if(port.target_port != 0, &target, "targetPort has no effect here: remove it");
}

fn check_tls_presence(server: &Server, port: &ServerPort, path: &str, findings: &mut Findings<'_>) {
    let protocol = port.protocol.to_ascii_uppercase();
    let tls_path = format!("{path}.tls");
    match (protocol.as_str(), &server.tls) {
        ("HTTPS" | "TLS", None) => {
            findings.error(&tls_path, format!("a port of protocol {protocol} needs tls"));
        }
        (_, Some(tls)) if HTTP.contains(&protocol.as_str()) => {
            let only = ServerTls { https_redirect: tls.https_redirect, ..ServerTls::default() };
            let message = "a plaintext port's tls may hold only httpsRedirect";
            let files = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates];
            let ends = !matches!(tls.mode, TlsMode::Passthrough | TlsMode::AutoPassthrough);
            let refused = ends || files.iter().any(|file| !file.is_empty());
            findings.error_if(refused, &tls_path, message);
            findings.unworkable_if(*tls != only && !refused, &tls_path, message);
        }
        (_, Some(_)) if is_protocol(&protocol) && !TLS.contains(&protocol.as_str()) => {
            let message = format!("a port of protocol {protocol} cannot have tls: write TLS");
            findings.error(&tls_path, message);
        }
        _ => {}
    }
}

fn check_tls(tls: &ServerTls, path: &str, findings: &mut Findings<'_>) {
    parameters(tls, path, findings);
    let single = usize::from(!tls.credential_name.is_empty());
    let several = usize::from(!tls.credential_names.is_empty());
    let pairs = usize::from(!tls.tls_certificates.is_empty());
    let named = single + several > 0;
    let own = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates];
    let own = named || pairs > 0 || own.iter().any(|file| !file.is_empty());
    if tls.mode == TlsMode::IstioMutual {
        let message = "ISTIO_MUTUAL uses the mesh identity: remove the certificate fields";
        findings.error_if(own, path, message);
        let message = "the mesh's own revocation list counts: remove it";
        findings.unworkable_if(!tls.ca_crl.is_empty(), &format!("{path}.caCrl"), message);
        return;
    }
    let files = usize::from(!tls.server_certificate.is_empty() && !tls.private_key.is_empty());
    let many = single + several + pairs + files > 1;
    findings.error_if(many, path, "certificates come from more than one source: keep one");
    let ends = matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual | TlsMode::OptionalMutual);
    if ends && !named {
        check_files(tls, path, findings);
    } else if !ends && (own || !tls.ca_crl.is_empty()) {
        findings.warning(path, "certificates have no effect when TLS is passed through");
    }
    let (crl, simple) = (!tls.ca_crl.is_empty(), tls.mode == TlsMode::Simple);
    // Istio looks at none beside a credential, and lets in whoever is revoked.
    let message = "caCrl works with certificate files and client certificates only";
    findings.error_if(crl && named != simple, &format!("{path}.caCrl"), message);
    findings.unworkable_if(crl && named && simple, &format!("{path}.caCrl"), message);
}

/// What a handshake may use.
fn parameters(tls: &ServerTls, path: &str, findings: &mut Findings<'_>) {
    let many = tls.credential_names.len() > 2;
    let message = "at most two credentials: one RSA and one ECDSA";
    findings.unworkable_if(many, &format!("{path}.credentialNames"), message);
    if tls.tls_certificates.len() > 2 {
        let message = "at most two certificates are used: one RSA and one ECDSA";
        findings.warning(&format!("{path}.tlsCertificates"), message);
    }
    if matches!(tls.min_protocol_version, TlsProtocol::V1_0 | TlsProtocol::V1_1)
        && tls.cipher_suites.is_empty()
    {
        let message = "versions below 1.2 need cipher suites of their time";
        findings.warning(&format!("{path}.minProtocolVersion"), message);
    }
    if let Some(index) = repeated(tls.cipher_suites.iter().map(String::as_str)) {
        findings.warning(&format!("{path}.cipherSuites[{index}]"), "the cipher suite is repeated");
    }
}

fn check_files(tls: &ServerTls, path: &str, findings: &mut Findings<'_>) {
    if tls.tls_certificates.is_empty() {
        let (certificate, key) = (&tls.server_certificate, &tls.private_key);
        let message = "name a credential, or a certificate and a key file";
        let none = certificate.is_empty();
        findings.error_if(none, &format!("{path}.serverCertificate"), message);
        let missing = key.is_empty() && !none;
        findings.error_if(missing, &format!("{path}.privateKey"), "the key file is missing");
    }
    for (index, pair) in tls.tls_certificates.iter().enumerate() {
        let path = format!("{path}.tlsCertificates[{index}]");
        let missing = pair.server_certificate.is_empty() || pair.private_key.is_empty();
        findings.error_if(missing, &path, "a certificate and a key file are needed");
    }
    let needs_ca = tls.mode != TlsMode::Simple && tls.ca_certificates.is_empty();
    let message = "client certificates need a CA to be checked against: name its file";
    findings.error_if(needs_ca, &format!("{path}.caCertificates"), message);
}
