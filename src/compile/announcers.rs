//! Who may announce clients by the PROXY protocol on a Gateway's ports.
//!
//! Istio says it for a whole mesh (`gatewayTopology.proxyProtocol`). Here [`PORTS`] of a Gateway lists the
//! port names of its servers whose connections begin with a header, or is `*` for all of them, and [`PEERS`]
//! the addresses that are believed. A header stands before everything else, so the first server of a port
//! says it for the port.
//!
//! **Invariant:** who is not listed is not believed; without a list nobody is.

use crate::diag::catalog;
use crate::resources::{Gateway, Resource};
use crate::snapshot::listener::Announcers;

use super::annotations::{block, field, listed, names_port, refuse, refuse_blocks};
use super::findings::{Findings, at};
use super::gateways::{ListenerDraft, ServerDraft};

pub(super) const PORTS: &str = "portcullis.dev/proxy-protocol";
pub(super) const PEERS: &str = "portcullis.dev/proxy-protocol-from";

/// What the first server of a port says; tells of later ones that say otherwise.
pub(super) fn announcers(draft: &ListenerDraft<'_>, findings: &mut Findings) -> Option<Announcers> {
    let (first, later) = draft.servers.split_first()?;
    let said = of(first);
    let peers = |said: &Option<Announcers>| said.as_ref().map(|said| said.peers.clone());
    for server in later.iter().filter(|server| peers(&of(server)) != peers(&said)) {
        let message = format!(
            "{} says otherwise who announces clients on port {}, and is the first of the port",
            first.gateway.id, draft.port
        );
        let port = format!("{}.port", server.field);
        let finding = at(server.gateway, port, &catalog::INVALID_ANNOTATION, message);
        findings.add(finding.help("give Gateways of one port the same annotations"));
    }
    said
}

fn of(draft: &ServerDraft<'_>) -> Option<Announcers> {
    let name = draft.server.port.as_ref().map_or("", |port| port.name.as_str());
    if !listed(draft.gateway, PORTS).any(|listed| listed == name || listed == "*") {
        return None;
    }
    let peers = listed(draft.gateway, PEERS).filter_map(block).collect();
    Some(Announcers { peers, origin: draft.gateway.origin(&field(PORTS)) })
}

/// Tells of what cannot be followed.
pub(super) fn tell(gateway: &Resource<Gateway>, findings: &mut Findings) {
    for name in listed(gateway, PORTS).filter(|name| !names_port(gateway, name)) {
        let message = format!("\"{name}\" is the port name of no server here");
        let help = "list servers[].port.name, separated by commas, or write *";
        refuse((gateway, PORTS), findings, message, help);
    }
    refuse_blocks(gateway, PEERS, findings);
    let nobody = listed(gateway, PEERS).find_map(block).is_none();
    if nobody && listed(gateway, PORTS).next().is_some() {
        let help = "list who stands before this gateway in portcullis.dev/proxy-protocol-from; until \
                    then the connections to these ports are closed";
        let message = "nobody is believed to announce clients".to_owned();
        refuse((gateway, PORTS), findings, message, help);
    }
}
