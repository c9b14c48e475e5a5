//! What Kubernetes' Services say of this gateway and of what is behind it.

use std::collections::BTreeSet;

use crate::diag::catalog;
use crate::resources::core::{PortOrName, Service, ServicePort};
use crate::resources::{Resource, ResourceSet};

use super::findings::{Findings, at};
use super::names::selects;
use super::services::{Speaks, speaks};
use super::settings::CompileSettings;

/// Tells of ports that nobody reaches through the gateway's own Services, and of ports whose protocol is
/// not said.
pub fn tell(set: &ResourceSet, settings: &CompileSettings, findings: &mut Findings) {
    let leads_here = |service: &Resource<Service>| {
        let selector = &service.spec.selector;
        *service.id.namespace == *settings.namespace
            && !selector.is_empty()
            && selects(selector, &settings.labels)
    };
    let (own, others): (Vec<_>, Vec<_>) =
        set.services.iter().map(|service| &**service).partition(|service| leads_here(service));
    if !own.is_empty() {
        unreached(set, &own, settings, findings);
    }
    for service in others {
        unsaid(service, findings);
    }
}

/// Ports of Gateways that no Service of this gateway leads to (IST0162).
fn unreached(
    set: &ResourceSet,
    own: &[&Resource<Service>],
    settings: &CompileSettings,
    findings: &mut Findings,
) {
    let ports = || own.iter().flat_map(|service| &service.spec.ports).filter(|port| is_tcp(port));
    let target = |port: &ServicePort| match port.target_port {
        Some(PortOrName::Number(number)) if number > 0 => number,
        _ => port.port,
    };
    // A Gateway may name the Service's port as well as the one behind it.
    let known: BTreeSet<u32> = ports().flat_map(|port| [port.port, target(port)]).collect();
    let is_known = |number: u32| {
        let written = u16::try_from(number).ok();
        let bound = written.and_then(|port| settings.port_map.get(&port));
        known.contains(&number) || bound.is_some_and(|port| known.contains(&u32::from(*port)))
    };
    for gateway in set.gateways.iter().filter(|g| selects(&g.spec.selector, &settings.labels)) {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = server.port.as_ref().filter(|port| port.number > 0) else { continue };
            if is_known(port.number) {
                continue;
            }
            let names: Vec<_> = own.iter().map(|service| service.id.to_string()).collect();
            let message = format!("no port of {} leads to port {}", names.join(", "), port.number);
            let field = format!("spec.servers[{index}].port.number");
            findings.add(at(gateway, field, &catalog::PORT_NOT_ON_SERVICE, message));
        }
    }
}

/// Ports whose name and `appProtocol` say no protocol (IST0118).
fn unsaid(service: &Resource<Service>, findings: &mut Findings) {
    for (index, port) in service.spec.ports.iter().enumerate().filter(|(_, port)| is_tcp(port)) {
        let number = u16::try_from(port.port).unwrap_or(0);
        if speaks(port, number) == Speaks::Unsaid {
            let message =
                format!("port {} says no protocol: requests reach it over HTTP/1.1", port.port);
            let field = format!("spec.ports[{index}]");
            findings.add(at(service, field, &catalog::PORT_NAME, message));
        }
    }
}

fn is_tcp(port: &ServicePort) -> bool {
    matches!(port.protocol.as_str(), "" | "TCP")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    /// Port 443 of a Gateway, bound as 8443, beside a Service.
    fn check(service: &str, expected: &[&str]) {
        let gateway = "spec: {selector: {istio: edge}, servers: [{hosts: [a.com], port: {number: 443, \
                       name: a, protocol: HTTP}}]}";
        let set = fixture::set_of(&[
            ("networking.istio.io/v1", "Gateway", "{name: g, namespace: edge}", gateway),
            ("v1", "Service", "{name: s, namespace: edge}", &format!("spec: {service}")),
        ]);
        let mut settings = fixture::settings();
        settings.port_map = [(443, 8443)].into();
        let mut findings = Findings::default();
        tell(&set, &settings, &mut findings);
        let found = findings.finish();
        let found: Vec<_> = found.iter().map(|d| format!("{} {}", d.code.id, d.field)).collect();
        assert_eq!(found, expected, "{service}");
    }

    #[test]
    fn a_port_that_no_service_leads_to_is_told() {
        let told: &[&str] = &["IST0162 spec.servers[0].port.number"];
        let own = |ports: &str| format!("{{selector: {{istio: edge}}, ports: [{ports}]}}");
        check(&own("{port: 80}"), told);
        check(&own("{port: 443, protocol: UDP}"), told);
        check(&own("{port: 443, targetPort: 8080}"), &[]);
        check(&own("{port: 1, targetPort: 443}"), &[]);
        check(&own("{port: 1, targetPort: 8443}"), &[]);
        check(&own("{port: 443, targetPort: https}"), &[]);
        check("{selector: {app: edge}, ports: [{port: 80, name: http}]}", &[]);
        check("{ports: [{port: 80, name: http}]}", &[]);
    }

    #[test]
    fn a_port_without_a_protocol_is_told() {
        let other = |ports: &str| format!("{{selector: {{app: a}}, ports: [{ports}]}}");
        check(&other("{port: 80}"), &["IST0118 spec.ports[0]"]);
        check(&other("{port: 80, name: web}"), &["IST0118 spec.ports[0]"]);
        check(&other("{port: 80, name: web, appProtocol: grpc}"), &[]);
        check(&other("{port: 80, name: http-web}"), &[]);
        check(&other("{port: 3306}"), &[]);
        check(&other("{port: 80, protocol: UDP}"), &[]);
    }
}
