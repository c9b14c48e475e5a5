//! Path rewrites and redirect locations (`VirtualService.spec.http[].rewrite` and `.redirect`).

use std::borrow::Cow;

use http::StatusCode;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use regex::bytes::Regex;

use crate::base::host::without_port;
use crate::base::limit;
use crate::base::pattern::{InvalidRegex, search};

/// What is percent-encoded in a location: what RFC 3986 section 3.3 has no place for, apart from what
/// clients send all the same and servers take; bytes that are not ASCII are in any case.
pub const LOCATION: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// What is percent-encoded in a request's target, which has no fragment (RFC 9112 section 3.2).
pub const TARGET: &AsciiSet = &LOCATION.add(b'#');

/// A path that can be sent: with a slash before it, and what cannot stand there percent-encoded.
fn path_of(text: &[u8], encoded: &'static AsciiSet) -> String {
    let path = Cow::from(percent_encode(text, encoded));
    if path.starts_with('/') { path.into_owned() } else { format!("/{path}") }
}

/// A rewritten path and query are longer than can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetTooLong;

/// A rewrite by an expression that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRewrite {
    /// The expression cannot be used.
    #[error("{0}")]
    Regex(#[from] InvalidRegex),
    /// What takes the place of what is found is longer than an expression may be.
    #[error("the substitution is {0} bytes long; at most {max} are allowed", max = limit::REGEX_BYTES)]
    TooLong(usize),
    /// It names a group that the expression does not have.
    #[error("the substitution names group \\{0}, and the expression has {1}")]
    NoGroup(u32, usize),
    /// A backslash without a digit or another backslash behind it.
    #[error("the substitution has a \"\\\" without a digit or \"\\\" behind it")]
    Escape,
}

/// How a path changes on its way to the backend; the query always stays.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The first bytes give way to another text.
    Prefix {
        /// Bytes of the matched prefix.
        matched: usize,
        /// What stands there instead.
        replacement: Box<str>,
    },
    /// The whole path.
    Full(Box<str>),
    /// Every occurrence of an expression.
    Regex {
        /// What to look for.
        regex: Box<Regex>,
        /// Replacement in the `regex` crate's syntax.
        substitution: Box<str>,
    },
}

impl PathRewrite {
    /// The first `matched` bytes give way to a text, of which [`TARGET`] or [`LOCATION`] is encoded.
    pub fn prefix(matched: usize, text: &str, encoded: &'static AsciiSet) -> Self {
        Self::Prefix { matched, replacement: path_of(text.as_bytes(), encoded).into() }
    }

    /// The whole path gives way to a text, of which [`TARGET`] or [`LOCATION`] is encoded.
    pub fn full(text: &str, encoded: &'static AsciiSet) -> Self {
        Self::Full(path_of(text.as_bytes(), encoded).into())
    }

    /// Every occurrence of an expression gives way to a text in which `\1` is its first group
    /// (`rewrite.uriRegexRewrite`); of what comes out [`TARGET`] is encoded.
    pub fn regex(expression: &str, text: &str) -> Result<Self, InvalidRewrite> {
        let regex = search(expression)?;
        if text.len() > limit::REGEX_BYTES {
            return Err(InvalidRewrite::TooLong(text.len()));
        }
        let substitution = substitution(text, regex.captures_len() - 1)?;
        Ok(Self::Regex { regex: Box::new(regex), substitution })
    }

    /// The new path.
    fn apply(&self, path: &str) -> Result<String, TargetTooLong> {
        Ok(match self {
            Self::Prefix { matched, replacement } => {
                format!("{replacement}{}", path.get(*matched..).unwrap_or_default())
            }
            Self::Full(path) => path.to_string(),
            Self::Regex { regex, substitution } => {
                path_of(&replaced(regex, path.as_bytes(), substitution.as_bytes())?, TARGET)
            }
        })
    }

    /// The new path and query: a query stays.
    pub fn target(&self, current: &str) -> Result<String, TargetTooLong> {
        let target = match current.split_once('?') {
            Some((path, query)) => format!("{}?{query}", self.apply(path)?),
            None => self.apply(current)?,
        };
        if target.len() > limit::TARGET_BYTES { Err(TargetTooLong) } else { Ok(target) }
    }
}

/// Every occurrence of an expression replaced, as long as what comes out can be sent.
fn replaced(regex: &Regex, path: &[u8], substitution: &[u8]) -> Result<Vec<u8>, TargetTooLong> {
    let (mut out, mut end) = (Vec::with_capacity(path.len()), 0);
    for captures in regex.captures_iter(path) {
        let Some(whole) = captures.get(0) else { continue };
        out.extend_from_slice(path.get(end..whole.start()).unwrap_or_default());
        captures.expand(substitution, &mut out);
        if out.len() > limit::TARGET_BYTES {
            return Err(TargetTooLong);
        }
        end = whole.end();
    }
    out.extend_from_slice(path.get(end..).unwrap_or_default());
    Ok(out)
}

