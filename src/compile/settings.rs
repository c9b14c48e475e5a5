//! What the command line and MeshConfig say about this gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limit;
use crate::resources::destination_rule::{
    H2UpgradePolicy, LocalityLbSetting, TcpKeepalive, ZoneAwareLbSetting,
};
use crate::resources::gateway::TlsProtocol;
use crate::resources::mesh_config::{
    ExtensionProvider, ForwardClientCertDetails, MeshConfig, NormalizationType,
};
use crate::resources::{Labels, MeshNetworks};
use crate::route::path::Normalization;
use crate::route::retry::RetryPolicy;

use crate::snapshot::EdgeSettings;
use crate::snapshot::forwarded::{ClientCertForwarding, Forwarded, Said, TrustedProxies};
use crate::snapshot::listener::ListenAddress;
use crate::tls::roots::Roots;

use super::files::IDENTITY_CRL;
use super::policies;

/// What this process is before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The Gateways that select it.
    #[default]
    Gateway,
    /// The ports of the application beside it (`--inbound`).
    Sidecar(Vec<InboundPort>),
}

/// A port of an application, and where it is taken instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// Where callers connect.
    pub listen: ListenAddress,
    /// Where the application listens; its port is the one that policies and Services name.
    pub application: SocketAddr,
}

/// The program's own ports; `None` is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPorts {
    /// Health (`--status`).
    pub status: Option<SocketAddr>,
    /// Metrics (`--metrics`).
    pub metrics: Option<SocketAddr>,
    /// Admin (`--admin`).
    pub admin: Option<SocketAddr>,
}

impl OwnPorts {
    /// Each with its flag.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all = [("--status", self.status), ("--metrics", self.metrics), ("--admin", self.admin)];
        all.into_iter().filter_map(|(flag, address)| Some((flag, address?)))
    }

    /// The one that keeps a listener from being bound.
    pub fn at(&self, listener: &ListenAddress) -> Option<(&'static str, SocketAddr)> {
        self.each().find(|(_, own)| ListenAddress::Socket(*own).overlaps(listener))
    }
}

/// Who this gateway is and where it listens.
#[derive(Clone, Debug)]
pub struct CompileSettings {
    /// What it is before.
    pub role: Role,
    /// Namespace of the workload (`--namespace`).
    pub namespace: String,
    /// `--root-namespace`.
    pub root_namespace: String,
    /// Labels of the workload (`--labels`).
    pub labels: Labels,
    /// Networks and their gateways (`--mesh-networks`).
    pub networks: MeshNetworks,
    /// `--trust-domain`.
    pub trust_domain: String,
    /// `MeshConfig.trustDomainAliases`.
    pub trust_domain_aliases: Vec<String>,
    /// `region/zone/subzone` (`--locality`); empty when unknown.
    pub locality: String,
    /// `MeshConfig.localityLbSetting`, for destinations whose rule has none.
    pub locality_lb: LocalityLbSetting,
    /// `MeshConfig.zoneAwareLbSetting`, which goes before that.
    pub zone_aware_lb: Option<ZoneAwareLbSetting>,
    /// Domain of Kubernetes services: `cluster.local`.
    pub cluster_domain: String,
    /// Address to listen at; nothing means every address (`--bind`).
    pub bind: Option<IpAddr>,
    /// Port to bind for a port as written (`--port-map`).
    pub port_map: BTreeMap<u16, u16>,
    /// Ports that no server can have.
    pub own_ports: OwnPorts,
    /// Folder of credentials (`--certs`).
    pub certs: PathBuf,
    /// Folder of the mesh identity (`--identity`), or the name of the source that sends it.
    pub identity: PathBuf,
    /// Whether the identity is sent, and may not have come yet.
    pub identity_is_sent: bool,
    /// File of the mesh's revocation lists when they do not come with the identity (`--identity-crl`).
    pub identity_crl: Option<PathBuf>,
    /// `MeshConfig.enableAutoMtls`.
    pub auto_mtls: bool,
    /// `MeshConfig.connectTimeout`: TCP and TLS connecting together.
    pub connect_timeout: Duration,
    /// `MeshConfig.tcpKeepalive`, for destinations whose rule has none.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `MeshConfig.h2UpgradePolicy`: HTTP/2 to ports declared as HTTP whose rule does not say.
    pub upgrade_to_http2: bool,
    /// What holds for every listener.
    pub edge: EdgeSettings,
    /// The operating system's trust anchors, for `SIMPLE` and `MUTUAL` without a CA of their own;
    /// nothing when there are none.
    pub system_roots: Option<Roots>,
    /// `MeshConfig.tlsDefaults`.
    pub tls_defaults: TlsDefaults,
    /// `MeshConfig.extensionProviders`, for CUSTOM policies.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Retries of rules that say nothing of them (`MeshConfig.defaultHttpRetryPolicy`).
    pub retries: Arc<RetryPolicy>,
}

