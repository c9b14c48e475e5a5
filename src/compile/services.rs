//! Services that routes can name, with their ports and endpoints, from every kind that defines some.

mod unusable;
mod workload;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::id::Origin;
use crate::diag::catalog;
use crate::resources::core::{EndpointSlice, PortOrName, Service as KubeService};
use crate::resources::service_entry::{
    Resolution, ServiceEntry, ServiceEntryPort, ServiceLocation, WorkloadEntry,
};
use crate::resources::{Labels, Resource, ResourceSet};
use crate::snapshot::cluster::Address;

use super::findings::{Findings, at};
use super::names::{exported, selects};
use super::settings::CompileSettings;
use unusable::Unusable;

/// A service.
#[derive(Debug)]
pub struct Service {
    /// Full host name, lower case.
    pub host: String,
    /// Namespace of the resource that defines it.
    pub namespace: String,
    /// Where it is written.
    pub origin: Origin,
    /// Its ports.
    pub ports: Vec<Port>,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// Whether its endpoints belong to the mesh.
    pub in_mesh: bool,
    /// Names its servers may have (`ServiceEntry.spec.subjectAltNames`).
    pub subject_alt_names: Vec<String>,
    /// Who sees it.
    pub export_to: Vec<String>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Service port.
    pub number: u16,
    /// Its name; the key into an endpoint's own ports.
    pub name: String,
    /// What is spoken on it.
    pub speaks: Speaks,
    /// Port of endpoints that name none themselves.
    pub target: u16,
}

/// What a port is declared to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http,
    /// HTTP/2, gRPC.
    Http2,
    /// Bytes, TLS of its own among them.
    Bytes,
    /// Nothing that is known.
    Unsaid,
}

impl Speaks {
    /// Reads `appProtocol`, the beginning of a port's name, or a ServiceEntry's `protocol`.
    fn of(word: &str, number: u16) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Self::Http,
            "http2" | "grpc" | "grpc-web" | "kubernetes.io/h2c" => Self::Http2,
            "https" | "kubernetes.io/wss" | "tls" | "tcp" | "udp" | "mongo" | "redis" | "mysql" => {
                Self::Bytes
            }
            // Servers speak first there, as Istio knows.
            _ if [25, 53, 3306, 27017].contains(&number) => Self::Bytes,
            _ => Self::Unsaid,
        }
    }
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// They are listed.
    Listed,
    /// By DNS, every address.
    Dns,
    /// By DNS, the first address for each new connection.
    LogicalDns,
}

/// An endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub place: Place,
    /// Share of traffic, at least 1.
    pub weight: u32,
    /// Its labels.
    pub labels: Labels,
    /// Its service account; empty when unknown.
    pub service_account: String,
    /// Its namespace.
    pub namespace: String,
    /// `region/zone/subzone`, later parts may be missing; empty when unknown.
    pub locality: String,
}

#[cfg(test)]
impl Member {
    /// Any member.
    pub(super) fn example() -> Self {
        Self {
            place: Place::Name("a.example".into(), 80),
            weight: 1,
            labels: Labels::new(),
            service_account: String::new(),
            namespace: "shop".to_owned(),
            locality: String::new(),
        }
    }
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an address.
    Address(Address),
    /// Behind a name.
    Name(Arc<str>, u16),
}

/// Every service, and the resources that list its endpoints.
pub struct Services<'a> {
    by_host: HashMap<String, Vec<(Service, Source<'a>)>>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a Resource<EndpointSlice>>>,
    unusable: Unusable,
    set: &'a ResourceSet,
    cluster_domain: &'a str,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Entry(&'a Resource<ServiceEntry>),
    Kube(&'a Resource<KubeService>),
}

