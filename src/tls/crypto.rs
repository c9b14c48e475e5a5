//! Versions, cipher suites and key exchange groups as Istio names them, turned into a rustls
//! provider.
//!
//! **Invariant:** the result negotiates TLS 1.2 or 1.3 only, and what could not be honoured is
//! listed in [`Note`]s, never dropped in silence.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// A protocol version as `minProtocolVersion` and `maxProtocolVersion` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    /// `TLSV1_0`; not offered.
    V1_0,
    /// `TLSV1_1`; not offered.
    V1_1,
    /// `TLSV1_2`.
    V1_2,
    /// `TLSV1_3`.
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_0 => "TLSV1_0",
            Self::V1_1 => "TLSV1_1",
            Self::V1_2 => "TLSV1_2",
            Self::V1_3 => "TLSV1_3",
        })
    }
}

/// What a resource asks of the protocol (`Gateway.spec.servers[].tls`, `meshConfig.tlsDefaults`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CryptoSpec {
    /// Lowest version; `None` is `TLS_AUTO`, TLS 1.2.
    pub min: Option<TlsVersion>,
    /// Highest version; `None` is `TLS_AUTO`, TLS 1.3.
    pub max: Option<TlsVersion>,
    /// TLS 1.2 suites by OpenSSL name, in order of preference; empty is the default set.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups (`ecdhCurves`) in order of preference; empty is the default set.
    pub groups: Vec<String>,
}

/// A part of a [`CryptoSpec`] that is not honoured as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// A version below TLS 1.2.
    #[error("{0} is not offered; {used} is used", used = TlsVersion::V1_2)]
    VersionRaised(TlsVersion),
    /// A known suite without forward secrecy or authenticated encryption.
    #[error("the cipher suite \"{0}\" is not offered: it lacks forward secrecy or AEAD")]
    UnsupportedSuite(String),
    /// A name that is no suite.
    #[error("the cipher suite \"{0}\" is unknown; write OpenSSL names")]
    UnknownSuite(String),
    /// Nothing was left of the list.
    #[error("none of the cipher suites can be offered; the defaults are used")]
    DefaultSuites,
    /// The list has no effect.
    #[error("cipher suites have no effect when only TLS 1.3 is spoken")]
    SuitesWithoutEffect,
    /// A group we do not have.
    #[error("the curve \"{0}\" is not offered; use X25519MLKEM768, X25519, P-256 or P-384")]
    UnknownGroup(String),
    /// Nothing was left of the list.
    #[error("none of the curves can be offered; the defaults are used")]
    DefaultGroups,
}

/// A range of versions that holds none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lowest version {min} is above the highest version {max}")]
pub struct NoVersion {
    /// Lowest version, as written.
    pub min: TlsVersion,
    /// Highest version, as written.
    pub max: TlsVersion,
}

/// Who decides among the suites that both sides have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuiteOrder {
    /// The client: it knows whether its processor has AES.
    Client,
    /// The list in the resource.
    Server,
}

/// Protocol parameters ready for rustls.
#[derive(Clone, Debug)]
pub struct CryptoProfile {
    /// Suites and groups; shared between equal profiles.
    pub provider: Arc<CryptoProvider>,
    /// Versions spoken.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Who decides among suites.
    pub order: SuiteOrder,
}

impl CryptoProfile {
    /// TLS 1.2 and 1.3 with the default suites and groups.
    pub fn standard() -> Self {
        Self {
            provider: Arc::clone(standard_provider()),
            versions: BOTH,
            order: SuiteOrder::Client,
        }
    }
}

/// The provider with default suites and groups, one for the process.
pub fn standard_provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: TLS13_SUITES.iter().chain(&DEFAULT_TLS12_SUITES).copied().collect(),
            kx_groups: DEFAULT_GROUPS.to_vec(),
            ..aws_lc_rs::default_provider()
        })
    })
}

/// Providers by what they offer, so that equal specs share one.
#[derive(Debug, Default)]
pub struct Providers(Mutex<HashMap<Offer, Arc<CryptoProvider>>>);

/// Names of suites and of groups.
type Offer = (Vec<String>, Vec<String>);

