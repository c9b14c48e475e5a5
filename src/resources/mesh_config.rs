//! `MeshConfig` (mesh/v1alpha1), as far as it concerns a gateway.
//!
//! **Invariant**: what is not set is the type's zero value, so that a flag or a default may fill it.

#![allow(missing_docs, reason = "fields are Istio's, named and documented in its API reference")]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::destination_rule::{
    H2UpgradePolicy, LocalityLbSetting, TcpKeepalive, ZoneAwareLbSetting,
};
use super::gateway::TlsProtocol;
use super::meta::ProtoDuration;
use super::virtual_service::HttpRetry;
use super::{ConfigFile, nearest, single};
use crate::diag::{Diagnostic, catalog};

/// What `--mesh-config` holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    pub root_namespace: String,
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    pub enable_auto_mtls: Option<bool>,
    pub connect_timeout: Option<ProtoDuration>,
    pub default_http_retry_policy: Option<HttpRetry>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub h2_upgrade_policy: H2UpgradePolicy,
    pub locality_lb_setting: Option<LocalityLbSetting>,
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    pub tls_defaults: MeshTls,
    pub path_normalization: PathNormalization,
    pub access_log_encoding: AccessLogEncoding,
    pub default_config: ProxyConfig,
    pub extension_providers: Vec<ExtensionProvider>,
}

/// `MeshConfig.extensionProviders[]`, as far as it authorizes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    pub name: String,
    pub envoy_ext_authz_http: Option<ExtAuthzHttp>,
    pub envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
}

/// `MeshConfig.extensionProviders[].envoyExtAuthzHttp`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzHttp {
    pub service: String,
    pub port: u32,
    pub timeout: Option<ProtoDuration>,
    pub path_prefix: String,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    pub status_on_error: String,
    pub include_headers_in_check: Vec<String>,
    pub include_request_headers_in_check: Vec<String>,
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    pub include_request_body_in_check: Option<BodyInCheck>,
    pub headers_to_upstream_on_allow: Vec<String>,
    pub headers_to_downstream_on_deny: Vec<String>,
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// `MeshConfig.extensionProviders[].envoyExtAuthzGrpc`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzGrpc {
    pub service: String,
    pub port: u32,
    pub timeout: Option<ProtoDuration>,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    pub status_on_error: String,
    pub include_request_body_in_check: Option<BodyInCheck>,
}

/// `includeRequestBodyInCheck` of a provider.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BodyInCheck {
    pub max_request_bytes: u32,
    pub allow_partial_message: bool,
    pub pack_as_bytes: bool,
}

/// `MeshConfig.tlsDefaults`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshTls {
    pub min_protocol_version: TlsProtocol,
    pub cipher_suites: Vec<String>,
    pub ecdh_curves: Vec<String>,
}

/// `MeshConfig.pathNormalization`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathNormalization {
    pub normalization: NormalizationType,
}

/// `MeshConfig.pathNormalization.normalization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NormalizationType {
    #[default]
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// `MeshConfig.accessLogEncoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    #[default]
    Text,
    Json,
}

/// `MeshConfig.defaultConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    pub gateway_topology: Topology,
}

/// `ProxyConfig.gatewayTopology`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    pub num_trusted_proxies: u32,
    pub forward_client_cert_details: ForwardClientCertDetails,
    pub proxy_protocol: Option<ProxyProtocolIn>,
}

/// `ProxyConfig.gatewayTopology.proxyProtocol`: being there says all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ProxyProtocolIn {}

/// `ProxyConfig.gatewayTopology.forwardClientCertDetails`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCertDetails {
    #[default]
    Undefined,
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// Reads a MeshConfig; nothing when it cannot be, with the reason among the findings.
pub fn parse_mesh_config(file: &ConfigFile) -> (Option<MeshConfig>, Vec<Diagnostic>) {
    let (mesh, mut diagnostics, unread) = single::read(file, "MeshConfig");
    for field in unread {
        let help = match nearest::nearest(&field.name, field.known) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => "what this gateway reads of MeshConfig is in docs/mesh-config.md".to_owned(),
        };
        let message = format!("\"{}\" of MeshConfig has no effect here", field.name);
        let diagnostic = Diagnostic::new(&catalog::FIELD_NOT_ACTED_ON, message);
        let at = single::place(file, field.position);
        diagnostics.push(diagnostic.at(at).field(field.path).help(help));
    }
    (mesh.map(|mesh| mesh.value), diagnostics)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expects each finding as `line:column code`.
    fn check(text: &str, expected: Option<&MeshConfig>, findings: &[&str]) {
        let file = ConfigFile { path: "mesh.yaml".into(), bytes: text.as_bytes().into() };
        let (mesh, diagnostics) = parse_mesh_config(&file);
        let shown: Vec<_> = diagnostics
            .iter()
            .map(|d| {
                let at = d.location.as_ref().unwrap();
                format!("{}:{} {}", at.line, at.column, d.code.id)
            })
            .collect();
        assert_eq!(shown, findings, "{text}");
        assert_eq!(mesh.as_ref(), expected, "{text}");
    }

    #[test]
    fn what_concerns_a_gateway_is_read() {
        let text = "trustDomain: td\nenableAutoMtls: false\naccessLogEncoding: JSON\n\
                    pathNormalization: {normalization: MERGE_SLASHES}\n\
                    defaultConfig:\n  gatewayTopology: {numTrustedProxies: 2}\n";
        let mesh = MeshConfig {
            trust_domain: "td".into(),
            enable_auto_mtls: Some(false),
            access_log_encoding: AccessLogEncoding::Json,
            path_normalization: PathNormalization {
                normalization: NormalizationType::MergeSlashes,
            },
            default_config: ProxyConfig {
                gateway_topology: Topology { num_trusted_proxies: 2, ..Topology::default() },
            },
            ..MeshConfig::default()
        };
        check(text, Some(&mesh), &[]);
        check("", Some(&MeshConfig::default()), &[]);
    }

    #[test]
    fn the_rest_is_told_and_mistakes_make_it_unusable() {
        let default = MeshConfig::default();
        check("ingressClass: x\n", Some(&default), &["1:1 PC060"]);
        check("trustDomain: [x]\n", None, &["1:14 PC011"]);
        check("accessLogEncoding: XML\n", None, &["1:20 PC011"]);
        check("a: [\n", None, &["2:1 PC004"]);
        check("trustDomain: a\n---\ntrustDomain: b\n", None, &["3:1 PC011"]);
    }
}
