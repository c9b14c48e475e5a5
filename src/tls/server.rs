//! Termination: certificates and client rules of one server block as rustls configurations.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ProtocolVersion, ServerConfig, SupportedProtocolVersion};

use super::crypto::{CryptoProfile, SuiteOrder};
use super::material::Material;
use super::trust::{ClientVerifier, PeerRefused, Presence, TrustRules};
use crate::base::hash::{Fingerprint, Hasher};

/// What a server asks of its clients (`Gateway.spec.servers[].tls.mode`).
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// SIMPLE: no certificate is asked for.
    #[default]
    None,
    /// MUTUAL, ISTIO_MUTUAL: a certificate that meets the rules.
    Required(TrustRules),
    /// OPTIONAL_MUTUAL: none, or one that meets the rules.
    Optional(TrustRules),
}

impl ClientAuth {
    /// Equal for servers that ask the same of their clients.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = Hasher::default();
        match self {
            Self::None => {
                hasher.part(b"none");
            }
            Self::Required(rules) => {
                hasher.part(b"required");
                rules.add_to(&mut hasher);
            }
            Self::Optional(rules) => {
                hasher.part(b"optional");
                rules.add_to(&mut hasher);
            }
        }
        hasher.finish()
    }
}

/// What a server's TLS is made of.
#[derive(Clone, Debug)]
pub struct ServerTlsSpec {
    /// Certificates, the preferred first; the client's signature schemes decide.
    pub certificates: Vec<Arc<Material>>,
    /// Versions, suites and groups.
    pub crypto: CryptoProfile,
    /// Application protocols in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// What clients must show.
    pub client_auth: ClientAuth,
}

/// A spec that cannot serve.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// No certificate.
    #[error("there is no certificate to serve")]
    NoCertificate,
    /// Client certificates are asked for, but nothing says which to trust.
    #[error("client certificates are asked for, but there is no CA to verify them; add ca.crt")]
    NoTrustAnchors,
    /// The versions and suites do not go together.
    #[error("TLS parameters cannot be used together")]
    Parameters(#[source] rustls::Error),
}

/// TLS of one server: its sessions are its own, so that nothing resumed here was agreed elsewhere.
pub struct ServerTls {
    with_alpn: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
    versions: &'static [&'static SupportedProtocolVersion],
    clients: Option<Arc<ClientVerifier>>,
}

impl ServerTls {
    /// Builds the configurations.
    pub fn new(spec: &ServerTlsSpec) -> Result<Self, ServerTlsError> {
        if spec.certificates.is_empty() {
            return Err(ServerTlsError::NoCertificate);
        }
        let builder = ServerConfig::builder_with_provider(spec.crypto.provider.clone())
            .with_protocol_versions(spec.crypto.versions)
            .map_err(ServerTlsError::Parameters)?;
        let algorithms = spec.crypto.provider.signature_verification_algorithms;
        let verifier = |rules: &TrustRules, presence| {
            ClientVerifier::new(rules.clone(), presence, algorithms)
                .map(Arc::new)
                .ok_or(ServerTlsError::NoTrustAnchors)
        };
        let clients = match &spec.client_auth {
            ClientAuth::None => None,
            ClientAuth::Required(rules) => Some(verifier(rules, Presence::Required)?),
            ClientAuth::Optional(rules) => Some(verifier(rules, Presence::Optional)?),
        };
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        };
        let keys = spec.certificates.iter().map(|material| material.certified_key().clone());
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(keys.collect())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::<Tickets>::default();
        config.send_tls13_tickets = 1;
        config.ignore_client_order = spec.crypto.order == SuiteOrder::Server;
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols.clone_from(&spec.alpn);
        let versions = spec.crypto.versions;
        Ok(Self { with_alpn: Arc::new(config), without_alpn, versions, clients })
    }

    /// The versions it speaks, as text.
    pub fn versions(&self) -> String {
        let names = self.versions.iter().map(|one| match one.version {
            ProtocolVersion::TLSv1_2 => "TLS 1.2",
            ProtocolVersion::TLSv1_3 => "TLS 1.3",
            _ => "TLS",
        });
        names.collect::<Vec<_>>().join(" and ")
    }

    /// Whether a connection to one could have been made to the other, as far as versions go.
    pub fn has_versions_of(&self, other: &Self) -> bool {
        let ids = |one: &Self| one.versions.iter().map(|version| version.version);
        ids(self).eq(ids(other))
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// What a handshake at `now` (Unix seconds) makes of a client's certificate chain, which is empty
    /// for a client without one.
    pub fn judge_client(
        &self,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<&'static str, String> {
        let Some(verifier) = &self.clients else { return Ok("not asked for") };
        match chain.split_first() {
            None if verifier.client_auth_mandatory() => Err(PeerRefused::Missing.to_string()),
            None => Ok("asked for and not shown"),
            Some((leaf, intermediates)) => {
                let since = Duration::from_secs(u64::try_from(now).unwrap_or_default());
                let now = UnixTime::since_unix_epoch(since);
                let judged = verifier.verify_client_cert(leaf, intermediates, now);
                judged.map(|_| "asked for and verified").map_err(|error| reason(&error))
            }
        }
    }

    /// The configuration for a client that offers these protocols. Without any in common the
    /// handshake goes on without a protocol, as with Envoy, rather than fail.
    pub fn config_for<'a>(
        &self,
        mut offered: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> &Arc<ServerConfig> {
        let known = &self.with_alpn.alpn_protocols;
        let common = offered
            .as_mut()
            .is_some_and(|offered| offered.any(|name| known.iter().any(|known| known == name)));
        if common { &self.with_alpn } else { &self.without_alpn }
    }
}

/// What is wrong with a certificate; the library prints reasons that it does not know as Rust values.
fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string(),
        error => error.to_string(),
    }
}

/// Keys for session tickets, made with the first ticket: most of many servers rarely meet a client,
/// and the keys are the largest part of one.
#[derive(Debug, Default)]
struct Tickets(OnceLock<Option<Arc<dyn ProducesTickets>>>);

impl Tickets {
    fn keys(&self) -> Option<&Arc<dyn ProducesTickets>> {
        self.0.get_or_init(|| Ticketer::new().ok()).as_ref()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.keys().map_or(0, |keys| keys.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.get()?.as_ref()?.decrypt(cipher)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Serves the first certificate whose key the client can verify.
#[derive(Debug)]
struct Certificates(Box<[Arc<CertifiedKey>]>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        self.0
            .iter()
            .find(|certified| certified.key.choose_scheme(schemes).is_some())
            .or_else(|| self.0.first())
            .cloned()
    }
}
