//! Which VirtualServices are bound to a server, and under which names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::host::HostPattern;
use crate::diag::catalog;
use crate::resources::virtual_service::VirtualService;
use crate::resources::{Resource, ResourceSet};

use super::findings::{Findings, at};
use super::gateways::ServerDraft;
use super::names::{exported, private, public, qualified, reference};
use super::settings::CompileSettings;

/// A VirtualService of a Gateway with its hosts read.
#[derive(Debug)]
pub struct Bound<'a> {
    /// The VirtualService.
    pub resource: &'a Arc<Resource<VirtualService>>,
    /// Its hosts; those that cannot be read are left out.
    pub hosts: Vec<HostPattern>,
}

/// The VirtualServices of one Gateway, by host.
#[derive(Debug, Default)]
pub struct GatewayServices<'a> {
    all: Vec<Bound<'a>>,
    exact: HashMap<Box<str>, Vec<usize>>,
    wildcard: Vec<usize>,
}

/// The VirtualServices of every Gateway, by its namespace and name.
pub type Bindings<'a> = HashMap<(String, String), GatewayServices<'a>>;

/// Sorts the VirtualServices by the Gateways they name: those private to the gateway's namespace
/// first, then those exported to it, then the public ones.
pub fn bindings<'a>(
    set: &'a ResourceSet,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Bindings<'a> {
    let known: HashSet<(&str, &str)> =
        set.gateways.iter().map(|gateway| (&*gateway.id.namespace, &*gateway.id.name)).collect();
    let set_aside = |namespace: &str, name: &str| {
        let mut gateways = set.broken.iter().filter(|broken| broken.id.kind == "Gateway");
        gateways.any(|broken| &*broken.id.namespace == namespace && &*broken.id.name == name)
    };
    let mut out: Bindings<'a> = HashMap::new();
    let mut sorted: Vec<_> = set.virtual_services.iter().collect();
    sorted.sort_by_key(|resource| {
        let own = &*resource.id.namespace;
        let export = &resource.spec.export_to;
        if own == settings.namespace && private(export, own) {
            0
        } else if public(export) {
            2
        } else {
            1
        }
    });
    for resource in sorted {
        let own = &*resource.id.namespace;
        if !exported(&resource.spec.export_to, own, &settings.namespace) {
            continue;
        }
        let hosts = hosts(resource, &settings.cluster_domain, findings);
        for (index, written) in resource.spec.gateways.iter().enumerate() {
            if written == "mesh" {
                continue;
            }
            let (namespace, name) = reference(written, own);
            if !known.contains(&(namespace, name)) {
                if set_aside(namespace, name) {
                    continue;
                }
                let field = format!("spec.gateways[{index}]");
                let message = format!("Gateway \"{namespace}/{name}\" does not exist");
                findings.add(
                    at(resource, field, &catalog::REFERENCE_NOT_FOUND, message)
                        .help("write the Gateway's name, or namespace/name"),
                );
                continue;
            }
            let services = out.entry((namespace.to_owned(), name.to_owned())).or_default();
            services.add(Bound { resource, hosts: hosts.clone() });
        }
    }
    out
}

fn hosts(
    resource: &Resource<VirtualService>,
    domain: &str,
    findings: &mut Findings,
) -> Vec<HostPattern> {
    let mut out = Vec::new();
    for (index, host) in resource.spec.hosts.iter().enumerate() {
        match HostPattern::parse(&qualified(host, &resource.id.namespace, domain)) {
            Ok(pattern) => out.push(pattern),
            Err(error) => {
                let field = format!("spec.hosts[{index}]");
                let diagnostic = at(resource, field, &catalog::INVALID_HOST, error.to_string());
                findings.add(diagnostic.help("the host is left out"));
            }
        }
    }
    out
}

impl<'a> GatewayServices<'a> {
    fn add(&mut self, bound: Bound<'a>) {
        let index = self.all.len();
        let mut wild = false;
        for host in &bound.hosts {
            match host {
                HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default().push(index),
                HostPattern::Suffix(_) | HostPattern::Any => wild = true,
            }
        }
        if wild {
            self.wildcard.push(index);
        }
        self.all.push(bound);
    }

    /// The services bound to a server, in order, each with the names they share.
    pub fn of(&self, server: &ServerDraft<'_>) -> Vec<(&Bound<'a>, Vec<HostPattern>)> {
        let mut candidates: Vec<usize> = Vec::new();
        for (_, host) in &server.hosts {
            if let HostPattern::Exact(name) = host {
                candidates.extend(self.exact.get(name).into_iter().flatten());
                candidates.extend(&self.wildcard);
            } else {
                candidates = (0..self.all.len()).collect();
                break;
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
            .into_iter()
            .filter_map(|index| self.all.get(index))
            .filter_map(|bound| {
                let own = &*bound.resource.id.namespace;
                let allowed = server
                    .hosts
                    .iter()
                    .filter(|(namespace, _)| namespace.as_deref().is_none_or(|n| n == own));
                let mut shared: Vec<HostPattern> = allowed
                    .flat_map(|(_, host)| bound.hosts.iter().filter_map(|own| host.intersect(own)))
                    .collect();
                shared.sort();
                shared.dedup();
                (!shared.is_empty()).then_some((bound, shared))
            })
            .collect()
    }
}