impl<'a> Services<'a> {
    /// Reads every definition.
    pub fn new(
        set: &'a ResourceSet,
        settings: &'a CompileSettings,
        findings: &mut Findings,
    ) -> Self {
        let mut by_host: HashMap<String, Vec<(Service, Source<'a>)>> = HashMap::new();
        for service in &set.services {
            let read = kube(service, &settings.cluster_domain);
            by_host.entry(read.host.clone()).or_default().push((read, Source::Kube(service)));
        }
        for entry in &set.service_entries {
            if entry.spec.resolution == Resolution::DynamicDns {
                findings.add(at(
                    entry,
                    "spec.resolution",
                    &catalog::VALUE_NOT_ACTED_ON,
                    "DYNAMIC_DNS has no meaning at a gateway; the service has no endpoint",
                ));
            }
            for host in &entry.spec.hosts {
                let read = external(entry, host);
                let known = by_host.entry(read.host.clone()).or_default();
                // An entry for a Kubernetes service's host adds to what is known of it.
                match known.iter_mut().find(|(_, source)| matches!(source, Source::Kube(_))) {
                    Some((kube, _)) => kube.subject_alt_names.extend(read.subject_alt_names),
                    None => known.push((read, Source::Entry(entry))),
                }
            }
        }
        let mut slices: HashMap<_, Vec<&Resource<EndpointSlice>>> = HashMap::new();
        for slice in &set.endpoint_slices {
            if let Some(owner) = slice.meta.labels.get("kubernetes.io/service-name") {
                slices.entry((&*slice.id.namespace, owner.as_str())).or_default().push(slice);
            }
        }
        let unusable = Unusable::new(set, |host| by_host.contains_key(host), findings);
        Self { by_host, slices, unusable, set, cluster_domain: &settings.cluster_domain }
    }

    /// A service by its full name, as a namespace sees it: its own first, then the gateway's, then
    /// the oldest.
    pub fn find(&self, host: &str, from: &str, gateway: &str) -> Option<&Service> {
        let all = self.by_host.get(host)?;
        let visible =
            || all.iter().map(|(s, _)| s).filter(|s| exported(&s.export_to, &s.namespace, from));
        visible()
            .find(|s| s.namespace == from)
            .or_else(|| visible().find(|s| s.namespace == gateway))
            .or_else(|| visible().next())
    }

    /// The entry that cannot be used and because of which nothing is sent to a host.
    pub fn refusing(&self, host: &str) -> Option<&Origin> {
        self.unusable.find(host)
    }

    /// Every service, by host.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.by_host.values().flatten().map(|(service, _)| service)
    }

    /// The endpoints of a service's port.
    pub fn members(&self, service: &Service, port: &Port) -> Vec<Member> {
        let mut out = Vec::new();
        for (other, source) in self.by_host.get(&service.host).into_iter().flatten() {
            if other.namespace != service.namespace {
                continue;
            }
            match source {
                Source::Entry(entry) => self.entry_members(service, entry, port, &mut out),
                Source::Kube(kube) => self.slice_members(kube, port, &mut out),
            }
        }
        out
    }

    fn entry_members(
        &self,
        service: &Service,
        entry: &Resource<ServiceEntry>,
        port: &Port,
        out: &mut Vec<Member>,
    ) {
        let namespace = &*entry.id.namespace;
        let spec = &entry.spec;
        let dns = matches!(spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        let mut list: Vec<(&WorkloadEntry, Labels)> =
            spec.endpoints.iter().map(|endpoint| (endpoint, endpoint.labels.clone())).collect();
        if let Some(selector) = &spec.workload_selector {
            for workload in &self.set.workload_entries {
                let mut labels = workload.spec.labels.clone();
                labels.extend(workload.meta.labels.clone());
                if *workload.id.namespace == *namespace && selects(&selector.labels, &labels) {
                    list.push((&workload.spec, labels));
                }
            }
        }
        if spec.resolution == Resolution::None && spec.workload_selector.is_none() {
            return;
        }
        for (endpoint, labels) in &list {
            let number = endpoint.ports.get(&port.name).and_then(|n| u16::try_from(*n).ok());
            let number = number.unwrap_or(port.target);
            if let Some(place) = place(&endpoint.address, number, dns) {
                out.push(Member {
                    place,
                    weight: endpoint.weight.max(1),
                    labels: labels.clone(),
                    service_account: endpoint.service_account.clone(),
                    namespace: namespace.to_owned(),
                    locality: locality(endpoint, labels),
                });
            }
        }
        if dns && list.is_empty() && !service.host.starts_with('*') {
            out.push(Member {
                place: Place::Name(service.host.as_str().into(), port.target),
                weight: 1,
                labels: Labels::new(),
                service_account: String::new(),
                namespace: namespace.to_owned(),
                locality: String::new(),
            });
        }
    }

    fn slice_members(&self, service: &Resource<KubeService>, port: &Port, out: &mut Vec<Member>) {
        let namespace = &*service.id.namespace;
        let name = &*service.id.name;
        for slice in self.slices.get(&(namespace, name)).into_iter().flatten() {
            let number = slice.spec.ports.iter().find(|p| p.name == port.name).map(|p| p.port);
            let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
                continue;
            };
            for endpoint in &slice.spec.endpoints {
                let conditions = &endpoint.conditions;
                if conditions.ready == Some(false) || conditions.terminating == Some(true) {
                    continue;
                }
                for address in &endpoint.addresses {
                    if let Some(place) = place(address, number, false) {
                        out.push(Member {
                            place,
                            weight: 1,
                            labels: Labels::new(),
                            service_account: String::new(),
                            namespace: namespace.to_owned(),
                            locality: String::new(),
                        });
                    }
                }
            }
        }
    }
}

