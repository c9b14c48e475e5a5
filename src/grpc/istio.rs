//! `istio.v1.auth.IstioCertificateService` (istio/api: security/v1alpha1/ca.proto).

use prost::Message;

/// Path of the one method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateRequest {
    /// Signing request, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Wanted life in seconds; 0 or less is the CA's default.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateResponse {
    /// PEM: the leaf, its intermediates, and the roots in the last element.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
