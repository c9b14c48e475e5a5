//! Resources and file bytes to listeners, routes and clusters, with what is wrong along the way.
//!
//! **Invariant:** compiling is a pure function: no file is read, no clock asked, and a broken
//! resource harms only what it names.

pub mod bindings;
pub mod clusters;
pub mod credentials;
pub mod destination_rules;
pub mod files;
pub mod findings;
pub mod gateways;
pub mod names;
pub mod peers;
pub mod routes;
pub mod server_tls;
pub mod services;
pub mod settings;
pub mod upstream_tls;

use std::fmt;
use std::sync::Arc;

use crate::auth::jwt::{IssuerKeys, JwksSource};
use crate::base::hash::Fingerprint;
use crate::base::id::Generation;
use crate::diag::Diagnostic;
use crate::resources::{self, ResourceSet};
use crate::snapshot::{Authorization, Snapshot};

use files::FileStore;
use findings::Findings;
use server_tls::{CertificateFact, Terminations};
use settings::CompileSettings;

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
    /// Certificates in use.
    pub certificates: Vec<CertificateFact>,
    /// Key sets to fetch in the background.
    pub key_sources: Vec<JwksSource>,
    /// Query parameters that carry tokens.
    pub token_parameters: Vec<Box<str>>,
    /// What the next compilation may take over.
    pub reuse: Reuse,
}

/// What a compilation may take over from the last one, so that what did not change keeps its
/// sessions and costs nothing.
#[derive(Default)]
pub struct Reuse {
    terminations: Terminations,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// Compiles; whatever is wrong is a finding, and harms only what it names.
pub fn compile(input: &Input<'_>, previous: &Reuse) -> Output {
    let mut findings = Findings::default();
    for diagnostic in resources::validate(input.set) {
        findings.add(diagnostic);
    }
    let _ = previous;
    let snapshot = Snapshot {
        generation: input.generation,
        hash: input.hash,
        listeners: Vec::new(),
        clusters: Vec::new(),
        authentication: None,
        authorization: Authorization::Open,
        edge: input.settings.edge.clone(),
    };
    Output {
        snapshot,
        diagnostics: findings.finish(),
        certificates: Vec::new(),
        key_sources: Vec::new(),
        token_parameters: Vec::new(),
        reuse: Reuse { terminations: Terminations::new() },
    }
}