/// `MeshConfig.tlsDefaults`, for servers that do not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsDefaults {
    /// `minProtocolVersion`.
    pub min_protocol_version: TlsProtocol,
    /// `cipherSuites`.
    pub cipher_suites: Vec<String>,
    /// `ecdhCurves`.
    pub ecdh_curves: Vec<String>,
}

impl CompileSettings {
    /// File of the mesh's revocation lists.
    pub fn mesh_lists(&self) -> PathBuf {
        self.identity_crl.clone().unwrap_or_else(|| self.identity.join(IDENTITY_CRL))
    }
}

impl Default for CompileSettings {
    fn default() -> Self {
        Self {
            role: Role::Gateway,
            namespace: "istio-system".into(),
            root_namespace: "istio-system".into(),
            labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
            networks: MeshNetworks::default(),
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            locality: String::new(),
            locality_lb: LocalityLbSetting::default(),
            zone_aware_lb: None,
            cluster_domain: "cluster.local".into(),
            bind: None,
            port_map: BTreeMap::new(),
            own_ports: OwnPorts::default(),
            certs: "certs".into(),
            identity: "certs/identity".into(),
            identity_is_sent: false,
            identity_crl: None,
            auto_mtls: true,
            connect_timeout: limit::CONNECT_TIME,
            tcp_keepalive: None,
            upgrade_to_http2: false,
            edge: EdgeSettings::default(),
            system_roots: None,
            tls_defaults: TlsDefaults::default(),
            extension_providers: Vec::new(),
            retries: Arc::default(),
        }
    }
}

impl CompileSettings {
    /// Takes over what MeshConfig sets.
    #[must_use]
    pub fn with_mesh(mut self, mesh: &MeshConfig) -> Self {
        let take = |own: &mut String, set: &String| {
            if !set.is_empty() {
                own.clone_from(set);
            }
        };
        take(&mut self.root_namespace, &mesh.root_namespace);
        take(&mut self.trust_domain, &mesh.trust_domain);
        self.trust_domain_aliases.clone_from(&mesh.trust_domain_aliases);
        self.extension_providers.clone_from(&mesh.extension_providers);
        self.auto_mtls = mesh.enable_auto_mtls.unwrap_or(self.auto_mtls);
        self.connect_timeout = mesh.connect_timeout.map_or(self.connect_timeout, |time| time.0);
        self.tcp_keepalive.clone_from(&mesh.tcp_keepalive);
        self.upgrade_to_http2 = mesh.h2_upgrade_policy == H2UpgradePolicy::Upgrade;
        self.locality_lb = mesh.locality_lb_setting.clone().unwrap_or_default();
        self.zone_aware_lb.clone_from(&mesh.zone_aware_lb_setting);
        if let Some(retries) = &mesh.default_http_retry_policy {
            self.retries = Arc::new(policies::retry(retries));
        }
        self.tls_defaults = TlsDefaults {
            min_protocol_version: mesh.tls_defaults.min_protocol_version,
            cipher_suites: mesh.tls_defaults.cipher_suites.clone(),
            ecdh_curves: mesh.tls_defaults.ecdh_curves.clone(),
        };
        self.edge.normalization = match mesh.path_normalization.normalization {
            NormalizationType::Default | NormalizationType::Base => Normalization::Base,
            NormalizationType::None => Normalization::None,
            NormalizationType::MergeSlashes => Normalization::MergeSlashes,
            NormalizationType::DecodeAndMergeSlashes => Normalization::DecodeAndMergeSlashes,
        };
        let topology = &mesh.default_config.gateway_topology;
        let hops = usize::try_from(topology.num_trusted_proxies).unwrap_or(usize::MAX);
        self.edge.proxy_protocol = topology.proxy_protocol.is_some();
        let client_cert = match topology.forward_client_cert_details {
            ForwardClientCertDetails::Undefined | ForwardClientCertDetails::SanitizeSet => {
                ClientCertForwarding::SanitizeSet
            }
            ForwardClientCertDetails::Sanitize => ClientCertForwarding::Sanitize,
            ForwardClientCertDetails::ForwardOnly => ClientCertForwarding::ForwardOnly,
            ForwardClientCertDetails::AppendForward => ClientCertForwarding::AppendForward,
            ForwardClientCertDetails::AlwaysForwardOnly => ClientCertForwarding::AlwaysForwardOnly,
        };
        self.edge.forwarded = Arc::new(Forwarded {
            proxies: Said { value: TrustedProxies::Hops(hops), by: None },
            client_cert: Said { value: client_cert, by: None },
        });
        self
    }
}
