//! A Gateway server's `tls` block as TLS termination.

mod codes;
mod refusal;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::base::hash::{Fingerprint, Hasher};
use crate::base::host::HostPattern;
use crate::diag::{Severity, catalog};
use crate::resources::gateway::{ServerTls as Written, TlsMode, TlsProtocol};
use crate::snapshot::listener::Termination;
use crate::tls::crypto::{CryptoProfile, CryptoSpec, Providers, TlsVersion};
use crate::tls::material::{Finding, Material};
use crate::tls::revocation::Crls;
use crate::tls::server::{ClientAuth, ServerTls, ServerTlsSpec};
use crate::tls::trust::{Pin, TrustRules};

use super::client_cert;
use super::credentials::{CredentialError, Credentials, MeshIdentity};
use super::findings::{Findings, at};
use super::gateways::ServerDraft;
use super::settings::CompileSettings;

pub use codes::code;
pub(super) use codes::finding_code;
pub(super) use refusal::unusable;
use refusal::{refused, without_identity};

/// Days before expiry from which an operator is warned.
pub(super) const WARN_DAYS: u32 = 14;

/// Kind of the mesh identity's certificate.
pub const IDENTITY: &str = "identity";

/// Kind of a revocation list.
pub const CRL: &str = "crl";

/// A certificate in use, or a revocation list, for its metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFact {
    /// `server`, `identity`, `client` or `crl`.
    pub kind: &'static str,
    /// The credential's name or the file's path.
    pub name: String,
    /// Serial number in hex.
    pub serial: String,
    /// Last valid second, or when the next list is due; Unix time.
    pub not_after: i64,
}

/// What was built for the last snapshot, by what it was built from, so that unchanged servers keep
/// their sessions and cost nothing.
pub type Terminations = HashMap<Fingerprint, Arc<ServerTls>, RandomState>;

/// The last termination of a server that could be built, by its key and everything written about
/// it: while its files are broken it goes on with these, and never with what was asked for otherwise.
pub type LastGood = HashMap<Fingerprint, Termination, RandomState>;

/// Certificates, and what clients must show.
type Loaded = (Vec<Arc<Material>>, ClientAuth);

/// Builds terminations.
pub struct ServerTlsPass<'a> {
    /// Where certificates come from.
    pub credentials: &'a Credentials<'a>,
    /// Who this gateway is.
    pub settings: &'a CompileSettings,
    /// Shared protocol parameters.
    pub providers: &'a Providers,
    /// Unix time in seconds.
    pub now: i64,
    /// What the last compilation built.
    pub previous: &'a Terminations,
    /// What this one uses.
    pub built: Terminations,
    /// What could be built last time.
    pub last_good: &'a LastGood,
    /// What can go on next time.
    pub good: LastGood,
    /// Certificates in use.
    pub certificates: Vec<CertificateFact>,
}

