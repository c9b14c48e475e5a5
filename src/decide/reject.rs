//! Why this gateway answered by itself, and with what: the only place where a reason becomes a
//! status, a body and a response flag.
//!
//! Texts are Envoy's, so that clients see what they would see with Istio. Nothing sent to a client
//! names a policy, an address or a path of ours.

mod answer;
mod bad_request;
mod connect_failure;

use std::borrow::Cow;

use http::StatusCode;

use crate::auth::authz::Denial;
use crate::auth::jwt::JwtFailure;
use crate::base::id::Origin;
use crate::route::fault::Abort;

use super::standing::Tightened;

pub(super) use answer::answer;
pub use answer::{Answer, Blame};
pub use bad_request::BadRequest;
pub use connect_failure::{ConnectFailure, Tried};

/// A reason for a self-made answer.
#[derive(Clone, Debug)]
pub enum Reject {
    /// The request head is malformed.
    BadRequest(BadRequest),
    /// More header fields than [`crate::base::limit`] allows.
    TooManyHeaders,
    /// HTTP/1.0 is not spoken.
    Http10,
    /// `CONNECT`, or an upgrade that is not a WebSocket.
    UpgradeRefused,
    /// The connection must not carry requests for this host.
    Misdirected,
    /// A token is bad.
    Jwt(JwtFailure),
    /// An authorization policy refuses.
    Denied(Box<Denial>),
    /// A provider that had to be asked failed: status for the client, the rule that had it asked, and how
    /// it failed, for the log.
    ExternalError(StatusCode, Box<Origin>, &'static str),
    /// A body is longer than a provider is told.
    ExternalBodyTooLong,
    /// No virtual host or route.
    RouteNotFound,
    /// The rule's rewrite makes a path that is longer than can be sent.
    TargetTooLong,
    /// The route's service is not known.
    ClusterNotFound,
    /// The service has no endpoint.
    NoHealthyUpstream,
    /// A limit of the service is reached.
    Overflow,
    /// No endpoint could be reached; whether others were tried before.
    ConnectFailed(ConnectFailure, Tried),
    /// The endpoint closed the connection before it answered.
    UpstreamClosed,
    /// The endpoint reset the stream before it answered.
    UpstreamReset,
    /// The endpoint answered with something that is not HTTP.
    UpstreamProtocol,
    /// The endpoint flooded its HTTP/2 connection.
    UpstreamFlood,
    /// The route's time ran out.
    Timeout,
    /// The last try's own time ran out.
    TryTimeout,
    /// The time that a gRPC client gives ran out.
    GrpcDeadline,
    /// A rule injects this answer.
    Fault(Abort),
    /// What the last try ended with, after all that the retry policy allows.
    Exhausted(Box<Reject>),
    /// The client sent its body too slowly, or stopped.
    RequestTimeout,
    /// It was let in, and would be refused now.
    Tightened(Box<Tightened>),
    /// The client went away.
    ClientGone,
    /// The head of an HTTP/2 stream is malformed, or the stream is one too many: it was reset.
    Http2Head,
    /// The client flooded its HTTP/2 connection: our reason code names the kind of frames.
    Flood(&'static str),
}

/// The answer when a request ended before there was one of the endpoint.
macro_rules! reset {
    ($status:literal, $flag:literal, $reason:literal, $detail:literal, $code:literal) => {
        answer(
            $status,
            concat!(
                "upstream connect error or disconnect/reset before headers. reset reason: ",
                $reason
            ),
            $flag,
            concat!("upstream_reset_before_response_started{", $detail, "}"),
            $code,
        )
    };
}

impl Reject {
    /// The answer, apart from what depends on the request.
    #[allow(clippy::too_many_lines, reason = "a table with a row for each reason")]
    pub fn answer(&self) -> Answer {
        use Blame::{Policy, Upstream};
        match self {
            Self::BadRequest(kind) => kind.answer(),
            Self::TooManyHeaders => answer(431, "", "-", "too_many_headers", "too_many_headers"),
            Self::Http10 => {
                answer(426, "Upgrade Required", "-", "low_version", "http10_not_supported")
            }
            Self::UpgradeRefused => answer(403, "", "-", "upgrade_failed", "upgrade_refused"),
            Self::Misdirected => answer(421, "", "NR", "misdirected_request", "misdirected"),
            Self::Jwt(failure) => {
                answer(401, "", "-", "jwt_authn_access_denied", failure.reason.code())
            }
            Self::Denied(_) => answer(
                403,
                "RBAC: access denied",
                "-",
                "rbac_access_denied",
                "authorization_denied",
            )
            .blame(Policy),
            Self::ExternalError(status, ..) => answer(
                status.as_u16(),
                "",
                "UAEX",
                "ext_authz_error",
                "external_authorization_failed",
            )
            .blame(Upstream),
            Self::ExternalBodyTooLong => answer(
                413,
                "Payload Too Large",
                "-",
                "request_payload_too_large",
                "external_body_too_long",
            ),
            Self::RouteNotFound => answer(404, "", "NR", "route_not_found", "route_not_found"),
            Self::TargetTooLong => answer(
                414,
                "URI Too Long",
                "-",
                "rewritten_path_too_long",
                "rewritten_path_too_long",
            ),
            Self::ClusterNotFound => {
                answer(503, "", "NC", "cluster_not_found", "cluster_not_found").blame(Policy)
            }
            Self::NoHealthyUpstream => {
                answer(503, "no healthy upstream", "UH", "no_healthy_upstream", "no_endpoint")
                    .blame(Upstream)
            }
            Self::Overflow => reset!(503, "UO", "overflow", "overflow", "overflow").blame(Policy),
            Self::ConnectFailed(failure, tried) => failure.answer(*tried).blame(Upstream),
            Self::UpstreamClosed => reset!(
                503,
                "UC",
                "connection termination",
                "connection_termination",
                "upstream_closed"
            )
            .blame(Upstream),
            Self::UpstreamReset => {
                reset!(503, "UR", "remote reset", "remote_reset", "upstream_reset").blame(Upstream)
            }
            Self::UpstreamProtocol => {
                reset!(502, "UPE", "protocol error", "protocol_error", "upstream_protocol_error")
                    .blame(Upstream)
            }
            Self::UpstreamFlood => {
                reset!(502, "UPE", "protocol error", "protocol_error", "upstream_flood")
                    .blame(Upstream)
            }
            Self::Timeout => {
                answer(504, "upstream request timeout", "UT", "response_timeout", "route_timeout")
                    .blame(Upstream)
            }
            Self::TryTimeout => answer(
                504,
                "upstream request timeout",
                "UT",
                "upstream_per_try_timeout",
                "per_try_timeout",
            )
            .blame(Upstream),
            Self::GrpcDeadline => answer(
                504,
                "downstream duration timeout",
                "DT",
                "max_duration_timeout",
                "grpc_deadline",
            ),
            Self::Fault(abort) => answer(
                abort.http_status().as_u16(),
                "fault filter abort",
                "FI",
                "fault_filter_abort",
                "fault_injected",
            )
            .blame(Policy),
            Self::Exhausted(last) => last.answer().exhausted(),
            Self::RequestTimeout => {
                answer(408, "request timeout", "-", "request_body_stalled", "request_stalled")
            }
            Self::Tightened(why) => why.answer(),
            Self::ClientGone => answer(0, "", "DC", "downstream_remote_disconnect", "client_gone"),
            Self::Http2Head => answer(0, "", "DPE", "http2.head_refused", "http2_head_refused"),
            Self::Flood(code) => answer(0, "", "DPE", "http2.frames_flood", code),
        }
    }

    /// Whether what follows on an HTTP/1.1 connection may mean something else to another reader: bytes of
    /// a tunnel, or of a body whose coding is not known.
    pub fn ends_connection(&self) -> bool {
        use BadRequest::{Body, TransferEncoding};
        matches!(self, Self::UpgradeRefused | Self::BadRequest(TransferEncoding | Body))
    }

    /// The status to send; `JWT` failures know their own.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Jwt(failure) => failure.status(),
            _ => StatusCode::from_u16(self.answer().status).unwrap_or(StatusCode::BAD_GATEWAY),
        }
    }

