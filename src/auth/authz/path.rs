//! Values of `paths`: texts with a star, and templates.

use super::TextMatch;

/// One value of `paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// A text with or without a star.
    Text(TextMatch),
    /// Segments, of which `{*}` is any one and `{**}` any rest.
    Template(Vec<Segment>),
}

/// A part of a template between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// As written.
    Literal(Box<str>),
    /// `{*}`: one segment that is not empty.
    One,
    /// `{**}`: any number of segments, none included.
    Rest,
}

/// A template that Istio refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no path template: {{*}} and {{**}} stand for whole segments, and {{**}} is the last of them"
)]
pub struct InvalidTemplate(pub String);

impl PathMatch {
    /// Reads a value.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        if !text.contains(['{', '}']) {
            return Ok(Self::Text(TextMatch::parse(text)));
        }
        let invalid = || InvalidTemplate(text.to_owned());
        let mut segments = Vec::new();
        let mut rest_seen = false;
        for part in text.strip_prefix('/').ok_or_else(invalid)?.split('/') {
            let segment = match part {
                "{*}" => Segment::One,
                "{**}" => Segment::Rest,
                part if part.contains(['{', '}', '*']) => return Err(invalid()),
                part => Segment::Literal(part.into()),
            };
            if rest_seen && !matches!(segment, Segment::Literal(_)) {
                return Err(invalid());
            }
            rest_seen |= segment == Segment::Rest;
            segments.push(segment);
        }
        Ok(Self::Template(segments))
    }

    /// What every path that is meant begins with, as far as segments are written out.
    pub(super) fn beginning(&self) -> String {
        match self {
            Self::Text(TextMatch::Exact(text) | TextMatch::Prefix(text)) => text.to_string(),
            Self::Text(_) => String::new(),
            Self::Template(segments) => {
                let literals = segments.iter().map_while(|segment| match segment {
                    Segment::Literal(text) => Some(&**text),
                    Segment::One | Segment::Rest => None,
                });
                literals.fold("/".to_owned(), |path, literal| path + literal + "/")
            }
        }
    }

    /// Whether a path without query is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(segments) => {
                path.strip_prefix('/').is_some_and(|path| follows(segments, path))
            }
        }
    }
}

/// Whether a path, after its first slash, follows a template; `{**}` takes what the literals behind it
/// leave.
fn follows(segments: &[Segment], path: &str) -> bool {
    let mut parts = path.split('/');
    for (index, segment) in segments.iter().enumerate() {
        if *segment == Segment::Rest {
            let after = segments.get(index + 1..).unwrap_or_default();
            let left: smallvec::SmallVec<[&str; 16]> = parts.collect();
            let Some(from) = left.len().checked_sub(after.len()) else { return false };
            // `/a/{**}` needs the slash, `/a/{**}/z` a segment before the last slash.
            let enough = if after.is_empty() { !left.is_empty() } else { from > 0 };
            let tail = left.get(from..).unwrap_or_default();
            return enough && after.iter().zip(tail).all(|(segment, part)| is_one(segment, part));
        }
        match parts.next() {
            Some(part) if is_one(segment, part) => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

fn is_one(segment: &Segment, part: &str) -> bool {
    match segment {
        Segment::Literal(text) => **text == *part,
        Segment::One => !part.is_empty(),
        Segment::Rest => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, path: &str, expected: bool) {
        assert_eq!(
            PathMatch::parse(template).unwrap().matches(path),
            expected,
            "{template} {path}"
        );
    }

    #[test]
    fn templates_take_segments_and_rests() {
        check("/a/{*}", "/a/x", true);
        check("/a/{*}", "/a/", false);
        check("/a/{*}", "/a/x/y", false);
        check("/a/{*}/b", "/a/x/b", true);
        check("/a/{**}", "/a/", true);
        check("/a/{**}", "/a/x/y", true);
        check("/a/{**}", "/a", false);
        check("/a/{**}/z", "/a/x/y/z", true);
        check("/a/{**}/z", "/a/x/y", false);
        check("/{*}/{**}", "/x/", true);
        check("/{**}", "/", true);
    }

    #[test]
    fn texts_have_stars_at_one_end() {
        check("/a*", "/ab", true);
        check("*/b", "/a/b", true);
        check("/a", "/a/", false);
    }

    #[test]
    fn what_is_meant_begins_with_what_is_written_out() {
        for (template, beginning) in [("/a/b/{*}", "/a/b/"), ("/{**}/z", "/"), ("/a*", "/a")] {
            assert_eq!(PathMatch::parse(template).unwrap().beginning(), beginning);
        }
    }

    #[test]
    fn other_templates_are_refused() {
        for text in ["{*}", "/a{*}", "/{**}/{*}", "/{x}", "/{*}*", "/{**}/{**}", "/{"] {
            assert!(PathMatch::parse(text).is_err(), "{text}");
        }
    }
}
