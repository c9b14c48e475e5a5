//! Who may announce clients by the PROXY protocol on a Gateway's ports.
//!
//! Istio says it for a whole mesh (`gatewayTopology.proxyProtocol`). Here [`PORTS`] of a Gateway lists the
//! port names of its servers whose connections begin with a header, or is `*` for all of them, and [`PEERS`]
//! the addresses that are believed. A header stands before everything else, so the first server of a port
//! says it for the port.
//!
//! **Invariant:** who is not listed is not believed; without a list nobody is.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::diag::{Severity, catalog};
use crate::resources::{Gateway, Resource, ResourceSet};
use crate::snapshot::listener::Announcers;

use super::findings::{Findings, at};
use super::gateways::{ListenerDraft, ServerDraft};

const PORTS: &str = "portcullis.dev/proxy-protocol";
const PEERS: &str = "portcullis.dev/proxy-protocol-from";

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
        let field = format!("{}.port", server.field);
        let finding = at(server.gateway, field, &catalog::INVALID_ANNOTATION, message);
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
    Some(Announcers { peers, origin: draft.gateway.origin(&annotation(PORTS)) })
}

/// Tells of annotations that cannot be followed.
pub(super) fn tell(set: &ResourceSet, findings: &mut Findings) {
    let mut add = |gateway: &Resource<Gateway>, name: &str, message: String, help: &str| {
        let finding = at(gateway, annotation(name), &catalog::INVALID_ANNOTATION, message);
        findings.add(finding.severity(Severity::Error).help(help));
    };
    for gateway in &set.gateways {
        let has = |name: &str| {
            let mut ports = gateway.spec.servers.iter().filter_map(|server| server.port.as_ref());
            name == "*" || ports.any(|port| port.name == name)
        };
        for name in listed(gateway, PORTS).filter(|name| !has(name)) {
            let help = "list servers[].port.name, separated by commas, or write *";
            add(gateway, PORTS, format!("\"{name}\" is the port name of no server here"), help);
        }
        for text in listed(gateway, PEERS).filter(|text| block(text).is_none()) {
            let help = "list addresses and blocks such as 10.0.0.0/8, separated by commas";
            add(gateway, PEERS, format!("\"{text}\" is no address and no block"), help);
        }
        let nobody = listed(gateway, PEERS).find_map(block).is_none();
        if nobody && listed(gateway, PORTS).next().is_some() {
            let help = "list who stands before this gateway in portcullis.dev/proxy-protocol-from; until \
                        then the connections to these ports are closed";
            add(gateway, PORTS, "nobody is believed to announce clients".to_owned(), help);
        }
    }
}

fn annotation(name: &str) -> String {
    format!("metadata.annotations.{name}")
}

fn listed<'a>(gateway: &'a Resource<Gateway>, name: &str) -> impl Iterator<Item = &'a str> {
    let value = gateway.meta.annotations.get(name).map_or("", String::as_str);
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn block(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
