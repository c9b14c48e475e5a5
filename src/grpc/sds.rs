//! `envoy.service.secret.v3.SecretDiscoveryService` and the secrets it carries (envoy/api:
//! service/secret/v3/sds.proto, service/discovery/v3/discovery.proto,
//! extensions/transport_sockets/tls/v3).

use prost::{Message, Oneof};

use crate::base::secret::Secret as Hidden;

/// Path of the streaming method.
pub const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
/// Type of every resource.
pub const SECRET_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Name of a workload's own certificate.
pub const DEFAULT: &str = "default";
/// Name of the mesh's roots.
pub const ROOT_CA: &str = "ROOTCA";

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryRequest {
    /// Version last accepted.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Who asks.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// Names asked for.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// Type asked for.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The answer this one accepts or refuses.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Why it refuses.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<ErrorDetail>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// Name of the caller, as it likes.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorDetail {
    /// In words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryResponse {
    /// Version of these resources.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// Their type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Names this answer.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Type of the value.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `Secret`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Secret {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it holds.
    #[prost(oneof = "Content", tags = "2, 4")]
    pub content: Option<Content>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a [`Secret`] holds.
#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
pub enum Content {
    /// `tls_certificate`.
    #[prost(message, tag = "2")]
    Certificate(TlsCertificate),
    /// `validation_context`.
    #[prost(message, tag = "4")]
    Validation(ValidationContext),
}

/// `TlsCertificate`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct TlsCertificate {
    /// PEM, leaf first.
    #[prost(message, optional, tag = "1")]
    pub certificate_chain: Option<DataSource>,
    /// PEM.
    #[prost(message, optional, tag = "2")]
    pub private_key: Option<DataSource>,
}

/// `CertificateValidationContext`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct ValidationContext {
    /// PEM.
    #[prost(message, optional, tag = "1")]
    pub trusted_ca: Option<DataSource>,
    /// Revocation lists, PEM.
    #[prost(message, optional, tag = "7")]
    pub crl: Option<DataSource>,
    /// Whether only a leaf's issuer must have a list; without it, every issuer of a chain must.
    #[prost(bool, tag = "14")]
    pub only_verify_leaf_cert_crl: bool,
}

/// `envoy.config.core.v3.DataSource`, inline kinds only: a file is the sender's, not ours.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct DataSource {
    /// The data.
    #[prost(oneof = "Inline", tags = "2, 3")]
    pub inline: Option<Inline>,
}

/// What a [`DataSource`] holds.
#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
pub enum Inline {
    /// `inline_bytes`.
    #[prost(bytes, tag = "2")]
    Bytes(Vec<u8>),
    /// `inline_string`.
    #[prost(string, tag = "3")]
    Text(String),
}

impl DataSource {
    /// Data as bytes.
    pub fn bytes(data: impl Into<Vec<u8>>) -> Option<Self> {
        Some(Self { inline: Some(Inline::Bytes(data.into())) })
    }

    fn into_bytes(self) -> Option<Vec<u8>> {
        match self.inline? {
            Inline::Bytes(bytes) => Some(bytes),
            Inline::Text(text) => Some(text.into_bytes()),
        }
    }
}

impl Secret {
    /// A workload's certificate with its key, both PEM.
    pub fn certificate(name: &str, chain: &str, key: &Hidden<String>) -> Self {
        let content = TlsCertificate {
            certificate_chain: DataSource::bytes(chain),
            private_key: DataSource::bytes(key.expose().as_str()),
        };
        Self { name: name.to_owned(), content: Some(Content::Certificate(content)) }
    }

    /// Roots, and what their authorities revoked, PEM; an empty text is no list.
    pub fn validation(name: &str, roots: &str, lists: &str) -> Self {
        let listed = !lists.is_empty();
        let content = ValidationContext {
            trusted_ca: DataSource::bytes(roots),
            crl: if listed { DataSource::bytes(lists) } else { None },
            only_verify_leaf_cert_crl: listed,
        };
        Self { name: name.to_owned(), content: Some(Content::Validation(content)) }
    }

    /// Chain and key of a certificate; nothing when they are not inline.
    pub fn into_certificate(self) -> Option<(Vec<u8>, Hidden<Vec<u8>>)> {
        let Some(Content::Certificate(content)) = self.content else { return None };
        let chain = content.certificate_chain?.into_bytes()?;
        Some((chain, Hidden::new(content.private_key?.into_bytes()?)))
    }

    /// Roots and revocation lists of a validation context; nothing when they are not inline.
    pub fn into_roots(self) -> Option<(Vec<u8>, Vec<u8>)> {
        let Some(Content::Validation(content)) = self.content else { return None };
        let lists = match content.crl {
            Some(lists) => lists.into_bytes()?,
            None => Vec::new(),
        };
        Some((content.trusted_ca?.into_bytes()?, lists))
    }

    /// The resource of an answer.
    pub fn to_resource(&self) -> Any {
        Any { type_url: SECRET_TYPE.to_owned(), value: self.encode_to_vec() }
    }
}

macro_rules! hide {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}

hide!(Content, TlsCertificate, ValidationContext, DataSource, Inline);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_the_wire_and_are_not_printed() {
        let secret = Secret::certificate(DEFAULT, "chain", &Hidden::new("hunter2".to_owned()));
        let read = Secret::decode(&*secret.to_resource().value).unwrap();
        assert!(!format!("{read:?} {:?}", read.content).contains("hunter2"));
        let (chain, key) = read.into_certificate().unwrap();
        assert_eq!((chain.as_slice(), key.expose().as_slice()), (&b"chain"[..], &b"hunter2"[..]));
        let roots = Secret::validation(ROOT_CA, "roots", "lists");
        assert_eq!(roots.clone().into_certificate(), None);
        let (roots, lists) = roots.into_roots().unwrap();
        assert_eq!((roots.as_slice(), lists.as_slice()), (&b"roots"[..], &b"lists"[..]));
        let without = Secret::validation(ROOT_CA, "roots", "");
        assert!(without.into_roots().unwrap().1.is_empty());
    }

    #[test]
    fn files_of_the_sender_are_not_opened() {
        // certificate_chain { filename: "/etc/passwd" }, private_key { filename: "/etc/passwd" }
        let file = [b"\x0a\x0b/etc/passwd".as_slice()].concat();
        let field = |tag: u8| [&[tag, u8::try_from(file.len()).unwrap()], file.as_slice()].concat();
        let content = [field(0x0a), field(0x12)].concat();
        let secret = [&[0x12, u8::try_from(content.len()).unwrap()], content.as_slice()].concat();
        assert_eq!(Secret::decode(&*secret).unwrap().into_certificate(), None);
    }
}