/// RE2's `\1` in the `regex` crate's syntax, `${1}`; a literal `$` is doubled.
fn substitution(re2: &str, groups: usize) -> Result<Box<str>, InvalidRewrite> {
    let mut out = String::with_capacity(re2.len());
    let mut chars = re2.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(c) => {
                    let group = c.to_digit(10).ok_or(InvalidRewrite::Escape)?;
                    if usize::try_from(group).is_ok_and(|group| group > groups) {
                        return Err(InvalidRewrite::NoGroup(group, groups));
                    }
                    out.push_str("${");
                    out.push(c);
                    out.push('}');
                }
                None => return Err(InvalidRewrite::Escape),
            },
            other => out.push(other),
        }
    }
    Ok(out.into())
}

/// Port of a redirect's location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// As in the request's authority; dropped with a new authority.
    FromAuthority,
    /// A number; the scheme's own is not written.
    Number(u16),
    /// The scheme's own: none is written.
    Default,
}

/// A redirect, ready to be answered.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New path.
    pub path: Option<PathRewrite>,
    /// New host.
    pub authority: Option<Box<str>>,
    /// New scheme.
    pub scheme: Option<Box<str>>,
    /// New port.
    pub port: RedirectPort,
}

impl Redirect {
    /// The redirect of `httpsRedirect`: only the scheme changes; the port stays as sent.
    pub fn to_https() -> Self {
        Self {
            status: StatusCode::MOVED_PERMANENTLY,
            path: None,
            authority: None,
            scheme: Some("https".into()),
            port: RedirectPort::FromAuthority,
        }
    }

