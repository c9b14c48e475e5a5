//! The identity from Envoy's SDS: secrets `default` and `ROOTCA`, together or one by one.

use std::convert::Infallible;
use std::path::Path;

use futures_util::stream::unfold;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Request;
use tonic_prost::ProstCodec;

use super::follow::{Deliver, SourceError, soon, unix_seconds};
use super::{Identity, Sent, UnusableIdentity};
use crate::base::secret::Secret as Hidden;
use crate::grpc::client::connect_unix;
use crate::grpc::sds::{
    DEFAULT, DiscoveryRequest, DiscoveryResponse, ErrorDetail, Node, ROOT_CA, SECRET_TYPE,
    STREAM_SECRETS, Secret,
};

/// Requests that wait for the connection; one is sent for each answer.
const QUEUE: usize = 4;

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
    let (requests, queue) = mpsc::channel::<DiscoveryRequest>(QUEUE);
    let queue = unfold(queue, |mut queue| async {
        let request = queue.recv().await?;
        Some((request, queue))
    });
    // Asked before the call begins: some servers answer with headers only once they have a request.
    requests.send(request()).await.map_err(|_| SourceError::Ended)?;
    let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
    let method = PathAndQuery::from_static(STREAM_SECRETS);
    let mut answers =
        soon(client.streaming(Request::new(queue), method, codec)).await?.into_inner();
    let mut secrets = Secrets::default();
    loop {
        let answer = answers.message().await?.ok_or(SourceError::Ended)?;
        let taken = secrets.take(&answer);
        let refusal = taken.as_ref().err().cloned();
        let reply = DiscoveryRequest {
            version_info: if refusal.is_none() { answer.version_info } else { String::new() },
            response_nonce: answer.nonce,
            error_detail: refusal.clone().map(|message| ErrorDetail { message }),
            ..request()
        };
        requests.send(reply).await.map_err(|_| SourceError::Ended)?;
        match (taken, refusal) {
            (Ok(Some(identity)), _) => deliver(identity),
            (_, Some(why)) => tracing::warn!(why, "secrets that cannot be used were refused"),
            _ => {}
        }
    }
}

fn request() -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "portcullis".to_owned() }),
        resource_names: vec![DEFAULT.to_owned(), ROOT_CA.to_owned()],
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// What came so far, and what of it serves.
#[derive(Default)]
struct Secrets {
    latest: Parts,
    /// What a part that comes alone belongs to while another that came cannot be used.
    serving: Parts,
}

impl Secrets {
    /// The identity that there is with an answer, once both parts are there.
    fn take(&mut self, answer: &DiscoveryResponse) -> Result<Option<Identity>, String> {
        let latest = self.latest.take(answer).and_then(|()| self.latest.identity());
        if latest.is_ok() {
            self.serving.clone_from(&self.latest);
            return latest;
        }
        let mut serving = self.serving.clone();
        let with_serving = serving.take(answer).and_then(|()| serving.identity());
        if matches!(with_serving, Ok(Some(_))) {
            self.serving = serving;
            return with_serving;
        }
        latest
    }
}

#[derive(Clone, Default)]
struct Parts {
    certificate: Option<(Vec<u8>, Hidden<Vec<u8>>)>,
    /// Roots, and what their authorities revoked.
    roots: Option<(Vec<u8>, Vec<u8>)>,
}

