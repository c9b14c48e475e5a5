//! Flags that several commands share.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::values::{self, Inbound, Labels, Listen, PortMap};
use crate::app::settings::{Inputs, Locality};
use crate::compile::settings::{InboundPort, OwnPorts, Role};
use crate::identity::IdentitySource;

/// What is loaded, and as whom: the same flags for every command that compiles the configuration.
#[derive(Clone, Debug, Args)]
pub(super) struct InputArgs {
    /// Resources: a folder (read with its sub-folders) or a file; repeatable
    #[arg(
        long,
        env = "PORTCULLIS_CONFIG",
        value_name = "DIR|FILE",
        default_value = "gateways/",
        value_delimiter = ',',
        help_heading = WHAT
    )]
    config: Vec<PathBuf>,

    /// Certificates and keys: a sub-folder per credentialName, as a mounted Secret looks
    #[arg(
        long,
        env = "PORTCULLIS_CERTS",
        value_name = "DIR",
        default_value = "certs/",
        help_heading = WHAT
    )]
    certs: PathBuf,

    /// Mesh identity: a folder with cert-chain.pem, key.pem, root-cert.pem and, where there is one,
    /// ca-crl.pem; or unix:PATH (a SPIFFE Workload API), sds:unix:PATH (Envoy's SDS) or ca:HOST:PORT
    /// (Istio's CA service)
    /// [default: <certs>/identity]
    #[arg(long, env = "PORTCULLIS_IDENTITY", value_name = "DIR|SOURCE", help_heading = WHAT)]
    identity: Option<IdentitySource>,

    /// Token shown to the CA service, read for each call [default: Istio's place in Kubernetes]
    #[arg(long, env = "PORTCULLIS_IDENTITY_TOKEN", value_name = "FILE", help_heading = WHAT)]
    identity_token: Option<PathBuf>,

    /// Roots of the CA service's own certificate [default: Istio's place in Kubernetes]
    #[arg(long, env = "PORTCULLIS_IDENTITY_ROOTS", value_name = "FILE", help_heading = WHAT)]
    identity_roots: Option<PathBuf>,

    /// Revocation lists of the mesh, which a CA service does not give [default: Istio's place in Kubernetes]
    #[arg(long, env = "PORTCULLIS_IDENTITY_CRL", value_name = "FILE", help_heading = WHAT)]
    identity_crl: Option<PathBuf>,

    /// Istio's MeshConfig; what it sets, the flag of the same meaning overrides
    #[arg(long, env = "PORTCULLIS_MESH_CONFIG", value_name = "FILE", help_heading = WHAT)]
    mesh_config: Option<PathBuf>,

    /// Istio's MeshNetworks: endpoints of other networks are reached through the gateways of those; the
    /// label topology.istio.io/network of --labels says which network is this gateway's own
    #[arg(long, env = "PORTCULLIS_MESH_NETWORKS", value_name = "FILE", help_heading = WHAT)]
    mesh_networks: Option<PathBuf>,

    /// Namespace this gateway runs in; Gateways and Secrets are looked up from there
    #[arg(
        long,
        env = "PORTCULLIS_NAMESPACE",
        default_value = "istio-system",
        value_parser = values::namespace,
        help_heading = WHO
    )]
    namespace: String,

    /// Namespace whose policies hold for every gateway [default: istio-system]
    #[arg(
        long,
        env = "PORTCULLIS_ROOT_NAMESPACE",
        value_name = "NAMESPACE",
        value_parser = values::namespace,
        help_heading = WHO
    )]
    root_namespace: Option<String>,

    /// Labels that the selectors of Gateways and policies are compared with
    #[arg(
        long,
        env = "PORTCULLIS_LABELS",
        value_name = "K=V,...",
        default_value = "istio=ingressgateway",
        help_heading = WHO
    )]
    labels: Labels,

    /// Trust domain of the mesh [default: cluster.local]
    #[arg(
        long,
        env = "PORTCULLIS_TRUST_DOMAIN",
        value_name = "DOMAIN",
        value_parser = values::trust_domain,
        help_heading = WHO
    )]
    trust_domain: Option<String>,

    /// Where this gateway runs, to prefer near endpoints
    #[arg(
        long,
        env = "PORTCULLIS_LOCALITY",
        value_name = "REGION/ZONE/SUBZONE",
        value_parser = values::locality,
        help_heading = WHO
    )]
    locality: Option<Locality>,

    /// Address of servers without a bind of their own [default: all, IPv6 and IPv4]
    #[arg(long, env = "PORTCULLIS_BIND", value_name = "ADDR", help_heading = LISTENERS)]
    bind: Option<IpAddr>,

    /// Bind port TO where a Gateway names port FROM; repeatable
    #[arg(
        long,
        env = "PORTCULLIS_PORT_MAP",
        value_name = "FROM=TO",
        value_delimiter = ',',
        help_heading = LISTENERS
    )]
    port_map: Vec<PortMap>,

    #[command(flatten)]
    own_ports: OwnPortArgs,
}

