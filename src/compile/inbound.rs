//! The ports of an application (`portcullis sidecar`): who may connect, what is spoken, and the way to
//! the application.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance;
use crate::base::hash::Hasher;
use crate::base::host::HostPattern;
use crate::base::id::{Origin, ResourceId};
use crate::base::labels::DestinationLabels;
use crate::base::limit;
use crate::diag::{Diagnostic, catalog};
use crate::route::hosts::HostIndex;
use crate::route::matcher::RequestMatch;
use crate::route::path::Normalization;
use crate::route::weight::Weighted;
use crate::snapshot::cluster::{
    Address, Cluster, ClusterId, Endpoint, Endpoints, Protocol, UpstreamTls,
};
use crate::snapshot::forwarded::{ByHost, Forwarded};
use crate::snapshot::inbound::{Inbound, Spoken};
use crate::snapshot::listener::{Listener, ServerBlock, Servers, TcpBlock, Termination};
use crate::snapshot::route::{Action, Forward, Route, RouteTable, VirtualHost};

use super::clusters::ClusterPass;
use super::connection_pool;
use super::credentials::CredentialError;
use super::destination_labels::own_labels;
use super::destination_rules::Policy;
use super::findings::Findings;
use super::path_normalization;
use super::peers::PeerMode;
use super::server_tls::{self, ServerTlsPass};
use super::services::Speaks;
use super::settings::{CompileSettings, InboundPort};

/// Builds the listeners of a sidecar.
pub struct InboundPass<'p, 'a> {
    /// Where clusters are built.
    pub clusters: &'p mut ClusterPass<'a>,
    /// Where terminations come from.
    pub tls: &'p mut ServerTlsPass<'a>,
    /// Who this workload is.
    pub settings: &'a CompileSettings,
    /// What was found.
    pub findings: &'p mut Findings,
}

/// What is known of one port.
struct Draft<'d> {
    port: &'d InboundPort,
    speaks: Speaks,
    /// What declares the port.
    origin: Origin,
    labels: Arc<DestinationLabels>,
    forwarded: Arc<Forwarded>,
    normalization: Normalization,
}

impl Draft<'_> {
    fn key(&self, secured: bool) -> Arc<str> {
        let kind = if secured { "mutual" } else { "plain" };
        format!("inbound/{}/{kind}", self.port.application.port()).into()
    }
}

impl InboundPass<'_, '_> {
    /// The listener before one port of the application.
    pub fn listener(&mut self, port: &InboundPort) -> Arc<Listener> {
        let settings = self.settings;
        let number = port.application.port();
        let own = (settings.namespace.as_str(), &settings.labels);
        let declared = self.clusters.services().of_workload(own, number);
        let service = declared.map(|(service, _)| service);
        let labels = own_labels(service, (self.clusters.own_name(), settings));
        let draft = Draft {
            port,
            speaks: declared.map_or(Speaks::Unsaid, |(_, port)| port.speaks),
            origin: service.map_or_else(|| undeclared(settings), |s| s.origin.clone()),
            labels: self.clusters.known_labels(labels),
            forwarded: settings.edge.forwarded.clone(),
            normalization: settings.edge.normalization,
        };
        let (mode, policy) = self.clusters.peers().effective(own.0, own.1, number);
        let ways = self.ways(&draft);
        let plain = (mode != PeerMode::Strict).then(|| ways.spoken(&draft, None));
        let mutual = (mode != PeerMode::Disable).then(|| {
            let (http, tcp) = self.terminations(number);
            ways.spoken(&draft, Some((http, tcp)))
        });
        let origin = policy.unwrap_or_else(|| draft.origin.clone());
        let servers = Servers::Inbound(Arc::new(Inbound {
            origin,
            application: ways.first(),
            plain,
            mutual,
        }));
        Arc::new(Listener {
            address: port.listen.clone(),
            port: number,
            written: None,
            announcers: None,
            servers,
        })
    }

    /// Terminations for HTTP and for bytes. Bytes have no application protocol: with
    /// `istio-peer-exchange`, callers would begin with metadata that is not the application's.
    fn terminations(&mut self, number: u16) -> (Termination, Termination) {
        let http = self.tls.workload(&format!("inbound/{number}/http"), &[b"h2", b"http/1.1"]);
        let tcp = self.tls.workload(&format!("inbound/{number}/tcp"), &[]);
        let (http, tcp) =
            (http.map_err(|e| self.untrusted(&e)), tcp.map_err(|e| self.untrusted(&e)));
        (http.unwrap_or_else(|tls| tls), tcp.unwrap_or_else(|tls| tls))
    }

    fn untrusted(&mut self, error: &CredentialError) -> Termination {
        let code = match error {
            CredentialError::File { .. } | CredentialError::Incomplete { .. } => {
                &catalog::IDENTITY_MISSING
            }
            other => server_tls::code(other),
        };
        let message = error.explain();
        self.findings.add(
            Diagnostic::new(code, message.clone())
                .help("until it is mended, handshakes with this workload fail"),
        );
        self.tls.workload_without_identity(&message)
    }

