//! What of a request keeps it on one endpoint (`loadBalancer.consistentHash`).
//!
//! **Invariant:** equal requests give equal keys, in every worker and after every restart; what a
//! client sends is hashed, never kept.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap, HeaderName};
use smallvec::SmallVec;
use twox_hash::XxHash64;

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashPolicy {
    /// The values of a header (`httpHeaderName`).
    Header(HeaderName),
    /// A cookie's value (`httpCookie`).
    Cookie(Cookie),
    /// The client's address (`useSourceIp`).
    SourceIp,
    /// The first value of a query parameter, as sent (`httpQueryParameterName`).
    Query(Box<str>),
}

/// A cookie, and how it is made for a client that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    name: Box<str>,
    /// What follows the value in `set-cookie`; nothing when the cookie is never made.
    attributes: Option<Box<str>>,
}

/// What a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct HashFacts<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// Its query, without `?`.
    pub query: Option<&'a str>,
    /// The trusted client's IP as text.
    pub client: &'a [u8],
    /// The two ends of the client's connection: the client's, this one's.
    pub connection: (SocketAddr, SocketAddr),
}

/// A request's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// The key; nothing when the request does not have what is hashed.
    pub key: Option<u64>,
    /// The cookie that the answer gives the client.
    pub set_cookie: Option<HeaderValue>,
}

impl Cookie {
    /// A cookie that clients bring, made for those that do not when it has a time to live; a time of 0
    /// makes it last as long as the browser's session.
    pub fn new(name: &str, ttl: Option<Duration>, path: &str, attributes: &[(&str, &str)]) -> Self {
        let attributes = ttl.map(|ttl| {
            let mut text = String::new();
            if ttl.as_secs() > 0 {
                let _ = write!(text, "; Max-Age={}", ttl.as_secs());
            }
            if !path.is_empty() {
                let _ = write!(text, "; Path={path}");
            }
            for (name, value) in attributes {
                let sign = if value.is_empty() { "" } else { "=" };
                let _ = write!(text, "; {name}{sign}{value}");
            }
            text + "; HttpOnly"
        });
        Self { name: name.into(), attributes: attributes.map(String::into_boxed_str) }
    }

    /// The value that a client sent.
    fn of<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let pairs = headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii));
        let value = |pair: &'a [u8]| {
            pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"=").map(unquoted)
        };
        pairs.filter_map(value).find(|value| !value.is_empty())
    }

    /// A new value, the same for requests that race on one connection.
    fn make(&self, (client, own): (SocketAddr, SocketAddr)) -> Hashed {
        let Some(attributes) = &self.attributes else { return Hashed::default() };
        let id = XxHash64::oneshot(0, format!("{client}{own}").as_bytes());
        let value = format!("{id:016x}");
        let cookie = format!("{}=\"{value}\"{attributes}", self.name);
        Hashed {
            key: Some(XxHash64::oneshot(0, value.as_bytes())),
            set_cookie: HeaderValue::try_from(cookie).ok(),
        }
    }
}

impl fmt::Display for HashPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(cookie) => write!(f, "cookie {}", cookie.name),
            Self::SourceIp => f.write_str("source address"),
            Self::Query(name) => write!(f, "query parameter {name}"),
        }
    }
}

impl HashPolicy {
    /// The key of a request.
    pub fn key(&self, facts: &HashFacts<'_>) -> Hashed {
        let key = match self {
            Self::Header(name) => header(facts.headers, name),
            Self::Cookie(cookie) => match cookie.of(facts.headers) {
                None => return cookie.make(facts.connection),
                Some(value) => Some(XxHash64::oneshot(0, value)),
            },
            Self::SourceIp => Some(XxHash64::oneshot(0, facts.client)),
            Self::Query(name) => {
                query(facts.query, name).map(|value| XxHash64::oneshot(0, value.as_bytes()))
            }
        };
        Hashed { key, set_cookie: None }
    }
}

/// Several values count in any order.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values: SmallVec<[&[u8]; 4]> =
        headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    values.sort_unstable();
    let hash = |seed, value: &&[u8]| XxHash64::oneshot(seed, value);
    (!values.is_empty()).then(|| values.iter().fold(0, hash))
}

fn query<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &HashPolicy, headers: &[(&'static str, &'static str)], q: &str) -> Hashed {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        policy.key(&HashFacts {
            headers: &pairs.collect(),
            query: Some(q),
            client: b"192.0.2.1",
            connection: ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()),
        })
    }

    fn key(text: &str) -> u64 {
        XxHash64::oneshot(0, text.as_bytes())
    }

    #[test]
    fn headers_count_in_any_order_and_may_be_missing() {
        let policy = HashPolicy::Header(HeaderName::from_static("x-user"));
        assert_eq!(check(&policy, &[("x-user", "ann")], "").key, Some(key("ann")));
        let one = check(&policy, &[("x-user", "ann"), ("x-user", "bob")], "").key;
        assert_eq!(one, check(&policy, &[("x-user", "bob"), ("x-user", "ann")], "").key);
        assert_ne!(one, Some(key("ann")));
        assert_eq!(check(&policy, &[], "").key, None);
    }

    #[test]
    fn query_parameters_are_taken_as_sent() {
        let policy = HashPolicy::Query("user".into());
        assert_eq!(check(&policy, &[], "a=1&user=%41&user=2").key, Some(key("%41")));
        assert_eq!(check(&policy, &[], "a=1&users=2").key, None);
    }

    #[test]
    fn the_clients_address_is_hashed() {
        assert_eq!(check(&HashPolicy::SourceIp, &[], "").key, Some(key("192.0.2.1")));
    }

    #[test]
    fn a_cookie_is_read_or_made() {
        let ttl = |seconds| Some(Duration::from_secs(seconds));
        let cookie = |ttl, attributes: &[_]| {
            HashPolicy::Cookie(Cookie::new("user", ttl, "/shop", attributes))
        };
        let brought = [("cookie", "a=b; user=\"ann\""), ("cookie", "user=bob")];
        assert_eq!(check(&cookie(ttl(60), &[]), &brought, "").key, Some(key("ann")));
        assert_eq!(check(&cookie(None, &[]), &[("cookie", "users=x")], ""), Hashed::default());
        let made = check(&cookie(ttl(60), &[("SameSite", "Lax"), ("Secure", "")]), &[], "");
        let text = made.set_cookie.unwrap();
        let (value, rest) =
            text.to_str().unwrap().strip_prefix("user=\"").unwrap().split_once('"').unwrap();
        assert_eq!(made.key, Some(key(value)));
        assert_eq!(rest, "; Max-Age=60; Path=/shop; SameSite=Lax; Secure; HttpOnly");
        let session = check(&cookie(ttl(0), &[]), &[], "").set_cookie.unwrap();
        assert!(session.to_str().unwrap().ends_with("\"; Path=/shop; HttpOnly"));
    }
}
