//! How paths are normalised before they are matched: MeshConfig says it for all hosts, and [`ANNOTATION`] of a
//! Gateway for those of its servers, all of them or by port name.
//!
//! **Invariant:** what cannot be read changes nothing: what the mesh says holds.

use std::sync::Arc;

use crate::diag::{Severity, catalog};
use crate::resources::{Gateway, Resource};
use crate::route::hosts::HostIndex;
use crate::route::path::Normalization;
use crate::snapshot::forwarded::{ByHost, Said};

use super::annotations::{entries, entry, field, names_port, refuse};
use super::findings::{Findings, at};
use super::gateways::ServerDraft;

pub(super) const ANNOTATION: &str = "portcullis.dev/path-normalization";

type Path = Said<Normalization>;

/// What a server does; the mesh's where its Gateway says nothing.
pub(super) fn of_server(draft: &ServerDraft<'_>, mesh: Normalization) -> Arc<Path> {
    let gateway = draft.gateway;
    let port = draft.server.port.as_ref().map_or("", |port| port.name.as_str());
    let said = entry(gateway, ANNOTATION, port).and_then(Normalization::named);
    Arc::new(match said {
        Some(value) => Said { value, by: Some(gateway.origin(&field(ANNOTATION))) },
        None => of_mesh(mesh),
    })
}

/// What the mesh says.
pub(super) fn of_mesh(value: Normalization) -> Path {
    Said { value, by: None }
}

/// What the servers of a plaintext port do, each for its hosts; where they disagree about one host, what the
/// mesh says.
pub(super) fn of_port(
    servers: &[ServerDraft<'_>],
    mesh: Normalization,
    findings: &mut Findings,
) -> ByHost<Path> {
    let said: Vec<_> = servers.iter().map(|server| of_server(server, mesh)).collect();
    let rest = Arc::new(of_mesh(mesh));
    let Some(first) = said.first() else { return ByHost::all(rest) };
    if said.iter().all(|own| own.value == first.value) {
        return ByHost::all(first.clone());
    }
    let mut hosts: HostIndex<Arc<Path>> = HostIndex::default();
    for (server, own) in servers.iter().zip(&said) {
        for (_, host) in &server.hosts {
            let held = hosts.entry(host, || own.clone());
            if held.value == own.value {
                continue;
            }
            held.clone_from(&rest);
            let message = format!(
                "another Gateway has \"{host}\" on this port too, and says otherwise how its paths are \
                 normalised"
            );
            let port = format!("{}.port", server.field);
            let finding = at(server.gateway, port, &catalog::INVALID_ANNOTATION, message);
            findings.add(finding.severity(Severity::Error).help(
                "give Gateways of one host and plaintext port the same annotation; until then what the \
                 mesh says holds",
            ));
        }
    }
    ByHost { rest, hosts: Some(hosts) }
}

/// Tells of what cannot be followed.
pub(super) fn tell(gateway: &Resource<Gateway>, findings: &mut Findings) {
    for (port, text) in entries(gateway, ANNOTATION) {
        if Normalization::named(text).is_none() {
            let message = format!("\"{text}\" is no way to normalise paths");
            let help = "write NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES; until then what the \
                        mesh says holds";
            refuse((gateway, ANNOTATION), findings, message, help);
        }
        if !names_port(gateway, port) {
            let message = format!("\"{port}\" is the port name of no server here");
            let help = "write PORT=MODE with servers[].port.name, *=MODE or a mode alone, separated by commas";
            refuse((gateway, ANNOTATION), findings, message, help);
        }
    }
}
