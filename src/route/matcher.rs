//! Conditions on a request head (`VirtualService.spec.http[].match[]`).
//!
//! Regular expressions match a whole value: `\A(?:…)\z` is wrapped around them once, when they are
//! compiled, over bytes because header values need not be UTF-8.

use std::fmt;

use http::header::HeaderName;
use http::{HeaderMap, Method};
use regex::bytes::Regex;

use crate::base::claim::{ClaimPath, Claims};

/// A condition on one value (`StringMatch`).
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Box<str>),
    /// The whole value, ASCII case aside.
    ExactIgnoringCase(Box<str>),
    /// The beginning of the value.
    Prefix(Box<str>),
    /// The beginning of the value, ASCII case aside.
    PrefixIgnoringCase(Box<str>),
    /// A regular expression over the whole value.
    Regex(Box<Regex>),
    /// Any value, an empty one too.
    Present,
}

impl ValueMatch {
    /// Whether a value meets the condition.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::ExactIgnoringCase(text) => text.as_bytes().eq_ignore_ascii_case(value),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::PrefixIgnoringCase(text) => value
                .get(..text.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes())),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }

    /// Whether every path meets it, judged from its form alone.
    pub fn is_catch_all(&self) -> bool {
        match self {
            Self::Prefix(text) | Self::PrefixIgnoringCase(text) => {
                &**text == "/" || text.is_empty()
            }
            Self::Regex(regex) => regex.as_str() == r"\A(?:.*)\z",
            _ => false,
        }
    }
}

/// Where a header condition looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    /// A header field.
    Field(HeaderName),
    /// `:path`, query included.
    Path,
    /// `:method`.
    Method,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// A claim of the verified token (`@request.auth.claims…`).
    Claim(ClaimPath),
}

/// A condition on a header.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Where to look.
    pub key: HeaderKey,
    /// What must hold for one of the header's lines.
    pub value: ValueMatch,
}

/// A condition on the first query parameter of a name, undecoded.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// Parameter name, undecoded.
    pub name: Box<str>,
    /// What must hold for its value.
    pub value: ValueMatch,
}

/// One match entry: all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct RequestMatch {
    /// On the normalised path without its query.
    pub uri: Option<ValueMatch>,
    /// On the scheme.
    pub scheme: Option<ValueMatch>,
    /// On the method.
    pub method: Option<ValueMatch>,
    /// On the authority as sent, port included.
    pub authority: Option<ValueMatch>,
    /// Headers that must match.
    pub headers: Vec<HeaderMatch>,
    /// Headers that must not match.
    pub without_headers: Vec<HeaderMatch>,
    /// Query parameters that must match.
    pub query: Vec<QueryMatch>,
}

/// What routing may look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// Request method.
    pub method: &'a Method,
    /// `https` or `http`, as the client sees it.
    pub scheme: &'a str,
    /// Host and port as sent.
    pub authority: &'a str,
    /// Normalised path without query.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// What the verified token claims; nothing without one.
    pub token: Option<TokenClaims<'a>>,
}

/// The claims of a verified token.
#[derive(Clone, Copy, Debug)]
pub struct TokenClaims<'a> {
    /// All of them.
    pub claims: &'a Claims,
    /// Those that are lists of words, for [`ClaimPath::strings`].
    pub delimited: &'a [Box<str>],
}

/// The condition that a request failed, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch<'a> {
    /// `uri`
    Uri,
    /// `scheme`
    Scheme,
    /// `method`
    Method,
    /// `authority`
    Authority,
    /// `headers.<name>`
    Header(&'a HeaderKey),
    /// `withoutHeaders.<name>`
    WithoutHeader(&'a HeaderKey),
    /// `queryParams.<name>`
    Query(&'a str),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri => f.write_str("uri"),
            Self::Scheme => f.write_str("scheme"),
            Self::Method => f.write_str("method"),
            Self::Authority => f.write_str("authority"),
            Self::Header(key) => write!(f, "header {key}"),
            Self::WithoutHeader(key) => write!(f, "withoutHeaders {key}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
        }
    }
}

impl fmt::Display for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Field(name) => name.as_str(),
            Self::Path => ":path",
            Self::Method => ":method",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
            Self::Claim(path) => return write!(f, "@request.auth.claims{path}"),
        })
    }
}

