//! Rules for `DestinationRule`.
//!
//! **Invariant**: a traffic policy obeys the same rules wherever it stands.

use std::net::IpAddr;

use http::HeaderName;

use super::locality::check_locality;
use super::{Findings, repeated};
use crate::diag::catalog;
use crate::resources::DestinationRule;
use crate::resources::destination_rule::{
    ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, H2UpgradePolicy, LoadBalancer,
    LocalityFailover, OutlierDetection, PortTrafficPolicy, TrafficPolicy, Tunnel,
};
use crate::resources::name::{is_fqdn, is_label};

pub(in super::super) fn check(rule: &DestinationRule, findings: &mut Findings<'_>) {
    findings.export_to(&rule.export_to, false);
    findings.not_empty(&rule.host, "spec.host");
    if !rule.host.is_empty() {
        findings.host(&rule.host, "spec.host");
    }
    if let Some(selector) = &rule.workload_selector {
        findings.selector(&selector.match_labels, "spec.workloadSelector.matchLabels");
        let own = |target: &String| target == "." || **target == *findings.meta.namespace;
        let abroad = !rule.export_to.iter().all(own);
        let message = "a rule with a workloadSelector stays in its own namespace: write [\".\"]";
        findings.error_if(abroad, "spec.exportTo", message);
    }
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy(policy, "spec.trafficPolicy", findings);
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if !is_label(&subset.name) {
            let message = format!("\"{}\" is not a subset's name", subset.name);
            findings.error(&format!("{path}.name"), message);
        }
        findings.labels(&subset.labels, &format!("{path}.labels"));
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &format!("{path}.trafficPolicy"), findings);
        }
    }
    if let Some(index) = repeated(rule.subsets.iter().map(|subset| subset.name.as_str())) {
        findings.error(&format!("spec.subsets[{index}].name"), "the subset's name is repeated");
    }
}

fn traffic_policy(policy: &TrafficPolicy, path: &str, findings: &mut Findings<'_>) {
    let empty = *policy == TrafficPolicy::default();
    findings.error_if(empty, path, "an empty trafficPolicy says nothing: remove it");
    let both = policy.tunnel.is_some() && policy.proxy_protocol.is_some();
    findings.error_if(both, path, "tunnel and proxyProtocol exclude each other");
    if let Some(percent) = policy.retry_budget.as_ref().and_then(|budget| budget.percent) {
        findings.percent(percent, &format!("{path}.retryBudget.percent"));
    }
    if let Some(tunnel) = &policy.tunnel {
        check_tunnel(tunnel, &format!("{path}.tunnel"), findings);
    }
    let outliers = policy.outlier_detection.as_ref();
    if let Some(balancer) = &policy.load_balancer {
        load_balancer(balancer, outliers, &format!("{path}.loadBalancer"), findings);
    }
    parts(policy.connection_pool.as_ref(), outliers, policy.tls.as_ref(), path, findings);
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        findings.error_if(port.port.is_none(), &path, "a port is needed");
        let wrong = port.port.is_some_and(|port| !(1..=65_535).contains(&port.number));
        let message = "no service has this port: the entry has no effect";
        findings.unworkable_if(wrong, &format!("{path}.port.number"), message);
        let empty = *port == PortTrafficPolicy { port: port.port, ..PortTrafficPolicy::default() };
        let message =
            "the entry says nothing but would replace what holds for other ports: remove it";
        findings.error_if(empty, &path, message);
        let outliers = port.outlier_detection.as_ref();
        if let Some(balancer) = &port.load_balancer {
            load_balancer(balancer, outliers, &format!("{path}.loadBalancer"), findings);
        }
        parts(port.connection_pool.as_ref(), outliers, port.tls.as_ref(), &path, findings);
    }
}

fn parts(
    pool: Option<&ConnectionPool>,
    outliers: Option<&OutlierDetection>,
    tls: Option<&ClientTls>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    if let Some(pool) = pool {
        connection_pool(pool, &format!("{path}.connectionPool"), findings);
    }
    if let Some(outliers) = outliers {
        outlier_detection(outliers, &format!("{path}.outlierDetection"), findings);
    }
    if let Some(tls) = tls {
        client_tls(tls, &format!("{path}.tls"), findings);
    }
}

fn check_tunnel(tunnel: &Tunnel, path: &str, findings: &mut Findings<'_>) {
    let wrong = !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST");
    findings.error_if(wrong, &format!("{path}.protocol"), "the protocol is CONNECT or POST");
    let host = tunnel.target_host.as_str();
    if !is_fqdn(host) && host.parse::<IpAddr>().is_err() {
        let message = format!("\"{host}\" is not a name or an IP address");
        findings.error(&format!("{path}.targetHost"), message);
    }
    findings.port(tunnel.target_port, &format!("{path}.targetPort"));
}

