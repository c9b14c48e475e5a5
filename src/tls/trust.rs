//! Rules for a peer's certificate beyond its chain: names, pins, trust domains; and the verifier
//! that applies them to clients.
//!
//! **Invariant:** whatever is skipped by configuration, the peer's handshake signature is verified.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};

use crate::base::hash::Hasher;

use super::certificate::{CertFacts, SubjectNames, dns_name_matches};
use super::identity::SpiffeId;
use super::revocation::Crls;
use super::roots::{Chain, PeerRole, Roots, Trust, verify_chain};

/// A SHA-256 digest that a certificate or its key must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// Text that is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPin {
    /// Not base64 of 32 bytes.
    #[error("\"{0}\" is not a base64 SHA-256 of a public key")]
    Spki(String),
    /// Not hex of 32 bytes.
    #[error("\"{0}\" is not a hex SHA-256 of a certificate")]
    Certificate(String),
}

impl Pin {
    /// Reads an entry of `verifyCertificateSpki`.
    pub fn spki(text: &str) -> Result<Self, InvalidPin> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| InvalidPin::Spki(text.to_owned()))
    }

    /// Reads an entry of `verifyCertificateHash`, with or without colons.
    pub fn certificate(text: &str) -> Result<Self, InvalidPin> {
        let invalid = || InvalidPin::Certificate(text.to_owned());
        let digits: Vec<u8> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .ok_or_else(invalid)?;
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(invalid()) };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        bytes.try_into().map(Self).map_err(|_| invalid())
    }
}

/// Why a peer with a good chain is still refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// None of its names is listed.
    #[error("no name of the certificate is in the list of subject alternative names")]
    NameNotAllowed,
    /// Neither key nor certificate has a listed digest.
    #[error("the certificate has none of the pinned digests")]
    NotPinned,
    /// It has no SPIFFE id of a trusted domain.
    #[error("the certificate has no SPIFFE id of a trusted domain")]
    ForeignTrustDomain,
    /// It has several URIs, so that nobody can say which of them it is for (X509-SVID section 2).
    #[error("the certificate has several URIs where a workload's has one")]
    SeveralUris,
    /// It does not stand for the host connected to.
    #[error("the certificate does not cover the host that was asked for")]
    WrongHost,
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// There is none, and one is required.
    #[error("there is no client certificate")]
    Missing,
}

impl From<PeerRefused> for rustls::Error {
    fn from(refused: PeerRefused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

/// Exact subject alternative names of which one must be present: URI, DNS, IP or mail, as text.
/// Empty allows all. A certificate's wildcard DNS name matches a listed DNS name, as in Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AllowedNames(Box<[Box<str>]>);

impl<S: AsRef<str>> FromIterator<S> for AllowedNames {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(|name| name.as_ref().into()).collect())
    }
}

impl AllowedNames {
    /// Whether every certificate is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of a certificate's names is listed.
    pub fn admits(&self, names: &SubjectNames) -> bool {
        self.is_empty() || self.0.iter().any(|allowed| has_name(names, allowed))
    }

    pub(super) fn add_to(&self, hasher: &mut Hasher) {
        hasher.part(&self.0.len().to_be_bytes());
        for name in &self.0 {
            hasher.part(name.as_bytes());
        }
    }
}

fn has_name(names: &SubjectNames, allowed: &str) -> bool {
    names.uris.iter().chain(&names.emails).any(|name| name == allowed)
        || names.dns.iter().any(|name| dns_name_matches(name, allowed))
        || allowed.parse::<IpAddr>().is_ok_and(|address| names.ips.contains(&address))
}

/// What is asked of a client's certificate (`Gateway.spec.servers[].tls`).
#[derive(Clone, Debug, Default)]
pub struct TrustRules {
    /// Trust anchors; may be missing only with `insecure_skip_verify`.
    pub roots: Option<Roots>,
    /// Revocation lists (`caCrl`).
    pub crls: Crls,
    /// `subjectAltNames`.
    pub names: AllowedNames,
    /// `verifyCertificateSpki`; one match in this list or the next suffices.
    pub spki_pins: Vec<Pin>,
    /// `verifyCertificateHash`.
    pub certificate_pins: Vec<Pin>,
    /// `insecureSkipVerify`: the chain is not judged. Names, pins and trust domains still are.
    pub insecure_skip_verify: bool,
    /// Trust domains of which the certificate must hold a SPIFFE id; empty asks for none.
    pub trust_domains: Vec<String>,
}

