//! What several resources say together: names that lead nowhere, rules without effect.

use std::collections::{HashMap, HashSet};

use crate::base::host::HostPattern;
use crate::diag::catalog;
use crate::resources::destination_rule::{ClientTls, ClientTlsMode};
use crate::resources::{Resource, ResourceSet, virtual_service as vs};

use super::findings::{Findings, at};
use super::names::{public, qualified, reference};
use super::services::Services;
use super::settings::CompileSettings;

/// Tells what only shows when resources are read together.
pub fn tell(
    set: &ResourceSet,
    services: &Services<'_>,
    settings: &CompileSettings,
    findings: &mut Findings,
) {
    hosts_of_gateways(set, settings, findings);
    weights(set, findings);
    rules(set, services, settings, findings);
    protocols(set, findings);
    rules_of_the_mesh(set, settings, findings);
}

/// Routes of a gateway to a service without a subset, where a VirtualService of the mesh names the
/// service's host and a subset (IST0140).
fn rules_of_the_mesh(set: &ResourceSet, settings: &CompileSettings, findings: &mut Findings) {
    let full = |host: &str, own: &str| qualified(host, own, &settings.cluster_domain);
    let mut split: HashMap<String, &Resource<vs::VirtualService>> = HashMap::new();
    for resource in &set.virtual_services {
        let (own, spec) = (&*resource.id.namespace, &resource.spec);
        if !spec.gateways.is_empty() && spec.gateways.iter().all(|name| name != "mesh") {
            continue;
        }
        let hosts: HashSet<String> = spec.hosts.iter().map(|host| full(host, own)).collect();
        for to in destinations(spec).filter(|(_, to)| !to.subset.is_empty()).map(|(_, to)| to) {
            let host = full(&to.host, own);
            if hosts.contains(&host) {
                split.entry(host).or_insert(resource);
            }
        }
    }
    for resource in &set.virtual_services {
        let spec = &resource.spec;
        if spec.gateways.iter().all(|name| name == "mesh") {
            continue;
        }
        for (field, to) in destinations(spec).filter(|(_, to)| to.subset.is_empty()) {
            let Some(other) = split.get(&full(&to.host, &resource.id.namespace)) else { continue };
            if other.id == resource.id {
                continue;
            }
            let message = format!(
                "the subsets of \"{}\" that {} chooses are for callers in the mesh",
                to.host, other.id
            );
            let code = &catalog::MESH_RULES_NOT_FOLLOWED;
            findings.add(at(resource, format!("{field}.host"), code, message));
        }
    }
}

/// Every destination of `http` rules, with its place.
fn destinations(service: &vs::VirtualService) -> impl Iterator<Item = (String, &vs::Destination)> {
    let rules = service.http.iter().enumerate();
    rules.flat_map(|(rule, written)| {
        let routes = written.route.iter().enumerate();
        routes.filter_map(move |(index, route)| {
            let field = format!("spec.http[{rule}].route[{index}].destination");
            Some((field, route.destination.as_ref()?))
        })
    })
}

/// The hosts of a Gateway's servers.
#[derive(Default)]
struct Served<'a> {
    exact: HashMap<Box<str>, Vec<Option<&'a str>>>,
    wildcards: Vec<(Option<&'a str>, HostPattern)>,
}

impl<'a> Served<'a> {
    fn add(&mut self, written: &'a str, own: &'a str) {
        let (namespace, host) = match written.split_once('/') {
            None => (None, written),
            Some(("*", host)) => (None, host),
            Some((".", host)) => (Some(own), host),
            Some((namespace, host)) => (Some(namespace), host),
        };
        match HostPattern::parse(host) {
            Ok(HostPattern::Exact(name)) => self.exact.entry(name).or_default().push(namespace),
            Ok(wildcard) => self.wildcards.push((namespace, wildcard)),
            Err(_) => {}
        }
    }

    fn shares(&self, host: &HostPattern, from: &str) -> bool {
        let allowed = |namespace: Option<&str>| namespace.is_none_or(|name| name == from);
        let exact = match host {
            HostPattern::Exact(name) => {
                self.exact.get(name).is_some_and(|spaces| spaces.iter().copied().any(allowed))
            }
            wildcard => self.exact.iter().any(|(name, spaces)| {
                wildcard.matches(name) && spaces.iter().copied().any(allowed)
            }),
        };
        let overlaps = |(namespace, known): &(Option<&str>, HostPattern)| {
            allowed(*namespace) && known.intersect(host).is_some()
        };
        exact || self.wildcards.iter().any(overlaps)
    }
}

