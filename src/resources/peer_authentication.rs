//! `PeerAuthentication` (security.istio.io) as written.
//!
//! **Invariant**: nothing is defaulted here beyond protobuf's own zero values.

#![allow(missing_docs, reason = "fields are Istio's, named and documented in its API reference")]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::meta::WorkloadSelector;

/// `PeerAuthentication.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthentication {
    pub selector: Option<WorkloadSelector>,
    pub mtls: Option<MutualTls>,
    pub port_level_mtls: Option<BTreeMap<u32, MutualTls>>,
}

/// `PeerAuthentication.spec.mtls` and `PeerAuthentication.spec.portLevelMtls{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    pub mode: MutualTlsMode,
}

/// `PeerAuthentication.spec.mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}
