//! Read, parse, compile: from files to what can be published, or to the reason why nothing new can.
//!
//! **Invariant:** a resource that was good and is not any more goes on as it was; a root that cannot be
//! read changes nothing; equal bytes are never compiled twice.

mod credentials;
mod followed;
mod known;
mod mesh;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::auth::jwt::{IssuerKeys, JwksSource};
use crate::base::hash::{Fingerprint, Hasher};
use crate::base::id::Generation;
use crate::base::limit;
use crate::compile::files::{FileStore, Wanted, wanted};
use crate::compile::settings::Role;
use crate::compile::{Input, Output, Reuse, compile};
use crate::diag::{self, Diagnostic, Location, catalog};
use crate::identity::Feed;
use crate::resources::{self, MeshConfig, Parsed};
use crate::source::files::{self, Found, FoundFile};
use crate::source::reader::Reader;
use crate::source::touched::Touched;
use crate::source::writing::Writing;

use known::KnownFiles;
use mesh::Mesh;
pub use mesh::{MeshFiles, Settle};

/// A configuration that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("\"{}\" cannot be read: {cause}; check {flag} and who may read it", .path.display())]
pub struct RootError {
    path: PathBuf,
    cause: std::io::Error,
    flag: &'static str,
}

impl RootError {
    /// The same as a finding.
    pub fn finding(&self) -> Diagnostic {
        let message = format!("the configuration cannot be read: {}", self.cause);
        Diagnostic::new(&catalog::UNREADABLE_FILE, message)
            .at(Location::new(self.path.display().to_string().into(), 1, 1))
            .help(format!("check {} and who may read it", self.flag))
    }
}

/// A configuration, compiled.
#[derive(Debug)]
pub struct Loaded {
    /// What was compiled.
    pub output: Output,
    /// Everything found in it, sorted.
    pub diagnostics: Vec<Diagnostic>,
}

/// What a configuration consists of.
struct Assembled {
    fingerprint: Fingerprint,
    parsed: Parsed,
    wanted: Vec<Wanted>,
}

/// Loads one configuration again and again.
pub struct Loader {
    roots: Vec<PathBuf>,
    reader: Reader,
    mesh: Mesh,
    known: KnownFiles,
    writing: Writing,
    touched: Touched,
    /// Where links to configuration files lead.
    targets: Vec<PathBuf>,
    assembled: Option<Assembled>,
    loaded: Option<Fingerprint>,
    reuse: Reuse,
    /// The mesh identity when it is sent.
    sent: Option<Feed>,
    identity_end: Option<i64>,
    /// When what was found will be another because time has passed, Unix seconds.
    findings_change: Option<i64>,
}

impl Loader {
    /// Loads `roots` (`--config`) with the settings that follow from what is said of the mesh, which is
    /// read at once.
    pub fn new(roots: Vec<PathBuf>, mesh: MeshFiles, settle: Settle) -> Result<Self, RootError> {
        let mut reader = Reader::default();
        Ok(Self {
            roots,
            mesh: Mesh::new(mesh, settle, &mut reader)?,
            reader,
            known: KnownFiles::default(),
            writing: Writing::default(),
            touched: Touched::default(),
            targets: Vec::new(),
            assembled: None,
            loaded: None,
            reuse: Reuse::default(),
            sent: None,
            identity_end: None,
            findings_change: None,
        })
    }

    /// Takes the mesh identity from a feed, not from files.
    #[must_use]
    pub fn with_identity(self, feed: Feed) -> Self {
        Self { sent: Some(feed), ..self }
    }

    /// Holds back files that are being written, and looks only at those that were touched.
    pub fn heed(&mut self, writing: Writing, touched: Touched) {
        self.writing = writing;
        self.touched = touched;
    }

    /// When loading again gives something else though nothing is written anew, Unix seconds: the mesh
    /// identity ends, or a certificate comes nearer to its end.
    pub fn changes_at(&self) -> Option<i64> {
        self.identity_end.into_iter().chain(self.findings_change).min()
    }

    /// When a file that was doubted or held back is to be looked at again.
    pub fn look_again(&self) -> Option<Duration> {
        self.known.look_again()
    }

    /// The MeshConfig in use; one that sets nothing when none was named.
    pub fn mesh_config(&self) -> &MeshConfig {
        &self.mesh.config.value
    }

