//! Certificates made for tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

/// A certificate authority.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

/// A certificate and its key, as PEM.
pub(crate) struct Leaf {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A leaf with these names: URIs have a scheme, the rest is DNS.
    pub(crate) fn leaf(&self, names: &[&str], serial: u64) -> Leaf {
        self.leaf_until(names, serial, 2096)
    }

    #[allow(dead_code, reason = "black-box tests share this file")]
    pub(crate) fn rsa_leaf(&self, names: &[&str], serial: u64) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        self.leaf_of(&key, names, serial, 2096)
    }

    pub(crate) fn leaf_until(&self, names: &[&str], serial: u64, year: i32) -> Leaf {
        self.leaf_of(&KeyPair::generate().unwrap(), names, serial, year)
    }

    fn leaf_of(&self, key: &KeyPair, names: &[&str], serial: u64, year: i32) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let text = (*name).try_into().unwrap();
                if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
            })
            .collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        params.not_after = date_time_ymd(year, 1, 1);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let chain = params.signed_by(key, &issuer).unwrap().pem();
        Leaf { chain, key: key.serialize_pem() }
    }

    /// A list that revokes these serials, as PEM and DER.
    pub(crate) fn revoke(&self, serials: &[u64]) -> (String, Vec<u8>) {
        self.revoke_until(serials, date_time_ymd(2096, 1, 1))
    }

    /// The same, to be replaced by a time.
    pub(crate) fn revoke_until(
        &self,
        serials: &[u64],
        next_update: OffsetDateTime,
    ) -> (String, Vec<u8>) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update,
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap();
        (list.pem().unwrap(), list.der().to_vec())
    }
}

pub(crate) fn sample_certificate() -> CertificateDer<'static> {
    certificate_with_subject(&[(DnType::CommonName, "sample")])
}

pub(crate) fn certificate_with_subject(attributes: &[(DnType, &str)]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in attributes {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}
