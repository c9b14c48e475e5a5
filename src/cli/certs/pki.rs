//! Development certificates: authorities, and what they issue.
//!
//! **Invariant:** pure; time and names are given. Keys are ECDSA P-256, made here and nowhere else.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::base::secret::Secret;

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum PkiError {
    #[error("\"{0}\" cannot be written into a certificate: use ASCII letters")]
    Name(String),
    #[error("the certificate or key of this authority cannot be used")]
    Authority(#[source] rcgen::Error),
    #[error("the certificate cannot be made")]
    Issue(#[source] rcgen::Error),
}

/// A certificate and its key, in PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: Secret<String>,
}

/// What a certificate is good for, which also decides how its holder is named.
pub(super) enum Leaf {
    /// A server with DNS names and addresses.
    Server { names: Vec<SanType> },
    /// A client with a common name and a mail address, as people have.
    Client { name: String, mail: SanType },
    /// A workload of the mesh, client and server, as Istio issues it: the subject is empty and the
    /// name a critical URI (X.509-SVID, section 4.1).
    Workload { names: Vec<SanType> },
}

/// A certificate authority that can issue.
pub(super) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// Makes a self-signed authority.
    pub(super) fn create(name: &str, now: OffsetDateTime) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - SKEW;
        params.not_after = now + AUTHORITY_LIFE;
        let key = KeyPair::generate().map_err(PkiError::Issue)?;
        let certificate = params.self_signed(&key).map_err(PkiError::Issue)?;
        Ok(Pair { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
    }

    /// An authority from its PEM files.
    pub(super) fn load(pair: &Pair) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(pair.key.expose()).map_err(PkiError::Authority)?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key);
        issuer.map(Self).map_err(PkiError::Authority)
    }

    /// Issues a certificate with a new key.
    pub(super) fn issue(&self, leaf: Leaf, now: OffsetDateTime) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        (params.distinguished_name, params.subject_alt_names, params.extended_key_usages) =
            match leaf {
                Leaf::Server { names } => (distinguished_name("portcullis"), names, vec![SERVER]),
                Leaf::Client { name, mail } => {
                    (distinguished_name(&name), vec![mail], vec![CLIENT])
                }
                Leaf::Workload { names } => (DistinguishedName::new(), names, vec![SERVER, CLIENT]),
            };
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - SKEW;
        params.not_after = now + LEAF_LIFE;
        let key = KeyPair::generate().map_err(PkiError::Issue)?;
        let certificate = params.signed_by(&key, &self.0).map_err(PkiError::Issue)?;
        Ok(Pair { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
    }
}

/// A DNS name or wildcard.
pub(super) fn dns(name: &str) -> Result<SanType, PkiError> {
    name.try_into().map(SanType::DnsName).map_err(|_| PkiError::Name(name.to_owned()))
}

/// A URI.
pub(super) fn uri(name: &str) -> Result<SanType, PkiError> {
    name.try_into().map(SanType::URI).map_err(|_| PkiError::Name(name.to_owned()))
}

/// A mail address.
pub(super) fn mail(name: &str) -> Result<SanType, PkiError> {
    name.try_into().map(SanType::Rfc822Name).map_err(|_| PkiError::Name(name.to_owned()))
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

const SERVER: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ServerAuth;
const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;
/// Certificates are valid from a little before they are made, for clocks that run late.
const SKEW: Duration = Duration::hours(1);
const AUTHORITY_LIFE: Duration = Duration::days(3650);
const LEAF_LIFE: Duration = Duration::days(365);

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-02 03:04:05 UTC);

    fn check(leaf: Leaf, test: impl FnOnce(&X509Certificate<'_>, &X509Certificate<'_>)) {
        let ca = Authority::create("test authority", NOW).unwrap();
        let leaf = Authority::load(&ca).unwrap().issue(leaf, NOW).unwrap();
        let der =
            |text: &str| x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap().1.contents;
        let (ca, leaf) = (der(&ca.certificate), der(&leaf.certificate));
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(ca.is_ca() && !leaf.is_ca());
        test(&leaf, &ca);
    }

    #[test]
    fn servers_are_named_by_dns() {
        let names = vec![dns("*.example.com").unwrap()];
        check(Leaf::Server { names }, |leaf, _| {
            let san = leaf.subject_alternative_name().unwrap().unwrap();
            assert!(!san.critical);
            assert_eq!(san.value.general_names, [GeneralName::DNSName("*.example.com")]);
            let usage = leaf.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && !usage.client_auth);
        });
    }

    #[test]
    fn workloads_have_a_critical_spiffe_id_and_an_empty_subject() {
        let id = "spiffe://cluster.local/ns/shop/sa/cart";
        check(Leaf::Workload { names: vec![uri(id).unwrap()] }, |leaf, _| {
            let san = leaf.subject_alternative_name().unwrap().unwrap();
            assert!(san.critical);
            assert_eq!(san.value.general_names, [GeneralName::URI(id)]);
            assert_eq!(leaf.subject().iter().count(), 0);
            let usage = leaf.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && usage.client_auth);
        });
    }

    #[test]
    fn clients_can_only_be_clients() {
        let mail = mail("alice@example.com").unwrap();
        check(Leaf::Client { name: "alice".to_owned(), mail }, |leaf, _| {
            let usage = leaf.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.server_auth);
        });
    }

    #[test]
    fn leaves_live_a_year_and_authorities_ten() {
        check(Leaf::Workload { names: vec![uri("spiffe://a/ns/b/sa/c").unwrap()] }, |leaf, ca| {
            let now = NOW.unix_timestamp();
            let end = |c: &X509Certificate<'_>| (c.validity().not_after.timestamp() - now) / 86_400;
            assert_eq!((end(leaf), end(ca)), (365, 3650));
            assert_eq!(leaf.validity().not_before.timestamp(), now - 3600);
        });
    }

    #[test]
    fn what_is_not_ascii_or_not_an_authority_is_refused() {
        assert!(matches!(dns("bücher.example"), Err(PkiError::Name(_))));
        let broken = Pair { certificate: "x".to_owned(), key: Secret::new("y".to_owned()) };
        assert!(matches!(Authority::load(&broken), Err(PkiError::Authority(_))));
    }
}
