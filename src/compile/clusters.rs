//! Destinations of routes to clusters: each service, port, subset and use once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::Strategy;
use crate::base::hash::Hasher;
use crate::base::labels::DestinationLabels;
use crate::base::limit;
use crate::diag::{Diagnostic, catalog};
use crate::resources::Resource;
use crate::resources::destination_rule::{
    ClientTls, ClientTlsMode, DestinationRule, H2UpgradePolicy, SimpleLoadBalancer, Subset,
};
use crate::resources::virtual_service::{self as vs, VirtualService};
use crate::snapshot::cluster::{
    Cluster, ClusterId, DnsEndpoint, Endpoint, Endpoints, Protocol, UpstreamTls,
};

use super::credentials::CredentialError;
use super::destination_rules::{DestinationRules, Governing, Policy};
use super::findings::{Findings, at};
use super::names::{qualified, selects};
use super::peers::PeerPolicies;
use super::services::{Discovery, Member, Place, Port, Service, Services};
use super::settings::CompileSettings;
use super::upstream_tls::{Peer, UpstreamTlsPass};

/// What a cluster is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Requests.
    Http,
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
}

impl Written<'_> {
    fn missing(&self, part: &str, message: String, help: &str) -> Diagnostic {
        let field = format!("{}.{part}", self.field);
        at(self.resource, field, &catalog::REFERENCE_NOT_FOUND, message).help(help)
    }
}