/// VirtualService hosts that no server of a Gateway they name serves (IST0132).
fn hosts_of_gateways(set: &ResourceSet, settings: &CompileSettings, findings: &mut Findings) {
    let mut served: HashMap<(&str, &str), Served<'_>> = HashMap::new();
    for gateway in &set.gateways {
        let own = &*gateway.id.namespace;
        let hosts = served.entry((own, &*gateway.id.name)).or_default();
        for written in gateway.spec.servers.iter().flat_map(|server| &server.hosts) {
            hosts.add(written, own);
        }
    }
    for resource in &set.virtual_services {
        let own = &*resource.id.namespace;
        for name in &resource.spec.gateways {
            let Some(hosts) = served.get(&reference(name, own)) else { continue };
            for (index, written) in resource.spec.hosts.iter().enumerate() {
                let full = qualified(written, own, &settings.cluster_domain);
                let Ok(host) = HostPattern::parse(&full) else { continue };
                if hosts.shares(&host, own) {
                    continue;
                }
                let message = format!("\"{written}\" is served by no server of Gateway \"{name}\"");
                let field = format!("spec.hosts[{index}]");
                findings.add(
                    at(resource, field, &catalog::HOST_NOT_IN_GATEWAY, message)
                        .help("add the host to a server of the Gateway, or remove it here"),
                );
            }
        }
    }
}

/// Weights that look like percentages and are none (PC041).
fn weights(set: &ResourceSet, findings: &mut Findings) {
    for resource in &set.virtual_services {
        let mut look = |field: &dyn Fn() -> String, weights: Vec<i32>| {
            let sum: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
            if weights.len() > 1 && sum != 100 && sum > 0 {
                let message = format!("the weights sum to {sum}, not to 100");
                findings.add(
                    at(resource, field(), &catalog::WEIGHTS, message)
                        .severity(crate::diag::Severity::Warning)
                        .help("each destination gets its weight's share of the sum"),
                );
            }
        };
        let of = |route: &[vs::RouteDestination]| route.iter().map(|d| d.weight).collect();
        for (index, rule) in resource.spec.http.iter().enumerate() {
            let list = rule.route.iter().map(|d| d.weight).collect();
            look(&|| format!("spec.http[{index}].route"), list);
        }
        for (index, rule) in resource.spec.tls.iter().enumerate() {
            look(&|| format!("spec.tls[{index}].route"), of(&rule.route));
        }
        for (index, rule) in resource.spec.tcp.iter().enumerate() {
            look(&|| format!("spec.tcp[{index}].route"), of(&rule.route));
        }
    }
}

/// DestinationRules for services that do not exist (IST0174), and TLS that verifies nobody
/// (IST0128, IST0129).
fn rules(
    set: &ResourceSet,
    services: &Services<'_>,
    settings: &CompileSettings,
    findings: &mut Findings,
) {
    for rule in &set.destination_rules {
        let own = &*rule.id.namespace;
        let host = qualified(&rule.spec.host, own, &settings.cluster_domain);
        let wildcard = host.starts_with('*');
        if !wildcard && services.find(&host, own, own).is_none() {
            let message = format!("\"{host}\" is no known service");
            findings.add(
                at(rule, "spec.host", &catalog::UNKNOWN_RULE_HOST, message)
                    .help("the rule has no effect; write the service's full name"),
            );
        }
        let unverified = |tls: &ClientTls| {
            matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
                && tls.insecure_skip_verify == Some(true)
        };
        let Some(policy) = &rule.spec.traffic_policy else { continue };
        let ports = policy.port_level_settings.iter().enumerate().filter_map(|(index, port)| {
            let field = format!("spec.trafficPolicy.portLevelSettings[{index}].tls");
            Some((field, port.tls.as_ref()?, &catalog::NO_SERVER_VERIFICATION_PORT))
        });
        let top = policy.tls.as_ref().map(|tls| {
            ("spec.trafficPolicy.tls".to_owned(), tls, &catalog::NO_SERVER_VERIFICATION)
        });
        for (field, _, code) in top.into_iter().chain(ports).filter(|(_, tls, _)| unverified(tls)) {
            let message = "any certificate is accepted from this backend";
            findings.add(
                at(rule, format!("{field}.insecureSkipVerify"), code, message)
                    .help("name its CA in caCertificates or credentialName"),
            );
        }
    }
}

