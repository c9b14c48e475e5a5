//! The holder of a socket's other end: its identity, and certificates for it one after the other.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::state::{Ca, Standing};
use crate::base::limit;
use crate::base::secret::Secret;
use crate::ca::{Caller, Issued, Template, WorkloadId, renew_after};

/// A certificate with everything that goes with it.
pub(super) struct Svid {
    pub(super) id: WorkloadId,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Key,
}

/// A private key, made here for one certificate.
pub(super) struct Key(KeyPair);

impl Key {
    pub(super) fn pem(&self) -> Secret<String> {
        Secret::new(self.0.serialize_pem())
    }

    /// PKCS#8.
    pub(super) fn der(&self) -> Secret<Vec<u8>> {
        Secret::new(self.0.serialize_der())
    }
}

/// Someone who gets certificates, and new ones in time.
pub(super) struct Holder {
    ca: Arc<Ca>,
    caller: Caller,
    standing: watch::Receiver<Arc<Standing>>,
    renewal: Option<Instant>,
}

impl Holder {
    /// The process with this user at the other end of a socket, or the CA's own server.
    pub(super) fn new(ca: Arc<Ca>, caller: Caller) -> Self {
        let standing = ca.standing();
        Self { ca, caller, standing, renewal: None }
    }

    /// What is in force; later changes are due.
    pub(super) fn standing(&mut self) -> Arc<Standing> {
        self.standing.borrow_and_update().clone()
    }

    /// Who it is, as the list of workloads says now.
    pub(super) fn identity(&self, standing: &Standing) -> Result<WorkloadId, Status> {
        let id = match self.caller {
            Caller::User(uid) => standing.workloads.user(uid),
            _ => Some(&self.ca.settings.own),
        };
        id.cloned().ok_or_else(|| {
            tracing::warn!(caller = %self.caller, "a caller without an identity was refused");
            Status::permission_denied("no identity issued")
        })
    }

    /// Issues a certificate for a key made for it; after a failure it is due again soon.
    pub(super) fn issue(&mut self, standing: &Standing) -> Result<Svid, Status> {
        self.renewal = Some(Instant::now() + limit::CA_SCAN_TIME);
        let id = self.identity(standing)?;
        let key = KeyPair::generate().map_err(|_| Status::internal("no key can be made"))?;
        let names = match self.caller {
            Caller::Own => self.ca.settings.names.clone(),
            _ => Vec::<SanType>::new(),
        };
        let template = Template { id: &id, names, life: self.ca.settings.lifetime };
        let authority = &standing.authority;
        let issued = self.ca.issue(authority, &key, template, self.caller)?;
        self.renewal = Some(renewal(&issued));
        let chain = authority.chain_of(&issued.certificate).cloned().collect();
        Ok(Svid { id, chain, key: Key(key) })
    }

    /// Waits until what was given is to be replaced. Cancelling it loses nothing.
    pub(super) async fn due(&mut self) {
        let renewal = self.renewal;
        let renewal = async move {
            match renewal {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = renewal => {}
            changed = self.standing.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn renewal(issued: &Issued) -> Instant {
    let left = issued.not_after.saturating_sub(OffsetDateTime::now_utc().unix_timestamp());
    let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
    Instant::now() + renew_after(left, fastrand::f64())
}
