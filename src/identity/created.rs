//! The identity from Istio's CA service: a new key and request each time, at half of a life.

use std::convert::Infallible;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic_prost::ProstCodec;

use super::follow::{Deliver, SourceError, soon, unix_seconds};
use super::{CertificateService, Identity, Sent};
use crate::base::limit;
use crate::base::secret::Secret;
use crate::ca::renew_after;
use crate::grpc::client::{Client, over};
use crate::grpc::istio::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::tls::client::{ClientTlsSpec, HostCheck, Verify, client_config};
use crate::tls::crypto::CryptoProfile;
use crate::tls::material::Material;
use crate::tls::revocation::Crls;
use crate::tls::roots::Roots;

/// Has certificates issued until one cannot be.
pub(super) async fn run(service: &CertificateService, deliver: Deliver<'_>) -> SourceError {
    match renew(service, deliver).await {
        Err(error) => error,
    }
}

async fn renew(
    service: &CertificateService,
    deliver: Deliver<'_>,
) -> Result<Infallible, SourceError> {
    loop {
        let (identity, life) = soon(Box::pin(create(service))).await?;
        deliver(identity);
        sleep(renew_after(life, fastrand::f64())).await;
    }
}

/// One certificate, and how long it is good for.
async fn create(service: &CertificateService) -> Result<(Identity, Duration), SourceError> {
    let unusable = |why: &dyn std::fmt::Display| SourceError::Unusable(why.to_string());
    let token = read(&service.token)?;
    let token = String::from_utf8(token).map_err(|error| unusable(&error.utf8_error()))?;
    let bearer = Secret::new(format!("Bearer {}", token.trim()));
    let key = KeyPair::generate().map_err(|error| unusable(&error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).and_then(|request| request.pem());
    let csr = csr.map_err(|error| unusable(&error))?;
    let mut request = Request::new(CertificateRequest { csr, ..CertificateRequest::default() });
    let mut value = MetadataValue::try_from(bearer.expose().as_str())
        .map_err(|_| SourceError::Unusable("the token is not ASCII".to_owned()))?;
    value.set_sensitive(true);
    request.metadata_mut().insert("authorization", value);
    let mut client = connect(service).await?;
    client.ready().await.map_err(|error| SourceError::Connect(error.into()))?;
    let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
    let method = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let answer = client.unary(request, method, codec).await?.into_inner();
    let key = Secret::new(key.serialize_pem().into_bytes());
    taken(answer, &key, unix_seconds())
}

/// What was issued, judged: leaf and intermediates, and the roots as the last of the list.
fn taken(
    answer: CertificateResponse,
    key: &Secret<Vec<u8>>,
    now: i64,
) -> Result<(Identity, Duration), SourceError> {
    let mut chain = answer.cert_chain;
    let roots = chain.pop().filter(|_| !chain.is_empty());
    let roots = roots.ok_or_else(|| SourceError::Unusable("it sent no chain".to_owned()))?;
    let chain: Vec<u8> = chain.iter().flat_map(|pem| [pem.as_bytes(), b"\n"].concat()).collect();
    let unusable = |why: &dyn std::fmt::Display| SourceError::Unusable(why.to_string());
    let material = Material::parse(&chain, key.expose()).map_err(|error| unusable(&error))?;
    let left = material.leaf().not_after.saturating_sub(now);
    let (key, roots) = (key.clone(), roots.into_bytes());
    let identity = Identity::new(Sent { chain, key, roots, lists: Vec::new() }, now);
    let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
    Ok((identity.map_err(|error| unusable(&error))?, left))
}

/// Connects over TLS; the server's certificate must have the service's name and come from its roots.
async fn connect(service: &CertificateService) -> Result<Client, SourceError> {
    let unusable = |why: &dyn std::fmt::Display| SourceError::Unusable(why.to_string());
    let roots = Roots::parse(&read(&service.roots)?).map_err(|error| unusable(&error))?;
    let names = std::iter::empty::<&str>().collect();
    let verify = Verify::Chain { roots, crls: Crls::default(), names, host: HostCheck::Required };
    let crypto = CryptoProfile::standard();
    let alpn = vec![b"h2".to_vec()];
    let spec = ClientTlsSpec { identity: None, crypto, alpn, send_name: true, verify };
    let config = client_config(&spec).map_err(|error| unusable(&error))?;
    let name = ServerName::try_from(service.host.clone()).map_err(|error| unusable(&error))?;
    let failed = |error: std::io::Error| SourceError::Connect(error.into());
    let stream = TcpStream::connect((service.host.as_str(), service.port)).await.map_err(failed)?;
    let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await;
    let authority = if service.host.contains(':') {
        format!("https://[{}]:{}", service.host, service.port)
    } else {
        format!("https://{}:{}", service.host, service.port)
    };
    let origin = Uri::try_from(authority).map_err(|error| unusable(&error))?;
    Ok(over(stream.map_err(failed)?, origin).await?)
}

fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path);
    file.and_then(|file| file.take(limit::CREDENTIAL_FILE_BYTES).read_to_end(&mut content))
        .map(|_| content)
        .map_err(|source| SourceError::File { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::Authority;

    #[test]
    fn an_answer_is_a_chain_and_its_roots() {
        let mesh = Authority::new("mesh");
        let leaf = mesh.leaf(&["spiffe://td/x"], 1);
        let key = Secret::new(leaf.key.clone().into_bytes());
        let check = |chain: &[&str], good: bool| {
            let cert_chain = chain.iter().map(|pem| (*pem).to_owned()).collect();
            let outcome = taken(CertificateResponse { cert_chain }, &key, 0);
            assert_eq!(outcome.is_ok(), good, "{:?}", outcome.err());
        };
        // Istio's elements end without a line end.
        check(&[leaf.chain.trim_end(), mesh.pem()], true);
        check(&[leaf.chain.trim_end(), mesh.pem().trim_end(), mesh.pem()], true);
        check(&[], false);
        check(&[&leaf.chain], false);
        check(&[mesh.pem(), mesh.pem()], false);
        check(&[&leaf.chain, "no roots"], false);
    }
}