impl Providers {
    /// Resolves a spec; the notes say what could not be honoured.
    pub fn profile(&self, spec: &CryptoSpec) -> Result<(CryptoProfile, Vec<Note>), NoVersion> {
        let mut notes = Vec::new();
        let versions = versions(spec, &mut notes)?;
        let suites = suites(spec, &mut notes);
        let groups = groups(spec, &mut notes);
        if !suites.is_empty() && versions == ONLY_13 {
            notes.push(Note::SuitesWithoutEffect);
        }
        let order = if suites.is_empty() { SuiteOrder::Client } else { SuiteOrder::Server };
        let provider = self.provider(&suites, &groups);
        Ok((CryptoProfile { provider, versions, order }, notes))
    }

    fn provider(
        &self,
        suites: &[(&'static str, SupportedCipherSuite)],
        groups: &[(&'static str, &'static dyn SupportedKxGroup)],
    ) -> Arc<CryptoProvider> {
        if suites.is_empty() && groups.is_empty() {
            return Arc::clone(standard_provider());
        }
        let names =
            |list: &mut dyn Iterator<Item = &'static str>| list.map(str::to_owned).collect();
        let key = (
            names(&mut suites.iter().map(|(name, _)| *name)),
            names(&mut groups.iter().map(|(name, _)| *name)),
        );
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let mut provider = CryptoProvider::clone(standard_provider());
                if !suites.is_empty() {
                    let chosen = suites.iter().map(|(_, suite)| *suite);
                    provider.cipher_suites = TLS13_SUITES.into_iter().chain(chosen).collect();
                }
                if !groups.is_empty() {
                    provider.kx_groups = groups.iter().map(|(_, group)| *group).collect();
                }
                Arc::clone(entry.insert(Arc::new(provider)))
            }
        }
    }
}

fn versions(
    spec: &CryptoSpec,
    notes: &mut Vec<Note>,
) -> Result<&'static [&'static SupportedProtocolVersion], NoVersion> {
    let asked = (spec.min.unwrap_or(TlsVersion::V1_2), spec.max.unwrap_or(TlsVersion::V1_3));
    let mut raise = |version: TlsVersion| {
        if version < TlsVersion::V1_2 {
            notes.push(Note::VersionRaised(version));
        }
        version.max(TlsVersion::V1_2)
    };
    // A range without a lower bound starts below whatever its upper bound is.
    let (min, max) = (raise(asked.0), raise(asked.1));
    if asked.0 > asked.1 && (spec.min.is_some() || min > max) {
        return Err(NoVersion { min: asked.0, max: asked.1 });
    }
    Ok(match (min, max) {
        (TlsVersion::V1_3, _) => ONLY_13,
        (_, TlsVersion::V1_3) => BOTH,
        _ => ONLY_12,
    })
}

fn suites(spec: &CryptoSpec, notes: &mut Vec<Note>) -> Vec<(&'static str, SupportedCipherSuite)> {
    let mut chosen: Vec<(&'static str, SupportedCipherSuite)> = Vec::new();
    for name in &spec.cipher_suites {
        match TLS12_SUITES.iter().find(|(known, _)| known == name) {
            Some(found) if !chosen.iter().any(|(known, _)| known == name) => chosen.push(*found),
            Some(_) => {}
            None if WEAK_SUITES.contains(&&**name) => {
                notes.push(Note::UnsupportedSuite(name.clone()));
            }
            None => notes.push(Note::UnknownSuite(name.clone())),
        }
    }
    if chosen.is_empty() && !spec.cipher_suites.is_empty() {
        notes.push(Note::DefaultSuites);
    }
    chosen
}

fn groups(
    spec: &CryptoSpec,
    notes: &mut Vec<Note>,
) -> Vec<(&'static str, &'static dyn SupportedKxGroup)> {
    let mut chosen: Vec<(&'static str, &'static dyn SupportedKxGroup)> = Vec::new();
    for name in &spec.groups {
        match GROUPS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some(found) if chosen.iter().any(|(_, group)| group.name() == found.1.name()) => {}
            Some(found) => chosen.push(*found),
            None => notes.push(Note::UnknownGroup(name.clone())),
        }
    }
    if chosen.is_empty() && !spec.groups.is_empty() {
        notes.push(Note::DefaultGroups);
    }
    chosen
}

static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
static ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
static ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

const TLS13_SUITES: [SupportedCipherSuite; 3] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
];