    /// The ways to the application for requests and for bytes.
    fn ways(&mut self, draft: &Draft<'_>) -> Ways {
        let mut to = |protocol, for_http2| {
            let cluster = self.application(draft, protocol, for_http2);
            self.clusters.push(cluster)
        };
        match draft.speaks {
            Speaks::Http => Ways::Http(to(Protocol::Http1, None)),
            Speaks::Http2 => Ways::Http(to(Protocol::Http2, None)),
            Speaks::Bytes => Ways::Tcp(to(Protocol::Tcp, None)),
            Speaks::Unsaid => {
                let http2 = to(Protocol::Http2, None);
                Ways::Either(to(Protocol::Http1, Some(http2)), to(Protocol::Tcp, None))
            }
        }
    }

    fn application(
        &self,
        draft: &Draft<'_>,
        protocol: Protocol,
        for_http2: Option<ClusterId>,
    ) -> Cluster {
        let address: SocketAddr = draft.port.application;
        let name = format!("inbound|{}||", address.port());
        let mut hasher = Hasher::default();
        hasher.part(name.as_bytes()).part(format!("{address}{protocol:?}").as_bytes());
        let member = balance::Member { weight: 1, level: 0, locality: 0 };
        let endpoint =
            Endpoint { address: Address::Socket(address), member, tls: false, through: None };
        let policy = Policy::default();
        Cluster {
            name: name.into(),
            key: hasher.finish(),
            origin: draft.origin.clone(),
            rules: Box::default(),
            endpoints: Endpoints::Static([endpoint].into()),
            balance: balance::Policy::default(),
            hash: None,
            outliers: None,
            limits: connection_pool::limits(&policy),
            protocol,
            for_http2,
            connection: connection_pool::rules(&policy, self.settings.tcp_keepalive.as_ref()),
            tunnel: None,
            tls: UpstreamTls::Plain,
            connect_timeout: self.settings.connect_timeout,
            idle_timeout: connection_pool::idle(None),
            tcp_idle_timeout: connection_pool::tcp_idle(None),
            labels: draft.labels.clone(),
        }
    }
}

/// What declares a port that no Service does.
fn undeclared(settings: &CompileSettings) -> Origin {
    let resource = ResourceId::new("Workload", &settings.namespace, "");
    Origin { resource, file: "--inbound".into(), line: 0 }
}

/// Clusters of the application, by what is spoken.
enum Ways {
    Http(ClusterId),
    Tcp(ClusterId),
    Either(ClusterId, ClusterId),
}

impl Ways {
    fn first(&self) -> ClusterId {
        match *self {
            Self::Http(cluster) | Self::Tcp(cluster) | Self::Either(cluster, _) => cluster,
        }
    }

    /// What takes connections, with TLS of the mesh (for HTTP and for bytes) or without.
    fn spoken(&self, draft: &Draft<'_>, tls: Option<(Termination, Termination)>) -> Spoken {
        let (http, tcp) = tls.unzip();
        match *self {
            Self::Http(cluster) => Spoken::Http(requests(draft, cluster, http)),
            Self::Tcp(cluster) => Spoken::Tcp(bytes(draft, cluster, tcp)),
            Self::Either(one, other) => {
                Spoken::Either(requests(draft, one, http), bytes(draft, other, tcp))
            }
        }
    }
}

fn requests(draft: &Draft<'_>, cluster: ClusterId, tls: Option<Termination>) -> Arc<ServerBlock> {
    Arc::new(ServerBlock {
        key: draft.key(tls.is_some()),
        origin: draft.origin.clone(),
        hosts: everything(()),
        tls,
        grpc_web: false,
        forwarded: ByHost::all(draft.forwarded.clone()),
        normalization: ByHost::all(path_normalization::of_mesh(draft.normalization).into()),
        routes: RouteTable { hosts: everything(whole(draft, cluster)) },
    })
}

fn bytes(draft: &Draft<'_>, cluster: ClusterId, tls: Option<Termination>) -> Arc<TcpBlock> {
    Arc::new(TcpBlock {
        key: draft.key(tls.is_some()),
        origin: draft.origin.clone(),
        server: draft.origin.clone(),
        tls,
        destinations: Weighted::single(Some(cluster)),
        idle_timeout: limit::TCP_IDLE_TIME,
        judged: true,
    })
}

fn everything<T>(value: T) -> HostIndex<T> {
    let mut index = HostIndex::default();
    index.entry(&HostPattern::Any, || value);
    index
}

/// Every request goes to the application as it is: no time limit, and it is not sent twice once it was
/// carried out.
fn whole(draft: &Draft<'_>, cluster: ClusterId) -> Arc<VirtualHost> {
    let route = Route {
        name: "default".into(),
        counted: None,
        origin: draft.origin.clone(),
        condition: RequestMatch::default(),
        action: Action::Forward(Forward::to(Some(cluster))),
    };
    Arc::new(VirtualHost {
        name: "*".into(),
        https_redirect: None,
        routes: vec![Arc::new(route)],
        index: None,
    })
}
