//! Resources and file bytes to listeners, routes and clusters, with what is wrong along the way.
//!
//! **Invariant:** compiling is a pure function: no file is read, no clock asked, and a broken
//! resource harms only what it names.

pub mod access_rules;
pub mod actions;
mod annotations;
mod announcers;
pub mod authentication;
pub mod authorization;
mod balancing;
pub mod bindings;
mod client_cert;
pub mod clusters;
pub mod conditions;
mod connection_pool;
pub mod credentials;
pub mod delegates;
mod destination_labels;
mod destination_ports;
pub mod destination_rules;
mod endpoints;
pub mod external;
pub mod files;
pub mod findings;
mod forwarded;
pub mod gateways;
pub mod inbound;
pub mod listeners;
mod locality;
mod mesh_tls;
pub mod names;
pub mod networks;
mod path_normalization;
pub mod peers;
pub mod policies;
pub mod references;
mod revocation;
pub mod routes;
pub mod selection;
pub mod server_tls;
pub mod services;
pub mod settings;
pub mod streams;
pub mod surroundings;
pub mod tcp_routes;
pub mod token_rules;
pub mod unmatchable;
pub mod unreachable;
pub mod unserved;
pub mod unsupported;
pub mod upstream_tls;
pub mod virtual_hosts;

#[cfg(test)]
mod fixture;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::auth::jwt::{IssuerKeys, JwksSource};
use crate::base::hash::Fingerprint;
use crate::base::id::Generation;
use crate::diag::Diagnostic;
use crate::resources::ResourceSet;
use crate::snapshot::listener::Listener;
use crate::snapshot::{Authorization, Snapshot};

use crate::tls::crypto::Providers;

use clusters::{Built, ClusterPass, KnownLabels};
use credentials::{Credentials, KnownCredentials};
use destination_rules::DestinationRules;
use files::FileStore;
use findings::Findings;
use inbound::InboundPass;
use listeners::ListenerPass;
use peers::PeerPolicies;
use server_tls::{CertificateFact, LastGood, ServerTlsPass, Terminations};
use services::Services;
use settings::{CompileSettings, Role};
use unserved::Unserved;
use upstream_tls::{ClientConfigs, UpstreamTlsPass};
use virtual_hosts::RoutePass;

/// What is compiled.
pub struct Input<'a> {
    /// The resources.
    pub set: &'a ResourceSet,
    /// The files that [`files::wanted`] asks for, as far as they exist.
    pub files: &'a FileStore,
    /// Who this gateway is.
    pub settings: &'a CompileSettings,
    /// The keys of a source that is fetched in the background; nothing is fetched by asking.
    pub keys: &'a dyn Fn(&JwksSource) -> Arc<IssuerKeys>,
    /// Unix time in seconds.
    pub now: i64,
    /// Number of the snapshot.
    pub generation: Generation,
    /// Digest of everything read.
    pub hash: Fingerprint,
}

/// What was compiled.
pub struct Output {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Every finding about the resources beyond their parsing, sorted.
    pub diagnostics: Vec<Diagnostic>,
    /// When some findings will be others because time has passed, Unix seconds.
    pub findings_change: Option<i64>,
    /// Certificates in use, and revocation lists.
    pub certificates: Vec<CertificateFact>,
    /// Key sets to fetch in the background.
    pub key_sources: Vec<JwksSource>,
    /// Query parameters that carry tokens; `None` when not all of their names can be read.
    pub token_parameters: Option<Vec<Box<str>>>,
    /// What the next compilation may take over.
    pub reuse: Reuse,
}

/// What a compilation may take over from the last one, so that what did not change keeps its
/// sessions and costs nothing.
#[derive(Default)]
pub struct Reuse {
    providers: Arc<Providers>,
    credentials: KnownCredentials,
    terminations: Terminations,
    last_good: LastGood,
    originations: ClientConfigs,
    labels: KnownLabels,
}

