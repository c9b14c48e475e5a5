//! Endpoints of other networks, which are reached through the gateways of those (`MeshNetworks`).
//!
//! A network's gateway passes TLS on by the name that the mesh's TLS sends (`AUTO_PASSTHROUGH`), so an
//! endpoint behind it that does not speak the mesh's TLS gets nothing.
//!
//! **Invariant:** nothing but the mesh's TLS is sent to a network's gateway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::diag::catalog;
use crate::resources::mesh_networks::{GatewayAddress, NetworkGateway};
use crate::resources::{Labels, Resource, ResourceSet, WorkloadEntry};
use crate::snapshot::cluster::Address;

use super::findings::{Findings, at};
use super::services::{Member, Place};
use super::settings::CompileSettings;

/// The label that names the network of a workload.
pub(super) const LABEL: &str = "topology.istio.io/network";

/// The networks that are known.
pub struct Networks<'a> {
    /// This gateway's; empty when it is not said.
    own: &'a str,
    /// Those that have gateways, with where they are.
    gateways: HashMap<&'a str, Vec<Place>>,
    /// Blocks of addresses and the networks they are in, the widest first.
    blocks: Vec<(IpNet, &'a str)>,
}

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Through the cluster's TLS.
    pub(super) encrypted: bool,
    /// What it gets is the mesh's TLS, this gateway's or the client's own.
    pub(super) mesh: bool,
}

/// The endpoints of a cluster as this gateway reaches them.
pub(super) struct Reached {
    /// Endpoints, and gateways in place of those behind them.
    pub(super) members: Vec<Member>,
    /// Whether each is spoken to through the cluster's TLS.
    pub(super) encrypted: Vec<bool>,
    /// How many endpoints of a network its gateways cannot pass on to.
    pub(super) left_out: BTreeMap<String, usize>,
}

impl<'a> Networks<'a> {
    /// Reads what the mesh says of its networks. Gateways that cannot be used were told of where they
    /// were read.
    pub fn new(settings: &'a CompileSettings) -> Self {
        let mut networks = Self {
            own: settings.labels.get(LABEL).map_or("", String::as_str),
            gateways: HashMap::new(),
            blocks: Vec::new(),
        };
        for (name, network) in &settings.networks.networks {
            let places: BTreeMap<_, _> = network.gateways.iter().filter_map(place).collect();
            if !places.is_empty() {
                networks.gateways.insert(name, places.into_values().collect());
            }
            let blocks = network.endpoints.iter().filter_map(|one| one.from_cidr);
            networks.blocks.extend(blocks.map(|block| (block.0, name.as_str())));
        }
        networks.blocks.sort_by_key(|(block, _)| block.prefix_len());
        networks
    }

    /// The network whose block an address is in (`endpoints[].fromCidr`); empty when none is known. Of
    /// several the widest block's counts, as in Istio.
    pub fn of(&self, address: &str) -> &'a str {
        let within = |ip: IpAddr| self.blocks.iter().find(|(block, _)| block.contains(&ip));
        let found = address.parse().ok().and_then(within);
        found.map_or("", |(_, name)| *name)
    }

    /// Whether this gateway does not say which network it is in, and it matters.
    pub(super) fn own_is_missed(&self) -> bool {
        self.own.is_empty() && !self.gateways.is_empty()
    }

    /// The gateways that an endpoint's network is reached through; nothing when it is reached directly.
    fn gateways(&self, network: &str) -> Option<&[Place]> {
        let elsewhere = !network.is_empty() && network != self.own;
        self.gateways.get(network).filter(|_| elsewhere).map(Vec::as_slice)
    }

    /// A cluster's endpoints, with gateways in place of those of other networks. A gateway's weight is
    /// its part of the weights of the endpoints behind it, in each locality of theirs.
    pub(super) fn reached(&self, members: &[Member], ways: &[Way]) -> Reached {
        let scale = self.scale(members);
        let mut reached =
            Reached { members: Vec::new(), encrypted: Vec::new(), left_out: BTreeMap::new() };
        let mut behind: BTreeMap<(&str, &str), (u32, bool)> = BTreeMap::new();
        for (member, way) in members.iter().zip(ways) {
            let weight = member.weight.saturating_mul(scale);
            let network = member.network.as_str();
            if self.gateways(network).is_none() {
                if !matches!(member.place, Place::Unknown(_)) {
                    reached.members.push(Member { weight, ..member.clone() });
                    reached.encrypted.push(way.encrypted);
                }
            } else if way.mesh {
                let (sum, encrypted) = behind.entry((&member.locality, network)).or_default();
                *sum = sum.saturating_add(weight);
                *encrypted |= way.encrypted;
            } else {
                *reached.left_out.entry(network.to_owned()).or_default() += 1;
            }
        }
        for ((locality, network), (weight, encrypted)) in behind {
            let places = self.gateways(network).unwrap_or_default();
            let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
            let weight = weight.checked_div(count).unwrap_or_default().max(1);
            let through: Arc<str> = network.into();
            let gateway = |place: &Place| gateway((place, &through), weight, locality);
            reached.members.extend(places.iter().map(gateway));
            reached.encrypted.extend(places.iter().map(|_| encrypted));
        }
        reached
    }

    /// What weights are multiplied by, so that every network's can be divided among its gateways; where
    /// that is too much, nearly so.
    fn scale(&self, members: &[Member]) -> u32 {
        let networks: BTreeSet<&str> = members.iter().map(|one| one.network.as_str()).collect();
        let counts = networks.into_iter().filter_map(|network| self.gateways(network));
        let scale = counts.fold(1, |scale: u64, places| {
            let count = u64::try_from(places.len()).unwrap_or(u64::MAX);
            scale.saturating_mul(count / greatest_common_divisor(scale, count))
        });
        let total: u64 = members.iter().map(|one| u64::from(one.weight)).sum();
        let most = u64::from(u32::MAX).checked_div(total).unwrap_or(1).max(1);
        u32::try_from(scale.min(most)).unwrap_or(1)
    }
}

