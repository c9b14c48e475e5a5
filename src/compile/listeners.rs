//! Drafts, route tables, terminations and clusters joined to listeners.

use std::sync::Arc;

use crate::base::host::HostPattern;
use crate::diag::catalog;
use crate::route::hosts::HostIndex;
use crate::route::weight::Weighted;
use crate::snapshot::forwarded::ByHost;
use crate::snapshot::listener::{
    AutoPassthrough, Chain, Listener, ServerBlock, Servers, TcpBlock, Termination,
};
use crate::snapshot::route::RouteTable;

use super::announcers;
use super::findings::{Findings, at};
use super::forwarded;
use super::gateways::{Kind, ListenerDraft, ServerDraft};
use super::path_normalization;
use super::server_tls::ServerTlsPass;
use super::tcp_routes;
use super::unserved::Unserved;
use super::virtual_hosts::{RoutePass, settle};

/// Builds listeners.
pub struct ListenerPass<'p, 'a> {
    /// Where routes come from.
    pub routes: RoutePass<'p, 'a>,
    /// Where terminations come from.
    pub tls: &'p mut ServerTlsPass<'a>,
    /// What is served by nobody.
    pub unserved: Unserved<'a>,
    /// What was found.
    pub findings: &'p mut Findings,
}

/// As in Istio, the first server of a port says what all of it speaks.
fn is_grpc_web(first: &ServerDraft<'_>) -> bool {
    first.server.port.as_ref().is_some_and(|port| port.protocol.eq_ignore_ascii_case("GRPC-WEB"))
}

impl ListenerPass<'_, '_> {
    /// A listener with everything behind it.
    pub fn listener(&mut self, draft: &ListenerDraft<'_>) -> Arc<Listener> {
        let servers = match draft.servers.as_slice() {
            [first, ..] if first.kind == Kind::Tcp => self.tcp(draft, first),
            [first, ..] if first.kind == Kind::Http => self.http(draft, first),
            servers => self.tls(draft.port, servers),
        };
        Arc::new(Listener {
            address: draft.address.clone(),
            port: draft.port,
            written: draft.servers.first().map(ServerDraft::address_written),
            announcers: announcers::announcers(draft, self.findings),
            servers,
        })
    }

    fn http(&mut self, draft: &ListenerDraft<'_>, first: &ServerDraft<'_>) -> Servers {
        let mut table = RouteTable::default();
        let mut hosts = HostIndex::default();
        for server in &draft.servers {
            self.fill(&mut table, &mut hosts, server, draft.port);
        }
        for server in &draft.servers {
            self.unserved.route(&mut table, server, self.findings);
        }
        self.unserved.plaintext((&mut table, &mut hosts), draft.port, self.findings);
        settle(&mut table);
        let mesh = &self.routes.settings.edge.forwarded;
        let forwarded = forwarded::of_port(&draft.servers, mesh, self.findings);
        let mesh = self.routes.settings.edge.normalization;
        let normalization = path_normalization::of_port(&draft.servers, mesh, self.findings);
        Servers::Http(Arc::new(ServerBlock {
            key: format!("http/{}", draft.port).into(),
            origin: first.gateway.origin(&first.field),
            hosts,
            tls: None,
            grpc_web: is_grpc_web(first),
            forwarded,
            normalization,
            routes: table,
        }))
    }

    fn fill(
        &mut self,
        table: &mut RouteTable,
        hosts: &mut HostIndex<()>,
        server: &ServerDraft<'_>,
        port: u16,
    ) {
        for (_, host) in &server.hosts {
            hosts.entry(host, || ());
        }
        let redirects = server.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        if !self.routes.add(table, server, port, self.findings) && !redirects {
            self.unbound(server, "its requests get 404");
        }
    }

    fn unbound(&mut self, server: &ServerDraft<'_>, effect: &str) {
        if self.unserved.bind(server) {
            return;
        }
        let message = "no VirtualService is bound to this server";
        self.findings.add(
            at(server.gateway, &server.field, &catalog::SERVER_WITHOUT_ROUTES, message).help(
                format!("name this Gateway in spec.gateways of a VirtualService that shares a host; until then {effect}"),
            ),
        );
    }

    fn tcp(&mut self, draft: &ListenerDraft<'_>, server: &ServerDraft<'_>) -> Servers {
        Servers::Tcp(Arc::new(self.tcp_block(server, draft.port, None)))
    }

    /// Where a server's streams go; nowhere when no route says it, and never to another server.
    fn tcp_block(
        &mut self,
        server: &ServerDraft<'_>,
        port: u16,
        tls: Option<Termination>,
    ) -> TcpBlock {
        let (key, own) = (server.key().into(), server.gateway.origin(&server.field));
        let (destinations, origin) = match self.unserved.stream(server, port, self.findings) {
            Some(broken) => (Weighted::single(None), broken),
            None => self.streams(server, port).unwrap_or_else(|| {
                self.unbound(server, "its connections are closed");
                (Weighted::single(None), own.clone())
            }),
        };
        let idle_timeout = tcp_routes::idle(&destinations, self.routes.clusters);
        TcpBlock { key, origin, server: own, tls, destinations, idle_timeout, judged: true }
    }