fn load_balancer(
    balancer: &LoadBalancer,
    outliers: Option<&OutlierDetection>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    let both = balancer.simple.is_some() && balancer.consistent_hash.is_some();
    findings.error_if(both, path, "simple and consistentHash exclude each other");
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(hash, &format!("{path}.consistentHash"), findings);
    }
    if let Some(warmup) = &balancer.warmup {
        let path = format!("{path}.warmup");
        findings.error_if(warmup.duration.is_none(), &path, "a warm-up needs a duration");
        findings.duration(warmup.duration, &format!("{path}.duration"));
        findings.percent(warmup.minimum_percent.unwrap_or(0.0), &format!("{path}.minimumPercent"));
        let none = warmup.aggression.is_some_and(|aggression| aggression <= 0.0);
        findings.error_if(none, &format!("{path}.aggression"), "the aggression is above 0");
    }
    let both = balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some();
    findings.error_if(both, path, "localityLbSetting and zoneAwareLbSetting exclude each other");
    if let Some(locality) = &balancer.locality_lb_setting {
        let path = format!("{path}.localityLbSetting");
        check_locality(locality, &path, findings);
        fails_over(&locality.failover, &locality.failover_priority, outliers, &path, findings);
    }
    if let Some(zones) = &balancer.zone_aware_lb_setting {
        let path = format!("{path}.zoneAwareLbSetting");
        for (index, _) in places_of(&zones.failover_priority) {
            let message = "regions and zones have their order already: use other labels";
            findings.error(&format!("{path}.failoverPriority[{index}]"), message);
        }
        fails_over(&zones.failover, &zones.failover_priority, outliers, &path, findings);
    }
}

/// Labels of a list that tell a place.
pub(super) fn places_of(labels: &[String]) -> impl Iterator<Item = (usize, &String)> {
    const PLACES: [&str; 3] = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.istio.io/subzone",
    ];
    labels.iter().enumerate().filter(|(_, name)| PLACES.contains(&name.as_str()))
}

fn fails_over(
    failover: &[LocalityFailover],
    priority: &[String],
    outliers: Option<&OutlierDetection>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    for (index, rule) in failover.iter().enumerate() {
        let path = format!("{path}.failover[{index}]");
        findings.error_if(rule.from == rule.to, &path, "from and to are the same region");
        let wrong = [&rule.from, &rule.to].into_iter().any(|region| region.contains(['/', '*']));
        findings.error_if(wrong, &path, "from and to are regions, without zone or wildcard");
    }
    for (set, name) in
        [(!failover.is_empty(), "failover"), (!priority.is_empty(), "failoverPriority")]
    {
        if set && outliers.is_none() {
            let message = format!("{name} has no effect without outlierDetection");
            findings.warning(&format!("{path}.{name}"), message);
        }
    }
}

fn consistent_hash(hash: &ConsistentHash, path: &str, findings: &mut Findings<'_>) {
    let keys = usize::from(hash.http_header_name.is_some())
        + usize::from(hash.http_cookie.is_some())
        + usize::from(hash.use_source_ip.is_some())
        + usize::from(hash.http_query_parameter_name.is_some());
    findings.error_if(keys > 1, path, "only one thing can be hashed: keep one");
    if let Some(name) = &hash.http_header_name {
        let wrong = HeaderName::from_bytes(name.as_bytes()).is_err();
        let message = "it is not a header's name: requests are spread at random";
        findings.unworkable_if(wrong, &format!("{path}.httpHeaderName"), message);
    }
    if let Some(cookie) = &hash.http_cookie {
        findings.not_empty(&cookie.name, &format!("{path}.httpCookie.name"));
        let names = || cookie.attributes.iter().map(|attribute| attribute.name.as_str());
        for (index, name) in names().enumerate() {
            findings.not_empty(name, &format!("{path}.httpCookie.attributes[{index}].name"));
        }
        if let Some(index) = repeated(names()) {
            let path = format!("{path}.httpCookie.attributes[{index}].name");
            findings.error(&path, "the attribute is repeated");
        }
    }
    if hash.minimum_ring_size != 0 {
        let path = format!("{path}.minimumRingSize");
        findings.add(&catalog::DEPRECATED, &path, "write ringHash.minimumRingSize");
        findings.error_if(hash.ring_hash.is_some(), &path, "the ring's size is given twice");
    }
    let both = hash.maglev.is_some() && (hash.ring_hash.is_some() || hash.minimum_ring_size != 0);
    findings.error_if(both, &format!("{path}.maglev"), "maglev and a ring exclude each other");
    if let Some(maglev) = hash.maglev {
        let wrong = maglev.table_size >= 5_000_011 || !is_prime(maglev.table_size);
        let message = "the table's size is a prime below 5000011";
        findings.error_if(wrong, &format!("{path}.maglev.tableSize"), message);
    }
}

/// Envoy counts 1 among them.
fn is_prime(number: u64) -> bool {
    number > 0 && (2..=number.isqrt()).all(|n| !number.is_multiple_of(n))
}

