//! Policies of one action.

use super::index::RuleIndex;
use super::{Facts, Policy, Purpose, Rule, Selected};
use crate::base::id::Origin;
use crate::base::limit;

/// Policies of one action, in order.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    policies: Vec<Policy>,
    looks_at_paths: bool,
    /// Where there are so many rules that a scan is slower, with the places of their numbers.
    index: Option<Box<(RuleIndex, Vec<Place>)>>,
}

/// The numbers of a policy and of a rule of it.
type Place = (usize, usize);

impl PolicySet {
    /// A set of policies.
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut all = policies.iter().flat_map(|policy| &policy.rules).map(|(rule, _)| rule);
        let looks_at_paths = all.any(Rule::looks_at_paths);
        let number =
            |(policy, one): (usize, &Policy)| (0..one.rules.len()).map(move |rule| (policy, rule));
        let places: Vec<Place> = policies.iter().enumerate().flat_map(number).collect();
        let rules = || policies.iter().flat_map(|policy| &policy.rules).map(|(rule, _)| rule);
        let many = places.len() >= limit::INDEXED_POLICY_RULES;
        let index = many.then(|| Box::new((RuleIndex::new(rules()), places)));
        Self { policies, looks_at_paths, index }
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

    /// Every rule, with the number of the path's readings in which it matches.
    pub(super) fn verdicts(&self, facts: &Facts<'_>, purpose: Purpose) -> Vec<(&Origin, usize)> {
        let matched = |rule: &Rule| {
            let reading = |reading: &usize| rule.matches(&facts.reading(*reading), purpose);
            (0..facts.readings()).filter(reading).count()
        };
        let rules = self.policies.iter().flat_map(|policy| &policy.rules);
        rules.map(|(rule, origin)| (origin, matched(rule))).collect()
    }

    /// The first rule that matches.
    fn first(&self, facts: &Facts<'_>, purpose: Purpose) -> Option<Selected<'_>> {
        if let Some((index, places)) = self.index.as_deref() {
            let at = |number: u32| self.rule(*places.get(number as usize)?);
            let matches =
                |number| at(number).is_some_and(|(_, rule, _)| rule.matches(facts, purpose));
            let found = index.first(facts, purpose, matches)?;
            let (policy, _, origin) = at(found)?;
            let (_, rule) = *places.get(found as usize)?;
            return Some(Selected { policy, rule, origin });
        }
        self.policies.iter().find_map(|policy| {
            let mut rules = policy.rules.iter().enumerate();
            let (rule, (_, origin)) = rules.find(|(_, (rule, _))| rule.matches(facts, purpose))?;
            Some(Selected { policy, rule, origin })
        })
    }

    fn rule(&self, (policy, rule): Place) -> Option<(&Policy, &Rule, &Origin)> {
        let policy = self.policies.get(policy)?;
        let (rule, origin) = policy.rules.get(rule)?;
        Some((policy, rule, origin))
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