    fn streams(&mut self, server: &ServerDraft<'_>, port: u16) -> Option<tcp_routes::Destinations> {
        let bound = self.routes.bound(server);
        tcp_routes::tcp(&bound, server, port, self.routes.clusters, self.findings)
    }

    fn tls(&mut self, port: u16, servers: &[ServerDraft<'_>]) -> Servers {
        let mut chains: HostIndex<Chain> = HostIndex::default();
        for server in servers {
            match server.kind {
                Kind::Https => {
                    let block = self.https(server, port);
                    claim(&mut chains, server, &Chain::Http(block));
                }
                Kind::TlsTcp => {
                    let tls = self.tls.terminate(server, self.findings);
                    let block = self.tcp_block(server, port, Some(tls));
                    claim(&mut chains, server, &Chain::Tcp(Arc::new(block)));
                }
                Kind::Passthrough => self.passthrough(&mut chains, server, port),
                Kind::AutoPassthrough => {
                    let chain = Chain::AutoPassthrough(self.auto_passthrough(server));
                    claim(&mut chains, server, &chain);
                }
                Kind::Http | Kind::Tcp => {}
            }
        }
        for server in servers.iter().filter(|server| server.kind == Kind::Passthrough) {
            self.unserved.passthrough(&mut chains, server, self.findings);
        }
        self.unserved.tls(&mut chains, port, self.findings);
        Servers::Tls(chains)
    }

    fn https(&mut self, server: &ServerDraft<'_>, port: u16) -> Arc<ServerBlock> {
        let mut table = RouteTable::default();
        let mut hosts = HostIndex::default();
        self.fill(&mut table, &mut hosts, server, port);
        self.unserved.route(&mut table, server, self.findings);
        settle(&mut table);
        let edge = &self.routes.settings.edge;
        Arc::new(ServerBlock {
            key: server.key().into(),
            origin: server.gateway.origin(&server.field),
            hosts,
            tls: Some(self.tls.terminate(server, self.findings)),
            grpc_web: false,
            forwarded: ByHost::all(forwarded::forwarded(server, &edge.forwarded)),
            normalization: ByHost::all(path_normalization::of_server(server, edge.normalization)),
            routes: table,
        })
    }

    fn passthrough(&mut self, chains: &mut HostIndex<Chain>, server: &ServerDraft<'_>, port: u16) {
        let bound = self.routes.bound(server);
        let clusters = &mut *self.routes.clusters;
        let blocks = tcp_routes::passthrough(&bound, server, port, clusters, self.findings);
        if blocks.is_empty() {
            self.unbound(server, "its connections are refused");
        }
        for (name, block) in blocks {
            if chains.entry_of(&name).is_some() {
                continue;
            }
            chains.entry(&name, || Chain::Passthrough(Arc::new(block)));
        }
    }

    /// Every port and subset of every service whose host the server names, by the SNI that a mesh
    /// client sends for it.
    fn auto_passthrough(&mut self, server: &ServerDraft<'_>) -> Arc<AutoPassthrough> {
        let origin = server.gateway.origin(&server.field);
        let mut services = HostIndex::default();
        let clusters = &mut *self.routes.clusters;
        if clusters.services().networks().own_is_missed() {
            let message = "it is not known which network this gateway is in";
            let mode = format!("{}.tls.mode", server.field);
            self.findings.add(at(server.gateway, mode, &catalog::OWN_NETWORK_UNSAID, message));
        }
        for service in clusters.services().visible(&self.routes.settings.namespace) {
            if !server.hosts.iter().any(|(_, host)| host.matches(&service.host)) {
                continue;
            }
            let mut subsets = clusters.subsets(service);
            subsets.push(String::new());
            for port in &service.ports {
                for subset in &subsets {
                    let name = format!("outbound_.{}_.{subset}_.{}", port.number, service.host);
                    let Some(id) = clusters.sealed(service, port, subset, self.findings) else {
                        continue;
                    };
                    let destinations = Weighted::single(Some(id));
                    let idle_timeout = tcp_routes::idle(&destinations, clusters);
                    let block = Arc::new(TcpBlock {
                        key: format!("{}/{name}", server.key()).into(),
                        origin: origin.clone(),
                        server: origin.clone(),
                        tls: None,
                        destinations,
                        idle_timeout,
                        judged: false,
                    });
                    services.entry(&HostPattern::Exact(name.into()), || block);
                }
            }
        }
        Arc::new(AutoPassthrough { origin, services })
    }
}

/// Puts a chain behind each of a server's hosts that no earlier server has.
fn claim(chains: &mut HostIndex<Chain>, server: &ServerDraft<'_>, chain: &Chain) {
    for (_, host) in &server.hosts {
        chains.entry(host, || chain.clone());
    }
}
