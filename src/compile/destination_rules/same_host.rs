//! The DestinationRules of one namespace for one host, and which of them count together.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::id::Origin;
use crate::compile::findings::{Findings, at};
use crate::diag::catalog;
use crate::resources::{DestinationRule, Resource};

/// Those of one host.
#[derive(Debug, Default)]
pub(super) struct Rules<'a> {
    pub(super) usable: Vec<&'a Arc<Resource<DestinationRule>>>,
    /// One that cannot be used: nothing is sent, because it may have asked for TLS.
    pub(super) unusable: Option<Origin>,
}

impl<'a> Rules<'a> {
    /// Those that count together: of the oldest rule with a `workloadSelector`, every rule with the same
    /// one, and what its namespace keeps to itself. Where none has a selector, the last of the sets into
    /// which Istio puts them: a rule joins every earlier set whose first rule is shown to the same, or to
    /// fewer, and begins one of its own unless it joins the last.
    pub(super) fn counting(&self) -> Vec<&'a Arc<Resource<DestinationRule>>> {
        let Some(first) = self.usable.iter().find(|rule| rule.spec.workload_selector.is_some())
        else {
            return self.last_set();
        };
        let selector = &first.spec.workload_selector;
        let alike =
            |rule: &&Arc<Resource<DestinationRule>>| rule.spec.workload_selector == *selector;
        let alone = |rule: &&Arc<Resource<DestinationRule>>| {
            rule.spec.workload_selector.is_none() && rule.spec.export_to.iter().any(|to| to == ".")
        };
        let selecting = self.usable.iter().filter(|rule| alike(rule));
        selecting.chain(self.usable.iter().filter(|rule| alone(rule))).copied().collect()
    }

    fn last_set(&self) -> Vec<&'a Arc<Resource<DestinationRule>>> {
        let mut sets: Vec<(BTreeSet<&str>, Vec<_>)> = Vec::new();
        for rule in &self.usable {
            let shown: BTreeSet<&str> = rule.spec.export_to.iter().map(String::as_str).collect();
            let mut joins = false;
            for (first, set) in &mut sets {
                joins = shown == *first || (!first.is_empty() && shown.is_superset(first));
                if joins {
                    set.push(*rule);
                }
            }
            if !joins {
                sets.push((shown, vec![*rule]));
            }
        }
        sets.pop().map(|(_, set)| set).unwrap_or_default()
    }

    /// Tells of those that another's `exportTo` keeps from counting.
    pub(super) fn tell_hidden(&self, findings: &mut Findings) {
        let counting = self.counting();
        let Some(first) = counting.first().filter(|rule| rule.spec.workload_selector.is_none())
        else {
            return;
        };
        let hidden =
            self.usable.iter().filter(|rule| !counting.iter().any(|one| Arc::ptr_eq(one, rule)));
        for rule in hidden {
            let message = format!(
                "the rule counts for nothing at this gateway: rules of one host are not united where their \
                 exportTo differ, and {} counts",
                first.id
            );
            let field = if rule.spec.export_to.is_empty() { "spec.host" } else { "spec.exportTo" };
            let finding = at(rule, field, &catalog::INEFFECTIVE_POLICY, message);
            findings.add(finding.help("give them the same exportTo"));
        }
    }
}
