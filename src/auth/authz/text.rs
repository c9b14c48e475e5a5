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
    /// Pieces with anything between them (`namespaces`).
    Pieces(Box<[Box<str>]>),
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

    /// Reads a value in which every star stands for any text.
    pub fn parse_pieces(text: &str) -> Self {
        let at_end = text.starts_with('*') || text.ends_with('*');
        match text.matches('*').count() {
            0 => Self::parse(text),
            1 if at_end => Self::parse(text),
            _ => Self::Pieces(text.split('*').map(Into::into).collect()),
        }
    }

    /// Whether a text is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(start) => text.starts_with(&**start),
            Self::Suffix(end) => text.ends_with(&**end),
            Self::Present => !text.is_empty(),
            Self::Pieces(pieces) => follows(pieces, text),
        }
    }

    /// As [`Self::matches`], in any case of ASCII letters; pieces keep theirs.
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
            Self::Pieces(_) => self.matches(text),
        }
    }
}

/// Whether a text has the pieces one after the other, from its beginning to its end.
fn follows(pieces: &[Box<str>], text: &str) -> bool {
    let [first, middle @ .., last] = pieces else { return false };
    let inside = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last));
    let found = inside.and_then(|inside| {
        middle.iter().try_fold(inside, |rest, piece| {
            rest.find(&**piece).and_then(|at| rest.get(at + piece.len()..))
        })
    });
    found.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_anything_between_them() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(
                TextMatch::parse_pieces(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        };
        for (text, expected) in [("ac", true), ("abc", true), ("ab", false), ("c", false)] {
            check("a*c", text, expected);
        }
        check("a*b*c", "aXbYc", true);
        check("a*b*c", "acb", false);
        check("a*a", "a", false);
        check("*a*", "bab", true);
        check("*a*", "b", false);
        check("**", "", true);
        check("*", "", false);
        check("ab", "ab", true);
        check("a*", "ab", true);
        check("*b", "ab", true);
    }

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
