//! `MeshNetworks` (mesh/v1alpha1): networks that are reached through gateways.

#![allow(missing_docs, reason = "fields are Istio's, named and documented in its API reference")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use super::{ConfigFile, Placed, nearest, single};
use crate::base::host::is_name;
use crate::base::limit;
use crate::diag::{Diagnostic, Severity, catalog};

/// What `--mesh-networks` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MeshNetworks {
    pub networks: BTreeMap<String, Network>,
}

/// `MeshNetworks.networks.*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Network {
    pub endpoints: Vec<NetworkEndpoints>,
    pub gateways: Vec<NetworkGateway>,
}

/// `MeshNetworks.networks.*.endpoints[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkEndpoints {
    pub from_cidr: Option<Block>,
    pub from_registry: String,
}

/// `MeshNetworks.networks.*.gateways[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkGateway {
    pub address: Option<GatewayAddress>,
    pub registry_service_name: String,
    pub port: Option<NonZeroU16>,
    pub locality: String,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Block(pub IpNet);

/// A text that is no block of addresses.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is no block of addresses: write one such as 10.0.0.0/8")]
pub struct InvalidBlock(String);

impl TryFrom<String> for Block {
    type Error = InvalidBlock;

    fn try_from(text: String) -> Result<Self, InvalidBlock> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address).map(Self).ok_or(InvalidBlock(text))
    }
}

/// Where a network's gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum GatewayAddress {
    Ip(IpAddr),
    Name(Arc<str>),
}

/// A text that is neither an address nor a name.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not an IP address and not a DNS name")]
pub struct InvalidAddress(String);

impl TryFrom<String> for GatewayAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        match text.parse() {
            Ok(ip) => Ok(Self::Ip(ip)),
            Err(_) if is_name(&text) => Ok(Self::Name(text.into())),
            Err(_) => Err(InvalidAddress(text)),
        }
    }
}

/// Reads MeshNetworks; nothing when they cannot be, with the reason among the findings.
pub fn parse_mesh_networks(file: &ConfigFile) -> (Option<MeshNetworks>, Vec<Diagnostic>) {
    let (networks, mut diagnostics, unread) = single::read::<MeshNetworks>(file, "MeshNetworks");
    for field in unread {
        let help = match nearest::nearest(&field.name, field.known) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("write one of {}", field.known.join(", ")),
        };
        let message = format!("MeshNetworks have no field \"{}\"", field.name);
        let diagnostic = Diagnostic::new(&catalog::UNKNOWN_FIELD, message);
        let at = single::place(file, field.position);
        diagnostics.push(diagnostic.at(at).field(field.path).help(help));
    }
    let Some(placed) = networks else { return (None, diagnostics) };
    for (name, network) in &placed.value.networks {
        tell(&placed, name, network, &mut diagnostics);
    }
    let networks = placed.value.networks.values();
    let most = networks.clone().map(|network| network.gateways.len()).max().unwrap_or_default();
    let blocks: usize = networks.map(|network| network.endpoints.len()).sum();
    if most.max(blocks) > limit::NETWORK_PARTS {
        let message = format!(
            "more than {} gateways of a network, or blocks of addresses",
            limit::NETWORK_PARTS
        );
        let diagnostic = Diagnostic::new(&catalog::YAML_LIMIT, message);
        diagnostics.push(diagnostic.at(placed.location("networks")).field("networks"));
        return (None, diagnostics);
    }
    (Some(placed.value), diagnostics)
}

