//! The route table of a server: bound VirtualServices joined host by host.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::host::HostPattern;
use crate::resources::ResourceSet;
use crate::resources::gateway::Server;
use crate::snapshot::route::{Route, RouteTable, VirtualHost};

use super::bindings::{Bindings, Bound};
use super::clusters::{ClusterPass, Use};
use super::delegates;
use super::findings::Findings;
use super::gateways::ServerDraft;
use super::routes::{Find, Scope, http_routes};
use super::settings::CompileSettings;

/// The rules of one VirtualService for one Gateway and port, compiled once however many servers
/// they serve.
type Compiled = HashMap<(String, String, u16), Vec<Arc<Route>>>;

/// Builds route tables.
pub struct RoutePass<'p, 'a> {
    /// The VirtualServices of each Gateway.
    pub bindings: &'p Bindings<'a>,
    /// Where clusters are built.
    pub clusters: &'p mut ClusterPass<'a>,
    /// Who this gateway is.
    pub settings: &'a CompileSettings,
    /// Where delegates are.
    pub set: &'a ResourceSet,
    /// Whether a RequestAuthentication reads tokens here.
    pub tokens: bool,
    /// Rules compiled so far.
    pub compiled: Compiled,
}

impl<'p, 'a> RoutePass<'p, 'a> {
    /// Adds what a server serves to a table. Returns whether any VirtualService is bound to it.
    pub fn add(
        &mut self,
        table: &mut RouteTable,
        draft: &ServerDraft<'_>,
        port: u16,
        findings: &mut Findings,
    ) -> bool {
        let (namespace, name) = (draft.gateway.id.namespace.clone(), draft.gateway.id.name.clone());
        let redirect = redirects(draft.server)
            .then(|| draft.gateway.origin(&format!("{}.tls.httpsRedirect", draft.field)));
        let mut bound_any = false;
        for (bound, shared) in self.bound(draft) {
            bound_any = true;
            let routes = self.routes(bound, (&namespace, &name), port, findings);
            for host in shared {
                let host = table.hosts.entry(&host, || virtual_host(&host));
                let host = Arc::make_mut(host);
                host.routes.extend(routes.iter().cloned());
                if host.https_redirect.is_none() {
                    host.https_redirect.clone_from(&redirect);
                }
            }
        }
        if redirect.is_some() {
            for (_, host) in &draft.hosts {
                let host = Arc::make_mut(table.hosts.entry(host, || virtual_host(host)));
                if host.https_redirect.is_none() {
                    host.https_redirect.clone_from(&redirect);
                }
            }
        }
        bound_any
    }

    /// The VirtualServices bound to a server, each with the hosts they share.
    pub fn bound(&self, draft: &ServerDraft<'_>) -> Vec<(&'p Bound<'a>, Vec<HostPattern>)> {
        let key = (draft.gateway.id.namespace.to_string(), draft.gateway.id.name.to_string());
        self.bindings.get(&key).map_or_else(Vec::new, |services| services.of(draft))
    }

    fn routes(
        &mut self,
        bound: &Bound<'_>,
        gateway: (&str, &str),
        port: u16,
        findings: &mut Findings,
    ) -> Vec<Arc<Route>> {
        let scope = Scope { settings: self.settings, gateway, port, tokens: self.tokens };
        let key = (bound.resource.id.to_string(), gateway.0.to_owned() + "/" + gateway.1, port);
        if let Some(known) = self.compiled.get(&key) {
            return known.clone();
        }
        let clusters = &mut *self.clusters;
        let mut missing = Findings::default();
        let find: &mut Find<'_> =
            &mut |written| clusters.destination(written, Use::Http, &mut missing);
        let rules = delegates::rules(bound.resource, self.set, findings);
        let routes = http_routes(&rules, &scope, find, findings);
        findings.extend(missing);
        self.compiled.insert(key, routes.clone());
        routes
    }
}

/// Whether a server sends plaintext requests to HTTPS.
fn redirects(server: &Server) -> bool {
    server.tls.as_ref().is_some_and(|tls| tls.https_redirect)
}

/// A host without routes.
pub(super) fn virtual_host(host: &HostPattern) -> Arc<VirtualHost> {
    let name = host.to_string().into();
    Arc::new(VirtualHost { name, https_redirect: None, routes: Vec::new(), index: None })
}

/// Orders and indexes the rules of every host.
pub fn settle(table: &mut RouteTable) {
    for host in table.hosts.values_mut() {
        Arc::make_mut(host).settle();
    }
}