impl ServerTlsPass<'_> {
    /// The termination of a server. What is wrong with its material is told; the server goes on with
    /// what it had last, or its handshakes fail.
    pub fn terminate(&mut self, draft: &ServerDraft<'_>, findings: &mut Findings) -> Termination {
        let default = Written::default();
        let written = draft.server.tls.as_ref().unwrap_or(&default);
        let mut hasher = Hasher::default();
        hasher.part(draft.key().as_bytes()).value(written).value(&self.crypto_spec(written));
        let asked = hasher.finish();
        if let Some(field) = draft.unread() {
            return refused(draft, field, findings);
        }
        let loaded = self.load(written);
        let mut termination =
            match loaded.and_then(|loaded| self.build(draft, written, loaded, findings)) {
                Ok(termination) => termination,
                Err(error) => self.without(&error, asked, draft, findings),
            };
        termination.client_cert_headers = client_cert::is_told(draft);
        if termination.tls.is_ok() {
            self.good.insert(asked, termination.clone());
        }
        termination
    }

    fn without(
        &self,
        error: &CredentialError,
        asked: Fingerprint,
        draft: &ServerDraft<'_>,
        findings: &mut Findings,
    ) -> Termination {
        let message = error.explain();
        let last_good = match error {
            CredentialError::IdentityExpired(_) => None,
            _ => self.last_good.get(&asked),
        };
        let (termination, help) = if let Some(last) = last_good {
            (last.clone(), "until it is mended, this server goes on with what it had before")
        } else {
            let rule = draft.server.tls.as_ref().and_then(Self::mesh_rule);
            (
                without_identity(&message, rule),
                "until it is mended, handshakes with this server fail; others go on",
            )
        };
        let field = match error {
            CredentialError::Versions(_) => format!("{}.tls.maxProtocolVersion", draft.field),
            _ => format!("{}.tls", draft.field),
        };
        findings.add(at(draft.gateway, field, code(error), message).help(help));
        termination
    }

    /// The rule of a server whose clients are of the mesh: it needs no identity.
    fn mesh_rule(tls: &Written) -> Option<Fingerprint> {
        let rules = Self::rules(tls).ok().filter(|_| tls.mode == TlsMode::IstioMutual)?;
        Some(client_rule(true, &ClientAuth::Required(rules)))
    }

    fn load(&self, tls: &Written) -> Result<Loaded, CredentialError> {
        let rules = Self::rules(tls)?;
        let auth = |rules| match tls.mode {
            TlsMode::Mutual | TlsMode::IstioMutual => ClientAuth::Required(rules),
            TlsMode::OptionalMutual => ClientAuth::Optional(rules),
            _ => ClientAuth::None,
        };
        if tls.mode == TlsMode::IstioMutual {
            let MeshIdentity { material, roots, crls } = self.credentials.identity(self.now)?;
            let rules = TrustRules { roots: Some(roots), crls, ..rules };
            return Ok((vec![material], auth(rules)));
        }
        let names: Vec<&String> = tls
            .credential_names
            .iter()
            .chain([&tls.credential_name])
            .filter(|name| !name.is_empty())
            .collect();
        let mut materials = Vec::new();
        for name in &names {
            materials.push(self.credentials.material(name)?);
        }
        for pair in &tls.tls_certificates {
            let material =
                self.credentials.material_files(&pair.server_certificate, &pair.private_key)?;
            materials.push(material);
        }
        if materials.is_empty() {
            let material =
                self.credentials.material_files(&tls.server_certificate, &tls.private_key)?;
            materials.push(material);
        }
        // Istio prefers ECDSA; a certificate the client cannot verify is passed over anyway.
        materials.sort_by_key(|material| {
            material.leaf().key_kind == crate::tls::certificate::KeyKind::Rsa
        });
        if !matches!(tls.mode, TlsMode::Mutual | TlsMode::OptionalMutual) {
            return Ok((materials, ClientAuth::None));
        }
        let (roots, crls) = if !tls.ca_cert_credential_name.is_empty() {
            self.credentials.only_roots(&tls.ca_cert_credential_name)?
        } else if let Some(name) = names.first() {
            self.credentials.roots(name)?
        } else if tls.ca_certificates.is_empty() {
            return Err(CredentialError::NoClientCa);
        } else {
            let roots = self.credentials.roots_file(&tls.ca_certificates)?;
            let crls = self.credentials.crl_file(&tls.ca_crl, &roots)?;
            (roots, crls)
        };
        let rules = TrustRules { roots: Some(roots), crls, ..rules };
        Ok((materials, auth(rules)))
    }

    fn rules(tls: &Written) -> Result<TrustRules, CredentialError> {
        let mut bad = Vec::new();
        let mut read = |pin: Result<Pin, _>| pin.map_err(|error| bad.push(error)).ok();
        let spki = tls.verify_certificate_spki.iter();
        let spki_pins = spki.filter_map(|text| read(Pin::spki(text))).collect();
        let hashes = tls.verify_certificate_hash.iter();
        let certificate_pins = hashes.filter_map(|text| read(Pin::certificate(text))).collect();
        if !bad.is_empty() {
            return Err(CredentialError::Pins(bad));
        }
        Ok(TrustRules {
            names: tls.subject_alt_names.iter().collect(),
            spki_pins,
            certificate_pins,
            insecure_skip_verify: tls.insecure_skip_verify.unwrap_or(false),
            ..TrustRules::default()
        })
    }

    fn build(
        &mut self,
        draft: &ServerDraft<'_>,
        tls: &Written,
        (materials, client_auth): Loaded,
        findings: &mut Findings,
    ) -> Result<Termination, CredentialError> {
        let spec = self.crypto_spec(tls);
        let (crypto, notes) = self.providers.profile(&spec)?;
        let field = format!("{}.tls", draft.field);
        for note in notes {
            let code = &catalog::TLS_PARAMETER_IGNORED;
            findings.add(at(draft.gateway, &field, code, note.to_string()));
        }
        // The mesh identity is told of once, as such; peers of the mesh ask for no host's name.
        if tls.mode != TlsMode::IstioMutual {
            self.tell(draft, &field, &materials, findings);
        }
        // Never `istio-peer-exchange`: callers would begin with metadata that is not the application's.
        let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
        let mesh = tls.mode == TlsMode::IstioMutual;
        self.assemble(&draft.key(), (&spec, crypto, alpn), mesh, (materials, client_auth))
    }

    /// The termination of a workload's port: it shows the mesh identity, and takes callers of the mesh's
    /// trust domains. `key` stays the same across compilations.
    pub fn workload(&mut self, key: &str, alpn: &[&[u8]]) -> Result<Termination, CredentialError> {
        let MeshIdentity { material, roots, crls } = self.credentials.identity(self.now)?;
        let rules = TrustRules { roots: Some(roots), crls, ..self.callers() };
        let spec = CryptoSpec::default();
        let (crypto, _) = self.providers.profile(&spec)?;
        let loaded = (vec![material], ClientAuth::Required(rules));
        self.assemble(key, (&spec, crypto, alpn), true, loaded)
    }

    /// A workload's port while there is no identity to show: handshakes fail, and connections live on.
    pub fn workload_without_identity(&self, reason: &str) -> Termination {
        let rule = client_rule(true, &ClientAuth::Required(self.callers()));
        without_identity(reason, Some(rule))
    }

    /// Who may call a workload: the mesh's trust domains.
    fn callers(&self) -> TrustRules {
        let settings = self.settings;
        let domains = std::iter::once(&settings.trust_domain).chain(&settings.trust_domain_aliases);
        TrustRules { trust_domains: domains.cloned().collect(), ..TrustRules::default() }
    }

    /// Joins the parts; what was joined last time from the same goes on with its sessions.
    fn assemble(
        &mut self,
        key: &str,
        (spec, crypto, alpn): (&CryptoSpec, CryptoProfile, &[&[u8]]),
        mesh: bool,
        (materials, client_auth): Loaded,
    ) -> Result<Termination, CredentialError> {
        let client_rule = client_rule(mesh, &client_auth);
        let revocations = match &client_auth {
            ClientAuth::Required(rules) if mesh => Some(rules.crls.clone()),
            _ => None,
        };
        let mut hasher = Hasher::default();
        hasher.part(key.as_bytes()).part(client_auth.fingerprint().as_bytes());
        hasher.value(spec).value(&alpn);
        for material in &materials {
            hasher.part(material.fingerprint().as_bytes());
        }
        let fingerprint = hasher.finish();
        let names = materials.iter().flat_map(|material| material.leaf().names.dns.iter());
        let certificate_names = names.filter_map(|name| HostPattern::parse(name).ok()).collect();
        let first = materials.first();
        let certificate_uris = first.map(|material| material.leaf().names.uris.clone());
        let server = if let Some(known) = self.previous.get(&fingerprint) {
            known.clone()
        } else {
            let alpn = alpn.iter().map(|name| name.to_vec()).collect();
            let spec = ServerTlsSpec { certificates: materials, crypto, alpn, client_auth };
            Arc::new(ServerTls::new(&spec)?)
        };
        self.built.insert(fingerprint, server.clone());
        let certificate_uris = certificate_uris.unwrap_or_default();
        let tls = Ok(server);
        Ok(Termination {
            tls,
            client_rule,
            revocations,
            certificate_names,
            certificate_uris,
            client_cert_headers: false,
        })
    }

    fn crypto_spec(&self, tls: &Written) -> CryptoSpec {
        if tls.mode == TlsMode::IstioMutual {
            return CryptoSpec::default();
        }
        let or = |own: &[String], mesh: &[String]| {
            if own.is_empty() { mesh.to_vec() } else { own.to_vec() }
        };
        let defaults = &self.settings.tls_defaults;
        CryptoSpec {
            min: version(tls.min_protocol_version).or(version(defaults.min_protocol_version)),
            max: version(tls.max_protocol_version),
            cipher_suites: or(&tls.cipher_suites, &defaults.cipher_suites),
            groups: or(&tls.ecdh_curves, &defaults.ecdh_curves),
        }
    }

    fn tell(
        &mut self,
        draft: &ServerDraft<'_>,
        field: &str,
        materials: &[Arc<Material>],
        findings: &mut Findings,
    ) {
        let named: Vec<&HostPattern> = draft
            .hosts
            .iter()
            .map(|(_, host)| host)
            .filter(|host| **host != HostPattern::Any)
            .collect();
        for material in materials {
            let leaf = material.leaf();
            self.certificates.push(CertificateFact {
                kind: "server",
                name: draft.key(),
                serial: leaf.serial.clone(),
                not_after: leaf.not_after,
            });
            findings.change_at(material.findings_change(self.now, WARN_DAYS));
            let about = material.findings(self.now, WARN_DAYS);
            let end = material.chain_end(self.settings.system_roots.as_ref());
            let uncovered = material.uncovered(named.iter().copied());
            for finding in about.into_iter().chain(end).chain(uncovered) {
                let code = finding_code(&finding);
                let told = at(draft.gateway, field, code, finding.to_string());
                findings.add(match finding {
                    Finding::ChainEndsBefore { .. } => told.severity(Severity::Info),
                    _ => told,
                });
            }
        }
    }
}

fn version(written: TlsProtocol) -> Option<TlsVersion> {
    match written {
        TlsProtocol::Auto => None,
        TlsProtocol::V1_0 => Some(TlsVersion::V1_0),
        TlsProtocol::V1_1 => Some(TlsVersion::V1_1),
        TlsProtocol::V1_2 => Some(TlsVersion::V1_2),
        TlsProtocol::V1_3 => Some(TlsVersion::V1_3),
    }
}

/// What connections must agree on with their server for as long as they live. The mesh's roots roll
/// over, and end none; its revocation lists end only those whose certificate they name.
fn client_rule(mesh: bool, client_auth: &ClientAuth) -> Fingerprint {
    match client_auth {
        ClientAuth::Required(rules) if mesh => {
            let rules = TrustRules { roots: None, crls: Crls::default(), ..rules.clone() };
            ClientAuth::Required(rules).fingerprint()
        }
        _ => client_auth.fingerprint(),
    }
}