/// An endpoint's own word, else its label, which has dots for slashes.
fn locality(endpoint: &WorkloadEntry, labels: &Labels) -> String {
    if !endpoint.locality.is_empty() {
        return endpoint.locality.clone();
    }
    labels.get("istio-locality").map_or_else(String::new, |text| text.replace('.', "/"))
}

fn place(address: &str, port: u16, dns: bool) -> Option<Place> {
    if let Some(name) = address.strip_prefix("unix://@") {
        return Some(Place::Address(Address::Unix(Arc::new(PathBuf::from(format!("\0{name}"))))));
    }
    if let Some(path) = address.strip_prefix("unix://") {
        return Some(Place::Address(Address::Unix(Arc::new(PathBuf::from(path)))));
    }
    match address.parse() {
        Ok(ip) => Some(Place::Address(Address::Socket(SocketAddr::new(ip, port)))),
        Err(_) if dns && !address.is_empty() => Some(Place::Name(address.into(), port)),
        Err(_) => None,
    }
}

fn external(entry: &Resource<ServiceEntry>, host: &str) -> Service {
    let port = |port: &ServiceEntryPort| {
        let number = u16::try_from(port.number).ok()?;
        let target = u16::try_from(port.target_port).ok().filter(|target| *target > 0);
        Some(Port {
            number,
            name: port.name.clone(),
            speaks: Speaks::of(&port.protocol, number),
            target: target.unwrap_or(number),
        })
    };
    Service {
        host: host.to_ascii_lowercase(),
        namespace: entry.id.namespace.to_string(),
        origin: entry.origin("spec.hosts"),
        ports: entry.spec.ports.iter().filter_map(port).collect(),
        discovery: match entry.spec.resolution {
            Resolution::Dns => Discovery::Dns,
            Resolution::DnsRoundRobin => Discovery::LogicalDns,
            _ => Discovery::Listed,
        },
        in_mesh: entry.spec.location == ServiceLocation::MeshInternal,
        subject_alt_names: entry.spec.subject_alt_names.clone(),
        export_to: entry.spec.export_to.clone(),
    }
}

fn host(service: &Resource<KubeService>, domain: &str) -> String {
    format!("{}.{}.svc.{domain}", service.id.name, service.id.namespace)
}

fn kube(service: &Resource<KubeService>, domain: &str) -> Service {
    let mut ports = Vec::new();
    for port in &service.spec.ports {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let target = match &port.target_port {
            Some(PortOrName::Number(number)) => u16::try_from(*number).ok(),
            Some(PortOrName::Name(_)) | None => None,
        };
        let protocol = if port.app_protocol.is_empty() {
            port.name.split('-').next().unwrap_or_default()
        } else {
            &port.app_protocol
        };
        ports.push(Port {
            number,
            name: port.name.clone(),
            speaks: Speaks::of(protocol, number),
            target: target.unwrap_or(number),
        });
    }
    let export = service.meta.annotations.get("networking.istio.io/exportTo");
    Service {
        host: host(service, domain),
        namespace: service.id.namespace.to_string(),
        origin: service.origin("metadata.name"),
        ports,
        discovery: Discovery::Listed,
        in_mesh: true,
        subject_alt_names: Vec::new(),
        export_to: export.map_or_else(Vec::new, |list| {
            list.split(',').map(|part| part.trim().to_owned()).collect()
        }),
    }
}

#[cfg(test)]
mod tests;