fn connection_pool(pool: &ConnectionPool, path: &str, findings: &mut Findings<'_>) {
    let empty = pool.tcp.is_none() && pool.http.is_none();
    findings.error_if(empty, path, "a connectionPool needs tcp or http");
    if let Some(tcp) = &pool.tcp {
        let path = format!("{path}.tcp");
        let message = "the number cannot be negative";
        findings.error_if(tcp.max_connections < 0, &format!("{path}.maxConnections"), message);
        findings.duration(tcp.connect_timeout, &format!("{path}.connectTimeout"));
        findings.duration(tcp.max_connection_duration, &format!("{path}.maxConnectionDuration"));
        // Less than a millisecond switches it off.
        let idle = tcp.idle_timeout.filter(|time| time.0.as_millis() > 0);
        findings.duration(idle, &format!("{path}.idleTimeout"));
        if let Some(keepalive) = &tcp.tcp_keepalive {
            findings.duration(keepalive.time, &format!("{path}.tcpKeepalive.time"));
            findings.duration(keepalive.interval, &format!("{path}.tcpKeepalive.interval"));
        }
    }
    if let Some(http) = &pool.http {
        let path = format!("{path}.http");
        for (number, name) in [
            (http.http1_max_pending_requests, "http1MaxPendingRequests"),
            (http.http2_max_requests, "http2MaxRequests"),
            (http.max_requests_per_connection, "maxRequestsPerConnection"),
            (http.max_retries, "maxRetries"),
            (http.max_concurrent_streams, "maxConcurrentStreams"),
        ] {
            let message = "the number cannot be negative";
            findings.error_if(number < 0, &format!("{path}.{name}"), message);
        }
        findings.duration(http.idle_timeout, &format!("{path}.idleTimeout"));
        if let Some(ping) = &http.http2_keep_alive {
            for (time, name) in [(ping.interval, "interval"), (ping.timeout, "timeout")] {
                let path = format!("{path}.http2KeepAlive.{name}");
                findings.error_if(time.is_none(), &path, "the field is required");
                findings.duration(time, &path);
            }
        }
        let both = http.use_client_protocol && http.h2_upgrade_policy == H2UpgradePolicy::Upgrade;
        let message = "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other";
        findings.error_if(both, &format!("{path}.useClientProtocol"), message);
    }
}

fn outlier_detection(outliers: &OutlierDetection, path: &str, findings: &mut Findings<'_>) {
    if outliers.consecutive_errors != 0 {
        let path = format!("{path}.consecutiveErrors");
        findings.add(&catalog::DEPRECATED, &path, "write consecutiveGatewayErrors");
    }
    let split = outliers.split_external_local_origin_errors;
    let unsplit = outliers.consecutive_local_origin_failures.is_some_and(|n| n > 0) && !split;
    let message = "the field needs splitExternalLocalOriginErrors";
    findings.error_if(unsplit, &format!("{path}.consecutiveLocalOriginFailures"), message);
    findings.duration(outliers.interval, &format!("{path}.interval"));
    findings.duration(outliers.base_ejection_time, &format!("{path}.baseEjectionTime"));
    for (value, name) in [
        (outliers.max_ejection_percent, "maxEjectionPercent"),
        (outliers.min_health_percent, "minHealthPercent"),
    ] {
        findings.percent(f64::from(value), &format!("{path}.{name}"));
    }
}

fn client_tls(tls: &ClientTls, path: &str, findings: &mut Findings<'_>) {
    let named = !tls.credential_name.is_empty();
    let files = [&tls.client_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl];
    let files = files.into_iter().any(|file| !file.is_empty());
    unverified(tls, path, findings);
    if let Some(map) = tls.credential_name.strip_prefix("configmap://") {
        let mut parts = map.split('/');
        let own = parts.next() == Some(&*findings.meta.namespace);
        let wrong = !own || parts.next().is_none_or(str::is_empty);
        let message =
            "a ConfigMap is of the rule's own namespace: write configmap://namespace/name";
        findings.error_if(wrong, &format!("{path}.credentialName"), message);
    }
    match tls.mode {
        ClientTlsMode::Simple | ClientTlsMode::Mutual if named => {
            let message = "credentialName and files exclude each other";
            findings.error_if(files, path, message);
        }
        ClientTlsMode::Mutual => {
            let certificate = format!("{path}.clientCertificate");
            findings.not_empty(&tls.client_certificate, &certificate);
            findings.not_empty(&tls.private_key, &format!("{path}.privateKey"));
        }
        ClientTlsMode::IstioMutual => {
            let message =
                "ISTIO_MUTUAL uses the mesh identity: the certificate fields have no effect";
            findings.unworkable_if(files || named, path, message);
        }
        ClientTlsMode::Simple | ClientTlsMode::Disable => {}
    }
}

/// `insecureSkipVerify` beside what certificates would be checked against.
fn unverified(tls: &ClientTls, path: &str, findings: &mut Findings<'_>) {
    let checked = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    // The credential of MUTUAL may hold the client's certificate alone.
    let refused = match tls.mode {
        ClientTlsMode::Simple => checked || !tls.credential_name.is_empty(),
        ClientTlsMode::Mutual => checked,
        ClientTlsMode::IstioMutual | ClientTlsMode::Disable => false,
    };
    let message =
        "without verification there is nothing to check: remove it, or the CA and the names";
    let skipped = tls.insecure_skip_verify == Some(true);
    findings.error_if(skipped && refused, &format!("{path}.insecureSkipVerify"), message);
}
