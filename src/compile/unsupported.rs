//! What is known of DestinationRules, Gateways and VirtualServices but not acted on.
//!
//! **Invariant:** every field of these kinds either takes effect or is told here.

use crate::diag::catalog;
use crate::resources::destination_rule::{
    DestinationRule, LoadBalancer, OutlierDetection, SimpleLoadBalancer, TrafficPolicy,
};
use crate::resources::virtual_service::VirtualService;
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
    for service in &set.virtual_services {
        matches(service, findings);
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

/// Conditions that mean something at a sidecar only; Istio does not look at them here either.
fn matches(service: &Resource<VirtualService>, findings: &mut Findings) {
    for (rule, written) in service.spec.http.iter().enumerate() {
        let remote = written.retries.as_ref().and_then(|retries| retries.retry_remote_localities);
        if remote == Some(true) {
            let field = format!("spec.http[{rule}].retries.retryRemoteLocalities");
            let instead =
                "a retry goes to another endpoint of the same locality while there is one";
            not_acted_on(service, field, instead, findings);
        }
    }
    let mut tell = |field: String, present: bool, name: &str| {
        if present {
            let message = format!("{name} has no meaning at a gateway");
            let finding =
                at(service, format!("{field}.{name}"), &catalog::FIELD_NOT_ACTED_ON, message);
            findings.add(finding.help("remove it; the match applies as without it"));
        }
    };
    for (rule, written) in service.spec.http.iter().enumerate() {
        for (index, one) in written.r#match.iter().enumerate() {
            let field = format!("spec.http[{rule}].match[{index}]");
            tell(field, !one.stat_prefix.is_empty(), "statPrefix");
        }
    }
    for (rule, written) in service.spec.tls.iter().enumerate() {
        for (index, one) in written.r#match.iter().enumerate() {
            let field = || format!("spec.tls[{rule}].match[{index}]");
            tell(field(), !one.destination_subnets.is_empty(), "destinationSubnets");
            tell(field(), !one.source_labels.is_empty(), "sourceLabels");
            tell(field(), !one.source_namespace.is_empty(), "sourceNamespace");
        }
    }
    for (rule, written) in service.spec.tcp.iter().enumerate() {
        for (index, one) in written.r#match.iter().enumerate() {
            let field = || format!("spec.tcp[{rule}].match[{index}]");
            tell(field(), !one.destination_subnets.is_empty(), "destinationSubnets");
            tell(field(), !one.source_subnet.is_empty(), "sourceSubnet");
            tell(field(), !one.source_labels.is_empty(), "sourceLabels");
            tell(field(), !one.source_namespace.is_empty(), "sourceNamespace");
        }
    }
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
        let post = policy.tunnel.as_ref().is_some_and(|tunnel| tunnel.protocol == "POST");
        let budget = policy.retry_budget.as_ref().and_then(|budget| budget.budget_interval);
        self.tell(
            path,
            &[
                (post, "tunnel.protocol", "streams go to the destination itself: write CONNECT"),
                (
                    budget.is_some_and(|time| !time.0.is_zero()),
                    "retryBudget.budgetInterval",
                    "requests in flight count, as with 0",
                ),
            ],
        );
        self.balancer(&format!("{path}.loadBalancer"), policy.load_balancer.as_ref());
        self.outliers(&format!("{path}.outlierDetection"), policy.outlier_detection.as_ref());
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            let path = format!("{path}.portLevelSettings[{index}]");
            self.balancer(&format!("{path}.loadBalancer"), port.load_balancer.as_ref());
            self.outliers(&format!("{path}.outlierDetection"), port.outlier_detection.as_ref());
        }
    }

    fn balancer(&mut self, path: &str, balancer: Option<&LoadBalancer>) {
        let Some(balancer) = balancer else { return };
        let instead = "one gateway does not know how others are spread: write localityLbSetting";
        let zones = balancer.zone_aware_lb_setting.is_some();
        self.tell(path, &[(zones, "zoneAwareLbSetting", instead)]);
        if balancer.simple == Some(SimpleLoadBalancer::Passthrough) {
            let message = "PASSTHROUGH has no original destination at a gateway";
            self.findings.add(
                at(self.resource, format!("{path}.simple"), &catalog::VALUE_NOT_ACTED_ON, message)
                    .help("requests get 503; choose another one"),
            );
        }
    }

    fn outliers(&mut self, path: &str, outliers: Option<&OutlierDetection>) {
        let old = outliers.is_some_and(|outliers| outliers.consecutive_errors != 0);
        let instead = "Istio ignores it too";
        self.tell(path, &[(old, "consecutiveErrors", instead)]);
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
            "{connectionPool: {tcp: {maxConnections: 1}, http: {maxRetries: 1}}, loadBalancer: \
             {consistentHash: {useSourceIp: true}}, outlierDetection: {}, retryBudget: {}, tunnel: \
             {targetHost: a, targetPort: 1}, tls: \
             {mode: ISTIO_MUTUAL}}",
            &[],
        );
    }

    #[test]
    fn what_has_no_effect_is_told_with_its_place() {
        check(
            "{tunnel: {protocol: POST, targetHost: a, targetPort: 1}, retryBudget: {budgetInterval: \
             1s}}",
            &["tunnel.protocol", "retryBudget.budgetInterval"],
        );
        check(
            "{outlierDetection: {consecutiveErrors: 3}}",
            &["outlierDetection.consecutiveErrors"],
        );
        check(
            "{portLevelSettings: [{port: {number: 80}, loadBalancer: {zoneAwareLbSetting: {}}}]}",
            &["portLevelSettings[0].loadBalancer.zoneAwareLbSetting"],
        );
        check("{loadBalancer: {simple: PASSTHROUGH}}", &["loadBalancer.simple"]);
    }

    #[test]
    fn conditions_of_sidecars_are_told() {
        let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: \
                    a}\nspec: {hosts: [a.com], http: [{retries: {attempts: 1, retryRemoteLocalities: true}, match: [{statPrefix: x}]}], tls: [{match: \
                    [{sniHosts: [a.com], destinationSubnets: [10.0.0.0/8], sourceNamespace: x}]}], \
                    tcp: [{match: [{sourceSubnet: 10.0.0.0/8, sourceLabels: {a: b}}]}]}\n";
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
        let mut findings = Findings::default();
        tell(&parse(&[file]).set, &mut findings);
        let found = findings.finish();
        let mut fields: Vec<_> = found.iter().map(|d| d.field.as_str()).collect();
        fields.sort_unstable();
        let expected = [
            "spec.http[0].match[0].statPrefix",
            "spec.http[0].retries.retryRemoteLocalities",
            "spec.tcp[0].match[0].sourceLabels",
            "spec.tcp[0].match[0].sourceSubnet",
            "spec.tls[0].match[0].destinationSubnets",
            "spec.tls[0].match[0].sourceNamespace",
        ];
        assert_eq!(fields, expected);
    }
}
