//! Texts with a star (`AuthorizationPolicy`'s value syntax).

/// One value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// This text.
    Exact(Box<str>),
    /// `abc*`.
    Prefix(Box<str>),
    /// `*abc`.
    Suffix(Box<str>),
    /// `*`: any text but the empty one.
    Present,
}

impl TextMatch {
    /// Reads a value; a star anywhere but at one end stands for itself.
    pub fn parse(text: &str) -> Self {
        match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
            ("*", ..) => Self::Present,
            (_, Some(end), _) => Self::Suffix(end.into()),
            (_, _, Some(start)) => Self::Prefix(start.into()),
            _ => Self::Exact(text.into()),
        }
    }

    /// Whether a text is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(start) => text.starts_with(&**start),
            Self::Suffix(end) => text.ends_with(&**end),
            Self::Present => !text.is_empty(),
        }
    }

    /// As [`Self::matches`], in any case of ASCII letters.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        let same = |own: &str, other: Option<&str>| {
            other.is_some_and(|other| other.eq_ignore_ascii_case(own))
        };
        match self {
            Self::Exact(exact) => same(exact, Some(text)),
            Self::Prefix(start) => same(start, text.get(..start.len())),
            Self::Suffix(end) => {
                same(end, text.len().checked_sub(end.len()).and_then(|from| text.get(from..)))
            }
            Self::Present => !text.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(TextMatch::parse(pattern).matches(text), expected, "{pattern} {text}");
        let folded = TextMatch::parse(&pattern.to_ascii_uppercase());
        assert_eq!(folded.matches_ignoring_case(text), expected, "{pattern} {text}");
    }

    #[test]
    fn stars_stand_for_the_rest_at_one_end() {
        check("abc", "abc", true);
        check("abc", "abcd", false);
        check("abc*", "abc", true);
        check("abc*", "abcd", true);
        check("abc*", "ab", false);
        check("*abc", "xabc", true);
        check("*abc", "bc", false);
        check("*", "x", true);
        check("*", "", false);
        check("a*c", "abc", false);
        check("a*c", "a*c", true);
        check("*é", "xé", true);
        check("*é", "é", true);
    }
}
