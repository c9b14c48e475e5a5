//! What is known of one certificate: names, dates, digests, kind of key.
//!
//! **Invariant:** facts come from the DER alone; nothing here says that a certificate is trusted.

use std::net::IpAddr;

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

use crate::base::hash::Fingerprint;
use crate::base::host::HostPattern;

use super::dn;

/// Bytes that are not one X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not an X.509 certificate")]
pub struct InvalidCertificate;

/// Names in the subject alternative name extension. DNS names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectNames {
    /// DNS names, `*.` wildcards included.
    pub dns: Vec<String>,
    /// URIs, SPIFFE ids among them.
    pub uris: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// Mail addresses.
    pub emails: Vec<String>,
}

impl SubjectNames {
    /// Whether a certificate with these names is right for every name under a host pattern. A
    /// wildcard name covers one label (RFC 6125); `*.a.com` is covered by the name `*.a.com`; the
    /// host `*` asks nothing of a certificate.
    pub fn covers(&self, host: &HostPattern) -> bool {
        match host {
            HostPattern::Any => true,
            HostPattern::Suffix(suffix) => {
                self.dns.iter().any(|name| name.strip_prefix('*') == Some(&**suffix))
            }
            HostPattern::Exact(name) => self.covers_name(name),
        }
    }

    /// The same for one name or IP address, lower case; IPv6 with or without brackets.
    pub fn covers_name(&self, name: &str) -> bool {
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        match bare.parse::<IpAddr>() {
            Ok(address) => self.ips.contains(&address),
            Err(_) => self.dns.iter().any(|pattern| dns_name_matches(pattern, name)),
        }
    }
}

/// Whether a certificate's DNS name, perhaps with a leading `*.`, stands for a name.
pub(super) fn dns_name_matches(presented: &str, name: &str) -> bool {
    match presented.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && parent.contains('.') && rest.eq_ignore_ascii_case(parent)
        }),
        None => presented.eq_ignore_ascii_case(name),
    }
}

/// Kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// ECDSA over a NIST curve.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
    /// Anything else.
    Other,
}

/// Facts of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFacts {
    /// Subject as RFC 2253 text; may be empty.
    pub subject: String,
    /// Issuer as RFC 2253 text.
    pub issuer: String,
    /// The same in DER.
    pub issuer_der: Box<[u8]>,
    /// Subject alternative names.
    pub names: SubjectNames,
    /// First valid second, Unix time.
    pub not_before: i64,
    /// Last valid second, Unix time.
    pub not_after: i64,
    /// Serial number in lower-case hex.
    pub serial: String,
    /// SHA-256 of the DER.
    pub fingerprint: Fingerprint,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub spki: Fingerprint,
    /// Kind of its key.
    pub key_kind: KeyKind,
    /// Whether issuer and subject are the same name.
    pub is_self_signed: bool,
    /// Whether basic constraints say CA.
    pub is_ca: bool,
    /// Whether it says where its issuer's certificate is found, as public CAs' certificates do.
    pub names_issuer_location: bool,
}

impl CertFacts {
    /// Reads the facts of a DER certificate.
    pub fn parse(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|_| InvalidCertificate)?;
        if !rest.is_empty() {
            return Err(InvalidCertificate);
        }
        let validity = certificate.validity();
        Ok(Self {
            subject: dn::render(certificate.subject()),
            issuer: dn::render(certificate.issuer()),
            issuer_der: certificate.issuer().as_raw().into(),
            names: subject_names(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            serial: hex(certificate.raw_serial()),
            fingerprint: Fingerprint::of(der),
            spki: Fingerprint::of(certificate.public_key().raw),
            key_kind: key_kind(&certificate),
            is_self_signed: certificate.issuer().as_raw() == certificate.subject().as_raw(),
            is_ca: certificate.is_ca(),
            names_issuer_location: names_issuer_location(&certificate),
        })
    }
}

fn subject_names(certificate: &X509Certificate<'_>) -> SubjectNames {
    let mut names = SubjectNames::default();
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(text) => names.dns.push(text.to_ascii_lowercase()),
            GeneralName::URI(text) => names.uris.push((*text).to_owned()),
            GeneralName::RFC822Name(text) => names.emails.push((*text).to_owned()),
            GeneralName::IPAddress(bytes) => names.ips.extend(ip_address(bytes)),
            _ => {}
        }
    }
    names
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn key_kind(certificate: &X509Certificate<'_>) -> KeyKind {
    match &*certificate.public_key().algorithm.algorithm.to_id_string() {
        "1.2.840.113549.1.1.1" | "1.2.840.113549.1.1.10" => KeyKind::Rsa,
        "1.2.840.10045.2.1" => KeyKind::Ecdsa,
        "1.3.101.112" => KeyKind::Ed25519,
        _ => KeyKind::Other,
    }
}

fn names_issuer_location(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => access
            .accessdescs
            .iter()
            .any(|description| description.access_method.to_id_string() == CA_ISSUERS),
        _ => false,
    })
}

/// `id-ad-caIssuers`, RFC 5280 section 4.2.2.1.
const CA_ISSUERS: &str = "1.3.6.1.5.5.7.48.2";

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(dns: &[&str], host: &str, covered: bool) {
        let names = SubjectNames {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ips: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            ..SubjectNames::default()
        };
        assert_eq!(names.covers(&HostPattern::parse(host).unwrap()), covered, "{dns:?} {host}");
    }

    #[test]
    fn a_wildcard_covers_one_label_only() {
        check(&["*.a.com"], "x.a.com", true);
        check(&["*.a.com"], "x.y.a.com", false);
        check(&["*.a.com"], "a.com", false);
        check(&["*.com"], "a.com", false);
        check(&["x.*.com"], "x.a.com", false);
    }

    #[test]
    fn a_wildcard_host_needs_the_same_wildcard() {
        check(&["*.a.com"], "*.a.com", true);
        check(&["*.a.com"], "*.b.a.com", false);
        check(&["x.a.com"], "*.a.com", false);
        check(&[], "*", true);
    }

    #[test]
    fn addresses_are_matched_as_addresses() {
        check(&[], "10.0.0.1", true);
        check(&[], "[::1]", true);
        check(&["10.0.0.2"], "10.0.0.2", false);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = CertFacts::parse(&bytes);
        }

        #[test]
        fn a_damaged_certificate_never_panics(at in 0usize..2000, value in any::<u8>()) {
            let mut der = crate::tls::pki::sample_certificate().to_vec();
            let length = der.len();
            der[at % length] = value;
            let _ = CertFacts::parse(&der);
        }
    }
}
