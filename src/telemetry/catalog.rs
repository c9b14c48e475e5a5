//! Every family of metrics in one place: name, type, labels, meaning.
//!
//! `docs/metrics.md` is the same table for operators; a test compares the two.

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with sum and count.
    Histogram,
}

impl Kind {
    /// Its name in Prometheus' text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels, in words.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

macro_rules! families {
    ($($name:ident: $kind:ident, $shown:literal, $labels:expr, $help:literal;)+) => {
        $(pub(super) const $name: Family =
            Family { name: $shown, kind: Kind::$kind, labels: $labels, help: $help };)+

        /// Every family, in the order of a scrape.
        pub const ALL: &[Family] = &[$($name),+];
    };
}

const OF_REQUESTS: &str = "reporter, source_*, destination_*, request_protocol, response_code, \
                           grpc_response_status, response_flags, connection_security_policy";
const OF_STREAMS: &str = "reporter, source_*, destination_*, request_protocol, response_flags, \
                          connection_security_policy";
const OF_MESSAGES: &str = "reporter, source_*, destination_*";
const OF_KEYS: &str = "issuer, uri";

families! {
    REQUESTS: Counter, "istio_requests_total", OF_REQUESTS, "Requests, counted at their end.";
    DURATION: Histogram, "istio_request_duration_milliseconds", OF_REQUESTS,
        "Whole time of a request.";
    REQUEST_BYTES: Histogram, "istio_request_bytes", OF_REQUESTS, "Bytes of a request, head included.";
    RESPONSE_BYTES: Histogram, "istio_response_bytes", OF_REQUESTS,
        "Bytes of a response, head included.";
    REQUEST_MESSAGES: Counter, "istio_request_messages_total", OF_MESSAGES,
        "gRPC messages from clients, counted as they come.";
    RESPONSE_MESSAGES: Counter, "istio_response_messages_total", OF_MESSAGES,
        "gRPC messages to clients, counted as they go.";
    OPENED: Counter, "istio_tcp_connections_opened_total", OF_STREAMS, "TCP streams opened.";
    CLOSED: Counter, "istio_tcp_connections_closed_total", OF_STREAMS, "TCP streams closed.";
    SENT: Counter, "istio_tcp_sent_bytes_total", OF_STREAMS,
        "Bytes of TCP streams sent to clients, counted as they go.";
    RECEIVED: Counter, "istio_tcp_received_bytes_total", OF_STREAMS,
        "Bytes of TCP streams received from clients, counted as they come.";
    UPSTREAM_CONNECTIONS: Gauge, "portcullis_upstream_connections", "cluster, state",
        "Connections to backends open now.";
    UPSTREAM_CONNECTS: Counter, "portcullis_upstream_connects_total", "cluster, outcome",
        "Attempts to connect to backends by how they ended.";
    OVERFLOWS: Counter, "portcullis_upstream_overflows_total", "cluster, limit",
        "What a limit of connectionPool kept from being done.";
    EJECTIONS: Counter, "portcullis_outlier_ejections_total", "cluster, outcome",
        "Endpoints that failed too often, by what came of it.";
    EJECTED: Gauge, "portcullis_outlier_ejected", "cluster", "Endpoints ejected now.";
    JWKS_KEYS: Gauge, "portcullis_jwks_keys", OF_KEYS, "Keys held for an issuer.";
    JWKS_LAST_SUCCESS: Gauge, "portcullis_jwks_last_success_timestamp_seconds", OF_KEYS,
        "Unix time of the last good fetch.";
    JWKS_FAILURES: Counter, "portcullis_jwks_failures_total", OF_KEYS, "Fetches that failed.";
    JWKS_READY: Gauge, "portcullis_jwks_ready", OF_KEYS, "1 once keys are held.";
    JWKS_NEXT_FETCH: Gauge, "portcullis_jwks_next_fetch_timestamp_seconds", OF_KEYS,
        "Unix time of the next fetch; 0 for keys that are not fetched.";
    JWKS_LAST_ERROR: Gauge, "portcullis_jwks_last_error", "issuer, uri, class",
        "1 while the last fetch failed, by the class of its error.";
    CERTIFICATE_EXPIRY: Gauge, "portcullis_certificate_expiry_timestamp_seconds",
        "kind, name, serial", "Unix time at which a certificate ends.";
    CRL_NEXT_UPDATE: Gauge, "portcullis_crl_next_update_timestamp_seconds", "name",
        "Unix time at which the next revocation list is due: one that lies in the past is stale.";
    REQUESTS_ACTIVE: Gauge, "portcullis_requests_active", "", "Requests being served now.";
    CONNECTIONS_ACTIVE: Gauge, "portcullis_connections_active", "kind",
        "Client connections open now.";
    CONNECTIONS: Counter, "portcullis_connections_total", "", "Client connections accepted.";
    CONNECTIONS_REFUSED: Counter, "portcullis_connections_refused_total", "reason",
        "Client connections closed at once.";
    ROUTE_REQUESTS: Counter, "portcullis_route_requests_total", "response_code, route",
        "Requests by the route that took them, where it has a statPrefix.";
    HANDSHAKES: Counter, "portcullis_tls_handshakes_total", "outcome, server",
        "Client TLS handshakes by how they ended.";
    REJECTIONS: Counter, "portcullis_rejections_total", "reason",
        "Requests and streams that were refused or cut short, by reason.";
    SHADOW: Counter, "portcullis_authorization_shadow_total", "action, result",
        "What policies say that are not enforced: audit matched; dry runs of deny and allow allowed or denied.";
    RESIDENT_MEMORY: Gauge, "process_resident_memory_bytes", "", "Resident memory in bytes.";
    VIRTUAL_MEMORY: Gauge, "process_virtual_memory_bytes", "", "Virtual memory in bytes.";
    CPU_SECONDS: Counter, "process_cpu_seconds_total", "", "Processor time used, in seconds.";
    THREADS: Gauge, "process_threads", "", "Threads of the process.";
    OPEN_FILES: Gauge, "process_open_fds", "", "Open file descriptors.";
    MOST_FILES: Gauge, "process_max_fds", "", "Limit on file descriptors.";
    START_TIME: Gauge, "process_start_time_seconds", "", "Unix time at which the process started.";
    BUILD: Gauge, "istio_build", "component, tag", "Version of the proxy.";
    ACCESS_LOG_DROPPED: Counter, "portcullis_access_log_dropped_total", "",
        "Access log lines dropped: the output was too slow or failed.";
    DIAGNOSTICS: Gauge, "portcullis_config_diagnostics", "severity",
        "Diagnostics of the configuration read last.";
    GENERATION: Gauge, "portcullis_config_generation", "", "Number of the live snapshot.";
    CONFIG_HASH: Gauge, "portcullis_config_hash_info", "hash", "Hash of the live configuration.";
    LAST_SUCCESS: Gauge, "portcullis_config_last_success_timestamp_seconds", "",
        "Unix time of the last reload that did not fail.";
    RELOAD_SECONDS: Histogram, "portcullis_reload_duration_seconds", "",
        "Time from a change being seen to the end of the reload.";
    RELOADS: Counter, "portcullis_reloads_total", "result",
        "Reloads by how they ended: published or failed. Files that hold what is live already are no \
         reload.";
}
