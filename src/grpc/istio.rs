//! `istio.v1.auth.IstioCertificateService` (istio/api: security/v1alpha1/ca.proto).

use std::collections::HashMap;

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
    /// What else is asked for, by name.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

impl CertificateRequest {
    /// Text in the metadata; empty when there is none.
    pub fn asked(&self, name: &str) -> &str {
        let value = self.metadata.as_ref().and_then(|all| all.fields.get(name));
        value.map_or("", |value| &value.string_value)
    }
}

/// Whose certificate is asked for in place of one's own (`CertificateRequest.metadata`).
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub struct Struct {
    /// Values by name.
    #[prost(map = "string, message", tag = "1")]
    pub fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`, as far as it is text.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// The text.
    #[prost(string, tag = "3")]
    pub string_value: String,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateResponse {
    /// PEM: the leaf, its intermediates, and the roots in the last element.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