/// Where a gateway is, by what tells it from others.
fn place(gateway: &NetworkGateway) -> Option<((String, u16), Place)> {
    let port = gateway.port?.get();
    Some(match gateway.address.as_ref()? {
        GatewayAddress::Ip(ip) => {
            let socket = Address::Socket(SocketAddr::new(*ip, port));
            ((ip.to_string(), port), Place::Address(socket))
        }
        GatewayAddress::Name(name) => ((name.to_string(), port), Place::Name(name.clone(), port)),
    })
}

fn gateway((place, through): (&Place, &Arc<str>), weight: u32, locality: &str) -> Member {
    Member {
        place: place.clone(),
        weight,
        labels: Labels::from([(LABEL.to_owned(), through.to_string())]),
        service_account: String::new(),
        namespace: String::new(),
        locality: locality.to_owned(),
        network: through.to_string(),
        through: Some(through.clone()),
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { greatest_common_divisor(b, a % b) }
}

/// Tells of endpoints whose network no MeshNetworks name, and of Services that are no gateways here.
pub(super) fn tell(set: &ResourceSet, settings: &CompileSettings, findings: &mut Findings) {
    let own = settings.labels.get(LABEL);
    let unknown = |entry: &WorkloadEntry| {
        let network = &entry.network;
        let known = settings.networks.networks.contains_key(network) || own == Some(network);
        !network.is_empty() && !known
    };
    for entry in &set.service_entries {
        for (index, endpoint) in entry.spec.endpoints.iter().enumerate() {
            if unknown(endpoint) {
                tell_unknown(entry, (&format!("spec.endpoints[{index}]"), endpoint), findings);
            }
        }
    }
    for entry in set.workload_entries.iter().filter(|entry| unknown(&entry.spec)) {
        tell_unknown(entry, ("spec", &entry.spec), findings);
    }
    for service in &set.services {
        if let Some(network) = service.meta.labels.get(LABEL).filter(|name| Some(*name) != own) {
            let message = format!(
                "the label makes the Service no gateway of network \"{network}\": which external addresses \
                 it has, its cluster's registry knows"
            );
            let field = format!("metadata.labels.{LABEL}");
            let finding = at(service, field, &catalog::FIELD_NOT_ACTED_ON, message);
            findings.add(finding.help("write the gateway's address and port in --mesh-networks"));
        }
    }
}

fn tell_unknown<T>(
    resource: &Resource<T>,
    (path, entry): (&str, &WorkloadEntry),
    findings: &mut Findings,
) {
    let message = format!("no MeshNetworks name \"{}\"", entry.network);
    let path = format!("{path}.network");
    findings.add(at(resource, path, &catalog::UNKNOWN_NETWORK, message));
}

#[cfg(test)]
mod tests;
