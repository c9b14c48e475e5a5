//! What TLS told of the client of a connection, and what backends are told of it.

use std::cell::OnceCell;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;

use crate::auth::authz::Peer;
use crate::base::header::{CLIENT_CERT, CLIENT_CERT_CHAIN};
use crate::base::pem;
use crate::decide::connection::peer;
use crate::tls::identity::{PeerIdentity, byte_sequences};

/// What TLS told of the client.
#[derive(Debug, Default)]
pub struct Client {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// What its certificate says.
    pub identity: Option<Box<PeerIdentity>>,
    /// The same as policies write it.
    pub peer: Option<Box<Peer>>,
    /// Its certificate, and its intermediates.
    pub chain: Rc<[CertificateDer<'static>]>,
    /// The version of TLS.
    version: Option<ProtocolVersion>,
    /// URI names of the certificate that it was shown.
    own_uris: Box<[String]>,
    /// `x-forwarded-client-cert` element of its certificate, once a request needs it.
    xfcc: OnceCell<Option<HeaderValue>>,
    /// What `Client-Cert` and `Client-Cert-Chain` say of it, once a request needs them.
    told: OnceCell<Told>,
}

/// Values of `Client-Cert` and `Client-Cert-Chain`.
type Told = Option<Box<(HeaderValue, Option<HeaderValue>)>>;

impl Client {
    /// A client without TLS.
    pub fn plain() -> Self {
        Self::default()
    }

    /// The client of a finished handshake with a certificate that has these URI names.
    pub fn of<S>(stream: &TlsStream<S>, own_uris: &[String]) -> Self {
        let (_, session) = stream.get_ref();
        let chain: Rc<[_]> = session.peer_certificates().unwrap_or_default().into();
        let leaf = chain.first();
        let identity = leaf.and_then(|leaf| PeerIdentity::from_der(leaf).ok()).map(Box::new);
        let peer = identity.as_deref().map(peer).map(Box::new);
        let own_uris = leaf.map(|_| own_uris.into()).unwrap_or_default();
        let version = session.protocol_version();
        Self { tls: true, version, identity, peer, chain, own_uris, ..Self::default() }
    }

    /// The version of TLS as Envoy writes it; nothing without TLS.
    pub fn version(&self) -> Option<&'static str> {
        match self.version? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// Its certificate as percent-encoded PEM.
    pub fn pem(&self) -> Option<String> {
        const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'+').add(b'/').add(b'=');
        let pem = pem::encode(pem::CERTIFICATE, self.chain.first()?);
        Some(utf8_percent_encode(&pem, ESCAPED).to_string())
    }

    /// `x-forwarded-client-cert` element of its certificate.
    pub fn xfcc(&self) -> Option<&HeaderValue> {
        let xfcc = self.xfcc.get_or_init(|| {
            let (leaf, identity) = self.chain.first().zip(self.identity.as_deref())?;
            HeaderValue::try_from(identity.xfcc(&self.own_uris, leaf)).ok()
        });
        xfcc.as_ref()
    }

    /// Tells a backend of the client's certificate (RFC 9440).
    pub fn tell(&self, headers: &mut HeaderMap) {
        let told = self.told.get_or_init(|| {
            let value = |certificates: &[CertificateDer<'_>]| {
                HeaderValue::try_from(byte_sequences(certificates)).ok()
            };
            let (leaf, rest) = self.chain.split_at_checked(1)?;
            Some(Box::new((value(leaf)?, (!rest.is_empty()).then(|| value(rest)).flatten())))
        });
        let Some((leaf, rest)) = told.as_deref() else { return };
        headers.insert(CLIENT_CERT, leaf.clone());
        if let Some(rest) = rest {
            headers.insert(CLIENT_CERT_CHAIN, rest.clone());
        }
    }
}
