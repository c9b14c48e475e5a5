//! The mesh's own TLS to backends: who gets it without being asked for, and whom it accepts.
//!
//! **Invariant:** an endpoint that says it speaks the mesh's TLS is not spoken to in plaintext, unless a
//! policy says so.

use crate::snapshot::cluster::Address;

use super::peers::{PeerMode, PeerPolicies};
use super::services::{Member, Place, Service};
use super::settings::CompileSettings;

/// Automatic mutual TLS: an endpoint of the mesh that says it speaks it and is not told
/// otherwise.
pub(super) fn wants_mesh(
    settings: &CompileSettings,
    peers: &PeerPolicies<'_>,
    service: &Service,
    member: &Member,
) -> bool {
    let port = match &member.place {
        Place::Address(Address::Socket(socket)) => socket.port(),
        Place::Name(_, port) | Place::Unknown(port) => *port,
        Place::Address(_) => 0,
    };
    settings.auto_mtls
        && service.in_mesh
        && speaks_mesh(member)
        && peers.effective(&member.namespace, &member.labels, port).0 != PeerMode::Disable
}

/// Whether an endpoint says that it speaks the mesh's TLS; a service account without a word on TLS says
/// enough.
pub(super) fn speaks_mesh(member: &Member) -> bool {
    match member.labels.get("security.istio.io/tlsMode") {
        Some(mode) => mode == "istio",
        None => !member.service_account.is_empty(),
    }
}

/// Names that a service's servers may have when no rule lists them.
pub(super) fn server_names(
    settings: &CompileSettings,
    service: &Service,
    members: &[Member],
) -> Vec<String> {
    let mut names = service.subject_alt_names.clone();
    let domains = std::iter::once(&settings.trust_domain).chain(&settings.trust_domain_aliases);
    for domain in domains {
        for member in members.iter().filter(|member| !member.service_account.is_empty()) {
            let (namespace, account) = (&member.namespace, &member.service_account);
            names.push(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}