    /// The absolute `location` for a request.
    pub fn location(
        &self,
        scheme: &str,
        authority: &str,
        path: &str,
        query: Option<&str>,
    ) -> String {
        let new_scheme = self.scheme.as_deref().unwrap_or(scheme);
        let base = self.authority.as_deref().unwrap_or(authority);
        let mut out = format!("{new_scheme}://");
        match self.port {
            RedirectPort::Number(port) => {
                out.push_str(without_port(base));
                if default_port(new_scheme) != Some(port) {
                    out.push(':');
                    out.push_str(&port.to_string());
                }
            }
            RedirectPort::Default => out.push_str(without_port(base)),
            RedirectPort::FromAuthority if self.authority.is_none() && new_scheme != scheme => {
                let host = without_port(base);
                let port = base.get(host.len() + 1..).and_then(|port| port.parse().ok());
                let was_default = port.is_some() && port == default_port(scheme);
                out.push_str(if was_default { host } else { base });
            }
            RedirectPort::FromAuthority => out.push_str(base),
        }
        let new = self.path.as_ref().and_then(|new| new.apply(path).ok());
        let path = new.as_deref().unwrap_or(path);
        let (path, fragment) = path.split_at(path.find('#').unwrap_or(path.len()));
        out.push_str(path);
        if let Some(query) = query
            && !path.contains('?')
        {
            out.push('?');
            out.push_str(query);
        }
        out.push_str(fragment);
        out
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(redirect: &Redirect, url: (&str, &str), expected: &str) {
        let (authority, path) = url;
        assert_eq!(redirect.location("http", authority, path, Some("q=1")), expected);
    }

    #[test]
    fn https_redirect_keeps_host_and_drops_only_the_old_default_port() {
        let to = Redirect::to_https();
        check(&to, ("a.com", "/x"), "https://a.com/x?q=1");
        check(&to, ("a.com:80", "/x"), "https://a.com/x?q=1");
        check(&to, ("a.com:8080", "/x"), "https://a.com:8080/x?q=1");
    }

    #[test]
    fn authority_port_and_path_are_replaced() {
        let mut to = Redirect { authority: Some("b.com".into()), ..Redirect::to_https() };
        check(&to, ("a.com:8080", "/x"), "https://b.com/x?q=1");
        to.port = RedirectPort::Default;
        check(&to, ("a.com:8080", "/x"), "https://b.com/x?q=1");
        to.port = RedirectPort::Number(8443);
        check(&to, ("a.com", "/x"), "https://b.com:8443/x?q=1");
        let own = Redirect { port: RedirectPort::Number(443), ..Redirect::to_https() };
        check(&own, ("a.com:8080", "/x"), "https://a.com/x?q=1");
        let default = Redirect { port: RedirectPort::Default, ..Redirect::to_https() };
        check(&default, ("a.com:8080", "/x"), "https://a.com/x?q=1");
        to.port = RedirectPort::Number(443);
        to.path = Some(PathRewrite::full("/new?z", LOCATION));
        check(&to, ("a.com", "/x"), "https://b.com/new?z");
    }

    #[test]
    fn a_location_may_have_a_fragment_and_no_space() {
        let path = Some(PathRewrite::full("new page#/ä", LOCATION));
        let to = Redirect { path, ..Redirect::to_https() };
        assert_eq!(to.location("http", "a.com", "/x", None), "https://a.com/new%20page#/%C3%A4");
        let location = to.location("http", "a.com", "/x", Some("q=1"));
        assert_eq!(location, "https://a.com/new%20page?q=1#/%C3%A4");
    }

    fn check_target(rewrite: &PathRewrite, from: &str, to: &str) {
        assert_eq!(rewrite.target(from).as_deref(), Ok(to), "{rewrite:?}");
        assert_eq!(http::uri::PathAndQuery::try_from(to).unwrap().as_str(), to);
    }

    #[test]
    fn prefix_rewrite_replaces_exactly_the_matched_text() {
        let check = |matched, text: &str, from: &str, to: &str| {
            check_target(&PathRewrite::prefix(matched, text, TARGET), from, to);
        };
        check(4, "/", "/api/v1?q", "//v1?q");
        check(1, "/x", "/a", "/xa");
        check(9, "/x", "/a", "/x");
        check(4, "/a b", "/api/v1", "/a%20b/v1");
        check(4, "rel", "/api/v1?a?b", "/rel/v1?a?b");
    }

    #[test]
    fn what_no_target_holds_is_encoded() {
        let check = |text: &str, to: &str| {
            check_target(&PathRewrite::full(text, TARGET), "/x?q=1", to);
        };
        check("/ä", "/%C3%A4?q=1");
        check("/a#b", "/a%23b?q=1");
        check("/a\r\nx: y\0\x7f", "/a%0D%0Ax:%20y%00%7F?q=1");
        check("/a%20{b}|\\^", "/a%20{b}|\\^?q=1");
        check("*", "/*?q=1");
    }

    #[test]
    fn regex_rewrite_replaces_every_occurrence_with_groups() {
        let check = |regex: &str, text: &str, from: &str, to: &str| {
            check_target(&PathRewrite::regex(regex, text).unwrap(), from, to);
        };
        check("/v([0-9])", r"/r\1$", "/v1/v2?v3", "/r1$/r2$?v3");
        check("b*", "-", "/abc", "/-/-a-c-");
        check("^/rx/([^/]+)/(.*)$", r"/\2/in st/\1\\", "/rx/a/b", r"/b/in%20st/a\");
        check("^/del", "x", "/del/y", "/x/y");
        check("(?-u:(.))$", r"\1", "/ä", "/%C3%A4");
    }

    #[test]
    fn what_is_too_long_to_be_sent_is_told() {
        let twice = PathRewrite::regex("^(.*)$", r"\1\1").unwrap();
        let path = |length| "/".repeat(length);
        assert_eq!(twice.target(&path(limit::TARGET_BYTES / 2)).map(|to| to.len()), Ok(65_534));
        assert_eq!(twice.target(&path(limit::TARGET_BYTES / 2 + 1)), Err(TargetTooLong));
        // It grows no further once it is too long.
        let everywhere = PathRewrite::regex("x*", &"y".repeat(limit::REGEX_BYTES)).unwrap();
        let grown = |path: &str| match &everywhere {
            PathRewrite::Regex { regex, substitution } => {
                replaced(regex, path.as_bytes(), substitution.as_bytes()).map(|out| out.len())
            }
            _ => Ok(0),
        };
        assert_eq!(grown("/"), Ok(2 * limit::REGEX_BYTES + 1));
        assert_eq!(grown(&path(1_000)), Err(TargetTooLong));
    }

    #[test]
    fn substitutions_that_mean_nothing_are_refused() {
        let check = |regex: &str, text: &str, expected: &InvalidRewrite| {
            assert_eq!(&PathRewrite::regex(regex, text).unwrap_err(), expected, "{text}");
        };
        check("(a)", r"/\2", &InvalidRewrite::NoGroup(2, 1));
        check("a", r"/\9", &InvalidRewrite::NoGroup(9, 0));
        check("a", r"/\x", &InvalidRewrite::Escape);
        check("a", r"/\", &InvalidRewrite::Escape);
        check("a", &"b".repeat(1_025), &InvalidRewrite::TooLong(1_025));
        assert!(matches!(PathRewrite::regex("(", "/"), Err(InvalidRewrite::Regex(_))));
        assert!(PathRewrite::regex("a", r"/\0").is_ok());
    }
}
