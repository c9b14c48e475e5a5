//! Where the mesh identity comes from, as `--identity` says.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the mesh identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// `DIR`: files under Istio's names, re-read when they change.
    Folder(PathBuf),
    /// `unix:PATH`: a SPIFFE Workload API.
    WorkloadApi(PathBuf),
    /// `sds:unix:PATH`: Envoy's SDS, secrets `default` and `ROOTCA`.
    Sds(PathBuf),
    /// `ca:HOST:PORT`: Istio's CA service.
    CertificateService(CertificateService),
}

/// Istio's CA service and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateService {
    /// DNS name or address; its certificate must have it.
    pub host: String,
    /// Port.
    pub port: u16,
    /// File with the bearer token, re-read for each call.
    pub token: PathBuf,
    /// File with the roots of the service's own certificate.
    pub roots: PathBuf,
    /// File with the revocation lists of the mesh's authorities, which the service does not give; need not
    /// be there.
    pub lists: PathBuf,
}

/// Text that says no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a folder, unix:PATH (SPIFFE Workload API), sds:unix:PATH or ca:HOST:PORT")]
pub struct InvalidSource;

/// Where Kubernetes puts the token for Istio's CA.
const DEFAULT_TOKEN: &str = "/var/run/secrets/tokens/istio-token";
/// Where Istio puts the roots of its CA.
const DEFAULT_ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
/// Where Istio mounts its ConfigMap `istio-ca-crl`.
const DEFAULT_LISTS: &str = "/var/run/secrets/istio/crl/ca-crl.pem";

impl FromStr for IdentitySource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let path = |path: &str| match path.strip_prefix("//").unwrap_or(path) {
            "" => Err(InvalidSource),
            path => Ok(PathBuf::from(path)),
        };
        if let Some(socket) = text.strip_prefix("sds:unix:") {
            return path(socket).map(Self::Sds);
        }
        if let Some(socket) = text.strip_prefix("unix:") {
            return path(socket).map(Self::WorkloadApi);
        }
        if let Some(address) = text.strip_prefix("ca:") {
            let (host, port) = address.rsplit_once(':').ok_or(InvalidSource)?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = bare.unwrap_or(host);
            let port = port.parse().ok().filter(|port| *port > 0).ok_or(InvalidSource)?;
            if rustls::pki_types::ServerName::try_from(host).is_err() {
                return Err(InvalidSource);
            }
            return Ok(Self::CertificateService(CertificateService {
                host: host.to_owned(),
                port,
                token: DEFAULT_TOKEN.into(),
                roots: DEFAULT_ROOTS.into(),
                lists: DEFAULT_LISTS.into(),
            }));
        }
        if text.is_empty() || text.starts_with("sds:") {
            return Err(InvalidSource);
        }
        Ok(Self::Folder(text.into()))
    }
}

impl fmt::Display for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::WorkloadApi(path) => write!(f, "unix:{}", path.display()),
            Self::Sds(path) => write!(f, "sds:unix:{}", path.display()),
            Self::CertificateService(service) if service.host.contains(':') => {
                write!(f, "ca:[{}]:{}", service.host, service.port)
            }
            Self::CertificateService(service) => write!(f, "ca:{}:{}", service.host, service.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, shown: Option<&str>) {
        let source = text.parse::<IdentitySource>();
        assert_eq!(source.map(|source| source.to_string()).ok().as_deref(), shown, "{text}");
    }

    #[test]
    fn sources_have_their_prefixes() {
        check("certs/identity", Some("certs/identity"));
        check("unix:/run/s", Some("unix:/run/s"));
        check("unix:///run/s", Some("unix:/run/s"));
        check("sds:unix:run/s", Some("sds:unix:run/s"));
        check("ca:istiod.istio-system.svc:15012", Some("ca:istiod.istio-system.svc:15012"));
        check("ca:[::1]:1", Some("ca:[::1]:1"));
        for text in
            ["", "unix:", "sds:/run/s", "sds:unix:", "ca:host", "ca:host:0", "ca::1", "ca:a b:1"]
        {
            check(text, None);
        }
    }
}
