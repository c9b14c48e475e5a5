//! Services that routes can name, with their ports and endpoints, from every kind that defines some.

mod members;
mod unusable;
mod workload;

use std::collections::{BTreeMap, HashMap};

use crate::base::id::Origin;
use crate::diag::catalog;
use crate::resources::core::{EndpointSlice, PortOrName, Service as KubeService, ServicePort};
use crate::resources::service_entry::{
    Resolution, ServiceEntry, ServiceEntryPort, ServiceLocation,
};
use crate::resources::{Resource, ResourceSet};

use super::findings::{Findings, at};
use super::names::{exported, public};
use super::networks::Networks;
use super::settings::CompileSettings;
pub use members::{Member, Place};
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
    /// Who sees it (`ServiceEntry.spec.exportTo`, annotation `networking.istio.io/exportTo`).
    pub export_to: Vec<String>,
}

impl Service {
    fn is_visible(&self, viewer: &str) -> bool {
        exported(&self.export_to, &self.namespace, viewer)
    }
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

/// Every service, and the resources that list its endpoints.
pub struct Services<'a> {
    by_host: ByHost<'a>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a Resource<EndpointSlice>>>,
    unusable: Unusable,
    networks: Networks<'a>,
    set: &'a ResourceSet,
    cluster_domain: &'a str,
}

/// Those who define a host, the oldest first.
type ByHost<'a> = BTreeMap<String, Vec<(Service, Source<'a>)>>;

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
        let mut by_host = ByHost::new();
        for service in &set.services {
            let read = kube(service, &settings.cluster_domain);
            by_host.entry(read.host.clone()).or_default().push((read, Source::Kube(service)));
        }
        for entry in &set.service_entries {
            if entry.spec.resolution == Resolution::DynamicDns {
                let message =
                    "DYNAMIC_DNS has no meaning at a gateway; the service has no endpoint";
                let help = "requests get 503: Istio resolves by the request's host at sidecars and \
                            waypoints alone; write a ServiceEntry with resolution DNS for each host";
                let finding = at(entry, "spec.resolution", &catalog::VALUE_NOT_ACTED_ON, message);
                findings.add(finding.help(help));
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
        let unusable = Unusable::new(set, &by_host, findings);
        let (networks, cluster_domain) = (Networks::new(settings), &*settings.cluster_domain);
        Self { by_host, slices, unusable, networks, set, cluster_domain }
    }

    /// A service by its full name, of those that namespace `viewer` sees: that of namespace `from`
    /// first, then one that is not for everyone, then the oldest.
    pub fn find(&self, host: &str, from: &str, viewer: &str) -> Option<&Service> {
        let visible = || self.of(host).filter(|service| service.is_visible(viewer));
        visible()
            .find(|s| s.namespace == from)
            .or_else(|| visible().find(|s| !public(&s.export_to)))
            .or_else(|| visible().next())
    }

    /// Every service of a host, whoever sees it, the oldest first.
    pub fn of(&self, host: &str) -> impl Iterator<Item = &Service> {
        self.by_host.get(host).into_iter().flatten().map(|(service, _)| service)
    }

    /// The entry that cannot be used and because of which nothing is sent to a service.
    pub fn refusing(&self, service: &Service) -> Option<&Origin> {
        self.unusable.find(service)
    }

    /// The networks that endpoints are in.
    pub fn networks(&self) -> &Networks<'a> {
        &self.networks
    }

    /// Every service that a namespace sees, by host.
    pub fn visible(&self, viewer: &str) -> impl Iterator<Item = &Service> {
        let all = self.by_host.values().flatten().map(|(service, _)| service);
        all.filter(move |service| service.is_visible(viewer))
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

/// What a port of a Kubernetes Service is declared to speak.
pub fn speaks(port: &ServicePort, number: u16) -> Speaks {
    let protocol = if port.app_protocol.is_empty() {
        port.name.split('-').next().unwrap_or_default()
    } else {
        &port.app_protocol
    };
    Speaks::of(protocol, number)
}

fn kube(service: &Resource<KubeService>, domain: &str) -> Service {
    let mut ports = Vec::new();
    for port in &service.spec.ports {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let target = match &port.target_port {
            Some(PortOrName::Number(number)) => u16::try_from(*number).ok(),
            Some(PortOrName::Name(_)) | None => None,
        };
        ports.push(Port {
            number,
            name: port.name.clone(),
            speaks: speaks(port, number),
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
