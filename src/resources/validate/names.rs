//! Rules for the names that a `VirtualService` is about: its hosts, and the SNIs of its `tls` rules.
//!
//! **Invariant**: as in [`super::virtual_service`].

use super::Findings;
use super::virtual_service::check_where;
use crate::resources::name::{is_cluster_name, is_wildcard_domain};
use crate::resources::virtual_service::{TlsMatch, TlsRoute};

/// Whether a host is among those that another one stands for.
pub(super) fn is_below(host: &str, other: &str) -> bool {
    match other.strip_prefix('*') {
        Some(suffix) => host.strip_prefix('*').unwrap_or(host).ends_with(suffix),
        None => host == other,
    }
}

/// What names of a VirtualService's hosts go by.
pub(super) struct Names<'a> {
    /// Whether it is for Gateways alone.
    pub(super) bound: bool,
    /// Whether it looks at SNIs.
    pub(super) sni: bool,
    pub(super) hosts: &'a [String],
}

impl Names<'_> {
    /// Whether Istio lets a host in: an SNI may be that of a cluster of the mesh.
    pub(super) fn admit(&self, host: &str, sni: bool) -> bool {
        if self.bound && sni && host.starts_with("outbound_") {
            is_cluster_name(host)
        } else {
            is_wildcard_domain(host)
        }
    }
}

pub(super) fn has_sni(route: &TlsRoute) -> bool {
    route.r#match.iter().any(|tls| !tls.sni_hosts.is_empty())
}

pub(super) fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

pub(super) fn tls_match(
    tls: &TlsMatch,
    names: &Names<'_>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    findings.error_if(tls.sni_hosts.is_empty(), path, "a tls match needs sniHosts");
    findings.subnets(&tls.destination_subnets, &format!("{path}.destinationSubnets"));
    check_where((tls.port, &tls.source_labels, &tls.gateways), path, findings);
    for (index, host) in tls.sni_hosts.iter().enumerate() {
        let path = format!("{path}.sniHosts[{index}]");
        if is_address(host) {
            findings.warning(&path, "clients send no address as SNI (RFC 6066 section 3)");
            continue;
        }
        findings.host_if(names.admit(host, true), host, &path);
        if !names.hosts.is_empty() && !names.hosts.iter().any(|other| is_below(host, other)) {
            findings.error(&path, format!("\"{host}\" is not under a host of spec.hosts"));
        }
    }
}
