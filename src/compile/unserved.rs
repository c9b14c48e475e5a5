//! Hosts of Gateways and VirtualServices that cannot be used: they are refused, where a wider host would
//! take them otherwise.
//!
//! **Invariant:** what another resource serves under just the same host goes on.

use std::sync::Arc;

use crate::base::host::HostPattern;
use crate::base::id::Origin;
use crate::base::limit;
use crate::diag::{Diagnostic, catalog};
use crate::resources::{Broken, ResourceSet, ServedHosts};
use crate::route::hosts::HostIndex;
use crate::route::matcher::RequestMatch;
use crate::route::weight::Weighted;
use crate::snapshot::listener::{Chain, TcpBlock};
use crate::snapshot::route::{Action, Forward, Route, RouteTable};

use super::findings::Findings;
use super::gateways::ServerDraft;
use super::names::{exported, qualified, reference, selects};
use super::server_tls::unusable;
use super::settings::CompileSettings;
use super::virtual_hosts::virtual_host;

/// What cannot be used and may concern this gateway.
pub struct Unserved<'a> {
    gateways: Vec<&'a Broken>,
    services: Vec<&'a Broken>,
    domain: &'a str,
}

impl<'a> Unserved<'a> {
    /// Finds them.
    pub fn new(set: &'a ResourceSet, settings: &'a CompileSettings) -> Self {
        let of =
            |kind: &'static str| set.broken.iter().filter(move |broken| broken.id.kind == kind);
        let here = |broken: &&Broken| {
            broken.selector.as_ref().is_none_or(|labels| selects(labels, &settings.labels))
        };
        let heard = |broken: &&Broken| {
            let own = &*broken.id.namespace;
            broken.is_of_any_namespace() || exported(&broken.export_to, own, &settings.namespace)
        };
        Self {
            gateways: of("Gateway").filter(here).collect(),
            services: of("VirtualService").filter(heard).collect(),
            domain: &settings.cluster_domain,
        }
    }

    /// Adds what VirtualServices were to serve on a server: 503, but for what others serve there.
    pub fn route(&self, table: &mut RouteTable, server: &ServerDraft<'_>, findings: &mut Findings) {
        for (broken, host) in self.bound(server) {
            let entry = Arc::make_mut(table.hosts.entry(&host, || virtual_host(&host)));
            if entry.routes.is_empty() {
                entry.routes.push(refusing(broken.origin()));
                tell(broken, &host, findings);
            }
        }
    }

    /// Adds what Gateways were to serve on a plaintext port: 503, or what HTTPS would be asked for.
    pub fn plaintext(
        &self,
        (table, hosts): (&mut RouteTable, &mut HostIndex<()>),
        port: u16,
        findings: &mut Findings,
    ) {
        for (broken, server, host) in self.at(port) {
            let known = table.hosts.entry_of(&host).is_some();
            if known && !server.redirects {
                continue;
            }
            hosts.entry(&host, || ());
            let entry = Arc::make_mut(table.hosts.entry(&host, || virtual_host(&host)));
            if !known {
                entry.routes.push(refusing(broken.origin()));
            }
            if server.redirects {
                entry.https_redirect.get_or_insert_with(|| broken.origin());
            }
            tell(broken, &host, findings);
        }
    }

    /// Adds the names that Gateways were to serve on a TLS port: their handshakes fail.
    pub fn tls(&self, chains: &mut HostIndex<Chain>, port: u16, findings: &mut Findings) {
        for (broken, _, host) in self.at(port) {
            refuse(chains, broken, &host, findings);
        }
    }

    /// Adds the names that VirtualServices were to serve on a server that passes TLS on.
    pub fn passthrough(
        &self,
        chains: &mut HostIndex<Chain>,
        server: &ServerDraft<'_>,
        findings: &mut Findings,
    ) {
        for (broken, host) in self.bound(server) {
            refuse(chains, broken, &host, findings);
        }
    }

    /// Each Gateway's server that may be of a port, host by host.
    fn at(&self, port: u16) -> impl Iterator<Item = (&'a Broken, &'a ServedHosts, HostPattern)> {
        let servers = self
            .gateways
            .iter()
            .flat_map(|broken| broken.served.servers.iter().map(move |server| (*broken, server)));
        let servers = servers.filter(move |(_, server)| server.port.is_none_or(|own| own == port));
        servers.flat_map(|(broken, server)| {
            let hosts = server.hosts.iter().filter_map(|host| HostPattern::parse(host).ok());
            hosts.map(move |host| (broken, server, host))
        })
    }

    /// Each VirtualService that may be bound to a server, by the hosts they share.
    fn bound(&self, draft: &ServerDraft<'_>) -> Vec<(&'a Broken, HostPattern)> {
        let gateway = (&*draft.gateway.id.namespace, &*draft.gateway.id.name);
        let mut out = Vec::new();
        for broken in &self.services {
            let own = &*broken.id.namespace;
            let anybodys = broken.is_of_any_namespace();
            let names = |name: &String| {
                let (namespace, name) = reference(name, own);
                name == gateway.1 && (namespace == gateway.0 || anybodys)
            };
            if broken.served.gateways.as_ref().is_some_and(|all| !all.iter().any(names)) {
                continue;
            }
            let hosts = broken.served.servers.iter().flat_map(|served| &served.hosts);
            let hosts = hosts
                .filter_map(|host| HostPattern::parse(&qualified(host, own, self.domain)).ok());
            for host in hosts {
                let allowed = draft.hosts.iter().filter(|(namespace, _)| {
                    anybodys || namespace.as_deref().is_none_or(|namespace| namespace == own)
                });
                out.extend(allowed.filter_map(|(_, of)| Some((*broken, of.intersect(&host)?))));
            }
        }
        out
    }
}

/// Handshakes of a name fail, unless a server has just this name.
fn refuse(
    chains: &mut HostIndex<Chain>,
    broken: &Broken,
    host: &HostPattern,
    findings: &mut Findings,
) {
    if chains.entry_of(host).is_some() {
        return;
    }
    let origin = broken.origin();
    let block = TcpBlock {
        key: format!("{}/{host}", broken.id).into(),
        server: origin.clone(),
        tls: Some(unusable(&format!("{} cannot be used", broken.id))),
        destinations: Weighted::single(None),
        idle_timeout: limit::TCP_IDLE_TIME,
        judged: true,
        origin,
    };
    chains.entry(host, || Chain::Tcp(Arc::new(block)));
    tell(broken, host, findings);
}

/// Takes every request and has nowhere to send it.
fn refusing(origin: Origin) -> Arc<Route> {
    Arc::new(Route {
        name: "".into(),
        counted: None,
        origin,
        condition: RequestMatch::default(),
        action: Action::Forward(Forward::nowhere()),
    })
}

fn tell(broken: &Broken, host: &HostPattern, findings: &mut Findings) {
    let message = format!("{} cannot be used, and \"{host}\" is refused", broken.id);
    findings.add(
        Diagnostic::new(&catalog::ROUTE_BROKEN, message)
            .at(broken.location.clone())
            .resource(broken.id.clone())
            .help("correct it, or delete it: no wider host takes this one's requests until then"),
    );
}
