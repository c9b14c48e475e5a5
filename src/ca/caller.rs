//! Who calls CreateCertificate, from the token it shows.
//!
//! **Invariant:** a caller has exactly one identity, in the CA's trust domain; a token that proves
//! none is refused, and never repeated in an answer or log.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::Value;

use super::record::Caller;
use super::workload::WorkloadId;
use super::workloads::Workloads;
use crate::auth::jwt::{
    Audiences, Authenticator, Claims, ForwardToken, IssuerKeys, JwtRule, Locations, RequestTokens,
    TokenCache, Verdict,
};
use crate::base::hash::Fingerprint;
use crate::base::id::{Origin, ResourceId};
use crate::base::limit;

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedCaller {
    /// No `authorization: Bearer TOKEN`.
    #[error("there is no bearer token; send \"authorization: Bearer TOKEN\"")]
    NoToken,
    /// It is neither a service account's nor a join token.
    #[error("the token is not accepted: {0}")]
    Token(String),
    /// A service account's, but without what makes it one.
    #[error("the token is no service account's that this CA serves: {0}")]
    Claims(&'static str),
}

/// Kubernetes' service-account tokens as far as this CA accepts them.
#[derive(Debug)]
pub struct KubernetesTokens {
    rules: Authenticator,
}

impl KubernetesTokens {
    /// Accepts tokens of an issuer (`iss`; any when nothing) that are meant for one of `audiences`
    /// and signed by one of `keys`.
    pub fn new(issuer: Option<&str>, audiences: &[String], keys: Arc<IssuerKeys>) -> Self {
        let rule = JwtRule {
            issuer: issuer.map(Into::into),
            audiences: Audiences::new(audiences.iter().map(String::as_str)),
            locations: Locations::default(),
            forward: ForwardToken::Keep,
            payload_header: None,
            claim_headers: Vec::new(),
            space_delimited: Arc::default(),
            keys,
            fetched: true,
            origin: Origin { resource: ResourceId::new("", "", ""), file: "".into(), line: 0 },
        };
        Self { rules: Authenticator::new(vec![rule]) }
    }

    fn account(&self, headers: &HeaderMap, now: i64) -> Result<(String, String), RefusedCaller> {
        let request = RequestTokens { headers, path_and_query: "/" };
        let verdict = self.rules.authenticate(request, now, &TokenCache::none());
        match verdict.map_err(|failure| RefusedCaller::Token(failure.reason.to_string()))? {
            Verdict::Anonymous => Err(RefusedCaller::NoToken),
            Verdict::Verified(token) => service_account(&token.claims),
        }
    }
}

/// Namespace and name of the service account that a token is for (`sub`, and `kubernetes.io` where
/// it is given).
fn service_account(claims: &Claims) -> Result<(String, String), RefusedCaller> {
    // An end of 0 is none (Istio's).
    if claims.get("exp").and_then(Value::as_f64).is_none_or(|end| end < 1.0) {
        return Err(RefusedCaller::Claims("it never expires"));
    }
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    let (namespace, account) = subject
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or(RefusedCaller::Claims("its \"sub\" is not system:serviceaccount:NAMESPACE:NAME"))?;
    if let Some(bound) = claims.get("kubernetes.io") {
        let said = |pointer: &str| bound.pointer(pointer).and_then(Value::as_str);
        let same = said("/namespace").is_none_or(|own| own == namespace)
            && said("/serviceaccount/name").is_none_or(|own| own == account);
        if !same {
            return Err(RefusedCaller::Claims("\"kubernetes.io\" and \"sub\" differ"));
        }
    }
    Ok((namespace.to_owned(), account.to_owned()))
}

/// Everything that identifies callers by token.
#[derive(Debug)]
pub struct TokenCallers {
    /// Trust domain of the identities.
    pub trust_domain: String,
    /// Service accounts; nothing when they are not served.
    pub kubernetes: Option<KubernetesTokens>,
}

impl TokenCallers {
    /// Who calls with these headers; `now` is in Unix seconds.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        workloads: &Workloads,
        now: i64,
    ) -> Result<(WorkloadId, Caller), RefusedCaller> {
        let token = bearer(headers).ok_or(RefusedCaller::NoToken)?;
        if let Some(id) = workloads.join(&Fingerprint::of(token), now) {
            return Ok((id.clone(), Caller::JoinToken));
        }
        let kubernetes = self.kubernetes.as_ref();
        let kubernetes =
            kubernetes.ok_or_else(|| RefusedCaller::Token("it is no join token".to_owned()))?;
        let (namespace, account) = kubernetes.account(headers, now)?;
        WorkloadId::new(&self.trust_domain, &namespace, &account)
            .map(|id| (id, Caller::ServiceAccount))
            .map_err(|_| RefusedCaller::Claims("its names make no SPIFFE id"))
    }
}

/// The one bearer token.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let token = value.as_bytes().strip_prefix(b"Bearer ")?;
    (!token.is_empty() && token.len() <= limit::TOKEN_BYTES).then_some(token)
}

#[cfg(test)]
mod tests;
