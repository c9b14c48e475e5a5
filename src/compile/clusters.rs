//! Destinations of routes to clusters: each service, port, subset and use once.

mod build;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::id::Origin;
use crate::base::labels::DestinationLabels;
use crate::diag::{Diagnostic, catalog};
use crate::resources::Resource;
use crate::resources::destination_rule::{DestinationRule, Subset, TrafficPolicy};
use crate::resources::virtual_service::{self as vs, VirtualService};
use crate::snapshot::cluster::{Cluster, ClusterId, Endpoints};

use super::destination_ports::pick_port;
use super::destination_rules::{DestinationRules, Governing, Policy};
use super::findings::{Findings, at};
use super::names::qualified;
use super::peers::PeerPolicies;
use super::services::{Port, Service, Services};
use super::settings::CompileSettings;
use super::upstream_tls::UpstreamTlsPass;

/// What a cluster is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Requests.
    Http,
    /// Requests of HTTP/2 clients, where the client's version is kept.
    Http2,
    /// Bytes.
    Tcp,
    /// Bytes that are encrypted already (`AUTO_PASSTHROUGH`): sent on as they are.
    Sealed,
}

/// Labels handed from one compilation to the next, so that a worker's series outlive a reload.
pub type KnownLabels = HashSet<Arc<DestinationLabels>>;

/// A destination as a route names it.
pub struct Written<'r> {
    /// The VirtualService.
    pub resource: &'r Resource<VirtualService>,
    /// The destination.
    pub destination: &'r vs::Destination,
    /// Where it stands: `spec.http[0].route[0].destination`.
    pub field: &'r str,
    /// `servers[].port.number` of the Gateway.
    pub listener: u16,
    /// What comes of it while it names nobody: `requests get 503`.
    pub effect: &'static str,
}

impl Written<'_> {
    /// A finding about a part of the destination that names nothing.
    pub(super) fn missing(&self, part: &str, message: String, help: &str) -> Diagnostic {
        let field = format!("{}.{part}", self.field);
        at(self.resource, field, &catalog::REFERENCE_NOT_FOUND, message).help(self.until(help))
    }

    /// What to do, and what happens until then.
    pub(super) fn until(&self, help: &str) -> String {
        format!("{help}; until then {}", self.effect)
    }
}

/// Names the parts of a destination that was found.
struct Target<'s, 'a> {
    service: &'s Service,
    port: &'s Port,
    governing: Option<Governing<'a>>,
    subset: Option<(&'a Arc<Resource<DestinationRule>>, &'a Subset)>,
}

impl Target<'_, '_> {
    /// Where the DestinationRules that govern it are written: the policy, and the subset.
    fn rules(&self) -> Box<[Origin]> {
        let governing = self.governing.as_ref().map(|governing| governing.rule);
        let number = self.port.number;
        let policy = governing.and_then(|rule| {
            let policy = rule.spec.traffic_policy.as_ref()?;
            Some(rule.origin(&format!("spec.trafficPolicy{}", port_level(policy, number))))
        });
        let subset = self.subset.map(|(rule, subset)| {
            let index = rule.spec.subsets.iter().position(|one| std::ptr::eq(one, subset));
            let own = subset.traffic_policy.as_ref().map(|policy| port_level(policy, number));
            let own = own.filter(|own| !own.is_empty());
            let own = own.map_or(String::new(), |own| format!(".trafficPolicy{own}"));
            rule.origin(&format!("spec.subsets[{}]{own}", index.unwrap_or_default()))
        });
        policy.into_iter().chain(subset).collect()
    }
}

/// Below a policy, the entry for a port where it has one.
fn port_level(policy: &TrafficPolicy, port: u16) -> String {
    let number = u32::from(port);
    let mut entries = policy.port_level_settings.iter();
    let entry =
        entries.position(|entry| entry.port.is_some_and(|selector| selector.number == number));
    entry.map_or(String::new(), |entry| format!(".portLevelSettings[{entry}]"))
}

