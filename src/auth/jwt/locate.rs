//! Where a rule looks for tokens in a request, and how they are taken out again.
//!
//! **Invariant:** a request without a token costs no allocation, unless it has percent-encoded
//! parameter names.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use crate::base::header;

/// The parts of a request that can hold a token.
#[derive(Clone, Copy)]
pub struct RequestTokens<'a> {
    /// Header fields, cookies included.
    pub headers: &'a HeaderMap,
    /// Path and query, undecoded.
    pub path_and_query: &'a str,
}

/// A header that may hold a token (`jwtRules[].fromHeaders[]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLocation {
    /// Name of the header.
    pub name: HeaderName,
    /// Text after which the token starts, found anywhere in the value; empty: the whole value.
    pub prefix: Box<str>,
}

/// All places of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations {
    headers: Vec<HeaderLocation>,
    parameters: Vec<Arc<str>>,
    cookies: Vec<Box<str>>,
}

impl Default for Locations {
    /// `Authorization: Bearer`, and the query parameter `access_token`.
    fn default() -> Self {
        Self {
            headers: vec![HeaderLocation { name: AUTHORIZATION, prefix: "Bearer ".into() }],
            parameters: vec!["access_token".into()],
            cookies: Vec::new(),
        }
    }
}

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// A header.
    Header(HeaderName),
    /// A query parameter, by its decoded name.
    Parameter(Arc<str>),
    /// A cookie.
    Cookie,
}

/// A token as it was sent.
pub(super) struct FoundToken<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) place: TokenPlace,
}

/// The tokens that a rule found: one, but for requests that send several.
pub(super) type FoundTokens<'a> = SmallVec<[FoundToken<'a>; 1]>;

impl Locations {
    /// The places of a rule; the default ones when none is given (`fromHeaders`, `fromParams`,
    /// `fromCookies`).
    pub fn new(
        headers: Vec<HeaderLocation>,
        parameters: impl IntoIterator<Item = impl Into<Arc<str>>>,
        cookies: impl IntoIterator<Item = impl Into<Box<str>>>,
    ) -> Self {
        let given = Self {
            headers,
            parameters: parameters.into_iter().map(Into::into).collect(),
            cookies: cookies.into_iter().map(Into::into).collect(),
        };
        let none =
            given.headers.is_empty() && given.parameters.is_empty() && given.cookies.is_empty();
        if none { Self::default() } else { given }
    }

    /// Every token of the request: headers, then parameters, then cookies.
    pub(super) fn find<'a>(&self, request: RequestTokens<'a>) -> FoundTokens<'a> {
        let mut found = FoundTokens::new();
        for location in &self.headers {
            for value in request.headers.get_all(&location.name) {
                if let Some(text) = after_prefix(value.as_bytes(), location.prefix.as_bytes()) {
                    let place = TokenPlace::Header(location.name.clone());
                    found.push(FoundToken { text: header::text(text), place });
                }
            }
        }
        if !self.parameters.is_empty() {
            self.find_parameters(request.path_and_query, &mut found);
        }
        if !self.cookies.is_empty() {
            self.find_cookies(request.headers, &mut found);
        }
        found
    }

    /// Names of query parameters that may hold a token, decoded.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|name| &**name)
    }

    /// Whether a query parameter of this decoded name may hold a token.
    pub(super) fn has_parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|own| **own == *name)
    }

    fn find_parameters<'a>(&self, path_and_query: &'a str, found: &mut FoundTokens<'a>) {
        let Some((_, query)) = split_query(path_and_query) else {
            return;
        };
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name);
            if let Some(own) = self.parameters.iter().find(|own| ***own == *name) {
                let place = TokenPlace::Parameter(Arc::clone(own));
                found.push(FoundToken { text: decoded(value), place });
            }
        }
    }

    fn find_cookies<'a>(&self, headers: &'a HeaderMap, found: &mut FoundTokens<'a>) {
        for value in headers.get_all(COOKIE) {
            for pair in value.as_bytes().split(|byte| *byte == b';') {
                let pair = pair.trim_ascii();
                let Some(equals) = memchr::memchr(b'=', pair) else {
                    continue;
                };
                let (name, value) = pair.split_at(equals);
                if self.cookies.iter().any(|own| own.as_bytes() == name) {
                    let text = header::text(unquoted(value.get(1..).unwrap_or_default()));
                    found.push(FoundToken { text, place: TokenPlace::Cookie });
                }
            }
        }
    }
}

/// The path and query without the parameters that `is_removed` names (decoded); nothing when none is
/// there.
pub(super) fn without_parameters(
    path_and_query: &str,
    is_removed: impl Fn(&str) -> bool,
) -> Option<String> {
    let (path, query) = split_query(path_and_query)?;
    let is_kept = |pair: &&str| !is_removed(&parameter_name(pair));
    if query.split('&').all(|pair| is_kept(&pair)) {
        return None;
    }
    let mut kept = String::with_capacity(path_and_query.len());
    kept.push_str(path);
    for (index, pair) in query.split('&').filter(is_kept).enumerate() {
        kept.push(if index == 0 { '?' } else { '&' });
        kept.push_str(pair);
    }
    Some(kept)
}