impl RequestMatch {
    /// The first condition that fails; nothing when all hold.
    pub fn mismatch(&self, head: &RequestHead<'_>) -> Option<Mismatch<'_>> {
        if self.uri.as_ref().is_some_and(|uri| !uri.matches(head.path.as_bytes())) {
            return Some(Mismatch::Uri);
        }
        self.mismatch_beyond_uri(head)
    }

    /// As [`Self::mismatch`], for a path that is known to match.
    pub fn mismatch_beyond_uri(&self, head: &RequestHead<'_>) -> Option<Mismatch<'_>> {
        let fails = |condition: &Option<ValueMatch>, value: &str| {
            condition.as_ref().is_some_and(|c| !c.matches(value.as_bytes()))
        };
        if fails(&self.method, head.method.as_str()) {
            return Some(Mismatch::Method);
        }
        if fails(&self.scheme, head.scheme) {
            return Some(Mismatch::Scheme);
        }
        if fails(&self.authority, head.authority) {
            return Some(Mismatch::Authority);
        }
        if let Some(failed) = self.headers.iter().find(|h| !h.matches(head)) {
            return Some(Mismatch::Header(&failed.key));
        }
        if let Some(failed) = self.without_headers.iter().find(|h| h.matches_or_empty(head)) {
            return Some(Mismatch::WithoutHeader(&failed.key));
        }
        self.query.iter().find(|q| !q.matches(head.query)).map(|q| Mismatch::Query(&q.name))
    }

    /// Whether nothing but a catch-all path is asked for.
    pub fn is_catch_all(&self) -> bool {
        self.uri.as_ref().is_none_or(ValueMatch::is_catch_all)
            && self.scheme.is_none()
            && self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.without_headers.is_empty()
            && self.query.is_empty()
    }
}

impl HeaderMatch {
    fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.any_line(head, |value| self.value.matches(value)).unwrap_or(false)
    }

    /// A missing header counts as an empty value, except for the presence form; a missing claim
    /// never matches.
    fn matches_or_empty(&self, head: &RequestHead<'_>) -> bool {
        self.any_line(head, |value| self.value.matches(value)).unwrap_or_else(|| {
            let counts = !matches!(self.key, HeaderKey::Claim(_));
            counts && !matches!(self.value, ValueMatch::Present) && self.value.matches(b"")
        })
    }

    fn any_line(&self, head: &RequestHead<'_>, test: impl Fn(&[u8]) -> bool) -> Option<bool> {
        Some(match &self.key {
            HeaderKey::Field(name) => {
                let mut lines = head.headers.get_all(name).iter().peekable();
                lines.peek()?;
                lines.any(|line| test(line.as_bytes()))
            }
            HeaderKey::Method => test(head.method.as_str().as_bytes()),
            HeaderKey::Authority => test(head.authority.as_bytes()),
            HeaderKey::Scheme => test(head.scheme.as_bytes()),
            HeaderKey::Claim(path) => {
                let TokenClaims { claims, delimited } = head.token?;
                let mut strings = path.strings(claims, delimited).into_iter().peekable();
                strings.peek()?;
                strings.any(|text| test(text.as_bytes()))
            }
            HeaderKey::Path => match head.query {
                None => test(head.path.as_bytes()),
                Some(query) => test(format!("{}?{query}", head.path).as_bytes()),
            },
        })
    }
}

impl QueryMatch {
    fn matches(&self, query: Option<&str>) -> bool {
        let first = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == &*self.name).then_some(value)
        });
        first.is_some_and(|value| self.value.matches(value.as_bytes()))
    }
}

#[cfg(test)]
mod tests;
