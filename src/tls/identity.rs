//! Who a peer is, from its certificate: SPIFFE id, names, and the XFCC element that tells backends.
//!
//! **Invariant:** an XFCC element is one element of visible ASCII, whatever the certificate holds.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;

use crate::base::hash::Fingerprint;

use super::certificate::{CertFacts, InvalidCertificate};

/// A SPIFFE id, borrowed from its text: `spiffe://trust-domain/path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId<'a> {
    text: &'a str,
    trust_domain: &'a str,
    path: &'a str,
}

/// Text that is no SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a SPIFFE id: write spiffe://trust-domain/ns/namespace/sa/account")]
pub struct InvalidSpiffeId(pub String);

impl<'a> SpiffeId<'a> {
    /// Reads an id (SPIFFE-ID section 2): trust domain of lower-case letters, digits, `.`, `-` and
    /// `_`; path segments of letters, digits and the same, none empty, `.` or `..`.
    pub fn parse(text: &'a str) -> Result<Self, InvalidSpiffeId> {
        let invalid = || InvalidSpiffeId(text.to_owned());
        let rest = text.strip_prefix(SCHEME).ok_or_else(invalid)?;
        let (trust_domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, path),
            None => (rest, ""),
        };
        let domain_is_fine = !trust_domain.is_empty()
            && trust_domain.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9') || is_mark(b));
        let path_is_fine = rest.len() == trust_domain.len() || path.split('/').all(is_segment);
        if text.len() > SPIFFE_ID_BYTES || !domain_is_fine || !path_is_fine {
            return Err(invalid());
        }
        Ok(Self { text, trust_domain, path })
    }

    /// The id as written.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The trust domain, `cluster.local` for example.
    pub fn trust_domain(&self) -> &'a str {
        self.trust_domain
    }

    /// The id without its scheme, as AuthorizationPolicy's `principals` name it.
    pub fn principal(&self) -> &'a str {
        self.text.strip_prefix(SCHEME).unwrap_or_default()
    }

    /// Namespace and service account when the path is `ns/NAMESPACE/sa/ACCOUNT`.
    pub fn workload(&self) -> Option<(&'a str, &'a str)> {
        let (namespace, account) = self.path.strip_prefix("ns/")?.split_once("/sa/")?;
        let plain = !namespace.contains('/') && !account.contains('/');
        plain.then_some((namespace, account))
    }
}

fn is_mark(byte: u8) -> bool {
    matches!(byte, b'.' | b'-' | b'_')
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || is_mark(b))
}

/// A peer that proved to hold its certificate's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// URIs of its certificate.
    pub uri_sans: Vec<String>,
    /// DNS names of its certificate.
    pub dns_sans: Vec<String>,
    /// Subject as RFC 2253 text; may be empty.
    pub subject: String,
    /// Issuer as RFC 2253 text.
    pub issuer: String,
    /// Serial number in lower-case hex.
    pub serial: String,
    /// SHA-256 of the DER.
    pub fingerprint: Fingerprint,
    /// Last valid second, Unix time.
    pub not_after: i64,
}

impl PeerIdentity {
    /// Reads the identity from the leaf a peer sent.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidCertificate> {
        CertFacts::parse(der).map(Self::from)
    }

    /// The first SPIFFE id among its URIs.
    pub fn spiffe_id(&self) -> Option<SpiffeId<'_>> {
        self.uri_sans.iter().find_map(|uri| SpiffeId::parse(uri).ok())
    }

    /// The `x-forwarded-client-cert` element for this peer: `By` (the URIs of our own certificate),
    /// `Hash`, `Cert`, `Subject`, `URI`, `DNS`, as Envoy writes them with all details on. `der` is
    /// the leaf this identity was read from.
    pub fn xfcc(&self, own_uris: &[String], der: &[u8]) -> String {
        let mut out = String::with_capacity(256 + der.len() * 3 / 2);
        for uri in own_uris {
            out.push_str("By=");
            push_value(&mut out, uri);
            out.push(';');
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "Hash={};Cert=\"", self.fingerprint);
        push_pem(&mut out, der);
        // The subject's own quotes are escaped already, RFC 2253 asks for it.
        let _ = write!(out, "\";Subject=\"{}\"", self.subject);
        if self.uri_sans.is_empty() {
            out.push_str(";URI=");
        }
        for (key, values) in [(";URI=", &self.uri_sans), (";DNS=", &self.dns_sans)] {
            for value in values {
                out.push_str(key);
                push_value(&mut out, value);
            }
        }
        out
    }
}

impl From<CertFacts> for PeerIdentity {
    fn from(facts: CertFacts) -> Self {
        Self {
            uri_sans: facts.names.uris,
            dns_sans: facts.names.dns,
            subject: facts.subject,
            issuer: facts.issuer,
            serial: facts.serial,
            fingerprint: facts.fingerprint,
            not_after: facts.not_after,
        }
    }
}

