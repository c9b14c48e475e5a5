//! The identity from a SPIFFE Workload API: the first, default one of those it streams.

use std::convert::Infallible;
use std::path::Path;

use http::uri::PathAndQuery;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic_prost::ProstCodec;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::follow::{Deliver, SourceError, soon, unix_seconds};
use super::{Identity, Sent};
use crate::base::pem;
use crate::base::secret::Secret;
use crate::grpc::client::connect_unix;
use crate::grpc::workload::{Empty, FETCH_X509_SVID, SECURITY_HEADER, X509Svid, X509SvidResponse};

/// Follows the stream until it fails.
pub(super) async fn run(path: &Path, deliver: Deliver<'_>) -> SourceError {
    match stream(path, deliver).await {
        Err(error) => error,
    }
}

async fn stream(path: &Path, deliver: Deliver<'_>) -> Result<Infallible, SourceError> {
    let mut client = soon(connect_unix(path)).await?;
    soon(async { client.ready().await.map_err(|error| SourceError::Connect(error.into())) })
        .await?;
    let mut request = Request::new(Empty {});
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    let codec = ProstCodec::<Empty, X509SvidResponse>::default();
    let method = PathAndQuery::from_static(FETCH_X509_SVID);
    let mut answers = soon(client.server_streaming(request, method, codec)).await?.into_inner();
    loop {
        let answer = answers.message().await?.ok_or(SourceError::Ended)?;
        match answer.svids.first().map(|svid| identity(svid, &answer.crl)) {
            Some(Ok(identity)) => deliver(identity),
            Some(Err(why)) => return Err(SourceError::Unusable(why)),
            None => return Err(SourceError::Unusable("there is no certificate in it".to_owned())),
        }
    }
}

/// The identity, with the lists of everything that was sent.
fn identity(svid: &X509Svid, lists: &[Vec<u8>]) -> Result<Identity, String> {
    let unreadable = || "a certificate in it cannot be read".to_owned();
    let chain = certificates(&svid.x509_svid).ok_or_else(unreadable)?;
    let roots = certificates(&svid.bundle).ok_or_else(unreadable)?;
    let key = pem::encode(pem::PRIVATE_KEY, &svid.x509_svid_key);
    let key = Secret::new(key.into_bytes());
    let mut all = String::new();
    for list in lists {
        pem::push(&mut all, pem::REVOCATION_LIST, list);
    }
    let (chain, roots, lists) = (chain.into_bytes(), roots.into_bytes(), all.into_bytes());
    Identity::new(Sent { chain, key, roots, lists }, unix_seconds())
        .map_err(|error| error.to_string())
}

/// PEM of DER certificates that follow each other.
fn certificates(mut der: &[u8]) -> Option<String> {
    let mut out = String::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).ok()?;
        let length = der.len().checked_sub(rest.len())?;
        pem::push(&mut out, pem::CERTIFICATE, der.get(..length)?);
        der = rest;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::tls::pki::Authority;

    fn svid() -> X509Svid {
        let mesh = Authority::new("mesh");
        let leaf = mesh.leaf(&["spiffe://td/ns/a/sa/b"], 1);
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        X509Svid {
            spiffe_id: String::new(),
            x509_svid: [der(&leaf.chain), der(mesh.pem())].concat(),
            x509_svid_key: key.secret_der().to_vec(),
            bundle: der(mesh.pem()),
        }
    }

    fn check(change: impl Fn(&mut X509Svid), expected: Option<&str>) {
        let mut sent = svid();
        change(&mut sent);
        check_with(&sent, &[], expected);
    }

    fn check_with(sent: &X509Svid, lists: &[Vec<u8>], expected: Option<&str>) {
        let outcome = identity(sent, lists).map(drop);
        match (&outcome, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(expected)) => assert!(error.contains(expected), "{error}"),
            _ => panic!("{outcome:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_is_sent_becomes_an_identity_when_it_serves() {
        check(|_| {}, None);
        check(|svid| svid.x509_svid.truncate(100), Some("cannot be read"));
        check(|svid| svid.x509_svid.push(0), Some("cannot be read"));
        check(|svid| svid.x509_svid.clear(), Some("BEGIN CERTIFICATE"));
        check(|svid| svid.bundle.clear(), Some("CA bundle"));
        check(|svid| svid.x509_svid_key.truncate(10), Some("private key"));
        let list = Authority::new("mesh").revoke(&[1]).1;
        check_with(&svid(), &[list.clone(), list], None);
        check_with(&svid(), &[vec![1]], Some("revocation list 1"));
    }
}
