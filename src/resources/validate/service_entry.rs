//! Rules for ServiceEntry and WorkloadEntry.
//!
//! **Invariant**: a rule is reported at the field that breaks it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Findings, HTTP, TLS, is_any, is_protocol, repeated};
use crate::diag::catalog;
use crate::resources::name::{is_fqdn, is_label, is_socket};
use crate::resources::service_entry::{Resolution, ServiceEntry, ServiceLocation, WorkloadEntry};

pub(in super::super) fn check(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    findings.export_to(&entry.export_to, true);
    findings.error_if(entry.hosts.is_empty(), "spec.hosts", "a ServiceEntry needs a host");
    for (index, host) in entry.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            findings.error(&path, "a ServiceEntry cannot stand for every host");
        } else {
            findings.host(host, &path);
        }
    }
    let both = entry.workload_selector.is_some() && !entry.endpoints.is_empty();
    findings.error_if(both, "spec.endpoints", "endpoints and workloadSelector exclude each other");
    if let Some(selector) = &entry.workload_selector {
        findings.selector(&selector.labels, "spec.workloadSelector.labels");
    }
    findings.subnets(&entry.addresses, "spec.addresses");
    ports(entry, findings);
    resolution(entry, findings);
    let names: BTreeSet<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        address(endpoint, &path, findings);
        let socket = endpoint.address.starts_with("unix://");
        let message = "a unix socket stands for one port: list one in spec.ports";
        let several = socket && entry.ports.len() != 1;
        findings.error_if(several, &format!("{path}.address"), message);
        for name in endpoint.ports.keys() {
            if !names.contains(name.as_str()) {
                let message = format!("port \"{name}\" is not among spec.ports");
                findings.error(&format!("{path}.ports.{name}"), message);
            }
        }
    }
}

fn ports(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let mut numbers = BTreeSet::new();
    for (index, port) in entry.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        findings.port(port.number, &format!("{path}.number"));
        port_name(&port.name, &format!("{path}.name"), findings);
        if port.target_port != 0 {
            findings.port(port.target_port, &format!("{path}.targetPort"));
        }
        if !port.protocol.is_empty() && !is_protocol(&port.protocol) {
            let message = format!("\"{}\" is not a protocol", port.protocol);
            findings.error(&format!("{path}.protocol"), message);
        }
        if !numbers.insert(port.number) {
            let message = format!("port {} is repeated", port.number);
            findings.error(&format!("{path}.number"), message);
        }
    }
    if let Some(index) = repeated(entry.ports.iter().map(|port| port.name.as_str())) {
        findings.error(&format!("spec.ports[{index}].name"), "the port name is repeated");
    }
    let told = |protocol: &str| is_any(protocol, &HTTP) || is_any(protocol, &TLS);
    let several = entry.hosts.len() > 1 && entry.resolution != Resolution::None;
    if let Some(index) = entry.ports.iter().position(|port| several && !told(&port.protocol)) {
        let message = "several hosts cannot be told apart on a port without HTTP or TLS";
        findings.error(&format!("spec.ports[{index}].protocol"), message);
    }
    let bytes = |protocol: &str| protocol.is_empty() || protocol.eq_ignore_ascii_case("TCP");
    let tcp = entry.ports.iter().position(|port| bytes(&port.protocol));
    if let Some(index) = tcp.filter(|_| entry.addresses.is_empty()) {
        let message = "a TCP port without addresses takes all traffic of its port in a sidecar";
        findings.add(&catalog::ADDRESSES_REQUIRED, &format!("spec.ports[{index}]"), message);
    }
}

