//! `SpiffeWorkloadAPI` (SPIFFE Workload API, sections 5 and 6: the X.509-SVID profile).

use std::collections::HashMap;
use std::fmt;

use prost::Message;

/// Path of the method that streams a caller's certificates.
pub const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Path of the method that streams roots.
pub const FETCH_X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";
/// Metadata that every call must have (section 6.2), so that a forwarded web request is none.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// `X509SVIDRequest` and `X509BundlesRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Empty {}

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct X509SvidResponse {
    /// The caller's certificates, the preferred first.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct X509Svid {
    /// Whose.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// DER, leaf first, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// PKCS#8 DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// Roots of its trust domain, DER, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

/// `X509BundlesResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct X509BundlesResponse {
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    /// Roots by trust domain (`spiffe://DOMAIN`), DER, one after the other.
    #[prost(map = "string, bytes", tag = "2")]
    pub bundles: HashMap<String, Vec<u8>>,
}
