//! Why a credential cannot be used.

use crate::compile::files::ReadError;
use crate::tls::client::ClientTlsError;
use crate::tls::crypto::NoVersion;
use crate::tls::material::MaterialError;
use crate::tls::revocation::CrlError;
use crate::tls::roots::RootsError;
use crate::tls::server::ServerTlsError;
use crate::tls::trust::InvalidPin;

/// Why a credential cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    /// The name may not be used here.
    #[error(
        "credential \"{0}\" is not one this gateway can read; write the name of a Secret in its namespace"
    )]
    Foreign(String),
    /// Texts that are no pins, each told.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Pins(Vec<InvalidPin>),
    /// No version of TLS is between the lowest and the highest.
    #[error(transparent)]
    Versions(#[from] NoVersion),
    /// What was read makes no server.
    #[error(transparent)]
    Server(#[from] ServerTlsError),
    /// What was read makes no client.
    #[error(transparent)]
    Client(#[from] ClientTlsError),
    /// Neither Secret nor folder.
    #[error(
        "credential \"{name}\" does not exist; expected a Secret, or one of the folders {places}"
    )]
    Missing {
        /// The name.
        name: String,
        /// Where it was looked for.
        places: String,
    },
    /// The operating system has no trust anchors.
    #[error(
        "the operating system has no CA certificates; name a CA in caCertificates or credentialName"
    )]
    NoSystemRoots,
    /// Nothing says whose certificates are taken.
    #[error(
        "client certificates need a CA to be checked against; name its file in caCertificates, or its Secret in caCertCredentialName"
    )]
    NoClientCa,
    /// A part is missing or empty.
    #[error("credential \"{name}\" has no {key}")]
    Incomplete {
        /// The name, or the file's path.
        name: String,
        /// What is missing.
        key: &'static str,
    },
    /// A file cannot be read.
    #[error("\"{path}\" cannot be used")]
    File {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The mesh identity is sent by a source, and the first has not come.
    #[error("the mesh identity has not come from \"{0}\" yet")]
    IdentityAwaited(String),
    /// The mesh identity is over.
    #[error("the mesh identity in \"{0}\" has expired")]
    IdentityExpired(String),
    /// Chain and key do not serve.
    #[error("{place}: {why}")]
    Material {
        /// Where the one stands that is to be mended.
        place: String,
        /// Why.
        why: MaterialError,
    },
    /// The CA bundle does not serve.
    #[error("{place}: {why}")]
    Roots {
        /// Where it stands.
        place: String,
        /// Why.
        why: RootsError,
    },
    /// The revocation list does not serve.
    #[error("{place}: {why}")]
    Crl {
        /// Where it stands.
        place: String,
        /// Why.
        why: CrlError,
    },
}

impl CredentialError {
    /// The error and its causes on one line.
    pub fn explain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}