/// Tells what of a network has no effect.
fn tell(
    placed: &Placed<MeshNetworks>,
    name: &str,
    network: &Network,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut add = |diagnostic: Diagnostic, path: String| {
        diagnostics.push(diagnostic.at(placed.location(&path)).field(path));
    };
    for (index, endpoints) in network.endpoints.iter().enumerate() {
        if !endpoints.from_registry.is_empty() {
            let message = "fromRegistry is not acted on";
            let diagnostic = Diagnostic::new(&catalog::FIELD_NOT_ACTED_ON, message).help(
                "resources come from no registry here: write fromCidr, or network of endpoints",
            );
            add(diagnostic, format!("networks.{name}.endpoints[{index}].fromRegistry"));
        }
    }
    for (index, gateway) in network.gateways.iter().enumerate() {
        let path = format!("networks.{name}.gateways[{index}]");
        let by_service = !gateway.registry_service_name.is_empty();
        let (message, field) = match (&gateway.address, gateway.port) {
            (Some(_), Some(_)) if by_service => {
                ("address and registryServiceName exclude each other: address counts", "address")
            }
            (Some(_), Some(_)) => ("", ""),
            (None, _) if by_service => (
                "registryServiceName names a Service by what its cluster's registry knows of it (external \
                 addresses, node ports), and there is no registry here",
                "registryServiceName",
            ),
            (None, _) => ("a network's gateway needs an address", "address"),
            (Some(_), None) => ("a network's gateway needs a port", "port"),
        };
        if !message.is_empty() {
            let diagnostic = Diagnostic::new(&catalog::NETWORK_GATEWAY_UNUSABLE, message);
            add(diagnostic, format!("{path}.{field}"));
        }
        if !gateway.locality.is_empty() {
            let message = "locality of a network's gateway has no effect, as in Istio";
            let diagnostic = Diagnostic::new(&catalog::FIELD_NOT_ACTED_ON, message)
                .help("a gateway counts as where the endpoints behind it are")
                .severity(Severity::Info);
            add(diagnostic, format!("{path}.locality"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expects each finding as `line:column code`.
    fn check(text: &str, expected: Option<&MeshNetworks>, findings: &[&str]) {
        let file = ConfigFile { path: "networks.yaml".into(), bytes: text.as_bytes().into() };
        let (networks, diagnostics) = parse_mesh_networks(&file);
        let shown: Vec<_> = diagnostics
            .iter()
            .map(|d| format!("{} {}", d.location.as_ref().unwrap(), d.code.id))
            .collect();
        let findings: Vec<_> = findings.iter().map(|one| format!("networks.yaml:{one}")).collect();
        assert_eq!(shown, findings, "{text}");
        assert_eq!(networks.as_ref(), expected, "{text}");
    }

    fn one(endpoints: Vec<NetworkEndpoints>, gateways: Vec<NetworkGateway>) -> MeshNetworks {
        let network = Network { endpoints, gateways };
        MeshNetworks { networks: [("n".to_owned(), network)].into() }
    }

    fn gateway(address: GatewayAddress) -> NetworkGateway {
        NetworkGateway {
            address: Some(address),
            port: NonZeroU16::new(15443),
            ..NetworkGateway::default()
        }
    }

    #[test]
    fn networks_have_blocks_and_gateways() {
        let text = "networks:\n  n:\n    endpoints: [{fromCidr: 10.1.0.0/16}, {fromCidr: 10.2.0.7}]\n    \
                    gateways: [{address: 192.0.2.1, port: 15443}, {address: east.example, port: 15443}]\n";
        let block = |text: &str| NetworkEndpoints {
            from_cidr: Some(Block(text.parse().unwrap())),
            from_registry: String::new(),
        };
        let gateways = vec![
            gateway(GatewayAddress::Ip("192.0.2.1".parse().unwrap())),
            gateway(GatewayAddress::Name("east.example".into())),
        ];
        let blocks = vec![block("10.1.0.0/16"), block("10.2.0.7/32")];
        check(text, Some(&one(blocks, gateways)), &[]);
        check("", Some(&MeshNetworks::default()), &[]);
        check("networks: {n: {}}\n", Some(&one(vec![], vec![])), &[]);
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let text = |gateway: &str| format!("networks:\n  n:\n    gateways:\n    - {{{gateway}}}\n");
        let told = |written: &str, expected: NetworkGateway, finding: &str| {
            check(&text(written), Some(&one(vec![], vec![expected])), &[finding]);
        };
        let ip = || gateway(GatewayAddress::Ip("192.0.2.1".parse().unwrap()));
        let named = NetworkGateway { registry_service_name: "a.b".into(), ..ip() };
        let nowhere = NetworkGateway { address: None, ..named.clone() };
        let both = "address: 192.0.2.1, registryServiceName: a.b, port: 15443";
        told(both, named, "4:8 PC071");
        told("registryServiceName: a.b, port: 15443", nowhere, "4:8 PC071");
        told("port: 15443", NetworkGateway { address: None, ..ip() }, "4:7 PC071");
        told("address: 192.0.2.1", NetworkGateway { port: None, ..ip() }, "4:7 PC071");
        let placed = NetworkGateway { locality: "eu".into(), ..ip() };
        told("address: 192.0.2.1, port: 15443, locality: eu", placed, "4:41 PC060");
        told("address: 192.0.2.1, port: 15443, prot: 1", ip(), "4:41 PC010");
        let registry =
            NetworkEndpoints { from_registry: "c1".into(), ..NetworkEndpoints::default() };
        let text = "networks: {n: {endpoints: [{fromRegistry: c1}]}}\n";
        check(text, Some(&one(vec![registry], vec![])), &["1:29 PC060"]);
    }

    #[test]
    fn mistakes_make_it_unusable() {
        check("networks: {n: {endpoints: [{fromCidr: 10.0.0.0/33}]}}\n", None, &["1:39 PC011"]);
        check("networks: {n: {endpoints: [{fromCidr: here}]}}\n", None, &["1:39 PC011"]);
        let text = |gateway: &str| format!("networks: {{n: {{gateways: [{{{gateway}}}]}}}}\n");
        check(&text("address: a b, port: 1"), None, &["1:37 PC011"]);
        check(&text("address: 192.0.2.1, port: 0"), None, &["1:54 PC011"]);
        check(&text("address: 192.0.2.1, port: 65536"), None, &["1:54 PC011"]);
        check("networks: [\n", None, &["2:1 PC004"]);
        let gateways = "{address: 192.0.2.1, port: 1}, ".repeat(limit::NETWORK_PARTS + 1);
        check(&format!("networks: {{n: {{gateways: [{gateways}]}}}}\n"), None, &["1:1 PC005"]);
    }
}
