//! `trafficPolicy.connectionPool` and `trafficPolicy.proxyProtocol` as bounds and rules of connections.
//!
//! **Invariant:** 0 means that nothing was set, as in Istio.

use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::Authority;

use crate::base::limit;
use crate::resources::destination_rule::{
    ConnectionPool, HttpPool, ProxyProtocol, ProxyProtocolVersion, RetryBudget, TcpKeepalive,
    TcpPool,
};
use crate::resources::meta::ProtoDuration;
use crate::snapshot;
use crate::snapshot::cluster::{
    ConnectionRules, Keepalive, Limits, Ping, ProxyVersion, Tunnel, TunnelMethod,
};

use super::destination_rules::Policy;

/// Bounds on what the process does at a time.
pub(super) fn limits(policy: &Policy<'_>) -> Limits {
    let (tcp, http) = parts(policy.connection_pool);
    Limits {
        connections: tcp.and_then(|tcp| set(tcp.max_connections)),
        pending: http.and_then(|http| set(http.http1_max_pending_requests)),
        requests: http.and_then(|http| set(http.http2_max_requests)),
        retries: http.and_then(|http| set(http.max_retries)),
        budget: policy.retry_budget.map(budget),
    }
}

/// A fifth of the requests, and three at any time, unless written otherwise.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn budget(written: &RetryBudget) -> snapshot::cluster::RetryBudget {
    let percent = written.percent.unwrap_or(20.0).clamp(0.0, 100.0);
    let least = Some(written.min_retry_concurrency).filter(|least| *least > 0).unwrap_or(3);
    let interval = written.budget_interval.unwrap_or_default().0;
    snapshot::cluster::RetryBudget { parts: (percent * 100.0) as u32, least, interval }
}

/// How a proxy at the endpoint is asked to connect on.
pub(super) fn tunnel(policy: &Policy<'_>, http2: bool) -> Option<Tunnel> {
    let written = policy.tunnel?;
    let host = match written.target_host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => written.target_host.clone(),
    };
    // Validation lets in names and addresses alone; whatever else came, no stream goes around the proxy.
    let target = Authority::try_from(format!("{host}:{}", written.target_port))
        .unwrap_or_else(|_| Authority::from_static("invalid:0"));
    let method = match written.protocol.as_str() {
        "POST" => TunnelMethod::Post,
        _ => TunnelMethod::Connect,
    };
    Some(Tunnel { target, method, http2 })
}

/// What holds for each connection; the mesh's keep-alive where the policy has none.
pub(super) fn rules(policy: &Policy<'_>, mesh: Option<&TcpKeepalive>) -> ConnectionRules {
    let (tcp, http) = parts(policy.connection_pool);
    let streams = http.and_then(|http| set(http.max_concurrent_streams));
    ConnectionRules {
        requests: http.and_then(|http| set(http.max_requests_per_connection)),
        age: tcp.and_then(|tcp| positive(tcp.max_connection_duration)),
        streams: streams.unwrap_or(limit::UPSTREAM_STREAMS),
        keepalive: tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).or(mesh).map(keepalive),
        ping: http.and_then(ping),
        proxy: policy.proxy_protocol.map(version),
    }
}

/// How long a connection stays without requests.
pub(super) fn idle(pool: Option<&ConnectionPool>) -> Duration {
    let (tcp, http) = parts(pool);
    http.and_then(|http| positive(http.idle_timeout))
        .or(tcp.and_then(|tcp| positive(tcp.idle_timeout)))
        .unwrap_or(limit::UPSTREAM_IDLE_TIME)
}

/// How long a stream of bytes goes on without any.
pub(super) fn tcp_idle(pool: Option<&ConnectionPool>) -> Duration {
    let written = parts(pool).0.and_then(|tcp| positive(tcp.idle_timeout));
    written.unwrap_or(limit::TCP_IDLE_TIME)
}

/// How long connecting may take.
pub(super) fn connect(pool: Option<&ConnectionPool>) -> Option<Duration> {
    parts(pool).0.and_then(|tcp| positive(tcp.connect_timeout))
}

fn parts(pool: Option<&ConnectionPool>) -> (Option<&TcpPool>, Option<&HttpPool>) {
    pool.map_or((None, None), |pool| (pool.tcp.as_ref(), pool.http.as_ref()))
}

fn set(number: i32) -> Option<NonZeroU32> {
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

fn positive(time: Option<ProtoDuration>) -> Option<Duration> {
    time.map(|time| time.0).filter(|time| !time.is_zero())
}

fn keepalive(written: &TcpKeepalive) -> Keepalive {
    Keepalive {
        time: positive(written.time),
        interval: positive(written.interval),
        probes: Some(written.probes).filter(|probes| *probes > 0),
    }
}

fn ping(http: &HttpPool) -> Option<Ping> {
    let written = http.http2_keep_alive.as_ref()?;
    Some(Ping { interval: positive(written.interval)?, timeout: positive(written.timeout)? })
}

fn version(written: ProxyProtocol) -> ProxyVersion {
    match written.version {
        ProxyProtocolVersion::V1 => ProxyVersion::V1,
        ProxyProtocolVersion::V2 => ProxyVersion::V2,
    }
}