/// Ports that ServiceEntries for the same host, seen from the same namespaces, give different
/// protocols (IST0177).
fn protocols(set: &ResourceSet, findings: &mut Findings) {
    let mut first = HashMap::new();
    for entry in &set.service_entries {
        let spec = &entry.spec;
        let own = &*entry.id.namespace;
        // What everyone sees meets in every namespace, the rest in its own.
        let space = if public(&spec.export_to) { "*" } else { own };
        for host in spec.hosts.iter().map(|host| host.to_ascii_lowercase()) {
            for (index, port) in spec.ports.iter().enumerate() {
                let protocol = port.protocol.to_ascii_uppercase();
                if protocol.is_empty() {
                    continue;
                }
                let known = first
                    .entry((space, host.clone(), port.number))
                    .or_insert_with(|| (entry, protocol.clone()));
                if known.1 == protocol || known.0.id == entry.id {
                    continue;
                }
                let message = format!(
                    "port {} of \"{host}\" speaks {} in {} and {protocol} here",
                    port.number, known.1, known.0.id
                );
                let field = format!("spec.ports[{index}].protocol");
                let finding = at(entry, field, &catalog::CONFLICTING_PROTOCOLS, message);
                findings.add(finding.help(
                    "write the same protocol in each: only one is used for the host, that of the \
                     route's own namespace or the oldest",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{ConfigFile, parse};

    const GATEWAY: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec: \
                           {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: \
                           http, protocol: HTTP}, hosts: ['shop/a.com', '*.b.com']}]}\n---\n";

    fn check(kind: &str, spec: &str, expected: &[&str]) {
        let yaml = format!(
            "{GATEWAY}apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, \
             namespace: shop}}\nspec: {spec}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let settings = CompileSettings::default();
        let mut findings = Findings::default();
        let services = Services::new(&parsed.set, &settings, &mut findings);
        tell(&parsed.set, &services, &settings, &mut findings);
        let found = findings.finish();
        let found: Vec<_> = found.iter().map(|d| format!("{} {}", d.code.id, d.field)).collect();
        assert_eq!(found, expected, "{spec}");
    }

    #[test]
    fn hosts_that_no_server_serves_are_told() {
        let spec = |host: &str| {
            format!(
                "{{hosts: ['{host}'], gateways: [default/gw], http: [{{redirect: {{uri: /}}}}]}}"
            )
        };
        for served in ["a.com", "x.b.com", "*.x.b.com", "*.com"] {
            check("VirtualService", &spec(served), &[]);
        }
        check("VirtualService", &spec("c.com"), &["IST0132 spec.hosts[0]"]);
    }

    #[test]
    fn weights_beside_100_are_told() {
        let spec = |weight: u32| {
            format!(
                "{{hosts: [a.com], gateways: [default/gw], http: [{{route: [{{destination: {{host: \
                 b}}, weight: {weight}}}, {{destination: {{host: c}}, weight: 10}}]}}]}}"
            )
        };
        check("VirtualService", &spec(90), &[]);
        check("VirtualService", &spec(20), &["PC041 spec.http[0].route"]);
    }

    #[test]
    fn rules_without_service_or_verification_are_told() {
        check("DestinationRule", "{host: nobody}", &["IST0174 spec.host"]);
        check(
            "DestinationRule",
            "{host: '*.b.com', trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}",
            &["IST0128 spec.trafficPolicy.tls.insecureSkipVerify"],
        );
    }

    #[test]
    fn subsets_that_a_rule_of_the_mesh_chooses_are_told() {
        let check = |subset: &str, host: &str, gateways: &str, expected: &[&str]| {
            let both = format!(
                "{{hosts: [a.com], gateways: [default/gw], http: [{{route: [{{destination: {{host: \
                 cart{subset}}}}}]}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: \
                 VirtualService\nmetadata: {{name: b, namespace: shop}}\nspec: {{hosts: [{host}], \
                 gateways: [{gateways}], http: [{{route: [{{destination: {{host: cart, subset: \
                 v1}}}}]}}]}}"
            );
            check("VirtualService", &both, expected);
        };
        let told: &[&str] = &["IST0140 spec.http[0].route[0].destination.host"];
        check("", "cart", "mesh", told);
        check("", "cart.shop.svc.cluster.local", "", told);
        check(", subset: v2", "cart", "mesh", &[]);
        check("", "basket", "mesh", &[]);
        check("", "a.com", "default/gw", &[]);
    }

    #[test]
    fn ports_of_one_host_with_two_protocols_are_told() {
        let check = |other: &str, host: &str, ports: &str, expected: &[&str]| {
            let first = format!(
                "{{hosts: [a.internal], resolution: DNS, ports: [{{number: 443, name: a, protocol: \
                 HTTP}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: \
                 {{name: b, namespace: {other}}}\nspec: {{hosts: [{host}], resolution: DNS, ports: \
                 [{ports}]}}"
            );
            check("ServiceEntry", &first, expected);
        };
        let told: &[&str] = &["IST0177 spec.ports[0].protocol"];
        check("shop", "A.internal", "{number: 443, name: b, protocol: TLS}", told);
        check("other", "a.internal", "{number: 443, name: b, protocol: TLS}", told);
        check("shop", "a.internal", "{number: 443, name: b, protocol: http}", &[]);
        check("shop", "a.internal", "{number: 443, name: b}", &[]);
        check("shop", "a.internal", "{number: 444, name: b, protocol: TLS}", &[]);
        check("shop", "b.internal", "{number: 443, name: b, protocol: TLS}", &[]);
    }
}
