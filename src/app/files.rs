//! How many files the process may open, and what that leaves for connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::base::limit;

/// Raises the limit to what the system allows.
///
/// # Errors
///
/// With fewer files than a start with `workers` takes, nothing has begun yet: without them it would
/// end midway, wherever the first one is missing.
pub(super) fn claim(workers: usize) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let all = Rlimit { current: maximum, maximum };
        if let Err(error) = setrlimit(Resource::Nofile, all) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
    let (files, least) = (allowed(), least(workers));
    anyhow::ensure!(
        files >= least,
        "{files} open files are allowed and a start takes {least}; raise the limit (ulimit -n)",
    );
    Ok(())
}

/// Connections that each of `workers` may hold: half of the files, as each connection has one here and
/// one to its backend.
pub(super) fn connections_per_worker(workers: usize) -> usize {
    (limit::CONNECTIONS.min(allowed() / 2) / workers.max(1)).max(1)
}

fn allowed() -> usize {
    let files = getrlimit(Resource::Nofile).current;
    files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

fn least(workers: usize) -> usize {
    limit::FILES_OF_A_START + workers.saturating_mul(limit::FILES_OF_A_WORKER)
}
