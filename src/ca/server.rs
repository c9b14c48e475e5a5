//! The CA at work: its folder, and the three interfaces it issues through.
//!
//! [`Ca`] holds what is in force, [`keep`] follows its folder, [`listen`] accepts and answers.

mod certificates;
mod files;
mod folder;
mod holder;
mod ledger;
pub mod listen;
mod secrets;
mod shares;
mod signers;
mod state;
mod workload_api;

pub use folder::{Folder, FolderError};
pub use state::{Ca, CaSettings, Keeper, keep};
