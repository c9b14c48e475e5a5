//! `CreateCertificate`: a token and a signing request in, a chain out.
//!
//! **Invariant:** nothing of a call is read before its token was accepted.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use hyper::body::Incoming;
use time::OffsetDateTime;
use tonic::{Code, Response, Status};

use super::state::Ca;
use crate::base::limit;
use crate::ca::authority::to_pem;
use crate::ca::{Caller, SigningRequest, Template, WorkloadId};
use crate::grpc::istio::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, IMPERSONATED_IDENTITY,
};
use crate::grpc::server::{Method, at_once, call, unknown_method};

/// Answers one call to the CA's port.
pub(super) async fn answer(
    ca: Arc<Ca>,
    request: Request<Incoming>,
) -> http::Response<tonic::body::Body> {
    if request.uri().path() != CREATE_CERTIFICATE {
        return unknown_method();
    }
    let (id, caller) = match identify(&ca, request.headers()) {
        Ok(found) => found,
        Err(status) => return status.into_http(),
    };
    let method = Method(|request: tonic::Request<CertificateRequest>| {
        at_once(create(&ca, &request.into_inner(), &id, caller).map(Response::new))
    });
    let mut call = call();
    match tokio::time::timeout(limit::CA_CALL_TIME, call.unary(method, request)).await {
        Ok(response) => response,
        Err(_) => Status::deadline_exceeded("the request did not arrive in time").into_http(),
    }
}

fn identify(ca: &Ca, headers: &HeaderMap) -> Result<(WorkloadId, Caller), Status> {
    let standing = ca.standing().borrow().clone();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    ca.callers.identify(headers, &standing.workloads, now).map_err(|refused| {
        tracing::warn!(reason = %refused, "a caller was refused");
        Status::unauthenticated(refused.to_string())
    })
}

fn create(
    ca: &Ca,
    request: &CertificateRequest,
    id: &WorkloadId,
    caller: Caller,
) -> Result<CertificateResponse, Status> {
    let refuse = |reason: String| {
        tracing::warn!(reason, identity = %id, "a signing request was refused");
        Status::new(Code::InvalidArgument, reason)
    };
    if !request.asked(IMPERSONATED_IDENTITY).is_empty() {
        let reason = "nobody gets a certificate for another; ask without ImpersonatedIdentity";
        tracing::warn!(reason, identity = %id, "a caller was refused");
        return Err(Status::unauthenticated(reason));
    }
    let life = life(request.validity_duration, ca.settings.lifetime).map_err(refuse)?;
    let signing = SigningRequest::parse(&request.csr).map_err(|error| refuse(error.to_string()))?;
    let key = signing.key_of(id).map_err(|error| refuse(error.to_string()))?;
    let standing = ca.standing().borrow().clone();
    let authority = &standing.authority;
    let template = Template { id, names: Vec::new(), life };
    let issued = ca.issue(authority, key, template, caller)?;
    let mut cert_chain: Vec<_> =
        authority.chain_of(&issued.certificate).map(|der| to_pem([der])).collect();
    cert_chain.push(to_pem(authority.roots()));
    Ok(CertificateResponse { cert_chain })
}

/// The life to give for the seconds asked.
fn life(asked: i64, default: Duration) -> Result<Duration, String> {
    match u64::try_from(asked).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs) {
        None => Ok(default),
        Some(life) if life <= limit::CA_LIFETIME => Ok(life),
        Some(_) => {
            let most = limit::CA_LIFETIME.as_secs();
            Err(format!("certificates live {most} seconds at most; ask for less"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_nothing_gives_the_default_and_for_too_much_nothing() {
        let day = Duration::from_hours(24);
        assert_eq!(life(0, day), Ok(day));
        assert_eq!(life(-5, day), Ok(day));
        assert_eq!(life(60, day), Ok(Duration::from_mins(1)));
        assert_eq!(life(90 * 86_400, day), Ok(limit::CA_LIFETIME));
        assert!(life(90 * 86_400 + 1, day).unwrap_err().contains("7776000"));
        assert!(life(i64::MAX, day).is_err());
    }
}