const DEFAULT_TLS12_SUITES: [SupportedCipherSuite; 6] = [
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

const TLS12_SUITES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Names that Istio accepts and that rustls leaves out on purpose.
const WEAK_SUITES: [&str; 9] = [
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

static DEFAULT_GROUPS: [&dyn SupportedKxGroup; 4] =
    [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

static GROUPS: [(&str, &dyn SupportedKxGroup); 9] = [
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
    ("X25519", kx_group::X25519),
    ("P-256", kx_group::SECP256R1),
    ("prime256v1", kx_group::SECP256R1),
    ("secp256r1", kx_group::SECP256R1),
    ("P-384", kx_group::SECP384R1),
    ("secp384r1", kx_group::SECP384R1),
    ("SecP256r1MLKEM768", kx_group::SECP256R1MLKEM768),
    ("X25519Kyber768", kx_group::X25519MLKEM768),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(spec: &CryptoSpec) -> (CryptoProfile, Vec<Note>) {
        Providers::default().profile(spec).unwrap()
    }

    fn check_versions(min: Option<TlsVersion>, max: Option<TlsVersion>, expected: &[u16]) {
        let (profile, _) = profile(&CryptoSpec { min, max, ..CryptoSpec::default() });
        let mut versions: Vec<_> =
            profile.versions.iter().map(|version| u16::from(version.version)).collect();
        versions.sort_unstable();
        assert_eq!(versions, expected);
    }

    #[test]
    fn versions_below_1_2_are_raised_and_told() {
        check_versions(None, None, &[0x0303, 0x0304]);
        check_versions(Some(TlsVersion::V1_0), Some(TlsVersion::V1_2), &[0x0303]);
        check_versions(None, Some(TlsVersion::V1_1), &[0x0303]);
        check_versions(Some(TlsVersion::V1_3), None, &[0x0304]);
        let (_, notes) =
            profile(&CryptoSpec { min: Some(TlsVersion::V1_0), ..CryptoSpec::default() });
        assert_eq!(notes, [Note::VersionRaised(TlsVersion::V1_0)]);
        assert_eq!(notes[0].to_string(), "TLSV1_0 is not offered; TLSV1_2 is used");
    }

    #[test]
    fn an_empty_range_is_refused() {
        let spec = CryptoSpec {
            min: Some(TlsVersion::V1_3),
            max: Some(TlsVersion::V1_2),
            ..CryptoSpec::default()
        };
        assert_eq!(
            Providers::default().profile(&spec).unwrap_err().to_string(),
            "the lowest version TLSV1_3 is above the highest version TLSV1_2"
        );
    }

    #[test]
    fn suites_keep_their_order_and_strangers_are_told() {
        let asked = [
            "ECDHE-RSA-AES256-GCM-SHA384",
            "AES128-SHA",
            "NOPE",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ];
        let (profile, notes) = profile(&CryptoSpec {
            cipher_suites: asked.map(str::to_owned).to_vec(),
            ..CryptoSpec::default()
        });
        let tls12: Vec<_> = profile.provider.cipher_suites.iter().skip(3).copied().collect();
        assert_eq!(
            tls12,
            [
                suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ]
        );
        assert_eq!(profile.order, SuiteOrder::Server);
        assert_eq!(
            notes,
            [Note::UnsupportedSuite("AES128-SHA".into()), Note::UnknownSuite("NOPE".into())]
        );
    }

    #[test]
    fn when_nothing_is_left_the_defaults_apply() {
        let (profile, notes) = profile(&CryptoSpec {
            cipher_suites: vec!["DES-CBC3-SHA".into()],
            groups: vec!["P-521".into()],
            ..CryptoSpec::default()
        });
        assert!(Arc::ptr_eq(&profile.provider, standard_provider()));
        assert!(notes.contains(&Note::DefaultSuites) && notes.contains(&Note::DefaultGroups));
    }

    #[test]
    fn equal_specs_share_a_provider() {
        let providers = Providers::default();
        let spec = CryptoSpec { groups: vec!["P-256".into()], ..CryptoSpec::default() };
        let (one, _) = providers.profile(&spec).unwrap();
        let (two, _) = providers.profile(&spec).unwrap();
        assert!(Arc::ptr_eq(&one.provider, &two.provider));
        assert_eq!(one.provider.kx_groups.len(), 1);
    }
}
