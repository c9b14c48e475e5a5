//! A table from host patterns to anything: exact name over longest wildcard over `*`.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::base::host::HostPattern;

/// Looks hosts up in time that does not grow with the number of hosts.
#[derive(Clone, Debug)]
pub struct HostIndex<T> {
    exact: HashMap<Box<str>, T, RandomState>,
    suffix: HashMap<Box<str>, T, RandomState>,
    any: Option<T>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), suffix: HashMap::default(), any: None }
    }
}

impl<T> HostIndex<T> {
    /// The entry for a pattern, made by `make` when there is none yet.
    pub fn entry(&mut self, pattern: &HostPattern, make: impl FnOnce() -> T) -> &mut T {
        match pattern {
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_insert_with(make),
            HostPattern::Suffix(suffix) => self.suffix.entry(suffix.clone()).or_insert_with(make),
            HostPattern::Any => self.any.get_or_insert_with(make),
        }
    }

    /// The entry of just this pattern.
    pub fn entry_of(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Suffix(suffix) => self.suffix.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// The most specific entry for a name in any case; an empty name finds only `*`.
    pub fn lookup(&self, name: &str) -> Option<&T> {
        let name = lower(name);
        if let Some(found) = self.exact.get(&*name) {
            return Some(found);
        }
        if !self.suffix.is_empty() {
            let mut rest = &*name;
            while let Some(dot) = memchr::memchr(b'.', rest.get(1..).unwrap_or_default().as_bytes())
            {
                rest = rest.get(dot + 1..).unwrap_or_default();
                if let Some(found) = self.suffix.get(rest) {
                    return Some(found);
                }
            }
        }
        self.any.as_ref()
    }

    /// Every entry with its pattern, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (HostPattern, &T)> {
        let exact =
            self.exact.iter().map(|(name, entry)| (HostPattern::Exact(name.clone()), entry));
        let suffix =
            self.suffix.iter().map(|(name, entry)| (HostPattern::Suffix(name.clone()), entry));
        exact.chain(suffix).chain(self.any.iter().map(|entry| (HostPattern::Any, entry)))
    }

    /// Every entry, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.suffix.values()).chain(&self.any)
    }

    /// Every entry, to change.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.suffix.values_mut()).chain(&mut self.any)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffix.is_empty() && self.any.is_none()
    }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        let mut index = HostIndex::default();
        for pattern in ["x.b.c", "*.b.c", "*.a.b.c", "*.example.com"] {
            index.entry(&HostPattern::parse(pattern).unwrap(), || pattern);
        }
        assert_eq!(index.lookup(name).copied(), expected, "{name}");
    }

    #[test]
    fn exact_beats_longest_suffix() {
        check("x.b.c", Some("x.b.c"));
        check("X.B.C", Some("x.b.c"));
        check("y.b.c", Some("*.b.c"));
        check("y.a.b.c", Some("*.a.b.c"));
        check("z.y.a.b.c", Some("*.a.b.c"));
    }

    #[test]
    fn unknown_names_find_nothing_without_a_star() {
        for name in ["b.c", ".b.c", "", "example.com", "...."] {
            check(name, None);
        }
    }

    #[test]
    fn a_star_takes_the_rest() {
        let mut index = HostIndex::default();
        index.entry(&HostPattern::Any, || 1);
        assert_eq!(index.lookup(""), Some(&1));
        assert_eq!(index.lookup("a"), Some(&1));
    }
}
