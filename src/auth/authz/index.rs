//! Many rules, found by what a request has without trying each.
//!
//! A rule that can only match where some attribute has one of a few values is filed under these. Of the
//! attributes that would do, the one is taken whose values the fewest rules share.
//!
//! **Invariant:** [`RuleIndex::first`] gives what a scan in order gives.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::rule::{bare, ids};
use super::{Facts, Field, PathMatch, Purpose, Rule, Subject, TextMatch, TextSubject};
use crate::base::prefixes::Prefixes;

/// Rules by what they want.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleIndex {
    tables: [Table; Attribute::ALL.len()],
    path_prefixes: Prefixes,
    /// Rules that are filed under what only HTTP has; a connection without it may have to try each.
    of_http: Vec<u32>,
    /// Rules that are filed nowhere; each is tried.
    others: Vec<u32>,
}

type Table = HashMap<Box<str>, Vec<u32>, RandomState>;

/// What rules are filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Attribute {
    Path,
    Host,
    Principal,
    Namespace,
    RequestPrincipal,
    ServerName,
}

/// A value, and whether what begins with it will do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    attribute: Attribute,
    text: Box<str>,
    prefix: bool,
}

impl Attribute {
    const ALL: [Self; 6] = [
        Self::Path,
        Self::Host,
        Self::Principal,
        Self::Namespace,
        Self::RequestPrincipal,
        Self::ServerName,
    ];

    fn is_http(self) -> bool {
        matches!(self, Self::Path | Self::Host | Self::RequestPrincipal)
    }
}

impl RuleIndex {
    /// Files rules given in order.
    pub(super) fn new<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let choices: Vec<Vec<Vec<Key>>> = rules.into_iter().map(choices).collect();
        let mut shared: HashMap<&Key, usize> = HashMap::new();
        for key in choices.iter().flatten().flatten() {
            *shared.entry(key).or_default() += 1;
        }
        let (mut index, mut prefixes) = (Self::default(), Vec::new());
        for (choices, number) in choices.iter().zip(0_u32..) {
            let crowd =
                |keys: &&Vec<Key>| keys.iter().filter_map(|key| shared.get(key)).sum::<usize>();
            let Some(keys) = choices.iter().min_by_key(crowd) else {
                index.others.push(number);
                continue;
            };
            if keys.iter().any(|key| key.attribute.is_http()) {
                index.of_http.push(number);
            }
            for Key { attribute, text, prefix } in keys {
                if *prefix {
                    prefixes.push((text.clone(), number));
                } else if let Some(table) = index.tables.get_mut(*attribute as usize) {
                    let numbers = table.entry(text.clone()).or_default();
                    if numbers.last() != Some(&number) {
                        numbers.push(number);
                    }
                }
            }
        }
        index.path_prefixes = Prefixes::new(prefixes);
        index
    }

    /// The number of the first rule that matches; `matches` says so of the rule of a number.
    pub(super) fn first(
        &self,
        facts: &Facts<'_>,
        purpose: Purpose,
        matches: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut found: Option<u32> = None;
        let mut look = |numbers: &[u32]| {
            let mut before =
                numbers.iter().take_while(|number| found.is_none_or(|found| **number < found));
            found = before.find(|number| matches(**number)).copied().or(found);
        };
        let mut look_up = |attribute: Attribute, text: &str| {
            let table = self.tables.get(attribute as usize).filter(|table| !table.is_empty());
            if let Some(numbers) = table.and_then(|table| table.get(text)) {
                look(numbers);
            }
        };
        if let Some(name) = facts.server_name {
            look_up(Attribute::ServerName, name);
        }
        for id in ids(facts) {
            look_up(Attribute::Principal, &id.principal);
            if let Some((namespace, _)) = &id.workload {
                look_up(Attribute::Namespace, namespace);
            }
        }
        if let Some(http) = &facts.http {
            look_up(Attribute::Path, http.path());
            let host = lower_case(http.authority);
            look_up(Attribute::Host, &host);
            look_up(Attribute::Host, bare(&host));
            if let Some(principal) = http.token().and_then(|token| token.principal.as_deref()) {
                look_up(Attribute::RequestPrincipal, principal);
            }
            self.path_prefixes.each(http.path(), &mut look);
        } else if purpose == Purpose::HoldBack {
            // What HTTP alone has is left out there, and a rule for passing that has some never matches.
            look(&self.of_http);
        }
        look(&self.others);
        found
    }
}

fn lower_case(authority: &str) -> Cow<'_, str> {
    if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
        authority.to_ascii_lowercase().into()
    } else {
        authority.into()
    }
}

/// The lists of values of which an attribute must have one for a rule to match, one list for each
/// attribute that would do.
fn choices(rule: &Rule) -> Vec<Vec<Key>> {
    let lists = [&rule.from, &rule.to].into_iter().filter(|list| !list.is_empty());
    let mut groups: Vec<Vec<&[Field]>> =
        lists.map(|list| list.iter().map(Vec::as_slice).collect()).collect();
    groups.extend(rule.when.iter().map(|field| vec![std::slice::from_ref(field)]));
    let mut out = Vec::new();
    for attribute in Attribute::ALL {
        let of_field = |field: &Field| keys(field, attribute).filter(|keys| !keys.is_empty());
        let of_one = |fields: &&[Field]| fields.iter().find_map(&of_field);
        let of_group = |group: &Vec<&[Field]>| -> Option<Vec<Key>> {
            Some(group.iter().map(of_one).collect::<Option<Vec<_>>>()?.concat())
        };
        out.extend(groups.iter().filter_map(of_group));
    }
    out
}

/// The values of an attribute without which a field does not hold; nothing when there may be others.
fn keys(field: &Field, attribute: Attribute) -> Option<Vec<Key>> {
    if field.negated {
        return None;
    }
    let key = |text: &str| Key { attribute, text: text.into(), prefix: false };
    let exact = |value: &TextMatch| match value {
        TextMatch::Exact(text) => Some(key(text)),
        _ => None,
    };
    match (attribute, &field.subject) {
        (Attribute::Path, Subject::Path(values)) => values
            .iter()
            .map(|value| match value {
                PathMatch::Text(TextMatch::Exact(path)) => Some(key(path)),
                PathMatch::Text(TextMatch::Prefix(start)) => {
                    Some(Key { prefix: true, ..key(start) })
                }
                PathMatch::Text(_) => None,
                template @ PathMatch::Template(_) => {
                    Some(Key { prefix: true, ..key(&template.beginning()) })
                }
            })
            .collect(),
        (Attribute::Host, Subject::Text(TextSubject::Host, values)) => {
            let folded = |key: Key| Key { text: key.text.to_ascii_lowercase().into(), ..key };
            values.iter().map(|value| exact(value).map(folded)).collect()
        }
        (Attribute::Principal, Subject::Text(TextSubject::Principal, values))
        | (Attribute::Namespace, Subject::Text(TextSubject::Namespace, values))
        | (Attribute::ServerName, Subject::Text(TextSubject::ServerName, values)) => {
            values.iter().map(exact).collect()
        }
        (Attribute::Namespace, Subject::ServiceAccount(values)) => {
            values.iter().map(|(namespace, _)| exact(namespace)).collect()
        }
        (Attribute::RequestPrincipal, Subject::RequestPrincipal(values)) => values
            .iter()
            .map(|value| match value {
                (TextMatch::Exact(issuer), TextMatch::Exact(subject)) => {
                    Some(key(&format!("{issuer}/{subject}")))
                }
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