impl Parts {
    fn take(&mut self, answer: &DiscoveryResponse) -> Result<(), String> {
        for resource in &answer.resources {
            let secret = Secret::decode(resource.value.as_slice())
                .map_err(|_| "a secret cannot be read".to_owned())?;
            let inline =
                |name: &str| format!("the secret \"{name}\" has no inline data of its kind");
            match secret.name.as_str() {
                DEFAULT => {
                    let found = secret.into_certificate().ok_or_else(|| inline(DEFAULT))?;
                    self.certificate = Some(found);
                }
                ROOT_CA => self.roots = Some(secret.into_roots().ok_or_else(|| inline(ROOT_CA))?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The identity, once both parts are there.
    fn identity(&self) -> Result<Option<Identity>, String> {
        let (Some((chain, key)), Some((roots, lists))) = (&self.certificate, &self.roots) else {
            return Ok(None);
        };
        let (chain, key) = (chain.clone(), key.clone());
        let sent = Sent { chain, key, roots: roots.clone(), lists: lists.clone() };
        Identity::new(sent, unix_seconds())
            .map(Some)
            .map_err(|error: UnusableIdentity| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::Authority;

    fn answer(secrets: &[Secret]) -> DiscoveryResponse {
        let resources = secrets.iter().map(Secret::to_resource).collect();
        DiscoveryResponse { resources, ..DiscoveryResponse::default() }
    }

    #[test]
    fn parts_make_an_identity_once_both_are_there() {
        let mesh = Authority::new("mesh");
        let leaf = mesh.leaf(&["spiffe://td/x"], 1);
        let certificate = Secret::certificate(DEFAULT, &leaf.chain, &Hidden::new(leaf.key.clone()));
        let roots = Secret::validation(ROOT_CA, mesh.pem(), &mesh.revoke(&[2]).0);
        let mut secrets = Secrets::default();
        assert!(secrets.take(&answer(std::slice::from_ref(&certificate))).unwrap().is_none());
        assert!(secrets.take(&answer(std::slice::from_ref(&roots))).unwrap().is_some());
        let mut secrets = Secrets::default();
        assert!(secrets.take(&answer(&[roots, certificate])).unwrap().is_some());
    }

    #[test]
    fn a_part_that_cannot_be_used_does_not_keep_others_from_being_renewed() {
        let mesh = Authority::new("mesh");
        let [first, second] = [1, 2].map(|serial| {
            let leaf = mesh.leaf(&["spiffe://td/x"], serial);
            (Secret::certificate(DEFAULT, &leaf.chain, &Hidden::new(leaf.key)), leaf.chain)
        });
        let good = Secret::validation(ROOT_CA, mesh.pem(), &mesh.revoke(&[9]).0);
        let with_bad_list = Secret::validation(ROOT_CA, mesh.pem(), "x");
        for bad in [Secret::validation(ROOT_CA, "x", ""), with_bad_list] {
            let mut secrets = Secrets::default();
            secrets.take(&answer(&[first.0.clone(), good.clone()])).unwrap().unwrap();
            assert!(secrets.take(&answer(std::slice::from_ref(&bad))).is_err());
            let renewed = secrets.take(&answer(std::slice::from_ref(&second.0))).unwrap().unwrap();
            assert_eq!(&renewed.chain.bytes()[..], second.1.as_bytes());
            assert_eq!(&renewed.roots.bytes()[..], mesh.pem().as_bytes());
            assert!(!renewed.lists.bytes().is_empty());
            // From the start: it serves once the bad part is replaced, alone.
            let mut secrets = Secrets::default();
            assert!(secrets.take(&answer(&[bad, first.0.clone()])).is_err());
            assert!(secrets.take(&answer(std::slice::from_ref(&good))).unwrap().is_some());
        }
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let mut parts = Parts::default();
        let swapped = Secret::validation(DEFAULT, "x", "");
        assert!(parts.take(&answer(&[swapped])).unwrap_err().contains("\"default\""));
        let mut broken = answer(&[Secret::validation(ROOT_CA, "x", "")]);
        broken.resources[0].value.truncate(3);
        assert!(parts.take(&broken).is_err());
        parts.take(&answer(&[Secret::validation(ROOT_CA, "x", "")])).unwrap();
        let key = Hidden::new("x".to_owned());
        parts.take(&answer(&[Secret::certificate(DEFAULT, "x", &key)])).unwrap();
        assert!(parts.identity().is_err());
    }
}