/// Certificates as a list of byte sequences (RFC 9440 section 2, RFC 8941 section 3.3.5).
pub fn byte_sequences(certificates: &[CertificateDer<'_>]) -> String {
    let one = |der: &CertificateDer<'_>| format!(":{}:", STANDARD.encode(der));
    certificates.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Quotes a value that would otherwise end its field or element.
fn push_value(out: &mut String, value: &str) {
    let quoted = value.contains([',', ';', '=', '"', '\\']);
    if quoted {
        out.push('"');
    }
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    if quoted {
        out.push('"');
    }
}

/// PEM of a certificate with the characters escaped that Envoy escapes.
fn push_pem(out: &mut String, der: &[u8]) {
    out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
    let text = STANDARD.encode(der);
    for line in text.as_bytes().chunks(PEM_LINE_CHARS) {
        for byte in line {
            match byte {
                b'+' => out.push_str("%2B"),
                b'/' => out.push_str("%2F"),
                b'=' => out.push_str("%3D"),
                _ => out.push(char::from(*byte)),
            }
        }
        out.push_str("%0A");
    }
    out.push_str("-----END%20CERTIFICATE-----%0A");
}

/// How every SPIFFE id begins.
pub const SCHEME: &str = "spiffe://";
/// SPIFFE-ID section 2.3.
const SPIFFE_ID_BYTES: usize = 2048;
const PEM_LINE_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    fn peer(uris: &[&str], dns: &[&str], subject: &str) -> PeerIdentity {
        PeerIdentity {
            uri_sans: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            dns_sans: dns.iter().map(|name| (*name).to_owned()).collect(),
            subject: subject.to_owned(),
            issuer: String::new(),
            serial: String::new(),
            fingerprint: Fingerprint::of(b""),
            not_after: 0,
        }
    }

    fn check(peer: &PeerIdentity, own: &[&str], expected: &str) {
        let own: Vec<_> = own.iter().map(|uri| (*uri).to_owned()).collect();
        let cert = "-----BEGIN%20CERTIFICATE-----%0A%2B%2F8%3D%0A-----END%20CERTIFICATE-----%0A";
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected = expected.replace("HASH", hash).replace("CERT", cert);
        assert_eq!(peer.xfcc(&own, &[0xfb, 0xff]), expected);
    }

    #[test]
    fn the_element_has_envoys_order() {
        check(
            &peer(&["spiffe://td/ns/a/sa/b"], &["x.y", "z.y"], "CN=client"),
            &["spiffe://td/ns/gw/sa/gw"],
            "By=spiffe://td/ns/gw/sa/gw;Hash=HASH;Cert=\"CERT\";Subject=\"CN=client\";\
             URI=spiffe://td/ns/a/sa/b;DNS=x.y;DNS=z.y",
        );
        check(&peer(&[], &[], ""), &[], "Hash=HASH;Cert=\"CERT\";Subject=\"\";URI=");
    }

    #[test]
    fn hostile_names_cannot_forge_a_field() {
        check(
            &peer(&["spiffe://a;URI=spiffe://b,\"\r\n"], &[], ""),
            &[],
            "Hash=HASH;Cert=\"CERT\";Subject=\"\";URI=\"spiffe://a;URI=spiffe://b,\\\"%0D%0A\"",
        );
    }

    #[test]
    fn the_escaped_certificate_decodes_to_the_certificate() {
        let der = crate::tls::pki::sample_certificate();
        let identity = PeerIdentity::from_der(&der).unwrap();
        let element = identity.xfcc(&[], &der);
        let escaped = element.split('"').nth(1).unwrap();
        let pem = percent_encoding::percent_decode_str(escaped).decode_utf8().unwrap();
        assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), der);
    }

    #[test]
    fn spiffe_ids_have_their_parts() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/reviews").unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/reviews");
        assert_eq!(id.workload(), Some(("shop", "reviews")));
        assert_eq!(SpiffeId::parse("spiffe://td").unwrap().workload(), None);
        assert_eq!(SpiffeId::parse("spiffe://td/ns/a/x/sa/b").unwrap().workload(), None);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "spiffe://",
            "http://td/ns",
            "spiffe://TD/a",
            "spiffe://td/",
            "spiffe://td/a//b",
            "spiffe://td/../a",
            "spiffe://td/a?b",
            "spiffe://u@td/a",
            "spiffe://td:1/a",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_element_is_visible_ascii_and_one_element(uri in any::<String>(), dns in any::<String>()) {
            let element = peer(&[&uri], &[&dns], "").xfcc(&[], b"");
            prop_assert!(element.bytes().all(|b| (0x20..0x7f).contains(&b)));
            let mut quoted = false;
            let mut escaped = false;
            for c in element.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '"' => quoted = !quoted,
                    ',' => prop_assert!(quoted),
                    _ => {}
                }
            }
            prop_assert!(!quoted);
        }

        #[test]
        fn arbitrary_texts_never_panic(text in any::<String>()) {
            let _ = SpiffeId::parse(&text);
            let _ = SpiffeId::parse(&format!("{SCHEME}{text}"));
        }
    }
}
