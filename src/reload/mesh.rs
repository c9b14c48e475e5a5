//! MeshConfig and MeshNetworks over time, and the settings that follow from them.

use std::path::PathBuf;

use super::RootError;
use super::followed::Followed;
use crate::base::hash::Hasher;
use crate::compile::settings::CompileSettings;
use crate::diag::Diagnostic;
use crate::resources::{MeshConfig, MeshNetworks, parse_mesh_config, parse_mesh_networks};
use crate::source::reader::Reader;

/// How settings follow from MeshConfig and from what the operator said, which wins.
pub type Settle = Box<dyn Fn(&MeshConfig) -> CompileSettings + Send>;

/// The files that say what holds for the whole mesh.
#[derive(Clone, Debug, Default)]
pub struct MeshFiles {
    /// Istio's MeshConfig (`--mesh-config`).
    pub config: Option<PathBuf>,
    /// Istio's MeshNetworks (`--mesh-networks`).
    pub networks: Option<PathBuf>,
}

/// The files, and what they led to.
pub(super) struct Mesh {
    pub(super) config: Followed<MeshConfig>,
    networks: Followed<MeshNetworks>,
    settle: Settle,
    /// What follows from them.
    pub(super) settings: CompileSettings,
}

impl Mesh {
    /// Reads the files for the first time; those that are named must be usable.
    pub(super) fn new(
        files: MeshFiles,
        settle: Settle,
        reader: &mut Reader,
    ) -> Result<Self, RootError> {
        let config = ("--mesh-config", parse_mesh_config as _);
        let config = Followed::new(files.config, config, reader)?;
        let networks = ("--mesh-networks", parse_mesh_networks as _);
        let networks = Followed::new(files.networks, networks, reader)?;
        let settings = CompileSettings::default();
        let mut mesh = Self { config, networks, settle, settings };
        mesh.settle();
        Ok(mesh)
    }

    /// Reads the files again.
    pub(super) fn update(&mut self, reader: &mut Reader) -> Result<(), RootError> {
        let config = self.config.update(reader)?;
        let networks = self.networks.update(reader)?;
        if config || networks {
            self.settle();
        }
        Ok(())
    }

    fn settle(&mut self) {
        let networks = self.networks.value.clone();
        self.settings = CompileSettings { networks, ..(self.settle)(&self.config.value) };
    }

    /// Findings of the files as they are now.
    pub(super) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.config.diagnostics.iter().chain(&self.networks.diagnostics)
    }

    /// Adds the files as they were read last.
    pub(super) fn digest(&self, hasher: &mut Hasher) {
        for file in [self.config.fingerprint(), self.networks.fingerprint()].into_iter().flatten() {
            hasher.part(file.as_bytes());
        }
    }
}
