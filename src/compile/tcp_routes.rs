//! `tls` and `tcp` rules of VirtualServices as blocks that pass bytes on.

use crate::base::host::HostPattern;
use crate::base::id::Origin;
use crate::base::limit;
use crate::diag::catalog;
use crate::resources::Resource;
use crate::resources::virtual_service::{RouteDestination, VirtualService};
use crate::route::weight::Weighted;
use crate::snapshot::cluster::ClusterId;
use crate::snapshot::listener::TcpBlock;

use super::bindings::Bound;
use super::clusters::{ClusterPass, Use, Written};
use super::findings::{Findings, at};
use super::gateways::ServerDraft;
use super::names::reference;

/// Where a rule sends connections, and the rule.
pub type Destinations = (Weighted<Option<ClusterId>>, Origin);

/// The services bound to a server, each with the hosts they share.
pub type Shared<'b, 'a> = [(&'b Bound<'a>, Vec<HostPattern>)];

/// Whether a rule's match is for this Gateway and port.
fn here(
    (gateways, number): (&[String], u32),
    draft: &ServerDraft<'_>,
    namespace: &str,
    port: u16,
) -> bool {
    let own = (&*draft.gateway.id.namespace, &*draft.gateway.id.name);
    (number == 0 || number == u32::from(port))
        && (gateways.is_empty() || gateways.iter().any(|name| reference(name, namespace) == own))
}

/// The first `tcp` rule that applies to a server: it takes every connection.
pub fn tcp(
    bound: &Shared<'_, '_>,
    draft: &ServerDraft<'_>,
    port: u16,
    clusters: &mut ClusterPass<'_>,
    findings: &mut Findings,
) -> Option<Destinations> {
    for (service, _) in bound {
        let resource = service.resource;
        for (index, rule) in resource.spec.tcp.iter().enumerate() {
            let namespace = &*resource.id.namespace;
            let applies = rule.r#match.is_empty()
                || rule.r#match.iter().any(|m| here((&m.gateways, m.port), draft, namespace, port));
            if applies {
                let field = format!("spec.tcp[{index}]");
                return destinations(resource, (&rule.route, &field), port, clusters, findings);
            }
        }
    }
    None
}

/// A `tls` rule of a PASSTHROUGH server: the names it takes, and its block.
pub fn passthrough(
    bound: &Shared<'_, '_>,
    draft: &ServerDraft<'_>,
    port: u16,
    clusters: &mut ClusterPass<'_>,
    findings: &mut Findings,
) -> Vec<(HostPattern, TcpBlock)> {
    let mut out = Vec::new();
    for (service, shared) in bound {
        let resource = service.resource;
        for (index, rule) in resource.spec.tls.iter().enumerate() {
            let namespace = &*resource.id.namespace;
            let field = format!("spec.tls[{index}]");
            let mut names = Vec::new();
            for (place, entry) in rule.r#match.iter().enumerate() {
                if here((&entry.gateways, entry.port), draft, namespace, port) {
                    let field = format!("{field}.match[{place}].sniHosts");
                    names.extend(served(resource, (&entry.sni_hosts, &field), shared, findings));
                }
            }
            if names.is_empty() {
                continue;
            }
            let to = destinations(resource, (&rule.route, &field), port, clusters, findings);
            let Some((destinations, origin)) = to else { continue };
            let idle_timeout = idle(&destinations, clusters);
            let server = draft.gateway.origin(&draft.field);
            for name in names {
                let block = TcpBlock {
                    key: format!("{}/{name}", draft.key()).into(),
                    origin: origin.clone(),
                    server: server.clone(),
                    tls: None,
                    destinations: destinations.clone(),
                    idle_timeout,
                    judged: true,
                };
                out.push((name, block));
            }
        }
    }
    out
}

/// The part of a rule's names that the server and the VirtualService share.
fn served(
    resource: &Resource<VirtualService>,
    (written, field): (&[String], &str),
    shared: &[HostPattern],
    findings: &mut Findings,
) -> Vec<HostPattern> {
    let mut out = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Ok(name) = HostPattern::parse(text) else {
            let message = format!("\"{text}\" is not a name, a wildcard or \"*\"");
            findings
                .add(at(resource, field, &catalog::INVALID_HOST, message).help("it is left out"));
            continue;
        };
        let before = out.len();
        out.extend(shared.iter().filter_map(|host| host.intersect(&name)));
        if out.len() == before {
            let message = format!("\"{text}\" is not among the hosts of the Gateway's server");
            findings.add(
                at(resource, field, &catalog::HOST_NOT_IN_GATEWAY, message)
                    .help("add it to the server's hosts and to spec.hosts; it is not served here"),
            );
        }
    }
    out
}

fn destinations(
    resource: &Resource<VirtualService>,
    (written, field): (&[RouteDestination], &str),
    port: u16,
    clusters: &mut ClusterPass<'_>,
    findings: &mut Findings,
) -> Option<Destinations> {
    let mut choices = Vec::new();
    for (index, route) in written.iter().enumerate() {
        let Some(destination) = &route.destination else { continue };
        let field = format!("{field}.route[{index}].destination");
        let effect = "its connections are closed";
        let written = Written { resource, destination, field: &field, listener: port, effect };
        let id = clusters.destination(&written, Use::Tcp, findings);
        choices.push((u32::try_from(route.weight).unwrap_or(0), id));
    }
    let Some(weighted) = Weighted::new(choices) else {
        let message = "no destination has a weight above 0";
        findings.add(
            at(resource, format!("{field}.route"), &catalog::ROUTE_BROKEN, message)
                .help("the rule is left out; the other rules are served"),
        );
        return None;
    };
    Some((weighted, resource.origin(field)))
}

/// The longest idle time that any of a rule's destinations allows.
pub fn idle(
    destinations: &Weighted<Option<ClusterId>>,
    clusters: &ClusterPass<'_>,
) -> std::time::Duration {
    let times = destinations.iter().filter_map(|id| clusters.get((*id)?));
    times.map(|cluster| cluster.tcp_idle_timeout).max().unwrap_or(limit::TCP_IDLE_TIME)
}