/// Names the parts of a destination that was found.
struct Target<'s, 'a> {
    service: &'s Service,
    port: &'s Port,
    governing: Option<Governing<'a>>,
    subset: Option<(&'a Arc<Resource<DestinationRule>>, &'a Subset)>,
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
        let Some(service) = services.find(&host, from, &self.settings.namespace) else {
            findings.add(written.missing(
                "host",
                format!("\"{host}\" is no known service"),
                "define it with a ServiceEntry or Service, exported to this namespace; until then \
                 requests get 503",
            ));
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
        if subset.is_none() && !name.is_empty() {
            findings.add(written.missing(
                "subset",
                format!("\"{host}\" has no subset \"{name}\""),
                "define the subset in a DestinationRule for this host; until then requests get 503",
            ));
            return None;
        }
        let id = self.cluster(&Target { service, port, governing, subset }, usage, findings);
        self.told_empty(id, written, findings);
        Some(id)
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
        let Written { resource, destination, field, .. } = written;
        let (code, part, what) = if destination.subset.is_empty() {
            (&catalog::CLUSTER_WITHOUT_ENDPOINTS, "host", destination.host.as_str())
        } else {
            (&catalog::SUBSET_WITHOUT_ENDPOINTS, "subset", destination.subset.as_str())
        };
        let message = format!("\"{what}\" has no endpoint");
        findings.add(
            at(resource, format!("{field}.{part}"), code, message)
                .help("requests get 503 until it has one"),
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
        let cluster = self.build(target, subset, usage, findings);
        let id = ClusterId(u32::try_from(self.clusters.len()).unwrap_or(u32::MAX));
        self.clusters.push(Arc::new(cluster));
        self.ids.insert(key, id);
        id
    }

    fn build(
        &mut self,
        target: &Target<'_, 'a>,
        subset: &str,
        usage: Use,
        findings: &mut Findings,
    ) -> Cluster {
        let Target { service, port, .. } = target;
        let policy = match &target.governing {
            Some(rule) => rule.policy(target.subset.map(|(_, subset)| subset), port.number),
            None => Policy::default(),
        };
        let mut members = self.services.members(service, port);
        if let Some((_, subset)) = target.subset {
            members.retain(|member| selects(&subset.labels, &member.labels));
        }
        let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
        let protocol = match usage {
            Use::Tcp | Use::Sealed => Protocol::Tcp,
            Use::Http if port.http2 => Protocol::Http2,
            Use::Http if http.is_some_and(|p| p.h2_upgrade_policy == H2UpgradePolicy::Upgrade) => {
                Protocol::Http2
            }
            Use::Http => Protocol::Http1,
        };
        let names = self.server_names(service, &members);
        let (host, number) = (service.host.as_str(), port.number);
        let mesh_name = format!("outbound_.{number}_.{subset}_.{host}");
        let peer = Peer { protocol, names: &names, mesh_name: &mesh_name };
        let written = if usage == Use::Sealed { None } else { policy.tls };
        let automatic = ClientTls { mode: ClientTlsMode::IstioMutual, ..ClientTls::default() };
        let plain = ClientTls::default();
        let encrypted = |member: &Member| match (usage, written) {
            (Use::Sealed, _) => false,
            (_, Some(tls)) => tls.mode != ClientTlsMode::Disable,
            (_, None) => self.wants_mesh(service, member),
        };
        let flags: Vec<bool> = members.iter().map(encrypted).collect();
        let automatic = flags.contains(&true).then_some(&automatic);
        let (secured, error) = self.tls.secure(written.or(automatic).unwrap_or(&plain), &peer);
        if let Some(error) = error {
            findings.add(untrusted(target, &error));
        }
        let strategy = strategy(policy);
        let name = format!("outbound|{number}|{subset}|{host}");
        let idle_timeout = idle(policy);
        let mut hasher = Hasher::default();
        hasher.part(name.as_bytes()).part(service.namespace.as_bytes());
        hasher.part(format!("{usage:?}{protocol:?}{idle_timeout:?}").as_bytes());
        hasher.part(secured.rule.as_bytes());
        let labels = self.labels(service, &members, &secured.tls, &secured.names);
        let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
        Cluster {
            name: name.into(),
            key: hasher.finish(),
            origin: service.origin.clone(),
            endpoints: endpoints(service.discovery, &members, &flags, strategy),
            strategy: strategy.unwrap_or_default(),
            protocol,
            tls: secured.tls,
            connect_timeout: positive(tcp.and_then(|tcp| tcp.connect_timeout.map(|t| t.0)))
                .unwrap_or(self.settings.connect_timeout),
            idle_timeout,
            tcp_idle_timeout: positive(tcp.and_then(|tcp| tcp.idle_timeout.map(|t| t.0)))
                .unwrap_or(limit::TCP_IDLE_TIME),
            labels,
        }
    }

    /// Automatic mutual TLS: an endpoint of the mesh that says it speaks it and is not told
    /// otherwise.
    fn wants_mesh(&self, service: &Service, member: &Member) -> bool {
        let port = match &member.place {
            Place::Address(crate::snapshot::cluster::Address::Socket(socket)) => socket.port(),
            Place::Name(_, port) => *port,
            Place::Address(_) => 0,
        };
        let says = |(name, value): (&str, &str)| {
            member.labels.get(name).is_some_and(|known| known == value)
        };
        self.settings.auto_mtls
            && service.in_mesh
            && says(("security.istio.io/tlsMode", "istio"))
            && !self.peers.plaintext(&member.namespace, &member.labels, port)
    }

    /// Names that a service's servers may have when no rule lists them.
    fn server_names(&self, service: &Service, members: &[Member]) -> Vec<String> {
        let mut names = service.subject_alt_names.clone();
        let domains =
            std::iter::once(&self.settings.trust_domain).chain(&self.settings.trust_domain_aliases);
        for domain in domains {
            for member in members.iter().filter(|member| !member.service_account.is_empty()) {
                let (namespace, account) = (&member.namespace, &member.service_account);
                names.push(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    fn labels(
        &mut self,
        service: &Service,
        members: &[Member],
        tls: &UpstreamTls,
        names: &[String],
    ) -> Arc<DestinationLabels> {
        let label = |keys: &[&str]| {
            let of = |member: &Member| keys.iter().find_map(|key| member.labels.get(*key)).cloned();
            let first = members.first().and_then(of);
            first.filter(|value| members.iter().all(|m| of(m).as_ref() == Some(value)))
        };
        let shared = |keys: &[&str]| label(keys).unwrap_or_default().into_boxed_str();
        let domain = format!(".svc.{}", self.settings.cluster_domain);
        let short = match service.host.strip_suffix(&domain) {
            Some(inside) => inside.split('.').next().unwrap_or_default(),
            None => &service.host,
        };
        let identity = self.tls.identity().ok().and_then(|own| own.leaf().names.uris.first());
        let encrypted = matches!(tls, UpstreamTls::Tls { .. });
        let labels = DestinationLabels {
            principal: match names {
                [only] if encrypted => only.as_str().into(),
                _ => Box::default(),
            },
            app: shared(&["app"]),
            version: shared(&["version"]),
            service: service.host.as_str().into(),
            canonical_service: shared(&[
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ]),
            canonical_revision: shared(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ]),
            service_name: short.into(),
            service_namespace: service.namespace.as_str().into(),
            source_principal: identity
                .filter(|_| encrypted)
                .map_or_else(Box::default, |uri| uri.as_str().into()),
            ..DestinationLabels::default()
        };
        let labels = self.known.get(&labels).cloned().unwrap_or_else(|| Arc::new(labels));
        self.labels.insert(labels.clone());
        labels
    }
}

/// Why a destination's port is not known.
enum PortProblem {
    Unknown(u32),
    Several,
    None,
}

impl PortProblem {
    fn tell(&self, written: &Written<'_>, host: &str) -> Diagnostic {
        match self {
            Self::Unknown(number) => written.missing(
                "port",
                format!("\"{host}\" has no port {number}"),
                "name one of the service's ports; until then requests get 503",
            ),
            Self::None => written.missing(
                "port",
                format!("\"{host}\" has no port"),
                "give the service a port; until then requests get 503",
            ),
            Self::Several => at(
                written.resource,
                format!("{}.port", written.field),
                &catalog::PORT_SELECTOR_REQUIRED,
                format!("\"{host}\" has several ports"),
            )
            .help("add destination.port.number; until then requests get 503"),
        }
    }
}

/// The port named, else the only one, else the one with the listener's number.
fn pick_port<'s>(service: &'s Service, written: &Written<'_>) -> Result<&'s Port, PortProblem> {
    let by_number = |number: u32| service.ports.iter().find(|p| u32::from(p.number) == number);
    let named = written.destination.port.as_ref().map(|port| port.number);
    match (named, service.ports.as_slice()) {
        (Some(number), _) => by_number(number).ok_or(PortProblem::Unknown(number)),
        (None, []) => Err(PortProblem::None),
        (None, [only]) => Ok(only),
        (None, _) => by_number(u32::from(written.listener)).ok_or(PortProblem::Several),
    }
}

fn untrusted(target: &Target<'_, '_>, error: &CredentialError) -> Diagnostic {
    let own = target.subset.filter(|(_, subset)| {
        subset.traffic_policy.as_ref().is_some_and(|policy| policy.tls.is_some())
    });
    let code = match error {
        CredentialError::File { .. } | CredentialError::Incomplete { .. } => {
            &catalog::IDENTITY_MISSING
        }
        other => super::server_tls::code(other),
    };
    let help = "until it is mended, connections to this destination fail; nothing is sent in clear";
    let rule = own.map(|(rule, _)| rule).or(target.governing.as_ref().map(|rule| rule.rule));
    match rule {
        Some(rule) => at(rule, "spec.trafficPolicy.tls", code, error.explain()).help(help),
        None => Diagnostic::new(code, error.explain())
            .resource(target.service.origin.resource.clone())
            .help(help),
    }
}

/// Nothing for `PASSTHROUGH`, which has no endpoint at a gateway.
fn strategy(policy: Policy<'_>) -> Option<Strategy> {
    match policy.load_balancer.and_then(|balancer| balancer.simple).unwrap_or_default() {
        SimpleLoadBalancer::Unspecified
        | SimpleLoadBalancer::LeastConn
        | SimpleLoadBalancer::LeastRequest => Some(Strategy::LeastRequest),
        SimpleLoadBalancer::RoundRobin => Some(Strategy::RoundRobin),
        SimpleLoadBalancer::Random => Some(Strategy::Random),
        SimpleLoadBalancer::Passthrough => None,
    }
}

fn positive(time: Option<Duration>) -> Option<Duration> {
    time.filter(|time| !time.is_zero())
}

fn idle(policy: Policy<'_>) -> Duration {
    let pool = policy.connection_pool;
    let http = pool.and_then(|pool| pool.http.as_ref()?.idle_timeout.map(|time| time.0));
    let tcp = pool.and_then(|pool| pool.tcp.as_ref()?.idle_timeout.map(|time| time.0));
    positive(http).or(positive(tcp)).unwrap_or(limit::UPSTREAM_IDLE_TIME)
}

fn endpoints(
    discovery: Discovery,
    members: &[Member],
    encrypted: &[bool],
    strategy: Option<Strategy>,
) -> Endpoints {
    let members = if strategy.is_none() { &[] } else { members };
    let pairs = || members.iter().zip(encrypted.iter().copied());
    let known = pairs().filter_map(|(member, tls)| match &member.place {
        Place::Address(address) => {
            Some(Endpoint { address: address.clone(), weight: member.weight, tls })
        }
        Place::Name(..) => None,
    });
    let mut named: Vec<DnsEndpoint> = pairs()
        .filter_map(|(member, tls)| match &member.place {
            Place::Name(name, port) => {
                Some(DnsEndpoint { name: name.clone(), port: *port, weight: member.weight, tls })
            }
            Place::Address(_) => None,
        })
        .collect();
    if named.is_empty() || discovery == Discovery::Listed {
        return Endpoints::Static(known.collect());
    }
    if discovery == Discovery::LogicalDns {
        return Endpoints::LogicalDns(Arc::new(named.swap_remove(0)));
    }
    named.extend(known.filter_map(|endpoint| match endpoint.address {
        crate::snapshot::cluster::Address::Socket(socket) => Some(DnsEndpoint {
            name: socket.ip().to_string().into(),
            port: socket.port(),
            weight: endpoint.weight,
            tls: endpoint.tls,
        }),
        crate::snapshot::cluster::Address::Unix(_) => None,
    }));
    Endpoints::Dns(named.into())
}
