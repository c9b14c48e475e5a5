//! Certificates and key sets.

use std::sync::{Arc, Mutex};

use super::series::{Count, lock};

/// Kind of a revocation list (`portcullis_crl_next_update_timestamp_seconds`).
pub const CRL: &str = "crl";

/// When a certificate ends (`portcullis_certificate_expiry_timestamp_seconds`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateExpiry {
    /// What it is for: `server`, `client_ca`, `identity`, `upstream_ca` and so on; [`CRL`] for a
    /// revocation list, which ends when the next one is due.
    pub kind: &'static str,
    /// Credential name or file.
    pub name: Box<str>,
    /// Serial number, hexadecimal.
    pub serial: Box<str>,
    /// `notAfter`, in seconds since 1970.
    pub not_after_unix_seconds: i64,
}

/// State of one issuer's key set (`portcullis_jwks_*`). Hold it as long as the issuer is configured:
/// the series go with the last holder.
#[derive(Clone, Debug)]
pub struct JwksMetrics(pub(super) Arc<JwksSeries>);

#[derive(Debug, Default)]
pub(super) struct JwksSeries {
    pub(super) keys: Count,
    pub(super) last_success: Count,
    pub(super) failures: Count,
    pub(super) ready: Count,
    pub(super) next_fetch: Count,
    pub(super) last_error: Mutex<Option<&'static str>>,
}

impl JwksMetrics {
    /// A key set was fetched or read; call it from one task per issuer.
    pub fn fetched(&self, keys: usize, unix_seconds: u64) {
        self.0.keys.set(keys as u64);
        self.0.last_success.set(unix_seconds);
        self.0.ready.set(1);
        *lock(&self.0.last_error) = None;
    }

    /// A rule holds keys itself.
    pub fn written(&self, keys: usize) {
        self.0.keys.set(keys as u64);
        self.0.ready.set(1);
    }

    /// When the set is fetched next, in Unix seconds.
    pub fn next_fetch(&self, unix_seconds: u64) {
        self.0.next_fetch.set(unix_seconds);
    }

    /// A fetch failed, by the class of its error; keys held before stay in use. Call it from one task
    /// per issuer.
    pub fn failed(&self, class: &'static str) {
        self.0.failures.add(1);
        *lock(&self.0.last_error) = Some(class);
    }
}
