//! Endpoints that cannot be reached.

use std::borrow::Cow;

use super::answer::{Answer, answer};

/// How often a request was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Once.
    Once,
    /// As often as the retry policy allows.
    Repeatedly,
    /// Not again, as too many others are (`connectionPool.http.maxRetries`).
    Overflow,
}

/// Why an endpoint could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Refused, unreachable.
    Refused,
    /// No answer in time.
    Timeout,
    /// The TLS handshake failed; the reason is for the log.
    Tls(Cow<'static, str>),
    /// The TLS material for this cluster is unusable.
    Unusable(Cow<'static, str>),
}

impl ConnectFailure {
    pub(super) fn answer(&self, tried: Tried) -> Answer {
        let (details, code) = match self {
            Self::Refused => (
                "upstream_reset_before_response_started{remote_connection_failure}",
                "connect_refused",
            ),
            Self::Timeout => {
                ("upstream_reset_before_response_started{connection_timeout}", "connect_timeout")
            }
            Self::Tls(_) => (
                "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
                "upstream_tls_failed",
            ),
            Self::Unusable(_) => (
                "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
                "upstream_tls_unusable",
            ),
        };
        let flag = match tried {
            Tried::Once => "UF",
            Tried::Repeatedly => "UF,URX",
            Tried::Overflow => "UF,UO",
        };
        answer(503, "", flag, details, code)
    }

    pub(super) fn body(&self, tried: Tried) -> String {
        let tried = match tried {
            Tried::Once | Tried::Overflow => "",
            Tried::Repeatedly => "retried and the latest ",
        };
        let reason = match self {
            Self::Refused => {
                "remote connection failure, transport failure reason: delayed connect error: \
                 Connection refused"
            }
            Self::Timeout => "connection timeout",
            Self::Tls(_) | Self::Unusable(_) => {
                "remote connection failure, transport failure reason: TLS_error"
            }
        };
        format!(
            "upstream connect error or disconnect/reset before headers. {tried}reset reason: {reason}"
        )
    }
}
