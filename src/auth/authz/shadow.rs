//! Policies that judge and are not enforced: AUDIT, and dry runs of DENY and ALLOW.

use super::{Facts, Policy, PolicySet};
use crate::base::id::Origin;

/// The policies of a gateway that are not enforced.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// AUDIT.
    pub audit: PolicySet,
    /// Dry runs of DENY.
    pub deny: PolicySet,
    /// Dry runs of ALLOW.
    pub allow: PolicySet,
}

/// What policies that are not enforced say of a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remark<'a> {
    /// `audit`; or `deny` and `allow` for dry runs.
    pub action: &'static str,
    /// `matched` for `audit`; or `allowed` and `denied`.
    pub result: &'static str,
    /// The rule, or the first ALLOW policy of those that have no match; nothing where no DENY rule matches.
    pub by: Option<&'a Origin>,
}

impl Shadow {
    /// What is to be remarked, in the order in which policies are looked at.
    pub fn judge(&self, facts: &Facts<'_>) -> Vec<Remark<'_>> {
        let audited = self.audit.select(facts).map(|selected| Remark {
            action: "audit",
            result: "matched",
            by: Some(selected.origin),
        });
        let denied = (!self.deny.is_empty()).then(|| match self.deny.select(facts) {
            Some(rule) => Remark { action: "deny", result: "denied", by: Some(rule.origin) },
            None => Remark { action: "deny", result: "allowed", by: None },
        });
        let allowed = self.allow.iter().next().map(|first| match self.allow.permit(facts) {
            Some(rule) => Remark { action: "allow", result: "allowed", by: Some(rule.origin) },
            None => Remark { action: "allow", result: "denied", by: Some(&first.origin) },
        });
        audited.into_iter().chain(denied).chain(allowed).collect()
    }

    /// Whether some rule looks at paths, so that their readings matter.
    pub fn looks_at_paths(&self) -> bool {
        [&self.audit, &self.deny, &self.allow].into_iter().any(PolicySet::looks_at_paths)
    }

    /// Whether there is no policy.
    pub fn is_empty(&self) -> bool {
        [&self.audit, &self.deny, &self.allow].into_iter().all(PolicySet::is_empty)
    }

    /// Every policy.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Policy)> {
        let named = |action| move |policy| (action, policy);
        let deny = self.deny.iter().map(named("DENY (dry run)"));
        let allow = self.allow.iter().map(named("ALLOW (dry run)"));
        self.audit.iter().map(named("AUDIT")).chain(deny).chain(allow)
    }
}