    /// The body to send.
    pub fn body(&self) -> Cow<'static, str> {
        match self {
            Self::Jwt(failure) => failure.message().into(),
            Self::Tightened(why) => why.body(),
            Self::ConnectFailed(failure, tried) => failure.body(*tried).into(),
            Self::Exhausted(last) => last
                .body()
                .replacen("reset reason", "retried and the latest reset reason", 1)
                .into(),
            _ => Cow::Borrowed(self.answer().body),
        }
    }

    /// Envoy's response code details, for the log.
    pub fn details(&self) -> Cow<'static, str> {
        match self {
            Self::Jwt(failure) => failure.details().into(),
            Self::Denied(denial) => denial.details.to_string().into(),
            Self::Tightened(why) => why.details(),
            _ => Cow::Borrowed(self.answer().details),
        }
    }

    /// The resource that decided, for the log.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Denied(denial) => Some(&denial.origin),
            Self::Jwt(failure) => Some(&failure.origin),
            Self::ExternalError(_, origin, _) => Some(origin),
            Self::Tightened(why) => Some(why.origin()),
            _ => None,
        }
    }

    /// What failed between us and the endpoint, for the log.
    pub fn transport_failure(&self) -> Option<&str> {
        match self {
            Self::ConnectFailed(ConnectFailure::Tls(why) | ConnectFailure::Unusable(why), _) => {
                Some(why)
            }
            Self::ExternalError(.., why) => Some(why),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
