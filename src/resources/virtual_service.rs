//! `VirtualService` (networking.istio.io) as written.
//!
//! **Invariant**: nothing is defaulted here beyond protobuf's own zero values.

#![allow(missing_docs, reason = "fields are Istio's, named and documented in its API reference")]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::meta::{Bytes, Labels, Percent, ProtoDuration, StringMatch};

/// `VirtualService.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualService {
    pub hosts: Vec<String>,
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    pub export_to: Vec<String>,
}

/// `VirtualService.spec.http[]`. What few rules have is boxed: thousands are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    pub name: String,
    pub r#match: Vec<HttpMatch>,
    pub route: Vec<HttpDestination>,
    pub redirect: Option<Box<HttpRedirect>>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Box<Delegate>>,
    pub rewrite: Option<Box<HttpRewrite>>,
    pub timeout: Option<ProtoDuration>,
    pub retries: Option<Box<HttpRetry>>,
    pub fault: Option<Box<HttpFault>>,
    pub mirror: Option<Box<Destination>>,
    pub mirrors: Vec<HttpMirror>,
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<Box<CorsPolicy>>,
    pub headers: Option<Box<Headers>>,
}

/// `VirtualService.spec.http[].match[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    pub name: String,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    pub without_headers: BTreeMap<String, StringMatch>,
    pub query_params: BTreeMap<String, StringMatch>,
    pub port: u32,
    pub source_labels: Labels,
    pub source_namespace: String,
    pub gateways: Vec<String>,
    pub ignore_uri_case: bool,
    pub stat_prefix: String,
}

/// `VirtualService.spec.http[].route[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpDestination {
    pub destination: Option<Destination>,
    pub weight: i32,
    pub headers: Option<Box<Headers>>,
}

/// `VirtualService.spec.http[].route[].destination`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    pub host: String,
    pub subset: String,
    pub port: Option<PortSelector>,
}

/// `VirtualService.spec.http[].route[].destination.port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    pub number: u32,
}

/// `VirtualService.spec.http[].redirect`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRedirect {
    pub uri: String,
    pub prefix_rewrite: String,
    pub authority: String,
    pub scheme: String,
    pub port: Option<u32>,
    pub derive_port: Option<DerivePort>,
    pub redirect_code: u32,
}

/// `VirtualService.spec.http[].redirect.derivePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

/// `VirtualService.spec.http[].directResponse`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectResponse {
    pub status: u32,
    pub body: Option<ResponseBody>,
}

/// `VirtualService.spec.http[].directResponse.body`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResponseBody {
    pub string: Option<String>,
    pub bytes: Option<Bytes>,
}

/// `VirtualService.spec.http[].delegate`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delegate {
    pub name: String,
    pub namespace: String,
}

/// `VirtualService.spec.http[].rewrite`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRewrite {
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// `VirtualService.spec.http[].rewrite.uriRegexRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegexRewrite {
    pub r#match: String,
    pub rewrite: String,
}

/// `VirtualService.spec.http[].retries`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRetry {
    pub attempts: i32,
    pub per_try_timeout: Option<ProtoDuration>,
    pub retry_on: String,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<ProtoDuration>,
}

/// `VirtualService.spec.http[].fault`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpFault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

/// `VirtualService.spec.http[].fault.delay`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultDelay {
    pub percent: i32,
    pub percentage: Option<Percent>,
    pub fixed_delay: Option<ProtoDuration>,
    pub exponential_delay: Option<ProtoDuration>,
}

/// `VirtualService.spec.http[].fault.abort`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultAbort {
    pub http_status: Option<i32>,
    pub grpc_status: Option<String>,
    #[serde(rename = "http2Error")]
    pub http2_error: Option<String>,
    pub percentage: Option<Percent>,
}

/// `VirtualService.spec.http[].mirrors[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMirror {
    pub destination: Option<Destination>,
    pub percentage: Option<Percent>,
}

/// `VirtualService.spec.http[].corsPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    pub allow_origin: Vec<String>,
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age: Option<ProtoDuration>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: UnmatchedPreflights,
}

/// `VirtualService.spec.http[].corsPolicy.unmatchedPreflights`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    #[default]
    Unspecified,
    Forward,
    Ignore,
}

/// `headers` of a rule or of a destination.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

/// `headers.request` and `headers.response`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// `VirtualService.spec.tls[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    pub r#match: Vec<TlsMatch>,
    pub route: Vec<RouteDestination>,
}

/// `VirtualService.spec.tls[].match[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatch {
    pub sni_hosts: Vec<String>,
    pub destination_subnets: Vec<String>,
    pub port: u32,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

/// `VirtualService.spec.tcp[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    pub r#match: Vec<L4Match>,
    pub route: Vec<RouteDestination>,
}

/// `VirtualService.spec.tcp[].match[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Match {
    pub destination_subnets: Vec<String>,
    pub port: u32,
    pub source_subnet: String,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

/// `route[]` of `VirtualService.spec.tls[]` and `VirtualService.spec.tcp[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteDestination {
    pub destination: Option<Destination>,
    pub weight: i32,
}
