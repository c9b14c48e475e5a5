//! Kubernetes' own kinds that Istio's resources refer to: Secret, Service, EndpointSlice.
//!
//! **Invariant**: a Secret's values are never shown: not by `Debug`, not in an error.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer};

use super::meta::{Labels, TextVisitor, decode_base64};
use crate::base::secret;

/// Core `v1` Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// `type`, `kubernetes.io/tls` for example.
    pub r#type: String,
    /// `data`, decoded.
    pub data: BTreeMap<String, DecodedValue>,
    /// `stringData`; wins over `data`.
    pub string_data: BTreeMap<String, PlainValue>,
    /// `immutable`.
    pub immutable: Option<bool>,
}

impl Secret {
    /// The value of a key: of `stringData` if it is there, else of `data`.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let plain = self.string_data.get(key).map(|value| value.0.expose().as_slice());
        plain.or_else(|| self.data.get(key).map(|value| value.0.expose().as_slice()))
    }
}

/// A value of `Secret.data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedValue(secret::Secret<Vec<u8>>);

/// A value of `Secret.stringData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainValue(secret::Secret<Vec<u8>>);

impl<'de> Deserialize<'de> for DecodedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expecting: "base64 text",
            read: |text| decode_base64(text).map(|value| Self(secret::Secret::new(value))),
        })
    }
}

impl<'de> Deserialize<'de> for PlainValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor {
            expecting: "text",
            read: |text| Ok::<_, std::convert::Infallible>(Self(secret::Secret::new(text.into()))),
        })
    }
}

/// Core `v1` Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// `type`: `ClusterIP` when empty, or `NodePort`, `LoadBalancer`, `ExternalName`.
    pub r#type: String,
    /// `clusterIP`; `None` marks a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// `externalName`.
    pub external_name: String,
    /// `selector`.
    pub selector: Labels,
    /// `ports[]`.
    pub ports: Vec<ServicePort>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready_addresses: bool,
}

/// `Service.spec.ports[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// `name`; its prefix names the protocol (`https-web`).
    pub name: String,
    /// `protocol`: `TCP` when empty.
    pub protocol: String,
    /// `appProtocol`; wins over the name's prefix.
    pub app_protocol: String,
    /// `port`.
    pub port: u32,
    /// `targetPort`; the port itself when absent.
    pub target_port: Option<PortOrName>,
}

/// `Service.spec.ports[].targetPort`: a number or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOrName {
    /// A port number.
    Number(u32),
    /// A container port's name.
    Name(String),
}

impl<'de> Deserialize<'de> for PortOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;
        impl serde::de::Visitor<'_> for PortVisitor {
            type Value = PortOrName;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port number or a port's name")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<PortOrName, E> {
                u32::try_from(number).map(PortOrName::Number).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<PortOrName, E> {
                u32::try_from(number).map(PortOrName::Number).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<PortOrName, E> {
                Ok(name.parse().map_or_else(|_| PortOrName::Name(name.into()), PortOrName::Number))
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// `addressType`: `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// `endpoints[]`.
    pub endpoints: Vec<SliceEndpoint>,
    /// `ports[]`.
    pub ports: Vec<SlicePort>,
}

/// `EndpointSlice.endpoints[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// `addresses[]`; only the first is used.
    pub addresses: Vec<String>,
    /// `conditions`.
    pub conditions: EndpointConditions,
    /// `hostname`.
    pub hostname: String,
    /// `nodeName`.
    pub node_name: String,
    /// `zone`.
    pub zone: String,
    /// `targetRef`, the Pod behind the address.
    pub target_ref: Option<ObjectReference>,
}

/// `EndpointSlice.endpoints[].conditions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// `ready`; absent means ready.
    pub ready: Option<bool>,
    /// `serving`; absent means serving.
    pub serving: Option<bool>,
    /// `terminating`.
    pub terminating: Option<bool>,
}

/// `EndpointSlice.endpoints[].targetRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// `kind`.
    pub kind: String,
    /// `namespace`.
    pub namespace: String,
    /// `name`.
    pub name: String,
}

/// `EndpointSlice.ports[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlicePort {
    /// `name`, equal to the Service port's.
    pub name: String,
    /// `protocol`: `TCP` when empty.
    pub protocol: String,
    /// `port`.
    pub port: u32,
    /// `appProtocol`.
    pub app_protocol: String,
}
