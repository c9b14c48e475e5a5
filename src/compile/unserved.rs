//! Hosts of Gateways and VirtualServices that cannot be used: they are refused, where a wider host would
//! take them otherwise.
//!
//! **Invariant:** what another resource serves under just the same host goes on.

use std::sync::Arc;

use crate::base::host::HostPattern;
use crate::base::id::{Origin, ResourceId};
use crate::base::limit;
use crate::diag::{Diagnostic, Location, catalog};
use crate::resources::{Broken, ResourceSet};
use crate::route::hosts::HostIndex;
use crate::route::matcher::RequestMatch;
use crate::route::weight::Weighted;
use crate::snapshot::listener::{Chain, TcpBlock};
use crate::snapshot::route::{Action, Forward, Route, RouteTable};

use super::findings::Findings;
use super::gateways::{ServerDraft, is_http, unread_of};
use super::names::{exported, qualified, reference, selects};
use super::server_tls::unusable;
use super::settings::CompileSettings;
use super::virtual_hosts::virtual_host;

/// What cannot be used and may concern this gateway.
pub struct Unserved<'a> {
    servers: Vec<Lost<'a>>,
    /// Plaintext servers of Gateways that can be used but for them.
    doubtful: Vec<Lost<'a>>,
    services: Vec<&'a Broken>,
    domain: &'a str,
}

/// A server that nobody serves.
struct Lost<'a> {
    id: &'a ResourceId,
    location: Location,
    hosts: &'a [String],
    port: Option<u16>,
    redirects: bool,
}

impl<'a> Unserved<'a> {
    /// Finds them; tells of those that may have been to serve more than can be read.
    pub fn new(
        set: &'a ResourceSet,
        settings: &'a CompileSettings,
        findings: &mut Findings,
    ) -> Self {
        let here = |broken: &&Broken| match broken.id.kind {
            "Gateway" => {
                broken.selector.as_ref().is_none_or(|labels| selects(labels, &settings.labels))
            }
            "VirtualService" => {
                let own = &*broken.id.namespace;
                let heard = exported(&broken.export_to, own, &settings.namespace);
                broken.is_of_any_namespace() || heard
            }
            _ => false,
        };
        let (gateways, services): (Vec<&Broken>, Vec<&Broken>) =
            set.broken.iter().filter(here).partition(|broken| broken.id.kind == "Gateway");
        for broken in gateways.iter().chain(&services).filter(|broken| broken.served.more) {
            let message =
                format!("{} cannot be used, and not all of its hosts can be read", broken.id);
            findings.add(finding(&broken.id, broken.location.clone(), message).help(
                "correct it, or delete it: wider hosts take what it was to serve until then",
            ));
        }
        let lost = gateways.iter().flat_map(|broken| {
            broken.served.servers.iter().map(|server| Lost {
                id: &broken.id,
                location: broken.location.clone(),
                hosts: &server.hosts,
                port: server.port,
                redirects: server.redirects,
            })
        });
        Self {
            servers: lost.collect(),
            doubtful: doubtful(set, settings),
            services,
            domain: &settings.cluster_domain,
        }
    }

    /// Whether a VirtualService that cannot be used was bound to a server: that is told as such.
    pub fn bind(&self, server: &ServerDraft<'_>) -> bool {
        !self.bound(server).is_empty()
    }

    /// Adds what VirtualServices were to serve on a server: 503, but for what others serve there.
    pub fn route(&self, table: &mut RouteTable, server: &ServerDraft<'_>, findings: &mut Findings) {
        let mut told = Told::new(findings);
        for (broken, host) in self.bound(server) {
            if table.hosts.entry_of(&host).is_some_and(|entry| !entry.routes.is_empty()) {
                continue;
            }
            if !told.tell((&broken.id, &broken.location), &host) {
                return;
            }
            let entry = Arc::make_mut(table.hosts.entry(&host, || virtual_host(&host)));
            entry.routes.push(refusing(broken.origin()));
        }
    }

    /// Adds what Gateways were to serve on a plaintext port: 503, or what HTTPS would be asked for.
    pub fn plaintext(
        &self,
        (table, hosts): (&mut RouteTable, &mut HostIndex<()>),
        port: u16,
        findings: &mut Findings,
    ) {
        let mut told = Told::new(findings);
        for (server, host) in at_port(&self.servers, port).chain(at_port(&self.doubtful, port)) {
            let known = table.hosts.entry_of(&host);
            let redirected = known.is_some_and(|entry| entry.https_redirect.is_some());
            let known = known.is_some();
            if known && (!server.redirects || redirected) {
                continue;
            }
            if !told.tell((server.id, &server.location), &host) {
                return;
            }
            hosts.entry(&host, || ());
            let entry = Arc::make_mut(table.hosts.entry(&host, || virtual_host(&host)));
            if !known {
                entry.routes.push(refusing(server.origin()));
            }
            if server.redirects {
                entry.https_redirect.get_or_insert_with(|| server.origin());
            }
        }
    }

