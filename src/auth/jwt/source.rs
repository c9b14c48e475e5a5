//! Where an issuer's keys are, as configured (`jwtRules[].jwksUri`, or OpenID discovery).
//!
//! **Invariant:** what is printed of an address holds no credentials and no query.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A key set that some rule uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSource {
    /// `issuer`; empty when the rule has none.
    pub issuer: Box<str>,
    /// Where its keys are.
    pub location: KeyLocation,
    /// `jwtRules[].timeout`: bound for one fetch, redirects and discovery included.
    pub timeout: Duration,
    /// Where its host is, when a ServiceEntry or Service says so.
    pub endpoints: Option<DeclaredEndpoints>,
}

/// Endpoints that resources declare for a host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredEndpoints {
    /// The host, in lower case.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// Addresses, or names to resolve, with their ports.
    pub places: Arc<[(Box<str>, u16)]>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyLocation {
    /// `jwksUri`.
    Uri(Box<str>),
    /// Only the issuer is known: its discovery document names the key set.
    Discovery {
        /// `issuer`, an address.
        issuer: Box<str>,
    },
}

impl KeyLocation {
    /// The address that is fetched first.
    pub fn first_address(&self) -> String {
        match self {
            Self::Uri(uri) => uri.to_string(),
            Self::Discovery { issuer } => {
                let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
                format!("{issuer}/.well-known/openid-configuration")
            }
        }
    }
}

/// Prints the address without credentials and query.
impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.first_address()))
    }
}

/// An address without credentials, query and fragment, for people.
pub fn printable(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_documents_sit_below_the_issuer() {
        for issuer in ["https://a.example/x", "https://a.example/x/"] {
            let location = KeyLocation::Discovery { issuer: issuer.into() };
            assert_eq!(
                location.first_address(),
                "https://a.example/x/.well-known/openid-configuration"
            );
        }
    }

    #[test]
    fn printed_addresses_hold_no_secrets() {
        let location = KeyLocation::Uri("https://user:pass@a.example:1/k?key=secret#x".into());
        assert_eq!(location.to_string(), "https://a.example:1/k");
    }
}
