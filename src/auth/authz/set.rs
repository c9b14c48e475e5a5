//! Policies of one action.

use super::{Facts, Policy, Purpose, Selected};

/// Policies of one action, in order.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    policies: Vec<Policy>,
    looks_at_paths: bool,
}

impl PolicySet {
    /// A set of policies.
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut rules = policies.iter().flat_map(|policy| &policy.rules);
        let looks_at_paths = rules.any(|(rule, _)| rule.looks_at_paths());
        Self { policies, looks_at_paths }
    }

    /// The first rule that selects a request for something else than passing, in any reading of its path.
    pub fn select(&self, facts: &Facts<'_>) -> Option<Selected<'_>> {
        (0..facts.readings())
            .find_map(|reading| self.first(&facts.reading(reading), Purpose::HoldBack))
    }

    /// A rule that lets a request pass; every reading of its path has one.
    pub fn permit(&self, facts: &Facts<'_>) -> Option<Selected<'_>> {
        let first = |reading| self.first(&facts.reading(reading), Purpose::Pass);
        let found = first(0)?;
        (1..facts.readings()).all(|reading| first(reading).is_some()).then_some(found)
    }

    /// The first rule that matches.
    fn first(&self, facts: &Facts<'_>, purpose: Purpose) -> Option<Selected<'_>> {
        self.policies.iter().find_map(|policy| {
            let mut rules = policy.rules.iter().enumerate();
            let (rule, (_, origin)) = rules.find(|(_, (rule, _))| rule.matches(facts, purpose))?;
            Some(Selected { policy, rule, origin })
        })
    }

    /// Whether some rule looks at paths, so that their readings matter.
    pub fn looks_at_paths(&self) -> bool {
        self.looks_at_paths
    }

    /// Every policy.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}
