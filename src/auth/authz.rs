//! Authorization (`AuthorizationPolicy`): whether a request, or a TCP connection, may go on.
//!
//! A DENY rule that matches refuses. Where ALLOW policies exist, one of their rules must match. A
//! request whose path can be read in several ways is judged in each: one reading that a DENY rule
//! matches refuses, and every reading must be allowed. AUDIT policies and dry runs are judged beside that
//! and refuse nothing.
//!
//! **Invariant:** no clock, sockets or resources; a judgement by what is enforced allocates nothing unless it
//! refuses.

mod facts;
mod index;
mod path;
mod rule;
mod set;
mod shadow;
mod text;

pub use facts::{Facts, HttpFacts, Peer, PeerId};
pub use path::{InvalidTemplate, PathMatch};
pub use rule::{Field, Rule, Subject, TextSubject};
pub use set::PolicySet;
pub use shadow::{Remark, Shadow};
pub use text::TextMatch;

use crate::base::id::Origin;

/// A policy's rules.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// Its rules, each with its place; without rules it matches nothing.
    pub rules: Vec<(Rule, Origin)>,
    /// Its own place.
    pub origin: Origin,
}

/// The policies of a gateway that are enforced.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    deny: PolicySet,
    allow: PolicySet,
}

/// Why a request is refused; for logs alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Envoy's response code details.
    pub details: Box<str>,
    /// The DENY rule, or the first ALLOW policy of those that have no match.
    pub origin: Origin,
}

impl Denial {
    /// A refusal by no rule: a policy that cannot be enforced.
    pub fn whole(origin: Origin) -> Self {
        Self { details: "rbac_access_denied_matched_policy[none]".into(), origin }
    }

    /// A refusal by a rule.
    pub fn by(selected: &Selected<'_>) -> Self {
        let Selected { policy: Policy { namespace, name, .. }, rule, origin } = selected;
        let details = format!(
            "rbac_access_denied_matched_policy[ns[{namespace}]-policy[{name}]-rule[{rule}]]"
        );
        Self { details: details.into(), origin: (*origin).clone() }
    }
}

/// A rule that matches.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// Its policy.
    pub policy: &'a Policy,
    /// Its place among the policy's rules, from 0.
    pub rule: usize,
    /// Where it is written.
    pub origin: &'a Origin,
}

/// What one rule says of a request, whatever the others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleVerdict<'a> {
    /// `DENY` or `ALLOW`.
    pub action: &'static str,
    /// Where it is written.
    pub origin: &'a Origin,
    /// How many readings of the path it matches.
    pub matched: usize,
    /// How many there are.
    pub readings: usize,
}

/// What a rule is for, and so which way a doubt about a match goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It lets pass: what HTTP alone has cannot match on another connection, and every reading of a value
    /// must match.
    Pass,
    /// It holds back: what HTTP alone has is left out on another connection, and one reading of a value
    /// is enough.
    HoldBack,
}

impl Policies {
    /// Policies of which any match of `deny` refuses and, where there are any, one of `allow` must match.
    pub fn new(deny: Vec<Policy>, allow: Vec<Policy>) -> Self {
        Self { deny: PolicySet::new(deny), allow: PolicySet::new(allow) }
    }

    /// Judges; the rule that allowed is given where one had to.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<Option<&Origin>, Denial> {
        if let Some(selected) = self.deny.select(facts) {
            return Err(Denial::by(&selected));
        }
        let Some(policy) = self.allow.iter().next() else { return Ok(None) };
        match self.allow.permit(facts) {
            Some(selected) => Ok(Some(selected.origin)),
            None => Err(Denial::whole(policy.origin.clone())),
        }
    }

    /// What each rule says, those that refuse first; nothing is decided by it.
    pub fn verdicts(&self, facts: &Facts<'_>) -> Vec<RuleVerdict<'_>> {
        let readings = facts.readings();
        let of = |action, rules: Vec<_>| {
            let verdict =
                move |(origin, matched)| RuleVerdict { action, origin, matched, readings };
            rules.into_iter().map(verdict)
        };
        of("DENY", self.deny.verdicts(facts, Purpose::HoldBack))
            .chain(of("ALLOW", self.allow.verdicts(facts, Purpose::Pass)))
            .collect()
    }

    /// Whether some rule looks at paths, so that their readings matter.
    pub fn look_at_paths(&self) -> bool {
        self.deny.looks_at_paths() || self.allow.looks_at_paths()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    /// Every policy, those that refuse first.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Policy)> {
        let named = |action| move |policy| (action, policy);
        self.deny.iter().map(named("DENY")).chain(self.allow.iter().map(named("ALLOW")))
    }
}

#[cfg(test)]
mod tests;
