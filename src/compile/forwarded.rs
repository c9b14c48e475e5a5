//! Whose word on the client a server takes, and what backends are told of the client's certificate.
//!
//! Istio says both for a whole mesh (`gatewayTopology`). Here [`PROXIES`] of a Gateway lists the addresses
//! of the proxies before its servers, instead of their number; and [`DETAILS`] says what becomes of
//! `x-forwarded-client-cert`: one mode for all of its servers, or `PORT=MODE` by port name. Servers of a
//! plaintext port are one, and what they disagree about is held as strictly as can be.
//!
//! **Invariant:** what cannot be read opens nothing: such a proxy is not trusted, and the header is removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diag::{Severity, catalog};
use crate::resources::{Gateway, Resource};
use crate::snapshot::forwarded::{ClientCertForwarding, Forwarded, Said, TrustedProxies};

use super::annotations::{block, field, listed, names_port, refuse, refuse_blocks};
use super::findings::{Findings, at};
use super::gateways::ServerDraft;

pub(super) const PROXIES: &str = "portcullis.dev/trusted-proxies";
pub(super) const DETAILS: &str = "portcullis.dev/forward-client-cert-details";

/// What a server does; the mesh's where its Gateway says nothing.
pub(super) fn forwarded(draft: &ServerDraft<'_>, mesh: &Arc<Forwarded>) -> Arc<Forwarded> {
    let gateway = draft.gateway;
    let said = |name| Some(gateway.origin(&field(name)));
    let port = draft.server.port.as_ref().map_or("", |port| port.name.as_str());
    let proxies = gateway.meta.annotations.contains_key(PROXIES).then(|| {
        let blocks: BTreeSet<_> = listed(gateway, PROXIES).filter_map(block).collect();
        let value = TrustedProxies::Blocks(blocks.into_iter().collect());
        Said { value, by: said(PROXIES) }
    });
    let client_cert = entry(gateway, port).map(|value| Said { value, by: said(DETAILS) });
    if proxies.is_none() && client_cert.is_none() {
        return mesh.clone();
    }
    Arc::new(Forwarded {
        proxies: proxies.unwrap_or_else(|| mesh.proxies.clone()),
        client_cert: client_cert.unwrap_or_else(|| mesh.client_cert.clone()),
    })
}

/// What the servers of a plaintext port say; where they disagree, nobody is trusted and nothing is told.
pub(super) fn of_port(
    servers: &[ServerDraft<'_>],
    mesh: &Arc<Forwarded>,
    findings: &mut Findings,
) -> Arc<Forwarded> {
    let Some((first, later)) = servers.split_first() else { return mesh.clone() };
    let own = forwarded(first, mesh);
    let mut held = own.clone();
    for server in later {
        let other = forwarded(server, mesh);
        let mut tell = |what: &str| {
            let message = format!("{} says otherwise {what} on this port", first.gateway.id);
            let port = format!("{}.port", server.field);
            let finding = at(server.gateway, port, &catalog::INVALID_ANNOTATION, message);
            findings.add(finding.severity(Severity::Error).help(
                "give Gateways of one plaintext port the same annotations; until then it trusts \
                 nobody, or removes the header",
            ));
        };
        if other.proxies.value != own.proxies.value {
            tell("whose word on the client is taken");
            let by = other.proxies.by.clone().or_else(|| own.proxies.by.clone());
            let value = TrustedProxies::Blocks(Box::default());
            Arc::make_mut(&mut held).proxies = Said { value, by };
        }
        if other.client_cert.value != own.client_cert.value {
            tell("what becomes of client certificates");
            let by = other.client_cert.by.clone().or_else(|| own.client_cert.by.clone());
            Arc::make_mut(&mut held).client_cert =
                Said { value: ClientCertForwarding::Sanitize, by };
        }
    }
    held
}

/// Tells of what cannot be followed.
pub(super) fn tell(gateway: &Resource<Gateway>, findings: &mut Findings) {
    refuse_blocks(gateway, PROXIES, findings);
    let mut wide = listed(gateway, PROXIES).filter_map(block).filter(|net| net.prefix_len() == 0);
    if let Some(wide) = wide.next() {
        let message = format!("{wide} is everybody: whoever connects can choose its address");
        let finding = at(gateway, field(PROXIES), &catalog::INVALID_ANNOTATION, message);
        findings.add(finding.help("list the addresses of the proxies before this gateway alone"));
    }
    for (index, (port, text)) in entries(gateway).enumerate() {
        if mode(text).is_none() {
            let message = format!("\"{text}\" is no way to forward client certificates");
            let help = "write SANITIZE, SANITIZE_SET, FORWARD_ONLY, APPEND_FORWARD or \
                        ALWAYS_FORWARD_ONLY; until then the header is removed";
            refuse((gateway, DETAILS), findings, message, help);
        }
        if !names_port(gateway, port) {
            let message = format!("\"{port}\" is the port name of no server here");
            let help = "write PORT=MODE with servers[].port.name, *=MODE or a mode alone, \
                        separated by commas";
            refuse((gateway, DETAILS), findings, message, help);
        }
        if entries(gateway).take(index).any(|(before, _)| before == port) {
            let message = format!("\"{port}\" is there twice: the first counts");
            refuse((gateway, DETAILS), findings, message, "write each port once");
        }
    }
}

/// What a Gateway says of a port: by its name, or else of all.
fn entry(gateway: &Resource<Gateway>, port: &str) -> Option<ClientCertForwarding> {
    let of = |name: &str| entries(gateway).find(|(port, _)| *port == name);
    let (_, text) = of(port).or_else(|| of("*"))?;
    Some(mode(text).unwrap_or(ClientCertForwarding::Sanitize))
}

/// Port names, or `*`, each with the text of a mode.
fn entries(gateway: &Resource<Gateway>) -> impl Iterator<Item = (&str, &str)> {
    listed(gateway, DETAILS)
        .map(|entry| entry.split_once('=').unwrap_or(("*", entry)))
        .map(|(port, mode)| (port.trim(), mode.trim()))
}

fn mode(text: &str) -> Option<ClientCertForwarding> {
    ClientCertForwarding::ALL.into_iter().find(|mode| mode.name() == text)
}
