//! Path rewrites and redirect locations (`VirtualService.spec.http[].rewrite` and `.redirect`).

use http::StatusCode;
use regex::bytes::Regex;

use crate::base::host::without_port;

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
    /// Every occurrence of an expression; the substitution knows `\1` and so on.
    Regex {
        /// What to look for.
        regex: Box<Regex>,
        /// Replacement in the `regex` crate's syntax.
        substitution: Box<str>,
    },
}

impl PathRewrite {
    /// The new path.
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Prefix { matched, replacement } => {
                format!("{replacement}{}", path.get(*matched..).unwrap_or_default())
            }
            Self::Full(path) => path.to_string(),
            Self::Regex { regex, substitution } => {
                let out = regex.replace_all(path.as_bytes(), substitution.as_bytes());
                String::from_utf8_lossy(&out).into_owned()
            }
        }
    }
}

/// RE2's `\1` in the `regex` crate's syntax, `${1}`; a literal `$` is doubled.
pub fn substitution(re2: &str) -> Box<str> {
    let mut out = String::with_capacity(re2.len());
    let mut chars = re2.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out.into()
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
        let path = self.path.as_ref().map_or_else(|| path.to_owned(), |p| p.apply(path));
        out.push_str(&path);
        if let Some(query) = query
            && !path.contains('?')
        {
            out.push('?');
            out.push_str(query);
        }
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
    use crate::base::pattern::search;

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
        to.path = Some(PathRewrite::Full("/new?z".into()));
        check(&to, ("a.com", "/x"), "https://b.com/new?z");
    }

    #[test]
    fn prefix_rewrite_replaces_exactly_the_matched_text() {
        let rewrite = |matched, replacement: &str| PathRewrite::Prefix {
            matched,
            replacement: replacement.into(),
        };
        assert_eq!(rewrite(4, "/").apply("/api/v1"), "//v1");
        assert_eq!(rewrite(1, "/x").apply("/a"), "/xa");
        assert_eq!(rewrite(9, "/x").apply("/a"), "/x");
    }

    #[test]
    fn regex_rewrite_replaces_every_occurrence_with_groups() {
        let rewrite = PathRewrite::Regex {
            regex: Box::new(search("/v([0-9])").unwrap()),
            substitution: substitution(r"/r\1$"),
        };
        assert_eq!(rewrite.apply("/v1/v2"), "/r1$/r2$");
    }
}