impl TrustRules {
    /// Applies everything but the chain check.
    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let pinned = !(self.spki_pins.is_empty() && self.certificate_pins.is_empty());
        if !pinned && self.names.is_empty() && self.trust_domains.is_empty() {
            return Ok(());
        }
        let facts = CertFacts::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if !self.names.admits(&facts.names) {
            return Err(PeerRefused::NameNotAllowed.into());
        }
        let key_is_pinned = self.spki_pins.iter().any(|pin| pin.0 == *facts.spki.as_bytes());
        let certificate_is_pinned =
            self.certificate_pins.iter().any(|pin| pin.0 == *facts.fingerprint.as_bytes());
        if pinned && !key_is_pinned && !certificate_is_pinned {
            return Err(PeerRefused::NotPinned.into());
        }
        if self.trust_domains.is_empty() { Ok(()) } else { Ok(self.judge_workload(&facts.names)?) }
    }

    fn judge_workload(&self, names: &SubjectNames) -> Result<(), PeerRefused> {
        let id = match names.uris.as_slice() {
            [_, _, ..] => return Err(PeerRefused::SeveralUris),
            uris => uris.first().and_then(|uri| SpiffeId::parse(uri).ok()),
        };
        let trusted = |id: &SpiffeId<'_>| self.trust_domains.iter().any(|d| d == id.trust_domain());
        id.filter(trusted).map(drop).ok_or(PeerRefused::ForeignTrustDomain)
    }

    pub(super) fn add_to(&self, hasher: &mut Hasher) {
        let roots = self.roots.as_ref().map(Roots::fingerprint);
        hasher.part(roots.as_ref().map_or(&[], |digest| digest.as_bytes().as_slice()));
        hasher.part(self.crls.fingerprint().as_bytes());
        self.names.add_to(hasher);
        for pins in [&self.spki_pins, &self.certificate_pins] {
            hasher.part(&pins.len().to_be_bytes());
            for pin in pins {
                hasher.part(&pin.0);
            }
        }
        hasher.part(&[u8::from(self.insecure_skip_verify)]);
        for domain in &self.trust_domains {
            hasher.part(domain.as_bytes());
        }
    }
}

/// Whether a client may connect without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
}

/// Judges client certificates.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    rules: TrustRules,
    trust: Trust,
    presence: Presence,
    hints: Vec<DistinguishedName>,
}

impl ClientVerifier {
    /// Nothing when there are no anchors and the chain is to be judged.
    pub(super) fn new(
        rules: TrustRules,
        presence: Presence,
        algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
    ) -> Option<Self> {
        let roots = match (&rules.roots, rules.insecure_skip_verify) {
            (Some(roots), _) if !roots.store().is_empty() => roots.clone(),
            (_, true) => Roots::from_store(Arc::new(rustls::RootCertStore::empty())),
            _ => return None,
        };
        // A client that looks at the hints would keep back a certificate of another CA.
        let hints = if rules.insecure_skip_verify { Vec::new() } else { roots.store().subjects() };
        let trust = Trust { roots, crls: rules.crls.clone(), algorithms };
        Some(Self { rules, trust, presence, hints })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.presence == Presence::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !self.rules.insecure_skip_verify {
            let chain = Chain { leaf: end_entity, intermediates };
            verify_chain(chain, now, PeerRole::Client, &self.trust)?;
        }
        self.rules.judge(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(allowed: &[&str], admitted: bool) {
        let names = SubjectNames {
            dns: vec!["*.example.com".into()],
            uris: vec!["spiffe://td/ns/a/sa/b".into()],
            ips: vec!["2001:db8::1".parse().unwrap()],
            emails: vec!["a@example.com".into()],
        };
        assert_eq!(AllowedNames::from_iter(allowed).admits(&names), admitted, "{allowed:?}");
    }

    #[test]
    fn any_listed_name_of_any_kind_suffices() {
        for name in ["x.example.com", "spiffe://td/ns/a/sa/b", "2001:DB8:0::1", "a@example.com"] {
            check(&["other", name], true);
        }
        check(&[], true);
    }

    #[test]
    fn names_are_exact() {
        for name in
            ["example.com", "x.y.example.com", "spiffe://td/ns/a/sa", "2001:db8::2", "", "*"]
        {
            check(&[name], false);
        }
    }

    fn check_workload(uris: &[&str], expected: Result<(), PeerRefused>) {
        let trust_domains = vec!["td".to_owned(), "old".to_owned()];
        let rules = TrustRules { trust_domains, ..TrustRules::default() };
        let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        let names = SubjectNames { uris, dns: vec!["td".into()], ..SubjectNames::default() };
        assert_eq!(rules.judge_workload(&names), expected, "{names:?}");
    }

    #[test]
    fn a_workload_has_one_uri_and_it_is_of_a_trusted_domain() {
        let foreign = Err(PeerRefused::ForeignTrustDomain);
        check_workload(&["spiffe://td/ns/a/sa/b"], Ok(()));
        check_workload(&["spiffe://old/x"], Ok(()));
        for uri in ["spiffe://other/ns/a/sa/b", "https://td/ns/a/sa/b", "spiffe://td/../a", ""] {
            check_workload(&[uri], foreign);
        }
        check_workload(&[], foreign);
        let several = Err(PeerRefused::SeveralUris);
        check_workload(&["spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/admin"], several);
        check_workload(&["https://x", "spiffe://td/ns/a/sa/b"], several);
    }

    #[test]
    fn pins_are_32_bytes() {
        let hex = "AA:bb".to_owned() + &"00".repeat(30);
        assert_eq!(Pin::certificate(&hex).unwrap().0[..3], [0xaa, 0xbb, 0]);
        for text in ["", "aa", "zz", "+f", &"0".repeat(63), &"0".repeat(66)] {
            assert!(Pin::certificate(text).is_err(), "{text}");
        }
        assert_eq!(Pin::spki(&STANDARD.encode([7; 32])).unwrap(), Pin([7; 32]));
        assert!(Pin::spki("AAAA").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in any::<String>()) {
            let _ = Pin::spki(&text);
            let _ = Pin::certificate(&text);
        }
    }
}
