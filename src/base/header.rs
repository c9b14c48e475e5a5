//! Header names that this gateway owns, trusts or strips, in one table.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};

macro_rules! names {
    ($($(#[$doc:meta])+ $name:ident = $text:literal;)+) => {
        $($(#[$doc])+ pub const $name: HeaderName = HeaderName::from_static($text);)+
    };
}

names! {
    /// Addresses the request came through, nearest last.
    X_FORWARDED_FOR = "x-forwarded-for";
    /// Scheme the client used.
    X_FORWARDED_PROTO = "x-forwarded-proto";
    /// Envoy's description of the client certificate (XFCC).
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert";
    /// The client's certificate (RFC 9440).
    CLIENT_CERT = "client-cert";
    /// The rest of its chain (RFC 9440).
    CLIENT_CERT_CHAIN = "client-cert-chain";
    /// Request id, made anew for each request.
    X_REQUEST_ID = "x-request-id";
    /// Trusted client address.
    X_ENVOY_EXTERNAL_ADDRESS = "x-envoy-external-address";
    /// Number of the upstream try, from 1.
    X_ENVOY_ATTEMPT_COUNT = "x-envoy-attempt-count";
    /// Path before a rewrite.
    X_ENVOY_ORIGINAL_PATH = "x-envoy-original-path";
    /// Host before a rewrite.
    X_ENVOY_ORIGINAL_HOST = "x-envoy-original-host";
    /// Time left for the answer, in milliseconds.
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms";
    /// Time the backend took, in milliseconds.
    X_ENVOY_UPSTREAM_SERVICE_TIME = "x-envoy-upstream-service-time";
    /// Marks an answer made because a limit was reached.
    X_ENVOY_OVERLOADED = "x-envoy-overloaded";
    /// Marks an answer of a rate limit.
    X_ENVOY_RATELIMITED = "x-envoy-ratelimited";
    /// Tracing name for an operation; consumed on responses.
    X_ENVOY_DECORATOR_OPERATION = "x-envoy-decorator-operation";
    /// Request headers that a provider of external authorization has removed, by name.
    X_ENVOY_AUTH_HEADERS_TO_REMOVE = "x-envoy-auth-headers-to-remove";
    /// Whether such a provider sees the beginning of a body alone.
    X_ENVOY_AUTH_PARTIAL_BODY = "x-envoy-auth-partial-body";
    /// `keep-alive`, hop-by-hop.
    KEEP_ALIVE = "keep-alive";
    /// `proxy-connection`, hop-by-hop.
    PROXY_CONNECTION = "proxy-connection";
    /// gRPC status of a response.
    GRPC_STATUS = "grpc-status";
    /// gRPC message of a response.
    GRPC_MESSAGE = "grpc-message";
    /// Codings of messages that a gRPC client can read.
    GRPC_ACCEPT_ENCODING = "grpc-accept-encoding";
    /// gRPC deadline of a request.
    GRPC_TIMEOUT = "grpc-timeout";
}

/// A value as text; what is no UTF-8 in it is replaced. `String::from_utf8_lossy` alone looks at every
/// byte by itself.
pub fn text(value: &[u8]) -> Cow<'_, str> {
    str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
}

/// Whether a header says where a message ends, or is about one connection alone: this gateway says it, and
/// nobody's rule, provider or token does (RFC 9110 section 7.6.1, RFC 9112 section 6).
pub fn is_framing(name: &HeaderName) -> bool {
    [CONNECTION, CONTENT_LENGTH, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE]
        .contains(name)
}

/// What the names of Envoy's control headers begin with.
pub const CONTROL_PREFIX: &str = "x-envoy-";

/// Whether servers that take `_` for `-`, as CGI and what came of it do, take two names for the same.
pub fn is_read_as(name: &str, other: &str) -> bool {
    let dashed = |byte| if byte == b'_' { b'-' } else { byte };
    name.len() == other.len() && name.bytes().map(dashed).eq(other.bytes().map(dashed))
}

/// Whether a name is, or is read as, one that this gateway strips or says itself.
pub fn is_own(name: &str) -> bool {
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|own| is_read_as(own, prefix));
    begins("x-forwarded-")
        || begins(CONTROL_PREFIX)
        || ["x-request-id", "client-cert", "client-cert-chain"]
            .iter()
            .any(|own| is_read_as(name, own))
}

/// Whether a name with underscores is read as one of those.
pub fn is_imitation(name: &str) -> bool {
    name.contains('_') && is_own(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_a_message_is_nobodys_to_say() {
        for name in ["content-length", "transfer-encoding", "connection", "keep-alive", "upgrade"] {
            assert!(is_framing(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["x-user", "host", "trailer", "content-type"] {
            assert!(!is_framing(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn underscores_make_no_other_name() {
        for name in [
            "client_cert",
            "client-cert_chain",
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_forwarded_client_cert",
            "x_request-id",
            "x_envoy_anything",
            "x-envoy-internal_",
        ] {
            assert!(is_imitation(name), "{name}");
        }
        for name in [
            "client-cert",
            "client-cert-chain",
            "x-forwarded-for",
            "x-envoy-internal",
            "x_custom",
            "client_certs",
            "x_request_ids",
            "content_type",
            "x_",
            "",
        ] {
            assert!(!is_imitation(name), "{name}");
        }
        assert!(is_read_as("x_user", "x-user") && is_read_as("x-user", "x_user"));
        assert!(!is_read_as("x_user", "x-users") && !is_read_as("x_user", "y-user"));
    }
}