impl Output {
    /// The certificate of the mesh identity, expired or not.
    pub fn identity(&self) -> Option<&CertificateFact> {
        self.certificates.iter().find(|fact| fact.kind == server_tls::IDENTITY)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// Compiles; whatever is wrong is a finding, and harms only what it names.
pub fn compile(input: &Input<'_>, previous: &Reuse) -> Output {
    let Input { set, files, settings, .. } = *input;
    let mut findings = Findings::default();
    for diagnostic in set.findings() {
        findings.add(diagnostic.clone());
    }
    let credentials = Credentials::new(set, files, settings, &previous.credentials);
    let services = Services::new(set, settings, &mut findings);
    unsupported::tell(set, &mut findings);
    networks::tell(set, settings, &mut findings);
    annotations::tell(set, &mut findings);
    references::tell(set, &services, settings, &mut findings);
    unreachable::tell(set, &mut findings);
    surroundings::tell(set, settings, &mut findings);
    let rules = DestinationRules::new(set, settings, &mut findings);
    let peers = PeerPolicies::new(set, &settings.root_namespace);
    peers::tell_ineffective(set, &settings.root_namespace, &mut findings);
    let upstream_tls =
        UpstreamTlsPass::new(&credentials, settings, &previous.originations, input.now);
    let identity = upstream_tls.certificate(input.now, &mut findings);
    credentials.tell_mesh(&mut findings);
    let known = (settings, &previous.labels);
    let mut clusters = ClusterPass::new(&services, rules, peers, upstream_tls, known);
    let mut server_tls = ServerTlsPass {
        credentials: &credentials,
        settings,
        providers: &previous.providers,
        now: input.now,
        previous: &previous.terminations,
        built: Terminations::with_capacity_and_hasher(previous.terminations.len(), <_>::default()),
        last_good: &previous.last_good,
        good: LastGood::with_capacity_and_hasher(previous.last_good.len(), <_>::default()),
        certificates: identity.into_iter().collect(),
    };
    let tokens =
        authentication::authentication(set, settings, &services, input.keys, &mut findings);
    let reads_tokens = tokens.authenticator.is_some();
    let passes = (&mut clusters, &mut server_tls);
    let listeners = listeners(input, reads_tokens, passes, &mut findings);
    let ServerTlsPass { built: terminations, good: last_good, mut certificates, .. } = server_tls;
    let mut find =
        |name: &str, told: &mut _| external::provider(name, settings, &mut clusters, told);
    let authorization = authorization::authorization(set, settings, &mut find, &mut findings);
    let Built { clusters, labels, tls } = clusters.finish();
    let originations = tls.finish();
    certificates.extend(revocation::told(credentials.revocation_lists(), input.now, &mut findings));
    let snapshot = Snapshot {
        generation: input.generation,
        hash: input.hash,
        listeners,
        clusters,
        authentication: tokens.authenticator,
        authorization: tokens.refusing.map_or(authorization, Authorization::Refuse),
        edge: settings.edge.clone(),
    };
    Output {
        snapshot,
        findings_change: findings.change(),
        diagnostics: findings.finish(),
        certificates,
        key_sources: tokens.sources,
        token_parameters: tokens.parameters,
        reuse: Reuse {
            providers: previous.providers.clone(),
            credentials: credentials.finish(),
            terminations,
            last_good,
            originations,
            labels,
        },
    }
}

/// The listeners of this process's role.
fn listeners<'a>(
    input: &Input<'a>,
    tokens: bool,
    (clusters, tls): (&mut ClusterPass<'a>, &mut ServerTlsPass<'a>),
    findings: &mut Findings,
) -> Vec<Arc<Listener>> {
    let Input { set, settings, .. } = *input;
    match &settings.role {
        Role::Gateway => {
            let bindings = bindings::bindings(set, settings, findings);
            let drafts = gateways::listeners(set, settings, findings);
            let routes = RoutePass {
                bindings: &bindings,
                clusters,
                settings,
                set,
                tokens,
                compiled: HashMap::new(),
            };
            let unserved = Unserved::new(set, settings, findings);
            let mut pass = ListenerPass { routes, tls, unserved, findings };
            drafts.iter().map(|draft| pass.listener(draft)).collect()
        }
        Role::Sidecar(ports) => {
            clusters.peers().tell(&settings.namespace, &settings.labels, findings);
            let mut pass = InboundPass { clusters, tls, settings, findings };
            ports.iter().map(|port| pass.listener(port)).collect()
        }
    }
}
