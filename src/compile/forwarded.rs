//! Whose word on the client a server takes, and what backends are told of the client's certificate.
//!
//! Istio says both for a whole mesh (`gatewayTopology`). Here [`PROXIES`] of a Gateway lists the addresses
//! of the proxies before its servers, instead of their number; and [`DETAILS`] says what becomes of
//! `x-forwarded-client-cert`: one mode for all of its servers, or `PORT=MODE` by port name. Servers of a
//! plaintext port say it each of their hosts, and what they disagree about is held as strictly as can be.
//!
//! **Invariant:** what cannot be read opens nothing: such a proxy is not trusted, and the header is removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::host::HostPattern;
use crate::diag::{Severity, catalog};
use crate::resources::{Gateway, Resource};
use crate::route::hosts::HostIndex;
use crate::snapshot::forwarded::{ByHost, ClientCertForwarding, Forwarded, Said, TrustedProxies};

use super::annotations::{block, entries, entry, field, listed, names_port, refuse, refuse_blocks};
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
    let client_cert = entry(gateway, DETAILS, port);
    let client_cert = client_cert.map(|text| Said { value: mode(text), by: said(DETAILS) });
    if proxies.is_none() && client_cert.is_none() {
        return mesh.clone();
    }
    Arc::new(Forwarded {
        proxies: proxies.unwrap_or_else(|| mesh.proxies.clone()),
        client_cert: client_cert.unwrap_or_else(|| mesh.client_cert.clone()),
    })
}

/// What the servers of a plaintext port say, each of its hosts; where they disagree about one host, nobody
/// is trusted and nothing is told.
pub(super) fn of_port(
    servers: &[ServerDraft<'_>],
    mesh: &Arc<Forwarded>,
    findings: &mut Findings,
) -> ByHost<Forwarded> {
    let said: Vec<_> = servers.iter().map(|server| forwarded(server, mesh)).collect();
    let Some(first) = said.first() else { return ByHost::all(mesh.clone()) };
    if said.iter().all(|own| agree(own, first)) {
        return ByHost::all(first.clone());
    }
    let mut hosts = HostIndex::default();
    for (server, own) in servers.iter().zip(&said) {
        for (_, host) in &server.hosts {
            let held: &mut Arc<Forwarded> = hosts.entry(host, || own.clone());
            if agree(held, own) {
                continue;
            }
            let other = servers.iter().find(|other| other.hosts.iter().any(|(_, own)| own == host));
            let other = other.map_or_else(String::new, |other| other.gateway.id.to_string());
            disagree((server, host, &other), held, own, findings);
        }
    }
    let strict = Forwarded {
        proxies: Said { value: TrustedProxies::Blocks(Box::default()), by: None },
        client_cert: Said { value: ClientCertForwarding::Sanitize, by: None },
    };
    ByHost { rest: Arc::new(strict), hosts: Some(hosts) }
}

fn agree(one: &Forwarded, other: &Forwarded) -> bool {
    one.proxies.value == other.proxies.value && one.client_cert.value == other.client_cert.value
}

/// Tells that a server says otherwise of a host than another did, and holds the stricter.
fn disagree(
    (server, host, other): (&ServerDraft<'_>, &HostPattern, &str),
    held: &mut Arc<Forwarded>,
    own: &Forwarded,
    findings: &mut Findings,
) {
    let mut tell = |what: &str| {
        let message = format!("{other} has \"{host}\" on this port too, and says otherwise {what}");
        let port = format!("{}.port", server.field);
        let finding = at(server.gateway, port, &catalog::INVALID_ANNOTATION, message);
        findings.add(finding.severity(Severity::Error).help(
            "give Gateways of one host and plaintext port the same annotations; until then nobody \
             is trusted, or the header is removed",
        ));
    };
    let held = Arc::make_mut(held);
    if own.proxies.value != held.proxies.value {
        tell("whose word on the client is taken");
        let by = own.proxies.by.clone().or_else(|| held.proxies.by.clone());
        held.proxies = Said { value: TrustedProxies::Blocks(Box::default()), by };
    }
    if own.client_cert.value != held.client_cert.value {
        tell("what becomes of client certificates");
        let by = own.client_cert.by.clone().or_else(|| held.client_cert.by.clone());
        held.client_cert = Said { value: ClientCertForwarding::Sanitize, by };
    }
}

/// Tells of what cannot be followed.
pub(super) fn tell(gateway: &Resource<Gateway>, findings: &mut Findings) {
    refuse_blocks(gateway, PROXIES, findings);
    let blocks: Vec<_> = listed(gateway, PROXIES).filter_map(block).collect();
    if let Some(wide) = too_wide(&blocks) {
        let message = format!(
            "{wide} is more than any private network: whoever connects from there can choose its address"
        );
        let finding = at(gateway, field(PROXIES), &catalog::INVALID_ANNOTATION, message);
        findings.add(finding.help("list the addresses of the proxies before this gateway alone"));
    }
    for (index, (port, text)) in entries(gateway, DETAILS).enumerate() {
        if named(text).is_none() {
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
        if entries(gateway, DETAILS).take(index).any(|(before, _)| before == port) {
            let message = format!("\"{port}\" is there twice: the first counts");
            refuse((gateway, DETAILS), findings, message, "write each port once");
        }
    }
}

/// A block that all of these make together and no private network is as wide as: 10.0.0.0/8 (RFC 1918) and
/// fc00::/7 (RFC 4193) are the widest.
fn too_wide(blocks: &[IpNet]) -> Option<IpNet> {
    let widest = |block: &IpNet| match block {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 7,
    };
    IpNet::aggregate(&blocks.to_vec()).into_iter().find(|block| block.prefix_len() < widest(block))
}

/// A mode; the strictest where there is none of that name.
fn mode(text: &str) -> ClientCertForwarding {
    named(text).unwrap_or(ClientCertForwarding::Sanitize)
}

fn named(text: &str) -> Option<ClientCertForwarding> {
    ClientCertForwarding::ALL.into_iter().find(|mode| mode.name() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_judged_together() {
        let check = |blocks: &[&str], expected: Option<&str>| {
            let parsed: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
            let found = too_wide(&parsed).map(|block| block.to_string());
            assert_eq!(found.as_deref(), expected, "{blocks:?}");
        };
        check(&["10.0.0.0/8", "192.168.0.0/16", "fc00::/7"], None);
        check(&["0.0.0.0/0"], Some("0.0.0.0/0"));
        check(&["::/0", "10.0.0.0/8"], Some("::/0"));
        check(&["0.0.0.0/1", "128.0.0.0/1"], Some("0.0.0.0/0"));
        check(&["128.0.0.0/1", "10.0.0.0/8"], Some("128.0.0.0/1"));
        check(&["10.0.0.0/8", "11.0.0.0/8"], Some("10.0.0.0/7"));
        check(&["2000::/4", "3000::/4"], Some("2000::/3"));
        check(&["9.0.0.0/8", "10.0.0.0/8"], None);
        check(&[], None);
    }
}
