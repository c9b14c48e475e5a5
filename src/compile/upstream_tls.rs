//! A DestinationRule's `tls` block as TLS origination.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::base::hash::{Fingerprint, Hasher};
use crate::diag::Diagnostic;
use crate::resources::destination_rule::{ClientTls, ClientTlsMode};
use crate::snapshot::cluster::{Protocol, Sni, UpstreamTls};
use crate::tls::certificate::CertFacts;
use crate::tls::client::{ClientTlsSpec, HostCheck, Verify, client_config};
use crate::tls::crypto::CryptoProfile;
use crate::tls::material::Material;
use crate::tls::revocation::Crls;
use crate::tls::roots::Roots;

use super::credentials::{CredentialError, Credentials, MeshIdentity};
use super::findings::Findings;
use super::server_tls::{CertificateFact, IDENTITY, finding_code};
use super::settings::CompileSettings;

/// What was built, by what it was built from, so that unchanged clusters keep their sessions.
pub type ClientConfigs = HashMap<Fingerprint, Arc<ClientConfig>>;

/// What a cluster's connections prove and verify, whatever its rule says.
#[derive(Debug)]
pub struct Peer<'a> {
    /// What is spoken.
    pub protocol: Protocol,
    /// Names that the service's servers may have when the rule lists none.
    pub names: &'a [String],
    /// `outbound_.PORT_.SUBSET_.HOST`: the name sent with the mesh identity.
    pub mesh_name: &'a str,
}

/// A cluster's security.
#[derive(Debug)]
pub struct Secured {
    /// What connections use.
    pub tls: UpstreamTls,
    /// Equal for blocks whose connections may stand for each other; certificates of this gateway
    /// and the mesh's roots rotate without changing it. Servers that were revoked change it.
    pub rule: Fingerprint,
    /// Identities accepted of the server; empty accepts every one.
    pub names: Vec<String>,
}

impl Secured {
    /// Connections that always fail.
    pub fn broken(reason: &str) -> Self {
        let rule = Fingerprint::of(format!("broken {reason}").as_bytes());
        Self { tls: UpstreamTls::Broken(reason.into()), rule, names: Vec::new() }
    }
}

/// Builds originations.
pub struct UpstreamTlsPass<'a> {
    credentials: &'a Credentials<'a>,
    settings: &'a CompileSettings,
    identity: Result<MeshIdentity, CredentialError>,
    previous: &'a ClientConfigs,
    built: ClientConfigs,
}

impl<'a> UpstreamTlsPass<'a> {
    /// Loads the mesh identity once, as it is at `now` (Unix seconds).
    pub fn new(
        credentials: &'a Credentials<'a>,
        settings: &'a CompileSettings,
        previous: &'a ClientConfigs,
        now: i64,
    ) -> Self {
        let identity = credentials.identity(now);
        Self { credentials, settings, identity, previous, built: ClientConfigs::new() }
    }

    /// The identity's certificate, for its expiry metric; what is wrong with it is told. It is short
    /// lived and renewed by itself, so only what breaks connections is.
    pub fn certificate(&self, now: i64, findings: &mut Findings) -> Option<CertificateFact> {
        let MeshIdentity { material, .. } = self.credentials.any_identity().ok()?;
        let name = self.settings.identity.display().to_string();
        findings.change_at(material.findings_change(now, 0));
        for finding in material.findings(now, 0) {
            let message = format!("the mesh identity in \"{name}\": {finding}");
            let help = "renew it: backends refuse it until then";
            findings.add(Diagnostic::new(finding_code(&finding), message).help(help));
        }
        let leaf = material.leaf();
        let (serial, not_after) = (leaf.serial.clone(), leaf.not_after);
        Some(CertificateFact { kind: IDENTITY, name, serial, not_after })
    }

    /// The mesh identity, or why there is none.
    pub fn identity(&self) -> Result<&Arc<Material>, &CredentialError> {
        self.identity.as_ref().map(|own| &own.material)
    }

    /// What was built, for the next compilation.
    pub fn finish(self) -> ClientConfigs {
        self.built
    }

    /// The security of a cluster. Material that cannot be used makes its connections fail; nothing
    /// falls back to less.
    pub fn secure(
        &mut self,
        tls: &ClientTls,
        peer: &Peer<'_>,
    ) -> (Secured, Option<CredentialError>) {
        if tls.mode == ClientTlsMode::Disable {
            let rule = Fingerprint::of(b"plain");
            return (Secured { tls: UpstreamTls::Plain, rule, names: Vec::new() }, None);
        }
        let names =
            if tls.subject_alt_names.is_empty() { peer.names } else { &tls.subject_alt_names };
        let sni = sni(tls, peer);
        let built = self.spec(tls, peer, names, &sni).and_then(|spec| {
            let shown = spec.identity.as_ref().map(|identity| known_as(identity.leaf()));
            self.config(&spec).map(|(config, ties)| (config, ties, shown))
        });
        let (tls, ties, error) = match built {
            Ok((config, ties, shown)) => {
                (UpstreamTls::Tls { config, sni, accepted: names.into(), shown }, Some(ties), None)
            }
            Err(error) => (UpstreamTls::Broken(error.explain().into()), None, Some(error)),
        };
        let mut hasher = Hasher::default();
        hasher.part(format!("{:?}{:?}", tls_kind(&tls), names).as_bytes());
        hasher.part(ties.as_ref().map_or(b"" as &[u8], |ties| ties.as_bytes()));
        (Secured { tls, rule: hasher.finish(), names: names.to_vec() }, error)
    }

