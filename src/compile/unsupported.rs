//! What is known of Istio's kinds but not acted on.
//!
//! **Invariant:** every field of these kinds either takes effect or is told, here or where it is read;
//! `tests/fields` takes each out of a configuration to see.

use crate::diag::{Severity, catalog};
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
        rules(service, findings);
    }
    for gateway in &set.gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let field = |name: &str| format!("spec.servers[{index}].{name}");
            if !server.default_endpoint.is_empty() {
                let instead = "routes alone say where requests go";
                not_acted_on(gateway, field("defaultEndpoint"), instead, findings);
            }
            let pairs = server.tls.iter().flat_map(|tls| &tls.tls_certificates).enumerate();
            for (pair, _) in pairs.filter(|(_, pair)| !pair.ca_certificates.is_empty()) {
                let field = field(&format!("tls.tlsCertificates[{pair}].caCertificates"));
                not_acted_on(gateway, field, "write tls.caCertificates of the server", findings);
            }
            if !server.name.is_empty() {
                noted(gateway, field("name"), "servers are told apart by port.name", findings);
            }
        }
    }
    for entry in &set.service_entries {
        if !entry.spec.addresses.is_empty() {
            let instead = "clients reach the service through this gateway's routes, by its hosts";
            noted(entry, "spec.addresses".to_owned(), instead, findings);
        }
    }
}

fn not_acted_on<T>(resource: &Resource<T>, field: String, instead: &str, findings: &mut Findings) {
    let name = field.rsplit('.').next().unwrap_or_default().to_owned();
    let message = format!("{name} is not acted on");
    findings.add(at(resource, field, &catalog::FIELD_NOT_ACTED_ON, message).help(instead));
}

/// A field without meaning at a gateway, and nothing to correct.
fn noted<T>(resource: &Resource<T>, field: String, instead: &str, findings: &mut Findings) {
    let name = field.rsplit('.').next().unwrap_or_default().to_owned();
    let message = format!("{name} has no meaning at a gateway");
    let finding = at(resource, field, &catalog::FIELD_NOT_ACTED_ON, message);
    findings.add(finding.help(instead).severity(Severity::Info));
}

/// Conditions that mean something at a sidecar only: Istio does not look at them here either.
fn rules(service: &Resource<VirtualService>, findings: &mut Findings) {
    let mut tell = |field: String, present: bool, name: &str| {
        if present {
            let message = format!("{name} has no meaning at a gateway");
            let finding =
                at(service, format!("{field}.{name}"), &catalog::FIELD_NOT_ACTED_ON, message);
            findings.add(finding.help("remove it; the match applies as without it"));
        }
    };
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
        if let Some(zones) = &balancer.zone_aware_lb_setting
            && zones.enabled != Some(false)
        {
            let path = format!("{path}.zoneAwareLbSetting");
            let instead = "remove it: zones of a region are never balanced against each other here";
            self.tell(&path, &[(zones.min_cluster_size.is_some(), "minClusterSize", instead)]);
            let message =
                "zones of the own region are equal: how many gateways are in each is not known";
            let finding = at(self.resource, path, &catalog::FIELD_NOT_ACTED_ON, message);
            let help = "regions come in order, as in Istio without ISTIO_META_ENABLE_SELF_DISCOVERY; to \
                        prefer the own zone, write localityLbSetting";
            self.findings.add(finding.help(help).severity(Severity::Info));
        }
        let slow = matches!(
            balancer.simple,
            Some(SimpleLoadBalancer::Random | SimpleLoadBalancer::Passthrough)
        ) || balancer.consistent_hash.is_some();
        let instead = "endpoints are warmed up with ROUND_ROBIN and LEAST_REQUEST alone";
        self.tell(
            path,
            &[
                (slow && balancer.warmup.is_some(), "warmup", instead),
                (slow && balancer.warmup_duration_secs.is_some(), "warmupDurationSecs", instead),
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

    fn outliers(&mut self, path: &str, outliers: Option<&OutlierDetection>) {
        let old = outliers.is_some_and(|outliers| outliers.consecutive_errors != 0);
        let instead = "Istio does not act on it either";
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
             {consistentHash: {useSourceIp: true}}, outlierDetection: {}, retryBudget: {budgetInterval: 1s}, tunnel: \
             {protocol: POST, targetHost: a, targetPort: 1}, tls: \
             {mode: ISTIO_MUTUAL}}",
            &[],
        );
    }

    #[test]
    fn what_has_no_effect_is_told_with_its_place() {
        check(
            "{outlierDetection: {consecutiveErrors: 3}}",
            &["outlierDetection.consecutiveErrors"],
        );
        check(
            "{portLevelSettings: [{port: {number: 80}, loadBalancer: {zoneAwareLbSetting: \
             {minClusterSize: 3}}}]}",
            &[
                "portLevelSettings[0].loadBalancer.zoneAwareLbSetting",
                "portLevelSettings[0].loadBalancer.zoneAwareLbSetting.minClusterSize",
            ],
        );
        check("{loadBalancer: {zoneAwareLbSetting: {enabled: false, minClusterSize: 3}}}", &[]);
        check("{loadBalancer: {simple: PASSTHROUGH}}", &["loadBalancer.simple"]);
    }

    #[test]
    fn conditions_of_sidecars_are_told() {
        let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: \
                    a}\nspec: {hosts: [a.com], tls: [{match: \
                    [{sniHosts: [a.com], destinationSubnets: [10.0.0.0/8], sourceNamespace: x}], route: [{destination: {host: b}}]}], \
                    tcp: [{match: [{sourceSubnet: 10.0.0.0/8, sourceLabels: {a: b}}], route: [{destination: {host: b}}]}]}\n";
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
        let mut findings = Findings::default();
        tell(&parse(&[file]).set, &mut findings);
        let found = findings.finish();
        let mut fields: Vec<_> = found.iter().map(|d| d.field.as_str()).collect();
        fields.sort_unstable();
        let expected = [
            "spec.tcp[0].match[0].sourceLabels",
            "spec.tcp[0].match[0].sourceSubnet",
            "spec.tls[0].match[0].destinationSubnets",
            "spec.tls[0].match[0].sourceNamespace",
        ];
        assert_eq!(fields, expected);
    }
}
