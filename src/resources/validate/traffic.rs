//! Rules for what a `VirtualService` does to traffic: retries, faults, cross-origin requests.
//!
//! **Invariant**: as in [`super::virtual_service`].

use super::Findings;
use super::headers::header_name;
use super::virtual_service::string_match;
use crate::base::grpc;
use crate::diag::catalog;
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::{CorsPolicy, FaultAbort, FaultDelay, HttpFault, HttpRetry};

pub(super) fn check_retries(retries: &HttpRetry, path: &str, findings: &mut Findings<'_>) {
    let attempts = format!("{path}.attempts");
    findings.error_if(retries.attempts < 0, &attempts, "attempts cannot be negative");
    let others = HttpRetry { attempts: retries.attempts, ..HttpRetry::default() };
    let unused = retries.attempts == 0 && *retries != others;
    let refused = unused
        && (retries.per_try_timeout.is_some()
            || !retries.retry_on.is_empty()
            || retries.retry_remote_localities.is_some());
    let message = "without attempts the other fields have no effect";
    findings.error_if(refused, &attempts, message);
    findings.unworkable_if(unused && !refused, &attempts, message);
    findings.duration(retries.per_try_timeout, &format!("{path}.perTryTimeout"));
    findings.duration(retries.backoff, &format!("{path}.backoff"));
    // Istio takes no spaces between them.
    let conditions = retries.retry_on.split(',').filter(|_| !retries.retry_on.is_empty());
    for name in conditions {
        let code = name.parse::<u16>().is_ok_and(is_known_status);
        if !code && !RETRY_ON.contains(&name) {
            let message = format!("\"{name}\" is not a retry condition");
            findings.error(&format!("{path}.retryOn"), message);
        }
    }
}

/// Statuses that have a name.
fn is_known_status(code: u16) -> bool {
    let unnamed = matches!(code, 306 | 419 | 420 | 427 | 430 | 509);
    let known =
        matches!(code, 100..=103 | 200..=208 | 226 | 300..=308 | 400..=431 | 451 | 500..=511);
    known && !unnamed
}

/// Names that `retryOn` may hold besides status codes.
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn check_fault(fault: &HttpFault, path: &str, findings: &mut Findings<'_>) {
    let empty = fault.delay.is_none() && fault.abort.is_none();
    findings.error_if(empty, path, "a fault needs a delay or an abort");
    if let Some(delay) = &fault.delay {
        check_delay(delay, &format!("{path}.delay"), findings);
    }
    if let Some(abort) = &fault.abort {
        check_abort(abort, &format!("{path}.abort"), findings);
    }
}

fn check_delay(delay: &FaultDelay, path: &str, findings: &mut Findings<'_>) {
    findings.share(delay.percentage, &format!("{path}.percentage"));
    if delay.percent > 0 {
        findings.add(&catalog::DEPRECATED, &format!("{path}.percent"), "write percentage");
    }
    findings.duration(delay.fixed_delay, &format!("{path}.fixedDelay"));
    let message = "Istio knows no delays that vary: write fixedDelay";
    let varies = delay.exponential_delay.is_some();
    findings.error_if(varies, &format!("{path}.exponentialDelay"), message);
}

fn check_abort(abort: &FaultAbort, path: &str, findings: &mut Findings<'_>) {
    findings.share(abort.percentage, &format!("{path}.percentage"));
    if let Some(status) = abort.http_status {
        findings.status(i64::from(status), &format!("{path}.httpStatus"));
    }
    if let Some(name) = &abort.grpc_status
        && grpc::number_of(name).is_none()
    {
        let message = format!("\"{name}\" is not the name of a gRPC status, such as NOT_FOUND");
        findings.error(&format!("{path}.grpcStatus"), message);
    }
    let unsupported = abort.http2_error.is_some();
    let message = "no HTTP/2 error can be injected, nor can Istio: write httpStatus or grpcStatus";
    findings.error_if(unsupported, &format!("{path}.http2Error"), message);
    if abort.http_status.is_none() && abort.grpc_status.is_none() && !unsupported {
        findings.warning(path, "nothing is aborted without httpStatus or grpcStatus");
    }
}

/// Methods that Istio knows, and any.
const CORS_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

pub(super) fn check_cors(cors: &CorsPolicy, path: &str, findings: &mut Findings<'_>) {
    if !cors.allow_origin.is_empty() && !cors.allow_origins.is_empty() {
        let message = "allowOrigin counts only without allowOrigins: move its origins there";
        findings.warning(&format!("{path}.allowOrigin"), message);
    }
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{index}]");
        let empty = match origin {
            StringMatch::Exact(text) => text.is_empty(),
            StringMatch::Present => true,
            StringMatch::Prefix(_) | StringMatch::Regex(_) => false,
        };
        findings.error_if(empty, &path, "an origin needs exact, prefix or regex");
        string_match(origin, &path, findings);
    }
    for (index, method) in cors.allow_methods.iter().enumerate() {
        if !CORS_METHODS.contains(&method.as_str()) {
            let path = format!("{path}.allowMethods[{index}]");
            findings.error(&path, format!("\"{method}\" is not a method of HTTP, or \"*\""));
        }
    }
    for (list, name) in
        [(&cors.allow_headers, "allowHeaders"), (&cors.expose_headers, "exposeHeaders")]
    {
        for (index, header) in list.iter().enumerate().filter(|(_, header)| *header != "*") {
            header_name(header, &format!("{path}.{name}[{index}]"), findings);
        }
    }
    findings.duration(cors.max_age, &format!("{path}.maxAge"));
    let fraction = cors.max_age.is_some_and(|age| age.0.subsec_nanos() != 0);
    findings.error_if(fraction, &format!("{path}.maxAge"), "maxAge counts whole seconds");
}
