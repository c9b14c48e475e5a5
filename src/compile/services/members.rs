//! The endpoints of a service's port, from every resource that lists some.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{KubeService, Port, Service, Services, Source};
use crate::compile::names::selects;
use crate::compile::networks;
use crate::compile::selection::unread;
use crate::resources::service_entry::{Resolution, ServiceEntry, WorkloadEntry};
use crate::resources::{Labels, Resource};
use crate::snapshot::cluster::Address;

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
    /// The network it is in; empty when unknown.
    pub network: String,
    /// The network that it is a gateway of; nothing for an endpoint.
    pub through: Option<Arc<str>>,
}

#[cfg(test)]
impl Member {
    /// Any member.
    pub(in crate::compile) fn example() -> Self {
        Self {
            place: Place::Name("a.example".into(), 80),
            weight: 1,
            labels: Labels::new(),
            service_account: String::new(),
            namespace: "shop".to_owned(),
            locality: String::new(),
            network: String::new(),
            through: None,
        }
    }
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At an address.
    Address(Address),
    /// Behind a name.
    Name(Arc<str>, u16),
    /// At a port of its network, whose gateways alone know where.
    Unknown(u16),
}

impl Services<'_> {
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
                if *workload.id.namespace == *namespace
                    && selects(&selector.labels, &labels)
                    && unread(workload).next().is_none()
                {
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
            let place = match endpoint.address.as_str() {
                "" if !endpoint.network.is_empty() => Some(Place::Unknown(number)),
                address => place(address, number, dns),
            };
            if let Some(place) = place {
                let of_the_address = self.networks.of(&endpoint.address);
                let network = Some(endpoint.network.as_str()).filter(|name| !name.is_empty());
                out.push(Member {
                    place,
                    weight: endpoint.weight.max(1),
                    labels: labelled(labels.clone(), network.unwrap_or(of_the_address)),
                    service_account: endpoint.service_account.clone(),
                    namespace: namespace.to_owned(),
                    locality: locality(endpoint, labels),
                    network: endpoint.network.clone(),
                    through: None,
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
                network: String::new(),
                through: None,
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
                        let network = self.networks.of(address);
                        out.push(Member {
                            place,
                            weight: 1,
                            labels: labelled(Labels::new(), network),
                            service_account: String::new(),
                            namespace: namespace.to_owned(),
                            locality: String::new(),
                            network: network.to_owned(),
                            through: None,
                        });
                    }
                }
            }
        }
    }
}

/// An endpoint's labels with the one that names its network, as Istio adds it.
fn labelled(mut labels: Labels, network: &str) -> Labels {
    if !network.is_empty() {
        labels.entry(networks::LABEL.to_owned()).or_insert_with(|| network.to_owned());
    }
    labels
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
