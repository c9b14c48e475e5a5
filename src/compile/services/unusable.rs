//! ServiceEntries that cannot be used and may name the identities of servers.
//!
//! **Invariant**: no server is accepted by less than such an entry may have asked for.

use std::collections::HashMap;

use crate::base::id::Origin;
use crate::compile::destination_rules::UNTIL_MENDED;
use crate::compile::findings::Findings;
use crate::diag::{Diagnostic, catalog};
use crate::resources::{ResourceSet, Restricted};

/// Those entries by the hosts they are for.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    hosts: HashMap<String, Origin>,
    anywhere: Option<Origin>,
}

impl Unusable {
    /// Finds them; tells those that are for a host which another resource defines.
    pub(super) fn new(
        set: &ResourceSet,
        is_defined: impl Fn(&str) -> bool,
        findings: &mut Findings,
    ) -> Self {
        let mut unusable = Self::default();
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
                        harms |= is_defined(&host);
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

    /// The entry because of which nothing is sent to a host.
    pub(super) fn find(&self, host: &str) -> Option<&Origin> {
        self.hosts.get(host).or(self.anywhere.as_ref())
    }
}
