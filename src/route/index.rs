//! Many rules of one host, found by path without trying each.
//!
//! **Invariant:** [`RuleIndex::first`] gives what a scan in order gives: the first rule whose every
//! condition holds.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use regex::bytes::{RegexSet, RegexSetBuilder};
use smallvec::SmallVec;

use super::matcher::{RequestHead, RequestMatch, ValueMatch};
use crate::base::limit;
use crate::base::prefixes::Prefixes;

/// The rules of a host by the form of their path condition.
#[derive(Clone, Debug)]
pub struct RuleIndex {
    exact: HashMap<Box<str>, Vec<u32>, RandomState>,
    prefixes: Prefixes,
    regexes: Option<RegexSet>,
    /// The rule of each expression of `regexes`.
    regex_rules: Vec<u32>,
    /// Rules of any other form; each is tried.
    others: Vec<u32>,
}

/// Rules that may apply; few for most paths.
type Candidates = SmallVec<[u32; 16]>;

impl RuleIndex {
    /// Indexes rules given in order; nothing when they are so few that a scan is as fast.
    pub fn new(rules: &[&RequestMatch]) -> Option<Self> {
        if rules.len() < limit::INDEXED_RULES {
            return None;
        }
        let mut exact: HashMap<Box<str>, Vec<u32>, RandomState> = HashMap::default();
        let mut prefixes: Vec<(Box<str>, u32)> = Vec::new();
        let (mut patterns, mut regex_rules, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (rule, number) in rules.iter().zip(0_u32..) {
            match &rule.uri {
                Some(ValueMatch::Exact(path)) => {
                    exact.entry(path.clone()).or_default().push(number);
                }
                Some(ValueMatch::Prefix(prefix)) => prefixes.push((prefix.clone(), number)),
                Some(ValueMatch::Regex(regex)) => {
                    patterns.push(regex.as_str());
                    regex_rules.push(number);
                }
                _ => others.push(number),
            }
        }
        let size = limit::REGEX_PROGRAM_BYTES.saturating_mul(patterns.len().clamp(1, 64));
        let regexes = RegexSetBuilder::new(&patterns).size_limit(size).build().ok();
        if regexes.is_none() {
            // Too large together: each is tried by itself.
            others.append(&mut regex_rules);
            others.sort_unstable();
        }
        let regexes = regexes.filter(|set| !set.is_empty());
        Some(Self { exact, prefixes: Prefixes::new(prefixes), regexes, regex_rules, others })
    }

    /// The number of the first rule that applies. `rule` gives the rule of a number.
    pub fn first<'r>(
        &self,
        head: &RequestHead<'_>,
        rule: impl Fn(usize) -> Option<&'r RequestMatch>,
    ) -> Option<usize> {
        let mut candidates = Candidates::new();
        if let Some(rules) = self.exact.get(head.path) {
            candidates.extend_from_slice(rules);
        }
        self.prefixes.each(head.path, |rules| candidates.extend_from_slice(rules));
        if let Some(regexes) = &self.regexes {
            let hits = regexes.matches(head.path.as_bytes());
            candidates.extend(hits.iter().filter_map(|hit| self.regex_rules.get(hit).copied()));
        }
        candidates.sort_unstable();
        let applies = |number: &usize| {
            rule(*number).is_some_and(|rule| rule.mismatch_beyond_uri(head).is_none())
        };
        let found = candidates.iter().map(|number| *number as usize).find(applies);
        let before = found.unwrap_or(usize::MAX);
        let others = self.others.iter().map(|number| *number as usize);
        let other = others
            .take_while(|number| *number < before)
            .find(|number| rule(*number).is_some_and(|rule| rule.mismatch(head).is_none()));
        other.or(found)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::prelude::*;

    use super::super::matcher::{HeaderKey, HeaderMatch};
    use super::*;
    use crate::base::pattern::whole_value;

    fn rule(kind: u8, path: &str, header: bool) -> RequestMatch {
        let uri = match kind {
            0 => Some(ValueMatch::Exact(path.into())),
            1 => Some(ValueMatch::Prefix(path.into())),
            2 => {
                let pattern = format!("{}.*", path.replace('b', "[bc]"));
                Some(ValueMatch::Regex(Box::new(whole_value(&pattern).unwrap())))
            }
            3 => Some(ValueMatch::PrefixIgnoringCase(path.into())),
            _ => None,
        };
        let key = HeaderKey::Field(HeaderName::from_static("x-a"));
        let only = HeaderMatch { key, value: ValueMatch::Present };
        let headers = if header || uri.is_none() { vec![only] } else { Vec::new() };
        RequestMatch { uri, headers, ..RequestMatch::default() }
    }

    fn check(rules: &[RequestMatch], path: &str, header: bool) {
        let mut headers = HeaderMap::new();
        if header {
            headers.insert("x-a", HeaderValue::from_static("1"));
        }
        let head = RequestHead {
            method: &Method::GET,
            scheme: "https",
            authority: "a.com",
            path,
            query: None,
            headers: &headers,
            token: None,
        };
        let list: Vec<_> = rules.iter().collect();
        let index = RuleIndex::new(&list).expect("enough rules");
        let found = index.first(&head, |number| rules.get(number));
        let scanned = rules.iter().position(|rule| rule.mismatch(&head).is_none());
        assert_eq!(found, scanned, "{path} {rules:?}");
    }

    /// How many rules are looked at to find the last of so many of a kind.
    fn examined(kind: u8, count: usize) -> usize {
        let path = |number: usize| format!("/r{number}/");
        let rules: Vec<_> = (0..count).map(|number| rule(kind, &path(number), false)).collect();
        let head = RequestHead {
            method: &Method::GET,
            scheme: "https",
            authority: "a.com",
            path: &path(count - 1),
            query: None,
            headers: &HeaderMap::new(),
            token: None,
        };
        let list: Vec<_> = rules.iter().collect();
        let looked_at = std::cell::Cell::new(0);
        let found = RuleIndex::new(&list).unwrap().first(&head, |number| {
            looked_at.set(looked_at.get() + 1);
            rules.get(number)
        });
        assert_eq!(found, Some(count - 1));
        looked_at.get()
    }

    #[test]
    fn as_many_rules_are_looked_at_whether_there_are_few_or_many() {
        for (kind, count) in [(0, 2_000), (1, 2_000), (2, 1_000)] {
            assert_eq!((examined(kind, 50), examined(kind, count)), (1, 1), "{kind}");
        }
    }

    #[test]
    fn few_rules_are_not_indexed() {
        assert!(RuleIndex::new(&[&rule(0, "/", false)]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_index_finds_what_a_scan_finds(
            rules in prop::collection::vec((0_u8..5, "/[abB/]{0,4}", any::<bool>()), 20..40),
            paths in prop::collection::vec("/[abcB/]{0,6}", 12),
            header: bool,
        ) {
            let rules: Vec<_> =
                rules.iter().map(|(kind, path, header)| rule(*kind, path, *header)).collect();
            for path in &paths {
                check(&rules, path, header);
            }
        }
    }
}
