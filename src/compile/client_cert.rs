//! Which servers tell backends of the client's certificate as RFC 9440 says.
//!
//! Istio has no field for it: the annotation [`ANNOTATION`] of a Gateway lists the port names of its
//! servers that do, or is `*` for all of them.

use crate::diag::catalog;
use crate::resources::{Gateway, Resource};

use super::annotations::{field, listed};
use super::findings::{Findings, at};
use super::gateways::ServerDraft;

/// The annotation.
pub(super) const ANNOTATION: &str = "portcullis.dev/client-cert-headers";

/// Whether a server sends `Client-Cert` and `Client-Cert-Chain`.
pub(super) fn is_told(draft: &ServerDraft<'_>) -> bool {
    let name = draft.server.port.as_ref().map_or("", |port| port.name.as_str());
    listed(draft.gateway, ANNOTATION).any(|listed| listed == name || listed == "*")
}

/// Tells of names that no server with TLS has.
pub(super) fn tell(gateway: &Resource<Gateway>, findings: &mut Findings) {
    let has = |name: &str| {
        let mut servers = gateway.spec.servers.iter().filter(|server| server.tls.is_some());
        servers.any(|one| name == "*" || one.port.as_ref().is_some_and(|port| port.name == name))
    };
    for name in listed(gateway, ANNOTATION).filter(|name| !has(name)) {
        let message = format!("\"{name}\" is the port name of no server with TLS here");
        let finding = at(gateway, field(ANNOTATION), &catalog::INVALID_ANNOTATION, message);
        findings.add(finding.help("list servers[].port.name, separated by commas, or write *"));
    }
}
