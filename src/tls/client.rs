//! Origination: identity, anchors and names of one cluster as a rustls configuration.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::certificate::{CertFacts, dns_name_matches};
use super::crypto::CryptoProfile;
use super::material::Material;
use super::revocation::Crls;
use super::roots::{Chain, PeerRole, Roots, Trust, verify_chain};
use super::trust::{AllowedNames, PeerRefused};

/// Sessions kept for resumption, per cluster.
const SESSIONS: usize = 64;

/// What a cluster's TLS is made of (`DestinationRule.spec.trafficPolicy.tls`).
#[derive(Clone, Debug)]
pub struct ClientTlsSpec {
    /// The certificate presented; none for SIMPLE.
    pub identity: Option<Arc<Material>>,
    /// Versions, suites and groups.
    pub crypto: CryptoProfile,
    /// Application protocols offered, in order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether the server name is sent.
    pub send_name: bool,
    /// How the server's certificate is judged.
    pub verify: Verify,
}

/// How a server's certificate is judged.
#[derive(Clone, Debug)]
pub enum Verify {
    /// `insecureSkipVerify`: any certificate will do; its key is still proven.
    Skip,
    /// By chain, and by names.
    Chain {
        /// Trust anchors.
        roots: Roots,
        /// Revocation lists.
        crls: Crls,
        /// Names of which the certificate must have one; empty allows all.
        names: AllowedNames,
        /// Whether it must also stand for the server name.
        host: HostCheck,
    },
}

/// Whether a certificate must stand for the name connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCheck {
    /// It must.
    Required,
    /// Its names are judged by the list alone.
    Off,
}

/// A spec that cannot connect.
#[derive(Clone, Debug, thiserror::Error)]
#[error("TLS parameters cannot be used together")]
pub struct ClientTlsError(#[source] rustls::Error);

/// Builds a configuration; its sessions are its own.
pub fn client_config(spec: &ClientTlsSpec) -> Result<Arc<ClientConfig>, ClientTlsError> {
    let algorithms = spec.crypto.provider.signature_verification_algorithms;
    let verifier = Arc::new(ServerVerifier { verify: spec.verify.clone(), algorithms });
    let builder = ClientConfig::builder_with_provider(spec.crypto.provider.clone())
        .with_protocol_versions(spec.crypto.versions)
        .map_err(ClientTlsError)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &spec.identity {
        None => builder.with_no_client_auth(),
        Some(material) => {
            builder.with_client_cert_resolver(Arc::new(Identity(material.certified_key().clone())))
        }
    };
    config.alpn_protocols.clone_from(&spec.alpn);
    config.enable_sni = spec.send_name;
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
    Ok(Arc::new(config))
}

/// Presents one certificate, whatever CAs the server hints at.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct ServerVerifier {
    verify: Verify,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("verify", &self.verify).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Verify::Chain { roots, crls, names, host } = &self.verify else {
            return Ok(ServerCertVerified::assertion());
        };
        let trust = Trust { roots: roots.clone(), crls: crls.clone(), algorithms: self.algorithms };
        let chain = Chain { leaf: end_entity, intermediates };
        verify_chain(chain, now, PeerRole::Server, &trust)?;
        let facts = CertFacts::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if !names.admits(&facts.names) {
            return Err(PeerRefused::NameNotAllowed.into());
        }
        let stands_for_host = match server_name {
            ServerName::DnsName(name) => {
                facts.names.dns.iter().any(|own| dns_name_matches(own, name.as_ref()))
            }
            ServerName::IpAddress(ip) => facts.names.ips.contains(&std::net::IpAddr::from(*ip)),
            _ => false,
        };
        if *host == HostCheck::Required && !stands_for_host {
            return Err(PeerRefused::WrongHost.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