type Key = (String, String, u16, String, Use);

/// Builds clusters.
pub struct ClusterPass<'a> {
    services: &'a Services<'a>,
    rules: DestinationRules<'a>,
    peers: PeerPolicies<'a>,
    settings: &'a CompileSettings,
    tls: UpstreamTlsPass<'a>,
    known: &'a KnownLabels,
    labels: KnownLabels,
    ids: HashMap<Key, ClusterId>,
    clusters: Vec<Arc<Cluster>>,
}

/// What the passes leave behind.
pub struct Built<'a> {
    /// Every cluster.
    pub clusters: Vec<Arc<Cluster>>,
    /// Labels in use.
    pub labels: KnownLabels,
    /// Originations in use.
    pub tls: UpstreamTlsPass<'a>,
}

impl<'a> ClusterPass<'a> {
    /// Nothing built yet.
    pub fn new(
        services: &'a Services<'a>,
        rules: DestinationRules<'a>,
        peers: PeerPolicies<'a>,
        tls: UpstreamTlsPass<'a>,
        (settings, known): (&'a CompileSettings, &'a KnownLabels),
    ) -> Self {
        Self {
            services,
            rules,
            peers,
            settings,
            tls,
            known,
            labels: KnownLabels::new(),
            ids: HashMap::new(),
            clusters: Vec::new(),
        }
    }