    fn spec(
        &self,
        tls: &ClientTls,
        peer: &Peer<'_>,
        names: &[String],
        sni: &Sni,
    ) -> Result<ClientTlsSpec, CredentialError> {
        let alpn = alpn(tls.mode, peer.protocol);
        let crypto = CryptoProfile::standard();
        let send_name = !matches!(sni, Sni::Absent);
        if tls.mode == ClientTlsMode::IstioMutual {
            let MeshIdentity { material, roots, crls } = self.identity.clone()?;
            let names = names.iter().collect();
            let verify = Verify::Chain { roots, crls, names, host: HostCheck::Off };
            return Ok(ClientTlsSpec { identity: Some(material), crypto, alpn, send_name, verify });
        }
        let identity = match tls.mode {
            ClientTlsMode::Mutual => Some(self.own(tls)?),
            _ => None,
        };
        let verify = if tls.insecure_skip_verify == Some(true) {
            Verify::Skip
        } else {
            let (roots, crls) = self.anchors(tls)?;
            // Istio checks the host by itself only while neither a name nor names are given.
            let automatic = tls.sni.is_empty()
                && tls.subject_alt_names.is_empty()
                && peer.protocol != Protocol::Tcp;
            let host = if automatic { HostCheck::Required } else { HostCheck::Off };
            Verify::Chain { roots, crls, names: names.iter().collect(), host }
        };
        Ok(ClientTlsSpec { identity, crypto, alpn, send_name, verify })
    }

    fn own(&self, tls: &ClientTls) -> Result<Arc<Material>, CredentialError> {
        if tls.credential_name.is_empty() {
            self.credentials.material_files(&tls.client_certificate, &tls.private_key)
        } else {
            self.credentials.material(&tls.credential_name)
        }
    }

    fn anchors(&self, tls: &ClientTls) -> Result<(Roots, Crls), CredentialError> {
        if !tls.credential_name.is_empty() {
            return self.credentials.roots(&tls.credential_name);
        }
        let roots = match tls.ca_certificates.as_str() {
            "" | "system" => {
                self.settings.system_roots.clone().ok_or(CredentialError::NoSystemRoots)?
            }
            path => self.credentials.roots_file(path)?,
        };
        let crls = self.credentials.crl_file(&tls.ca_crl, &roots)?;
        Ok((roots, crls))
    }

    fn config(
        &mut self,
        spec: &ClientTlsSpec,
    ) -> Result<(Arc<ClientConfig>, Fingerprint), CredentialError> {
        let mut hasher = Hasher::default();
        if let Some(identity) = &spec.identity {
            hasher.part(b"identity").part(identity.fingerprint().as_bytes());
        }
        for protocol in &spec.alpn {
            hasher.part(protocol);
        }
        hasher.part(&[u8::from(spec.send_name)]);
        let mut ties = Hasher::default();
        if let Verify::Chain { roots, crls, names, host } = &spec.verify {
            hasher.part(roots.fingerprint().as_bytes()).part(crls.fingerprint().as_bytes());
            hasher.part(format!("{names:?}{host:?}").as_bytes());
            let of_the_mesh = self
                .identity
                .as_ref()
                .is_ok_and(|own| own.roots.fingerprint() == roots.fingerprint());
            if !of_the_mesh {
                ties.part(roots.fingerprint().as_bytes());
            }
            ties.part(crls.revoked().as_bytes());
        }
        let fingerprint = hasher.finish();
        let known = self.built.get(&fingerprint).or_else(|| self.previous.get(&fingerprint));
        let config = match known {
            Some(known) => known.clone(),
            None => client_config(spec)?,
        };
        self.built.insert(fingerprint, config.clone());
        Ok((config, ties.finish()))
    }
}

/// The name that a certificate is known by: its SPIFFE id, or its subject.
fn known_as(leaf: &CertFacts) -> Box<str> {
    leaf.names.uris.first().unwrap_or(&leaf.subject).as_str().into()
}

/// What of an origination decides whether connections may stand for each other.
fn tls_kind(tls: &UpstreamTls) -> (&'static str, Option<&Sni>) {
    match tls {
        UpstreamTls::Plain => ("plain", None),
        UpstreamTls::Tls { sni, .. } => ("tls", Some(sni)),
        UpstreamTls::Broken(_) => ("broken", None),
    }
}

fn sni(tls: &ClientTls, peer: &Peer<'_>) -> Sni {
    let fixed = |name: &str| ServerName::try_from(name.to_owned()).map_or(Sni::Absent, Sni::Fixed);
    match (tls.mode, tls.sni.as_str()) {
        (ClientTlsMode::IstioMutual, "") => fixed(peer.mesh_name),
        (_, "") if peer.protocol == Protocol::Tcp => Sni::Absent,
        (_, "") => Sni::RequestHost,
        (_, name) => fixed(name),
    }
}

fn alpn(mode: ClientTlsMode, protocol: Protocol) -> Vec<Vec<u8>> {
    let list: &[&[u8]] = match (mode, protocol) {
        (ClientTlsMode::IstioMutual, Protocol::Http1) => {
            &[b"istio-http/1.1", b"istio", b"http/1.1"]
        }
        (ClientTlsMode::IstioMutual, Protocol::Http2) => &[b"istio-h2", b"istio", b"h2"],
        // Never `istio-peer-exchange`: servers would begin with metadata that is not the application's.
        (ClientTlsMode::IstioMutual, Protocol::Tcp) => &[b"istio"],
        (_, Protocol::Http2) => &[b"h2"],
        (_, Protocol::Http1 | Protocol::Tcp) => &[],
    };
    list.iter().map(|name| name.to_vec()).collect()
}
