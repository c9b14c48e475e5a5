//! Asks a source for as long as the program runs.
//!
//! **Invariant:** a source that fails is asked again within [`limit::IDENTITY_RETRY_TIME`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::{Identity, IdentitySource, created, secrets, workload_api};
use crate::base::limit;
use crate::grpc::client::ConnectError;

/// First wait after a failure; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Why a source gives nothing at the moment.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it answers {:?}: {}", .0.code(), .0.message())]
    Refused(tonic::Status),
    #[error("what it sent cannot be used: {0}")]
    Unusable(String),
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it ended the stream")]
    Ended,
    #[error("\"{path}\": {source}")]
    File { path: String, source: std::io::Error },
}

impl From<tonic::Status> for SourceError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(status)
    }
}

/// Takes what a source sends.
pub(super) type Deliver<'a> = &'a mut (dyn FnMut(Identity) + Send);

/// Gives every new identity of `source` to `deliver`. A folder is not followed: it is watched with the
/// configuration.
pub async fn follow(source: IdentitySource, mut deliver: impl FnMut(Identity) + Send) {
    let mut wait = FIRST_WAIT;
    let mut failure = String::new();
    loop {
        let begun = Instant::now();
        let mut deliver = |identity: Identity| {
            wait = FIRST_WAIT;
            failure.clear();
            deliver(identity);
        };
        let error = match &source {
            IdentitySource::Folder(_) => return,
            IdentitySource::WorkloadApi(path) => workload_api::run(path, &mut deliver).await,
            IdentitySource::Sds(path) => secrets::run(path, &mut deliver).await,
            IdentitySource::CertificateService(service) => {
                created::run(service, &mut deliver).await
            }
        };
        let said = error.to_string();
        if said != failure {
            tracing::warn!(%source, error = said, "the mesh identity cannot be had; it is asked for again");
            failure = said;
        }
        sleep(jittered(wait).saturating_sub(begun.elapsed())).await;
        wait = (wait * 2).min(limit::IDENTITY_RETRY_TIME);
    }
}

/// Between half of a wait and all of it.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Waits for something that should be there soon.
pub(super) async fn soon<T, E: Into<SourceError>>(
    what: impl Future<Output = Result<T, E>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(limit::IDENTITY_CALL_TIME, what).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(SourceError::TimedOut),
    }
}