fn resolution(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let (path, endpoints) = ("spec.endpoints", &entry.endpoints);
    let wildcard = |host: &String| host.starts_with('*');
    match entry.resolution {
        Resolution::None => {
            let message = "resolution NONE has no endpoints: write STATIC or DNS";
            findings.error_if(!endpoints.is_empty(), path, message);
            if entry.workload_selector.is_some() {
                let message =
                    "resolution NONE connects to where a client wanted to go: write STATIC";
                findings.warning("spec.workloadSelector", message);
            }
        }
        Resolution::Static => {
            for (index, endpoint) in endpoints.iter().enumerate() {
                let address = endpoint.address.as_str();
                let known = address.parse::<IpAddr>().is_ok()
                    || address.starts_with("unix://")
                    || address.is_empty();
                let message = "resolution STATIC needs an IP address: write DNS for a name";
                findings.error_if(!known, &format!("{path}[{index}].address"), message);
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            let lacks = |host: &String| endpoints.is_empty() && !is_fqdn(host);
            if let Some(index) = entry.hosts.iter().position(lacks) {
                let message = "the host cannot be looked up in DNS: give endpoints";
                findings.error(&format!("spec.hosts[{index}]"), message);
            }
            for (index, endpoint) in endpoints.iter().enumerate() {
                let unix = endpoint.address.starts_with("unix://");
                let nameless = endpoint.address.is_empty() && !endpoint.network.is_empty();
                let message = "DNS needs a name or an IP address: write STATIC for others";
                findings.error_if(unix || nameless, &format!("{path}[{index}].address"), message);
            }
            let many = entry.resolution == Resolution::DnsRoundRobin && endpoints.len() > 1;
            findings.error_if(many, path, "DNS_ROUND_ROBIN has at most one endpoint");
            let shared = entry.hosts.len() > 1
                && !entry.addresses.is_empty()
                && entry.ports.iter().any(|port| is_any(&port.protocol, &TLS));
            if shared {
                let message = "several hosts cannot be told apart by their addresses";
                findings.warning("spec.hosts", message);
            }
            if let Some(index) = entry.addresses.iter().position(|address| address.contains('/')) {
                let message = "CIDR blocks do not go with DNS";
                findings.error(&format!("spec.addresses[{index}]"), message);
            }
        }
        Resolution::DynamicDns => {
            if let Some(index) = entry.hosts.iter().position(|host| !wildcard(host)) {
                findings.error(&format!("spec.hosts[{index}]"), "DYNAMIC_DNS needs a wildcard");
            }
            let message = "DYNAMIC_DNS has no endpoints";
            findings.error_if(!endpoints.is_empty(), path, message);
            let message = "DYNAMIC_DNS has no addresses";
            findings.error_if(!entry.addresses.is_empty(), "spec.addresses", message);
            let waypoint = findings.meta.labels.get("istio.io/use-waypoint").map(String::as_str);
            let waypoint = waypoint.is_some_and(|name| !matches!(name, "" | "none"));
            let inside = entry.location == ServiceLocation::MeshInternal;
            let message = "DYNAMIC_DNS within the mesh has no waypoint: remove the label";
            findings.error_if(waypoint && inside, "spec.location", message);
            let fits = |protocol: &str| is_any(protocol, &["HTTP", "TLS", "GRPC", "HTTP2"]);
            if let Some(index) = entry.ports.iter().position(|port| !fits(&port.protocol)) {
                let message = "DYNAMIC_DNS needs HTTP, HTTP2, GRPC or TLS, which name the host";
                findings.error(&format!("spec.ports[{index}].protocol"), message);
            }
        }
    }
}

pub(in super::super) fn check_workload(entry: &WorkloadEntry, findings: &mut Findings<'_>) {
    address(entry, "spec", findings);
}

fn address(entry: &WorkloadEntry, path: &str, findings: &mut Findings<'_>) {
    findings.labels(&entry.labels, &format!("{path}.labels"));
    for (name, port) in &entry.ports {
        let path = format!("{path}.ports.{name}");
        port_name(name, &path, findings);
        findings.port(*port, &path);
    }
    let (place, text) = (format!("{path}.address"), entry.address.as_str());
    if text.is_empty() {
        if entry.network.is_empty() {
            return findings.error(&place, "an address is needed");
        }
        let message =
            "without an address the endpoint is reached through its network's gateways alone";
        return findings.warning(&place, message);
    }
    let socket = text.strip_prefix("unix://");
    let unix = socket.is_some();
    let wrong = socket.is_some_and(|path| !is_socket(path));
    findings.error_if(wrong, &place, "a unix socket is unix:///path or unix://@name");
    let message = "a unix socket has no ports";
    findings.error_if(unix && !entry.ports.is_empty(), &format!("{path}.ports"), message);
    if !unix && !is_fqdn(text) && text.parse::<IpAddr>().is_err() {
        findings.error(&place, format!("\"{text}\" is not an IP address, a name or unix://path"));
    }
}

fn port_name(name: &str, path: &str, findings: &mut Findings<'_>) {
    if !is_label(name) {
        findings.error(path, format!("\"{name}\" is not a port's name: letters, digits and \"-\""));
    }
}
