//! What is known of DestinationRules, Gateways and endpoints but not acted on yet.
//!
//! **Invariant:** every field of these kinds either takes effect or is told here.

use crate::diag::catalog;
use crate::resources::destination_rule::{
    ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, SimpleLoadBalancer,
    TrafficPolicy,
};
use crate::resources::{Resource, ResourceSet};

use super::findings::{Findings, at};

/// Tells every field that has no effect.
pub fn tell(set: &ResourceSet, findings: &mut Findings) {
    for rule in &set.destination_rules {
        let mut pass = Rule { resource: rule, findings };
        if let Some(policy) = &rule.spec.traffic_policy {
            pass.policy("spec.trafficPolicy", policy);
        }
        for (index, subset) in rule.spec.subsets.iter().enumerate() {
            if let Some(policy) = &subset.traffic_policy {
                pass.policy(&format!("spec.subsets[{index}].trafficPolicy"), policy);
            }
        }
    }
    for gateway in &set.gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            if !server.default_endpoint.is_empty() {
                let field = format!("spec.servers[{index}].defaultEndpoint");
                not_acted_on(gateway, field, "routes alone say where requests go", findings);
            }
        }
    }
}

fn not_acted_on<T>(resource: &Resource<T>, field: String, instead: &str, findings: &mut Findings) {
    let name = field.rsplit('.').next().unwrap_or_default().to_owned();
    let message = format!("{name} is not acted on yet");
    findings.add(at(resource, field, &catalog::FIELD_NOT_ACTED_ON, message).help(instead));
}

struct Rule<'a> {
    resource: &'a Resource<DestinationRule>,
    findings: &'a mut Findings,
}

impl Rule<'_> {
    fn tell(&mut self, path: &str, list: &[(bool, &str, &str)]) {
        for (present, name, instead) in list {
            if *present {
                not_acted_on(self.resource, format!("{path}.{name}"), instead, self.findings);
            }
        }
    }

    fn policy(&mut self, path: &str, policy: &TrafficPolicy) {
        self.blocks(
            path,
            policy.load_balancer.as_ref(),
            policy.connection_pool.as_ref(),
            policy.outlier_detection.as_ref(),
        );
        self.tell(
            path,
            &[
                (policy.tunnel.is_some(), "tunnel", "streams go to the destination directly"),
                (policy.proxy_protocol.is_some(), "proxyProtocol", "no PROXY header is sent"),
                (policy.retry_budget.is_some(), "retryBudget", "only failed connects are retried"),
            ],
        );
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            self.blocks(
                &format!("{path}.portLevelSettings[{index}]"),
                port.load_balancer.as_ref(),
                port.connection_pool.as_ref(),
                port.outlier_detection.as_ref(),
            );
        }
    }

    fn blocks(
        &mut self,
        path: &str,
        balancer: Option<&LoadBalancer>,
        pool: Option<&ConnectionPool>,
        outliers: Option<&OutlierDetection>,
    ) {
        if let Some(balancer) = balancer {
            self.balancer(&format!("{path}.loadBalancer"), balancer);
        }
        if let Some(pool) = pool {
            self.pool(&format!("{path}.connectionPool"), pool);
        }
        self.tell(path, &[(outliers.is_some(), "outlierDetection", "no endpoint is ejected")]);
    }

    fn balancer(&mut self, path: &str, balancer: &LoadBalancer) {
        let warm = balancer.warmup.is_some() || balancer.warmup_duration_secs.is_some();
        let even = "endpoints are chosen as without it";
        self.tell(
            path,
            &[
                (balancer.consistent_hash.is_some(), "consistentHash", even),
                (balancer.locality_lb_setting.is_some(), "localityLbSetting", even),
                (balancer.zone_aware_lb_setting.is_some(), "zoneAwareLbSetting", even),
                (warm, "warmup", even),
            ],
        );
        if balancer.simple == Some(SimpleLoadBalancer::Passthrough) {
            let message = "PASSTHROUGH has no original destination at a gateway";
            self.findings.add(
                at(self.resource, format!("{path}.simple"), &catalog::VALUE_NOT_ACTED_ON, message)
                    .help("requests get 503; choose another one"),
            );
        }
    }

    fn pool(&mut self, path: &str, pool: &ConnectionPool) {
        if let Some(tcp) = &pool.tcp {
            let age = tcp.max_connection_duration.is_some();
            self.tell(
                &format!("{path}.tcp"),
                &[
                    (tcp.max_connections != 0, "maxConnections", "connections are not bounded"),
                    (tcp.tcp_keepalive.is_some(), "tcpKeepalive", "the system's settings hold"),
                    (age, "maxConnectionDuration", "connections end when idle"),
                ],
            );
        }
        if let Some(http) = &pool.http {
            let unbounded = "it is not bounded";
            self.tell(
                &format!("{path}.http"),
                &[
                    (http.http1_max_pending_requests != 0, "http1MaxPendingRequests", unbounded),
                    (http.http2_max_requests != 0, "http2MaxRequests", unbounded),
                    (
                        http.max_requests_per_connection != 0,
                        "maxRequestsPerConnection",
                        "connections are used again",
                    ),
                    (http.max_retries != 0, "maxRetries", "only failed connects are retried"),
                    (
                        http.use_client_protocol,
                        "useClientProtocol",
                        "the port's protocol is spoken",
                    ),
                    (http.max_concurrent_streams != 0, "maxConcurrentStreams", unbounded),
                    (http.http2_keep_alive.is_some(), "http2KeepAlive", "no PING is sent"),
                ],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{ConfigFile, parse};

    fn check(policy: &str, fields: &[&str]) {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec: \
             {{host: a, trafficPolicy: {policy}}}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let mut findings = Findings::default();
        tell(&parsed.set, &mut findings);
        let found = findings.finish();
        let found: Vec<_> = found
            .iter()
            .map(|d| d.field.strip_prefix("spec.trafficPolicy.").unwrap_or(&d.field))
            .collect();
        assert_eq!(found, fields, "{policy}");
    }

    #[test]
    fn what_takes_effect_is_not_told() {
        check(
            "{connectionPool: {tcp: {connectTimeout: 1s}, http: {idleTimeout: 1s}}, loadBalancer: \
             {simple: ROUND_ROBIN}, tls: {mode: ISTIO_MUTUAL}}",
            &[],
        );
    }

    #[test]
    fn what_has_no_effect_is_told_with_its_place() {
        check("{outlierDetection: {}}", &["outlierDetection"]);
        check("{connectionPool: {http: {maxRetries: 3}}}", &["connectionPool.http.maxRetries"]);
        check(
            "{portLevelSettings: [{port: {number: 80}, loadBalancer: {consistentHash: \
             {useSourceIp: true}}}]}",
            &["portLevelSettings[0].loadBalancer.consistentHash"],
        );
        check("{loadBalancer: {simple: PASSTHROUGH}}", &["loadBalancer.simple"]);
    }
}
