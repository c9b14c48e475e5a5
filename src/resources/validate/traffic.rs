//! Rules for what a `VirtualService` does to traffic: retries, faults, cross-origin requests.
//!
//! **Invariant**: as in [`super::virtual_service`].

use super::Findings;
use super::headers::header_name;
use super::virtual_service::{check_percent, string_match};
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::{CorsPolicy, HttpFault, HttpRetry};

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
    findings.duration_or_off(retries.per_try_timeout, &format!("{path}.perTryTimeout"));
    findings.duration(retries.backoff, &format!("{path}.backoff"));
    let conditions = retries.retry_on.split(',').map(str::trim).filter(|name| !name.is_empty());
    for name in conditions {
        let code = name.parse::<u16>().is_ok_and(|code| (100..=599).contains(&code));
        if !code && !RETRY_ON.contains(&name) {
            let message = format!("\"{name}\" is not a retry condition");
            findings.error(&format!("{path}.retryOn"), message);
        }
    }
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
        let path = format!("{path}.delay");
        check_percent(delay.percentage, &format!("{path}.percentage"), findings);
        findings.percent(f64::from(delay.percent), &format!("{path}.percent"));
        findings.duration(delay.fixed_delay, &format!("{path}.fixedDelay"));
    }
    if let Some(abort) = &fault.abort {
        let path = format!("{path}.abort");
        check_percent(abort.percentage, &format!("{path}.percentage"), findings);
        let wrong = abort.http_status.is_some_and(|status| !(200..=599).contains(&status));
        let message = "the status is between 200 and 599";
        findings.error_if(wrong, &format!("{path}.httpStatus"), message);
        let unsupported = abort.http2_error.is_some();
        let message =
            "no HTTP/2 error can be injected, nor can Istio: write httpStatus or grpcStatus";
        findings.error_if(unsupported, &format!("{path}.http2Error"), message);
        let none = abort.http_status.is_none() && abort.grpc_status.is_none() && !unsupported;
        findings.unworkable_if(none, &path, "an abort needs httpStatus or grpcStatus");
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
    let fraction = cors.max_age.is_some_and(|age| age.0.subsec_nanos() != 0);
    findings.error_if(fraction, &format!("{path}.maxAge"), "maxAge counts whole seconds");
}
