//! MeshConfig over time: settings follow it, and a broken one changes nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::RootError;
use crate::base::hash::Fingerprint;
use crate::compile::settings::CompileSettings;
use crate::diag::Diagnostic;
use crate::resources::{MeshConfig, parse_mesh_config};
use crate::source::files;
use crate::source::reader::Reader;

/// How settings follow from MeshConfig and from what the operator said, which wins.
pub type Settle = Box<dyn Fn(&MeshConfig) -> CompileSettings + Send>;

/// The file, and what it led to.
pub(super) struct Mesh {
    path: Option<PathBuf>,
    settle: Settle,
    read: Option<Fingerprint>,
    /// The last one that could be used.
    pub(super) config: MeshConfig,
    /// What follows from it.
    pub(super) settings: CompileSettings,
    /// Findings of the file as it is now.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Mesh {
    /// Reads the file for the first time, when one is named; it must be usable.
    pub(super) fn new(
        path: Option<PathBuf>,
        settle: Settle,
        reader: &mut Reader,
    ) -> Result<Self, RootError> {
        let config = MeshConfig::default();
        let settings = settle(&config);
        let mut mesh = Self { path, settle, read: None, config, settings, diagnostics: Vec::new() };
        if !mesh.update(reader)? {
            let why = mesh.diagnostics.iter().find_map(|finding| {
                Some(format!("{}: {}", finding.location.as_ref()?, finding.message))
            });
            return Err(mesh.unreadable(why.unwrap_or_default()));
        }
        Ok(mesh)
    }

    /// Reads the file again; says whether it can be used.
    pub(super) fn update(&mut self, reader: &mut Reader) -> Result<bool, RootError> {
        let Some(path) = &self.path else { return Ok(true) };
        let found = files::read(std::slice::from_ref(path), reader);
        let Some((file, fingerprint)) = found.files.first() else {
            let why =
                found.diagnostics.first().map_or("it is not a file", |finding| &finding.message);
            return Err(self.unreadable(why));
        };
        if self.read == Some(*fingerprint) {
            return Ok(true);
        }
        let (config, diagnostics) = parse_mesh_config(file);
        self.read = Some(*fingerprint);
        self.diagnostics = diagnostics;
        let usable = config.is_some();
        if let Some(config) = config {
            self.settings = (self.settle)(&config);
            self.config = config;
        }
        Ok(usable)
    }

    /// Digest of the file as it was read last.
    pub(super) fn fingerprint(&self) -> Option<&Fingerprint> {
        self.read.as_ref()
    }

    fn unreadable(&self, why: impl fmt::Display) -> RootError {
        RootError {
            path: self.path.clone().unwrap_or_default(),
            cause: io::Error::new(io::ErrorKind::InvalidData, why.to_string()),
            flag: "--mesh-config",
        }
    }
}