    /// Reads everything and compiles it as the snapshot `generation` at `now` (Unix seconds); nothing
    /// when it holds what was loaded last.
    pub fn load(
        &mut self,
        keys: &dyn Fn(&JwksSource) -> Arc<IssuerKeys>,
        generation: Generation,
        now: i64,
    ) -> Result<Option<Loaded>, RootError> {
        for root in &self.roots {
            let fail = |cause| RootError { path: root.clone(), cause, flag: "--config" };
            let meta = std::fs::metadata(root).map_err(fail)?;
            if meta.is_dir() {
                std::fs::read_dir(root).map_err(fail)?;
            }
        }
        self.reader.begin(&self.touched.take());
        self.mesh.update(&mut self.reader)?;
        let Found { files, diagnostics, targets } = files::read(&self.roots, &mut self.reader);
        self.targets = targets;
        let last = Generation(generation.0.saturating_sub(1));
        let assembled = self.assemble(&files, &diagnostics, last);
        let loaded = self.compile(&assembled, diagnostics, keys, (generation, now));
        self.assembled = Some(assembled);
        Ok(loaded)
    }

    fn compile(
        &mut self,
        assembled: &Assembled,
        unreadable: Vec<Diagnostic>,
        keys: &dyn Fn(&JwksSource) -> Arc<IssuerKeys>,
        (generation, now): (Generation, i64),
    ) -> Option<Loaded> {
        let mut store = credentials::read(&assembled.wanted, &mut self.reader);
        if let Some(identity) = self.sent.as_ref().and_then(Feed::current) {
            credentials::add(&identity, &self.mesh.settings.identity, &mut store);
        }
        let hash = digest(assembled.fingerprint, &store);
        let over = self.changes_at().is_some_and(|time| time <= now);
        if self.loaded == Some(hash) && !over {
            return None;
        }
        let input = Input {
            set: &assembled.parsed.set,
            files: &store,
            settings: &self.mesh.settings,
            keys,
            now,
            generation,
            hash,
        };
        let mut output = compile(&input, &self.reuse);
        let mut diagnostics = unreadable;
        let told = diagnostics.is_empty() && assembled.parsed.diagnostics.is_empty();
        if assembled.parsed.set.is_empty() && told {
            diagnostics.extend(
                self.roots.first().map(|root| nothing_found(root, &self.mesh.settings.role)),
            );
        }
        diagnostics.extend(self.mesh.diagnostics().cloned());
        diagnostics.extend(assembled.parsed.diagnostics.iter().cloned());
        diagnostics.append(&mut output.diagnostics);
        diag::sort(&mut diagnostics);
        self.reuse = std::mem::take(&mut output.reuse);
        self.loaded = Some(hash);
        let earliest = now.saturating_add(limit::RELOAD_CLOCK_TIME.as_secs().cast_signed());
        self.findings_change = output.findings_change.map(|time| time.max(earliest));
        self.identity_end = output.identity().map(|own| own.not_after).filter(|end| *end > now);
        Some(Loaded { output, diagnostics })
    }

    /// Files beyond the roots that were looked for, whether they exist or not.
    pub fn wanted(&self) -> impl Iterator<Item = &Path> {
        let wanted = self.assembled.iter().flat_map(|assembled| &assembled.wanted);
        let wanted = wanted.map(|wanted| match wanted {
            Wanted::File(path) | Wanted::Folder(path) => path.as_path(),
        });
        wanted.chain(self.targets.iter().map(PathBuf::as_path))
    }

    fn assemble(
        &mut self,
        files: &[FoundFile],
        unreadable: &[Diagnostic],
        last: Generation,
    ) -> Assembled {
        let mut hasher = Hasher::default();
        self.mesh.digest(&mut hasher);
        self.known.update(files, unreadable, &self.writing.unfinished(), &mut hasher);
        let fingerprint = hasher.finish();
        match self.assembled.take() {
            Some(same) if same.fingerprint == fingerprint => same,
            before => {
                let before = before.map(|before| before.parsed).unwrap_or_default();
                let parsed = resources::assemble(self.known.shown(), &before, last);
                let wanted = wanted(&parsed.set, &self.mesh.settings);
                Assembled { fingerprint, parsed, wanted }
            }
        }
    }
}

fn nothing_found(root: &Path, role: &Role) -> Diagnostic {
    let so = match role {
        Role::Gateway => "nothing is served",
        Role::Sidecar(_) => "no policy restricts who may call",
    };
    let message = format!("there is no resource in the configuration: {so}");
    Diagnostic::new(&catalog::NOTHING_FOUND, message)
        .at(Location::new(root.display().to_string().into(), 1, 1))
        .help("check --config; files that end in .yaml, .yml or .json are read")
}

/// Digest of the configuration and of every file it refers to.
fn digest(configuration: Fingerprint, store: &FileStore) -> Fingerprint {
    let mut files: Vec<_> = store.iter().collect();
    files.sort_unstable_by_key(|(path, key, _)| (*path, *key));
    let mut hasher = Hasher::default();
    hasher.part(configuration.as_bytes());
    for (path, key, content) in files {
        hasher.part(path.as_encoded_bytes()).part(key.as_bytes());
        match content {
            Ok(file) => hasher.part(file.fingerprint().as_bytes()),
            Err(error) => hasher.part(error.to_string().as_bytes()),
        };
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