impl InputArgs {
    fn identity(&self) -> IdentitySource {
        let default = || IdentitySource::Folder(self.certs.join("identity"));
        let mut source = self.identity.clone().unwrap_or_else(default);
        if let IdentitySource::CertificateService(service) = &mut source {
            for (own, said) in [
                (&mut service.token, &self.identity_token),
                (&mut service.roots, &self.identity_roots),
                (&mut service.lists, &self.identity_crl),
            ] {
                if let Some(said) = said {
                    own.clone_from(said);
                }
            }
        }
        source
    }

    /// The plain values.
    pub(super) fn inputs(&self) -> Inputs {
        Inputs {
            role: Role::Gateway,
            config: self.config.clone(),
            certs: self.certs.clone(),
            identity: self.identity(),
            mesh_config: self.mesh_config.clone(),
            mesh_networks: self.mesh_networks.clone(),
            bind: self.bind,
            port_map: self.port_map.iter().map(|map| (map.from, map.to)).collect(),
            own_ports: self.own_ports.addresses(),
            namespace: self.namespace.clone(),
            root_namespace: self.root_namespace.clone(),
            labels: self.labels.0.clone(),
            trust_domain: self.trust_domain.clone(),
            locality: self.locality.clone(),
        }
    }
}

/// Ports of the program's own, which no server can have.
#[derive(Clone, Debug, Args)]
struct OwnPortArgs {
    /// Health port: /healthz/ready and /healthz/live; or off
    #[arg(
        long,
        env = "PORTCULLIS_STATUS",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15021",
        help_heading = PORTS
    )]
    status: Listen,

    /// Metrics port: /stats/prometheus and /metrics; or off
    #[arg(
        long,
        env = "PORTCULLIS_METRICS",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15090",
        help_heading = PORTS
    )]
    metrics: Listen,

    /// Admin port: what is loaded, diagnostics, log level, drain; or off
    #[arg(
        long,
        env = "PORTCULLIS_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15000",
        help_heading = PORTS
    )]
    admin: Listen,
}

impl OwnPortArgs {
    fn addresses(&self) -> OwnPorts {
        OwnPorts { status: self.status.0, metrics: self.metrics.0, admin: self.admin.0 }
    }
}

/// The ports of a sidecar; without any, it is a gateway that is checked or explained.
#[derive(Clone, Debug, Args)]
pub(super) struct RoleArgs {
    /// Be the sidecar of an application: take connections at LISTEN, before the application's APP, each
    /// a port or ADDR:PORT; repeatable
    #[arg(
        long,
        env = "PORTCULLIS_INBOUND",
        value_name = "LISTEN=APP",
        value_delimiter = ',',
        help_heading = LISTENERS
    )]
    pub(super) inbound: Vec<Inbound>,
}

impl RoleArgs {
    /// The same inputs in the role that the ports say.
    pub(super) fn of(&self, inputs: Inputs) -> Inputs {
        if self.inbound.is_empty() {
            return inputs;
        }
        let port = |inbound: &Inbound| InboundPort {
            listen: inbound.listen(inputs.bind),
            application: inbound.application,
        };
        let role = Role::Sidecar(self.inbound.iter().map(port).collect());
        Inputs { role, ..inputs }
    }
}

/// Headings that group flags in the help.
const WHAT: &str = "What is loaded";
const WHO: &str = "Who this gateway is";
pub(super) const LISTENERS: &str = "Listeners";
pub(super) const PORTS: &str = "Ports of its own";
