//! Addresses of key sets, and where redirects lead from them.
//!
//! **Invariant:** only `http` and `https` addresses without credentials, and never from `https` to
//! `http`.

use http::Uri;
use http::uri::Scheme;

use super::fetch::FetchError;
use crate::auth::jwt::{InvalidAddress, printable, web_address};

/// An address that may be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target(Uri);

impl Target {
    pub(super) fn parse(address: &str) -> Result<Self, FetchError> {
        let invalid = |reason| FetchError::Address(printable(address), reason);
        web_address(address).map(Self).map_err(invalid)
    }

    /// No request can be made of it.
    pub(super) fn unusable(&self) -> FetchError {
        FetchError::Address(self.authority().to_owned(), InvalidAddress::Syntax)
    }

    /// Where a `Location` header leads from here (RFC 3986, section 5.2, without dot segments).
    pub(super) fn redirected(&self, location: &str) -> Result<Self, FetchError> {
        let scheme = if self.is_https() { "https" } else { "http" };
        let authority = self.authority();
        let absolute = if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.contains("://") {
            location.to_owned()
        } else {
            let folder = self.0.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        self.linked(&absolute)
    }

    /// Another address that an answer from here names.
    pub(super) fn linked(&self, address: &str) -> Result<Self, FetchError> {
        let target = Self::parse(address)?;
        if self.is_https() && !target.is_https() {
            return Err(FetchError::Downgrade(printable(address)));
        }
        Ok(target)
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Host name or address, without brackets.
    pub(super) fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
    }

    /// Host name or address, an IPv6 address in brackets.
    pub(super) fn bracketed_host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// Value of the `Host` header.
    pub(super) fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// The whole address, for a proxy.
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_plain_web_addresses_are_fetched() {
        for address in ["", "a", "file:///etc/passwd", "http://", "http://a b/", "http://a:0/"] {
            let refused = Target::parse(address);
            assert!(matches!(refused, Err(FetchError::Address(..))), "{address} {refused:?}");
        }
        let refused = Target::parse("https://u:secret@a/?k=secret").unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("secret"));
    }

    #[test]
    fn parts_are_read_from_the_address() {
        let target = Target::parse("https://[::1]:8443/k?a").unwrap();
        assert_eq!((target.host(), target.port(), target.is_https()), ("::1", 8443, true));
        assert_eq!((target.authority(), target.path_and_query()), ("[::1]:8443", "/k?a"));
        assert_eq!(Target::parse("http://a").unwrap().port(), 80);
    }

    fn check_redirect(from: &str, location: &str, to: Option<&str>) {
        let reached = Target::parse(from).unwrap().redirected(location).ok();
        assert_eq!(reached.map(|target| target.0.to_string()).as_deref(), to, "{from} {location}");
    }

    #[test]
    fn redirects_never_leave_https() {
        check_redirect("https://a/x/y", "https://b/z", Some("https://b/z"));
        check_redirect("http://a/x/y", "https://b/z", Some("https://b/z"));
        check_redirect("https://a/x/y", "http://b/z", None);
        check_redirect("https://a/x/y", "ftp://b/z", None);
    }

    proptest! {
        #[test]
        fn no_redirect_leaves_https_or_breaks_anything(to in "(https?|ftp)?:?/{0,2}.{0,40}") {
            let _ = Target::parse(&to);
            let from = Target::parse("https://a/x/y").unwrap();
            if let Ok(target) = from.redirected(&to) {
                prop_assert!(target.is_https() && !target.host().is_empty(), "{}", to);
            }
        }
    }

    #[test]
    fn relative_redirects_are_resolved() {
        check_redirect("https://a:1/x/y", "/z?q", Some("https://a:1/z?q"));
        check_redirect("http://a/x/y?q", "z", Some("http://a/x/z"));
        check_redirect("https://a/x", "//b/z", Some("https://b/z"));
    }
}
