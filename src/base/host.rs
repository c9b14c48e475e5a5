//! Host patterns as Istio writes them: `a.example.com`, `*.example.com`, `*`.

use std::cmp::Ordering;
use std::fmt;

/// A host pattern. Names are lower case. Ordered by precedence: exact names first, then wildcards
/// with the longest suffix, then any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One name.
    Exact(Box<str>),
    /// Any name below a suffix, at any depth; holds the suffix with its leading dot (`.example.com`).
    Suffix(Box<str>),
    /// Every name, and none.
    Any,
}

/// A host that is not a name, `*.name` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a host: write a name, \"*.\" and a name, or \"*\"")]
pub struct InvalidHost(pub String);

impl HostPattern {
    /// Reads a pattern without a namespace part.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') => (true, rest.get(1..).unwrap_or_default()),
            Some(_) => return Err(InvalidHost(text.to_owned())),
            None => (false, lower.as_str()),
        };
        if !is_name(name) {
            return Err(InvalidHost(text.to_owned()));
        }
        Ok(if wildcard {
            Self::Suffix(format!(".{name}").into())
        } else {
            Self::Exact(name.into())
        })
    }

    /// Whether a lower-case name falls under this pattern.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// Whether every name under `other` also falls under this pattern.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Suffix(a), Self::Suffix(b)) => b.ends_with(&**a),
            (_, Self::Exact(name)) => self.matches(name),
            _ => false,
        }
    }

    /// The narrower of two overlapping patterns; nothing when they are disjoint.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (0, 0),
            Self::Suffix(suffix) => (1, usize::MAX - suffix.len()),
            Self::Any => (2, 0),
        }
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.to_string().cmp(&other.to_string()))
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Whether a text is labels of letters, digits, `-` and `_`, parted by single dots, or an IPv6 literal
/// in brackets.
pub fn is_name(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let mut label = 0;
    for byte in name.bytes() {
        label = match byte {
            b'.' if label == 0 => return false,
            b'.' => 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' if label < 63 => label + 1,
            _ => return false,
        };
    }
    label > 0 && name.len() <= 253
}

/// The authority without its port: `a.example.com:8443` gives `a.example.com`, `[::1]:80` gives
/// `[::1]`. Case is kept.
pub fn without_port(authority: &str) -> &str {
    let digits = authority.bytes().rev().take_while(u8::is_ascii_digit).count();
    let Some(host) =
        authority.get(..authority.len() - digits).and_then(|rest| rest.strip_suffix(':'))
    else {
        return authority;
    };
    let is_address = host.starts_with('[') || !host.as_bytes().contains(&b':');
    if is_address { host } else { authority }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn wildcards_match_any_depth_but_not_their_own_suffix() {
        let wild = pattern("*.foo.com");
        assert!(wild.matches("a.foo.com") && wild.matches("a.b.foo.com"));
        assert!(!wild.matches("foo.com") && !wild.matches("xfoo.com"));
    }

    #[test]
    fn partial_wildcards_and_bad_labels_are_refused() {
        for text in ["foo*.com", "*foo.com", "", "a..b", "*.", "a b", "a/b", "."] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn intersection_is_the_narrower_one() {
        assert_eq!(
            pattern("*.foo.com").intersect(&pattern("a.foo.com")),
            Some(pattern("a.foo.com"))
        );
        assert_eq!(pattern("a.foo.com").intersect(&pattern("*")), Some(pattern("a.foo.com")));
        assert_eq!(
            pattern("*.foo.com").intersect(&pattern("*.a.foo.com")),
            Some(pattern("*.a.foo.com"))
        );
        assert_eq!(pattern("*.foo.com").intersect(&pattern("foo.com")), None);
    }

    #[test]
    fn precedence_is_exact_then_longest_suffix_then_any() {
        let mut all = [pattern("*"), pattern("*.b.c"), pattern("x.b.c"), pattern("*.a.b.c")];
        all.sort();
        assert_eq!(all.map(|p| p.to_string()), ["x.b.c", "*.a.b.c", "*.b.c", "*"]);
    }

    #[test]
    fn names_are_labels() {
        let (label, long) = ("a".repeat(63), "a.".repeat(126));
        let check = |name: &str, expected: bool| assert_eq!(is_name(name), expected, "{name}");
        for name in ["a", "a.b-c.d_e.0", "Z9", "[::1]", &label, &format!("{long}a")] {
            check(name, true);
        }
        for name in ["", ".", "a.", ".a", "a..b", "a b", "ä", "[::1", "[x]", "::1", "a:80"] {
            check(name, false);
        }
        for name in [format!("{label}a"), format!("{label}.{label}a"), format!("{long}aa")] {
            check(&name, false);
        }
    }

    #[test]
    fn ports_are_cut_from_authorities() {
        for (authority, host) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("a:b", "a:b"),
            ("a:", "a"),
            ("::1:80", "::1:80"),
            ("a::80", "a::80"),
            ("a:b:80", "a:b:80"),
            ("", ""),
            (":80", ""),
            ("80", "80"),
        ] {
            assert_eq!(without_port(authority), host);
        }
    }
}
