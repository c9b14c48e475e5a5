//! The configuration as `run` would load it, once, for commands that only look at it.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;

use crate::app;
use crate::app::settings::Inputs;
use crate::auth::jwt::{IssuerKeys, JwksSource, KeyState};
use crate::base::id::Generation;
use crate::reload::Loaded;

/// Loads with these keys for key sets that are fetched.
pub(super) fn load(
    inputs: &Inputs,
    keys: &dyn Fn(&JwksSource) -> Arc<IssuerKeys>,
) -> anyhow::Result<Loaded> {
    let loaded = app::loader(inputs)?.load(keys, Generation(1), app::unix_seconds())?;
    loaded.context("nothing was loaded")
}

/// No key set is fetched.
pub(super) fn no_keys(_: &JwksSource) -> Arc<IssuerKeys> {
    Arc::new(IssuerKeys::new(KeyState::NeverFetched))
}

/// Prints a report; a reader that goes away early is no failure.
pub(super) fn print(report: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", report.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
