//! The SPIFFE Workload API on a Unix socket: X.509-SVIDs and bundles.

use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;

use super::holder::Holder;
use super::state::Ca;
use crate::ca::Caller;
use crate::grpc::server::Answering;
use crate::grpc::workload::{SECURITY_HEADER, X509BundlesResponse, X509Svid, X509SvidResponse};

/// Refuses calls without the metadata that says they are meant (SPIFFE Workload API, section 6.2).
pub(super) fn meant(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(SECURITY_HEADER).map(http::HeaderValue::as_bytes) {
        Some(b"true") => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

/// A caller's certificates, renewed in time.
pub(super) struct SvidStream {
    holder: Holder,
    begun: bool,
}

impl SvidStream {
    pub(super) fn new(ca: Arc<Ca>, caller: Caller) -> Self {
        Self { holder: Holder::new(ca, caller), begun: false }
    }

    fn answer(&mut self) -> Result<X509SvidResponse, Status> {
        let standing = self.holder.standing();
        let svid = self.holder.issue(&standing)?;
        let svid = X509Svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: svid.chain.iter().flat_map(|der| der.iter().copied()).collect(),
            x509_svid_key: svid.key.der().expose().clone(),
            bundle: bundle(&standing.authority),
        };
        Ok(X509SvidResponse { svids: vec![svid], crl: standing.lists.clone() })
    }
}

impl Answering for SvidStream {
    type Answer = X509SvidResponse;

    async fn next(&mut self) -> Option<Result<X509SvidResponse, Status>> {
        if self.begun {
            self.holder.due().await;
        }
        self.begun = true;
        Some(self.answer())
    }
}

/// The roots, for who verifies others.
pub(super) struct BundleStream {
    holder: Holder,
    trust_domain: String,
    begun: bool,
}

impl BundleStream {
    pub(super) fn new(ca: Arc<Ca>, caller: Caller) -> Self {
        let trust_domain = ca.settings.trust_domain.clone();
        Self { holder: Holder::new(ca, caller), trust_domain, begun: false }
    }

    fn answer(&mut self) -> Result<X509BundlesResponse, Status> {
        let standing = self.holder.standing();
        self.holder.identity(&standing)?;
        let name = format!("spiffe://{}", self.trust_domain);
        let bundles = [(name, bundle(&standing.authority))].into();
        Ok(X509BundlesResponse { crl: standing.lists.clone(), bundles })
    }
}

impl Answering for BundleStream {
    type Answer = X509BundlesResponse;

    async fn next(&mut self) -> Option<Result<X509BundlesResponse, Status>> {
        if self.begun {
            self.holder.due().await;
        }
        self.begun = true;
        Some(self.answer())
    }
}

fn bundle(authority: &crate::ca::Authority) -> Vec<u8> {
    authority.roots().iter().flat_map(|der| der.iter().copied()).collect()
}
