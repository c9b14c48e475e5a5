//! `RequestAuthentication` (security.istio.io) as written.
//!
//! **Invariant**: nothing is defaulted here beyond protobuf's own zero values.

#![allow(missing_docs, reason = "fields are Istio's, named and documented in its API reference")]

use serde::Deserialize;

use super::meta::{ProtoDuration, TargetRef, WorkloadSelector};

/// `RequestAuthentication.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthentication {
    pub selector: Option<WorkloadSelector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub jwt_rules: Vec<JwtRule>,
}

/// `RequestAuthentication.spec.jwtRules[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub jwks_uri: String,
    pub jwks: String,
    pub from_headers: Vec<JwtHeader>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub output_payload_to_header: String,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    pub forward_original_token: bool,
    pub timeout: Option<ProtoDuration>,
    pub space_delimited_claims: Vec<String>,
}

/// `RequestAuthentication.spec.jwtRules[].fromHeaders[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtHeader {
    pub name: String,
    pub prefix: String,
}

/// `RequestAuthentication.spec.jwtRules[].outputClaimToHeaders[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimToHeader {
    pub header: String,
    pub claim: String,
}
