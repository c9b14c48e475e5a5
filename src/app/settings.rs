//! What the process is told at its start, as plain values.
//!
//! **Invariant:** nothing here has been looked up or checked against the outside; an absent value
//! means that the operator did not say, so that the mesh configuration may.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::compile::settings::{OwnPorts, Role};
use crate::identity::IdentitySource;
use crate::probe::Probes;
use crate::telemetry::logs::LogsFormat;

/// Root namespace when neither a flag nor the mesh configuration names one.
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";
/// Trust domain when neither a flag nor the mesh configuration names one.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// What a snapshot is made from: the same for serving and for checking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// What it is before.
    pub role: Role,
    /// Files and folders with resources, in the order given.
    pub config: Vec<PathBuf>,
    /// Folder with a sub-folder per credential.
    pub certs: PathBuf,
    /// Where the mesh identity comes from.
    pub identity: IdentitySource,
    /// File with Istio's `MeshConfig`.
    pub mesh_config: Option<PathBuf>,
    /// File with Istio's `MeshNetworks`.
    pub mesh_networks: Option<PathBuf>,
    /// Address of listeners whose server has no `bind`; `None` is every address, IPv6 and IPv4.
    pub bind: Option<IpAddr>,
    /// Pairs of the port that a Gateway names and the port that is bound instead.
    pub port_map: Vec<(u16, u16)>,
    /// Ports of the program's own, which no server can have.
    pub own_ports: OwnPorts,
    /// Namespace this gateway runs in.
    pub namespace: String,
    /// Namespace whose policies apply everywhere (`MeshConfig.rootNamespace`).
    pub root_namespace: Option<String>,
    /// Labels that selectors are compared with.
    pub labels: BTreeMap<String, String>,
    /// Trust domain (`MeshConfig.trustDomain`).
    pub trust_domain: Option<String>,
    /// Where this gateway runs.
    pub locality: Option<Locality>,
}

/// Everything that serving needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the snapshot is made from.
    pub inputs: Inputs,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// Time between losing readiness and refusing new connections.
    pub drain_delay: Duration,
    /// Time from the signal to stop until open connections are cut.
    pub drain_deadline: Duration,
    /// What is asked of the application on kubelet's behalf, at the health port.
    pub probes: Probes,
    /// Access log; `None` leaves it to `MeshConfig.accessLogEncoding`, then to text.
    pub access_log: Option<AccessLogFormat>,
    /// Folder for what survives a restart; `None` is off.
    pub state: Option<PathBuf>,
    /// Which lines of the program's log are written, as `tracing-subscriber` reads it.
    pub log_level: String,
    /// Form of the program's log.
    pub log_format: LogsFormat,
}

/// Form of the access log on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLogFormat {
    /// Istio's default line.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// None.
    Off,
}

/// Form of `check`'s report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    /// The offending lines, to read.
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0, for code hosts and editors.
    Sarif,
}

/// Place of a process (`WorkloadEntry.locality`): region, zone and sub-zone, later parts empty when
/// not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone in the region.
    pub zone: String,
    /// Sub-zone in the zone.
    pub sub_zone: String,
}

impl std::fmt::Display for Locality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.region)?;
        for part in [&self.zone, &self.sub_zone].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}
