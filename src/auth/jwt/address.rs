//! Addresses that keys may be fetched from (`jwtRules[].jwksUri`, an issuer's, RFC 3986 section 3).

use http::Uri;
use http::uri::Scheme;

/// Why nothing can be fetched from an address. It does not repeat the address, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Another scheme, or none.
    #[error("the address must begin with http(s)://")]
    Scheme,
    /// User and password in the address.
    #[error("the address is written with a user and password; remove them")]
    Credentials,
    /// No host.
    #[error("the address has no host")]
    Host,
    /// A port that does not exist.
    #[error("the address has a port that is not between 1 and 65535")]
    Port,
    /// Something else that no URL holds.
    #[error("the address is no URL; encode what may not stand in it as it is")]
    Syntax,
}

/// Reads an `http` or `https` address. Schemes are told in any letter case (section 3.1).
pub fn web_address(text: &str) -> Result<Uri, InvalidAddress> {
    let (scheme, rest) = text.split_once("://").ok_or(InvalidAddress::Scheme)?;
    let known = [Scheme::HTTP, Scheme::HTTPS];
    let scheme = known.iter().find(|known| known.as_str().eq_ignore_ascii_case(scheme));
    let scheme = scheme.ok_or(InvalidAddress::Scheme)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(InvalidAddress::Credentials);
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err(InvalidAddress::Host);
    }
    let uri: Uri = format!("{scheme}://{rest}").parse().map_err(|_| InvalidAddress::Syntax)?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(InvalidAddress::Host)?;
    let port = authority.strip_prefix(host).unwrap_or_default();
    if port.len() > 1 && uri.port_u16().is_none_or(|port| port == 0) {
        return Err(InvalidAddress::Port);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, InvalidAddress>) {
        let read = web_address(text).map(|uri| uri.to_string());
        assert_eq!(read.as_deref(), expected.as_ref().copied(), "{text}");
    }

    #[test]
    fn web_addresses_have_a_host_and_a_port_that_exists() {
        check("https://a/k", Ok("https://a/k"));
        check("HTTPS://a/k", Ok("https://a/k"));
        check("Http://[::1]:8080/k?a", Ok("http://[::1]:8080/k?a"));
        check("http://a:/k", Ok("http://a:/k"));
        for text in ["", "a", "/k", "ftp://a/k", "file:///etc/passwd", "https:a"] {
            check(text, Err(InvalidAddress::Scheme));
        }
        for text in ["http://", "https:///k", "http://:80/"] {
            check(text, Err(InvalidAddress::Host));
        }
        for text in ["http://host:99999/k", "http://host:0/k", "http://a:b/k"] {
            check(text, Err(InvalidAddress::Port));
        }
        for text in ["https://[::1/k", "https://h h/k", "https://h/k k"] {
            check(text, Err(InvalidAddress::Syntax));
        }
        check("https://u:p@h/k", Err(InvalidAddress::Credentials));
        check("https://u@h/k", Err(InvalidAddress::Credentials));
        check("https://h/k@x", Ok("https://h/k@x"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(https?://)?.{0,40}") {
            if let Ok(uri) = web_address(&text) {
                prop_assert!(uri.host().is_some_and(|host| !host.is_empty()));
                prop_assert!(!uri.authority().unwrap().as_str().contains('@'));
            }
        }
    }
}
