//! Envoy's secret discovery on a Unix socket: `default` and `ROOTCA`.

use std::sync::Arc;

use tonic::{Status, Streaming};

use super::holder::Holder;
use super::state::Ca;
use crate::ca::Caller;
use crate::ca::authority::to_pem;
use crate::grpc::sds::{
    DEFAULT, DiscoveryRequest, DiscoveryResponse, ROOT_CA, SECRET_TYPE, Secret,
};
use crate::grpc::server::Answering;

/// One stream: what its caller asked for, renewed in time.
pub(super) struct SecretStream {
    requests: Streaming<DiscoveryRequest>,
    holder: Holder,
    names: Vec<String>,
    answers: u64,
}

impl SecretStream {
    pub(super) fn new(ca: Arc<Ca>, caller: Caller, requests: Streaming<DiscoveryRequest>) -> Self {
        Self { requests, holder: Holder::new(ca, caller), names: Vec::new(), answers: 0 }
    }

    /// Whether a request wants an answer: one that accepts or refuses the last one does not.
    fn wants_answer(&mut self, request: DiscoveryRequest) -> Result<bool, Status> {
        if request.type_url != SECRET_TYPE {
            return Err(Status::invalid_argument("only secrets are served here"));
        }
        let first = request.response_nonce.is_empty();
        if !first && request.response_nonce != self.answers.to_string() {
            return Ok(false);
        }
        if let Some(refusal) = request.error_detail {
            let reason: String = refusal.message.chars().take(REASON_CHARS).collect();
            tracing::warn!(reason, "a caller refused its secrets");
            return Ok(false);
        }
        let mut names = request.resource_names;
        names.retain(|name| [DEFAULT, ROOT_CA].contains(&name.as_str()));
        names.sort();
        names.dedup();
        let wanted = first || names != self.names;
        self.names = names;
        Ok(wanted && !self.names.is_empty())
    }

    fn answer(&mut self) -> Result<DiscoveryResponse, Status> {
        let standing = self.holder.standing();
        self.holder.identity(&standing)?;
        let mut resources = Vec::new();
        for name in &self.names {
            let secret = if name == DEFAULT {
                let svid = self.holder.issue(&standing)?;
                Secret::certificate(name, &to_pem(&svid.chain), &svid.key.pem())
            } else {
                let roots = to_pem(standing.authority.roots());
                Secret::validation(name, &roots, &standing.enforced)
            };
            resources.push(secret.to_resource());
        }
        self.answers += 1;
        let version = self.answers.to_string();
        Ok(DiscoveryResponse {
            version_info: version.clone(),
            resources,
            type_url: SECRET_TYPE.to_owned(),
            nonce: version,
        })
    }
}

impl Answering for SecretStream {
    type Answer = DiscoveryResponse;

    async fn next(&mut self) -> Option<Result<DiscoveryResponse, Status>> {
        loop {
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(None) => return None,
                    Err(status) => return Some(Err(status)),
                    Ok(Some(request)) => match self.wants_answer(request) {
                        Ok(false) => {}
                        Ok(true) => return Some(self.answer()),
                        Err(status) => return Some(Err(status)),
                    },
                },
                () = self.holder.due(), if !self.names.is_empty() => return Some(self.answer()),
            }
        }
    }
}

/// What is logged of a caller's reason.
const REASON_CHARS: usize = 200;