fn split_query(path_and_query: &str) -> Option<(&str, &str)> {
    let (path, query) = path_and_query.split_at(memchr::memchr(b'?', path_and_query.as_bytes())?);
    Some((path, query.get(1..)?))
}

/// Decoded name of a `name=value` pair.
fn parameter_name(pair: &str) -> Cow<'_, str> {
    decoded(pair.split_once('=').map_or(pair, |(name, _)| name))
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Envoy's rule (since 1.28): the prefix is found anywhere, case-sensitively; the token starts at the next
/// base64url character or dot and goes on to the end of the value. What has no such character is taken
/// whole.
fn after_prefix<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = if value.starts_with(prefix) { 0 } else { memchr::memmem::find(value, prefix)? };
    let rest = value.get(at + prefix.len()..)?;
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let start = rest.iter().position(is_token);
    Some(start.and_then(|start| rest.get(start..)).unwrap_or(value))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn check(locations: &Locations, headers: &[(&'static str, &str)], path: &str, found: &[&str]) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let request = RequestTokens { headers: &map, path_and_query: path };
        let texts: Vec<_> = locations.find(request).into_iter().map(|token| token.text).collect();
        assert_eq!(texts, found, "{headers:?} {path}");
    }

    fn header(name: &'static str, prefix: &str) -> Locations {
        let name = HeaderName::from_static(name);
        Locations::new(vec![HeaderLocation { name, prefix: prefix.into() }], [""; 0], [""; 0])
    }

    #[test]
    fn the_prefix_is_searched_anywhere_and_case_sensitively() {
        let default = Locations::default();
        check(&default, &[("authorization", "Bearer a.b.c")], "/", &["a.b.c"]);
        check(&default, &[("authorization", "x Bearer   !a.b.c, more")], "/", &["a.b.c, more"]);
        check(&default, &[("authorization", "Bearer \"a.b.c\"")], "/", &["a.b.c\""]);
        check(&default, &[("authorization", "bearer a.b.c")], "/", &[]);
        check(&default, &[("authorization", "Basic a.b.c")], "/", &[]);
        check(&default, &[("authorization", "Bearer ..")], "/", &[".."]);
        check(&default, &[("authorization", "Bearer !")], "/", &["Bearer !"]);
        check(&default, &[], "/", &[]);
    }

    #[test]
    fn every_line_that_has_a_token_counts() {
        let lines = [
            ("authorization", "Bearer a.b.c"),
            ("authorization", "Basic x"),
            ("authorization", "Bearer d.e.f"),
        ];
        check(&Locations::default(), &lines, "/?access_token=g", &["a.b.c", "d.e.f", "g"]);
    }

    #[test]
    fn without_prefix_the_whole_value_is_the_token() {
        check(&header("x-token", ""), &[("x-token", "Bearer a.b.c")], "/", &["Bearer a.b.c"]);
        check(&header("x-token", ""), &[("x-token", "\u{e9}")], "/", &["é"]);
    }

    #[test]
    fn explicit_locations_switch_the_default_ones_off() {
        let own = header("x-token", "Token-");
        check(&own, &[("authorization", "Bearer a.b.c")], "/?access_token=a", &[]);
        check(&own, &[("x-token", "Token-a.b.c")], "/", &["a.b.c"]);
    }

    #[test]
    fn parameters_are_percent_decoded() {
        let own = Locations::new(Vec::new(), ["my token", "t"], [""; 0]);
        check(&own, &[], "/p?my%20token=a%2Eb.c&x=1&t", &["a.b.c", ""]);
        check(&own, &[], "/p?T=1&tt=2&%74=%ff", &["\u{fffd}"]);
        check(&own, &[], "/t=1", &[]);
        check(&own, &[], "/?", &[]);
    }

    #[test]
    fn cookies_are_found_among_others() {
        let own = Locations::new(Vec::new(), [""; 0], ["session"]);
        let cookies = [("cookie", "a=b; session=\"x.y.z\";session2=no"), ("cookie", "session=q")];
        check(&own, &cookies, "/", &["x.y.z", "q"]);
        check(&own, &[("cookie", "session; =;;\"")], "/", &[]);
    }

    #[test]
    fn removing_parameters_keeps_the_rest_byte_for_byte() {
        for (path, kept) in [
            ("/a?t=1", Some("/a")),
            ("/a?x=%20&t=1&y", Some("/a?x=%20&y")),
            ("/a?%74=1&t&x", Some("/a?x")),
            ("/a?t2=1", None),
            ("/a", None),
        ] {
            let removed = without_parameters(path, |name| name == "t");
            assert_eq!(removed.as_deref(), kept, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_searched_without_panic(
            value in proptest::collection::vec(any::<u8>(), 0..100), path in ".{0,60}"
        ) {
            let mut map = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                map.append("authorization", value.clone());
                map.append("cookie", value);
            }
            let own = Locations::new(
                Locations::default().headers, ["t"], ["c"]
            );
            own.find(RequestTokens { headers: &map, path_and_query: &path });
            without_parameters(&path, |name| name == "t");
            let _ = after_prefix(&value, b"B");
        }
    }
}