    /// Ends building.
    pub fn finish(self) -> Built<'a> {
        Built { clusters: self.clusters, labels: self.labels, tls: self.tls }
    }

    /// The cluster of a destination; nothing, with a finding, when there is no such service, port or
    /// subset.
    pub fn destination(
        &mut self,
        written: &Written<'_>,
        usage: Use,
        findings: &mut Findings,
    ) -> Option<ClusterId> {
        let from = &*written.resource.id.namespace;
        let host = qualified(&written.destination.host, from, &self.settings.cluster_domain);
        let services = self.services;
        let gateway = &self.settings.namespace;
        let Some(service) = services.find(&host, from, gateway) else {
            findings.add(match services.of(&host).next() {
                Some(hidden) => written.missing(
                    "host",
                    format!(
                        "{} is not exported to the gateway's namespace, {gateway}",
                        hidden.origin.resource
                    ),
                    "add the gateway's namespace to its exportTo",
                ),
                None => written.missing(
                    "host",
                    format!("\"{host}\" is no known service"),
                    "define it with a ServiceEntry or Service",
                ),
            });
            return None;
        };
        let port = match pick_port(service, written) {
            Ok(port) => port,
            Err(problem) => {
                findings.add(problem.tell(written, &host));
                return None;
            }
        };
        let governing = self.rules.governing(service);
        let name = written.destination.subset.as_str();
        let subset = governing.as_ref().and_then(|rule| rule.subset(name));
        let refused = self.rules.refusing(service).is_some();
        if subset.is_none() && !name.is_empty() && !refused {
            findings.add(written.missing(
                "subset",
                format!("\"{host}\" has no subset \"{name}\""),
                "define the subset in a DestinationRule for this host",
            ));
            return None;
        }
        let id = self.cluster(&Target { service, port, governing, subset }, usage, findings);
        self.told_empty(id, written, findings);
        Some(id)
    }

    /// The cluster of a service for requests of our own, by its full name and port; a namespace's own
    /// service first.
    pub fn service(
        &mut self,
        namespace: Option<&str>,
        host: &str,
        port: u32,
        findings: &mut Findings,
    ) -> Result<ClusterId, String> {
        let gateway = &self.settings.namespace;
        let from = namespace.unwrap_or(gateway);
        let services = self.services;
        let service = services.find(host, from, gateway);
        let service = service.filter(|one| namespace.is_none_or(|name| one.namespace == name));
        let service = service.ok_or_else(|| format!("\"{host}\" is no known service"))?;
        let port = service.ports.iter().find(|one| u32::from(one.number) == port);
        let port = port.ok_or_else(|| format!("\"{host}\" has no such port"))?;
        let governing = self.rules.governing(service);
        let target = Target { service, port, governing, subset: None };
        Ok(self.cluster(&target, Use::Http, findings))
    }

    /// The sealed cluster of a service's port and subset, for `AUTO_PASSTHROUGH`.
    pub fn sealed(
        &mut self,
        service: &Service,
        port: &Port,
        subset: &str,
        findings: &mut Findings,
    ) -> Option<ClusterId> {
        let governing = self.rules.governing(service);
        let subset = match subset {
            "" => None,
            name => Some(governing.as_ref()?.subset(name)?),
        };
        let target = Target { service, port, governing, subset };
        Some(self.cluster(&target, Use::Sealed, findings))
    }

    /// Adds a cluster that no route names.
    pub fn push(&mut self, cluster: Cluster) -> ClusterId {
        let id = ClusterId(u32::try_from(self.clusters.len()).unwrap_or(u32::MAX));
        self.clusters.push(Arc::new(cluster));
        id
    }

    /// The names of a service's subsets.
    pub fn subsets(&self, service: &Service) -> Vec<String> {
        let governing = self.rules.governing(service);
        governing.map_or_else(Vec::new, |rule| rule.subset_names().map(str::to_owned).collect())
    }

    /// A cluster built so far.
    pub fn get(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.index())
    }

    /// The services that can be reached.
    pub fn services(&self) -> &'a Services<'a> {
        self.services
    }

    fn told_empty(&self, id: ClusterId, written: &Written<'_>, findings: &mut Findings) {
        let empty = self.clusters.get(id.index()).is_some_and(
            |cluster| matches!(&cluster.endpoints, Endpoints::Static(list) if list.is_empty()),
        );
        if !empty {
            return;
        }
        let Written { resource, destination, field, effect, .. } = written;
        let (code, part, what) = if destination.subset.is_empty() {
            (&catalog::CLUSTER_WITHOUT_ENDPOINTS, "host", destination.host.as_str())
        } else {
            (&catalog::SUBSET_WITHOUT_ENDPOINTS, "subset", destination.subset.as_str())
        };
        let message = format!("\"{what}\" has no endpoint");
        findings.add(
            at(resource, format!("{field}.{part}"), code, message)
                .help(format!("{effect} until it has one")),
        );
    }

    fn cluster(
        &mut self,
        target: &Target<'_, 'a>,
        usage: Use,
        findings: &mut Findings,
    ) -> ClusterId {
        let Target { service, port, .. } = target;
        let subset = target.subset.map_or("", |(_, subset)| subset.name.as_str());
        let key: Key = (
            service.host.clone(),
            service.namespace.clone(),
            port.number,
            subset.to_owned(),
            usage,
        );
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let policy = match &target.governing {
            Some(rule) => rule.policy(target.subset.map(|(_, subset)| subset), port.number),
            None => Policy::default(),
        };
        let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
        let keeps_version = usage == Use::Http && http.is_some_and(|http| http.use_client_protocol);
        let for_http2 = keeps_version.then(|| self.cluster(target, Use::Http2, findings));
        let cluster =
            Cluster { for_http2, ..self.build(target, (subset, usage), policy, findings) };
        let id = self.push(cluster);
        self.ids.insert(key, id);
        id
    }

    /// Labels as the last compilation had them, where they are equal.
    pub fn known_labels(&mut self, labels: DestinationLabels) -> Arc<DestinationLabels> {
        let labels = self.known.get(&labels).cloned().unwrap_or_else(|| Arc::new(labels));
        self.labels.insert(labels.clone());
        labels
    }

    /// The mesh identity's own name; nothing without one.
    pub fn own_name(&self) -> Option<&str> {
        let identity = self.tls.identity().ok()?;
        identity.leaf().names.uris.first().map(String::as_str)
    }

    /// How callers connect to workloads.
    pub fn peers(&self) -> &PeerPolicies<'a> {
        &self.peers
    }
}
