//! ServiceEntries that cannot be used, or not as written, and may name the identities of servers.
//!
//! **Invariant**: no server is accepted by less than such an entry may have asked for.

use std::collections::HashMap;

use super::{ByHost, Service, Source};
use crate::base::id::Origin;
use crate::compile::destination_rules::UNTIL_MENDED;
use crate::compile::findings::{Findings, at};
use crate::compile::selection::unread;
use crate::diag::{Diagnostic, catalog};
use crate::resources::{ResourceSet, Restricted};

/// Those entries by the hosts they are for.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    hosts: HashMap<String, Origin>,
    anywhere: Option<Origin>,
    /// Those with a field that does not exist, by namespace and host of the service they make or add to.
    misspelt: HashMap<(Box<str>, String), Origin>,
}

impl Unusable {
    /// Finds them; of those that cannot be read, tells the ones for a host that another resource defines.
    pub(super) fn new(set: &ResourceSet, by_host: &ByHost<'_>, findings: &mut Findings) -> Self {
        let mut unusable = Self::default();
        unusable.add_misspelt(set, by_host, findings);
        for broken in set.broken.iter().filter(|broken| broken.id.kind == "ServiceEntry") {
            let harms = match &broken.restricted {
                Restricted::Nothing => false,
                Restricted::Anything => {
                    unusable.anywhere.get_or_insert_with(|| broken.origin());
                    true
                }
                Restricted::Hosts(hosts) => {
                    let mut harms = false;
                    for host in hosts.iter().map(|host| host.to_ascii_lowercase()) {
                        harms |= by_host.contains_key(&host);
                        unusable.hosts.entry(host).or_insert_with(|| broken.origin());
                    }
                    harms
                }
            };
            if harms {
                let message =
                    format!("{} cannot be used and names who its servers may be", broken.id);
                findings.add(
                    Diagnostic::new(&catalog::POLICY_FAILS_CLOSED, message)
                        .at(broken.location.clone())
                        .resource(broken.id.clone())
                        .help(UNTIL_MENDED),
                );
            }
        }
        unusable
    }

    /// What such an entry says is there, and may be less than was meant: the service refuses, and an
    /// endpoint of its own document is left out.
    fn add_misspelt(&mut self, set: &ResourceSet, by_host: &ByHost<'_>, findings: &mut Findings) {
        for entry in &set.service_entries {
            let Some(field) = unread(entry).find(|field| may_secure(field)) else { continue };
            for host in entry.spec.hosts.iter().map(|host| host.to_ascii_lowercase()) {
                let known = by_host.get(&host).into_iter().flatten();
                let mut kube = known.filter(|(_, source)| matches!(source, Source::Kube(_)));
                let owner = kube.next().map_or(&*entry.id.namespace, |(kube, _)| &kube.namespace);
                self.misspelt.entry((owner.into(), host)).or_insert_with(|| entry.origin(field));
            }
            let message = "an entry with a field that does not exist may demand less than it says";
            let finding = at(entry, field, &catalog::POLICY_FAILS_CLOSED, message);
            findings.add(finding.help(UNTIL_MENDED));
        }
        for workload in &set.workload_entries {
            let Some(field) = unread(workload).next() else { continue };
            let message =
                "an endpoint with a field that does not exist may demand less than it says";
            let finding = at(workload, field, &catalog::POLICY_FAILS_CLOSED, message);
            findings.add(finding.help("the endpoint is left out until it is mended; others go on"));
        }
    }

    /// The entry because of which nothing is sent to a service.
    pub(super) fn find(&self, service: &Service) -> Option<&Origin> {
        let misspelt = || {
            let key = (service.namespace.as_str().into(), service.host.clone());
            self.misspelt.get(&key)
        };
        let unreadable = self.hosts.get(&service.host).or(self.anywhere.as_ref());
        unreadable.or_else(|| if self.misspelt.is_empty() { None } else { misspelt() })
    }
}

/// Whether a field that does not exist may have been one that decides where connections go or how they are
/// secured: `location`, `subjectAltNames`, an endpoint's `serviceAccount`.
fn may_secure(field: &str) -> bool {
    !field.contains(".ports[")
}