    /// Adds the names that Gateways were to serve on a TLS port: their handshakes fail.
    pub fn tls(&self, chains: &mut HostIndex<Chain>, port: u16, findings: &mut Findings) {
        let lost = at_port(&self.servers, port);
        refuse(
            chains,
            lost.map(|(server, host)| (server.origin(), &server.location, host)),
            findings,
        );
    }

    /// Adds the names that VirtualServices were to serve on a server that passes TLS on.
    pub fn passthrough(
        &self,
        chains: &mut HostIndex<Chain>,
        server: &ServerDraft<'_>,
        findings: &mut Findings,
    ) {
        let lost = self.bound(server).into_iter();
        refuse(
            chains,
            lost.map(|(broken, host)| (broken.origin(), &broken.location, host)),
            findings,
        );
    }

    /// The VirtualService whose `tcp` rules may have been for a server's streams: nobody else's take them,
    /// for the first rule of a port takes all of it.
    pub fn stream(
        &self,
        server: &ServerDraft<'_>,
        port: u16,
        findings: &mut Findings,
    ) -> Option<Origin> {
        let bound = self.bound(server).into_iter();
        let (broken, _) =
            bound.into_iter().find(|(broken, _)| broken.served.streams.are_of(port))?;
        let message =
            format!("{} cannot be used, and the streams of port {port} are refused", broken.id);
        findings.add(
            finding(&broken.id, broken.location.clone(), message)
                .help("correct it, or delete it: no other tcp rule takes them until then"),
        );
        Some(broken.origin())
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

impl Lost<'_> {
    fn origin(&self) -> Origin {
        let Location { file, line, .. } = self.location.clone();
        Origin { resource: self.id.clone(), file, line }
    }
}

/// Plaintext servers with a field that does not exist: it may have been `tls.httpsRedirect`.
fn doubtful<'a>(set: &'a ResourceSet, settings: &CompileSettings) -> Vec<Lost<'a>> {
    let own = set.gateways.iter().filter(|own| selects(&own.spec.selector, &settings.labels));
    let servers = own.flat_map(|gateway| {
        gateway.spec.servers.iter().enumerate().filter_map(|(index, server)| {
            let field = format!("spec.servers[{index}]");
            let location = gateway.location(unread_of(gateway, &field)?);
            let port = server.port.as_ref()?;
            is_http(&port.protocol).then_some(Lost {
                id: &gateway.id,
                location,
                hosts: &server.hosts,
                port: u16::try_from(port.number).ok(),
                redirects: true,
            })
        })
    });
    servers.collect()
}

/// Each server that may be of a port, host by host.
fn at_port<'l, 'a>(
    lost: &'l [Lost<'a>],
    port: u16,
) -> impl Iterator<Item = (&'l Lost<'a>, HostPattern)> {
    let servers = lost.iter().filter(move |server| server.port.is_none_or(|own| own == port));
    servers.flat_map(|server| {
        let bare = |host: &String| host.rsplit('/').next().unwrap_or_default().to_owned();
        let hosts =
            server.hosts.iter().filter_map(move |host| HostPattern::parse(&bare(host)).ok());
        hosts.map(move |host| (server, host))
    })
}

/// Handshakes of these names fail, unless a server has just this name.
fn refuse<'l>(
    chains: &mut HostIndex<Chain>,
    lost: impl Iterator<Item = (Origin, &'l Location, HostPattern)>,
    findings: &mut Findings,
) {
    let mut told = Told::new(findings);
    for (origin, location, host) in lost {
        if chains.entry_of(&host).is_some() {
            continue;
        }
        if !told.tell((&origin.resource, location), &host) {
            return;
        }
        let block = TcpBlock {
            key: format!("{}/{host}", origin.resource).into(),
            server: origin.clone(),
            tls: Some(unusable(&format!("{} cannot be used", origin.resource))),
            destinations: Weighted::single(None),
            idle_timeout: limit::TCP_IDLE_TIME,
            judged: true,
            origin,
        };
        chains.entry(&host, || Chain::Tcp(Arc::new(block)));
    }
}

/// Tells of what is refused, as far as [`limit::UNSERVED_HOSTS`] goes.
struct Told<'f> {
    hosts: usize,
    findings: &'f mut Findings,
}

impl<'f> Told<'f> {
    fn new(findings: &'f mut Findings) -> Self {
        Self { hosts: 0, findings }
    }

    /// Whether a host may be refused still.
    fn tell(&mut self, (id, location): (&ResourceId, &Location), host: &HostPattern) -> bool {
        let room = self.hosts < limit::UNSERVED_HOSTS;
        self.hosts += 1;
        let (message, help) = if room {
            let message = format!("{id} cannot be used, and \"{host}\" is refused");
            (
                message,
                "correct it, or delete it: no wider host takes this one's requests until then",
            )
        } else {
            let message = format!("{id} cannot be used, and has more hosts than are refused");
            (message, "correct it, or delete it: wider hosts take the others' requests until then")
        };
        self.findings.add(finding(id, location.clone(), message).help(help));
        room
    }
}

fn finding(id: &ResourceId, location: Location, message: String) -> Diagnostic {
    Diagnostic::new(&catalog::ROUTE_BROKEN, message).at(location).resource(id.clone())
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
