//! HTTP proxies between here and issuers, from the environment as istiod reads it: `HTTPS_PROXY`,
//! `HTTP_PROXY` and `NO_PROXY`, or the same in lower case.
//!
//! **Invariant:** a proxy's password is shown nowhere; this machine is never reached through a proxy.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use ipnet::IpNet;

use super::location::Target;
use crate::base::host::without_port;

/// A proxy for the addresses of one scheme.
pub(super) struct Proxy {
    host: Box<str>,
    port: u16,
    authorization: Option<HeaderValue>,
}

/// Which proxy is used for what.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Except>,
}

/// What is reached without a proxy (`NO_PROXY`).
#[derive(Debug, PartialEq, Eq)]
enum Except {
    All,
    Network(IpNet),
    /// An address or a name, and its port; a name stands for those below it too, or for those alone.
    Host {
        name: Box<str>,
        port: Option<u16>,
        itself: bool,
    },
}

impl Proxy {
    /// Reads `http://user:password@host:port`; all but the host may be missing.
    fn parse(text: &str) -> Option<Self> {
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        let host = uri.host()?.trim_matches(['[', ']']);
        if uri.scheme() != Some(&Scheme::HTTP) || host.is_empty() {
            return None;
        }
        let authorization = user.and_then(|user| {
            let plain = percent_encoding::percent_decode_str(user).collect::<Vec<u8>>();
            let mut value =
                HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain))).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Some(Self { host: host.into(), port: uri.port_u16().unwrap_or(80), authorization })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Value of `proxy-authorization`.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Proxies {
    /// Those of this process's environment; what cannot be read is told.
    pub(super) fn from_environment() -> Self {
        let (proxies, wrong) = Self::read(|name| std::env::var(name).ok());
        for variable in wrong {
            tracing::error!(
                variable,
                "this is no http proxy, so key sets are fetched without one; write http://host:port"
            );
        }
        proxies
    }

    /// Reads variables; gives the names of those that hold no proxy, too.
    fn read(variable: impl Fn(&str) -> Option<String>) -> (Self, Vec<&'static str>) {
        let mut wrong = Vec::new();
        let mut proxy = |names: [&'static str; 2]| {
            let said = |name: &&'static str| {
                Some((*name, variable(name).filter(|text| !text.is_empty())?))
            };
            let (name, text) = names.iter().find_map(said)?;
            let proxy = Proxy::parse(&text);
            if proxy.is_none() {
                wrong.push(name);
            }
            proxy
        };
        let http = proxy(["HTTP_PROXY", "http_proxy"]);
        let https = proxy(["HTTPS_PROXY", "https_proxy"]);
        let except = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        let except = except.split(',').filter_map(Except::parse).collect();
        (Self { http, https, except }, wrong)
    }

    /// One proxy for everything.
    #[cfg(test)]
    pub(super) fn both(proxy: &str) -> Self {
        Self::read(|name| {
            name.ends_with("_PROXY").then(|| match name {
                "NO_PROXY" => String::new(),
                _ => proxy.to_owned(),
            })
        })
        .0
    }

    /// The proxy for a target; nothing when it is reached directly.
    pub(super) fn between(&self, target: &Target) -> Option<&Proxy> {
        let proxy = if target.is_https() { &self.https } else { &self.http };
        let proxy = proxy.as_ref()?;
        let (host, port) = (target.host(), target.port());
        let ip: Option<IpAddr> = host.parse().ok();
        let here = host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback());
        let excepted = here || self.except.iter().any(|one| one.covers(host, port, ip));
        (!excepted).then_some(proxy)
    }
}

impl Except {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::All);
        }
        if let Ok(network) = text.parse() {
            return Some(Self::Network(network));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Network(ip.into()));
        }
        let host = without_port(text);
        let port = text.get(host.len()..).and_then(|rest| rest.strip_prefix(':'));
        let port = port.and_then(|port| port.parse().ok());
        let host = host.trim_matches(['[', ']']);
        let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
        let name = below.unwrap_or(host).to_ascii_lowercase().into();
        Some(Self::Host { name, port, itself: below.is_none() })
    }

    fn covers(&self, host: &str, port: u16, ip: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Network(network) => ip.is_some_and(|ip| network.contains(&ip)),
            Self::Host { name, port: only, itself } => {
                let host = host.to_ascii_lowercase();
                let is_below =
                    || host.strip_suffix(&**name).is_some_and(|rest| rest.ends_with('.'));
                only.is_none_or(|only| only == port)
                    && ((*itself && host == **name) || (ip.is_none() && is_below()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> (Proxies, Vec<&'static str>) {
        Proxies::read(|name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn check(variables: &[(&str, &str)], uri: &str, expected: Option<&str>) {
        let (proxies, wrong) = proxies(variables);
        let found = proxies.between(&Target::parse(uri).unwrap()).map(ToString::to_string);
        assert_eq!((found.as_deref(), wrong), (expected, Vec::new()), "{variables:?} {uri}");
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        let both = [("HTTPS_PROXY", "http://s:1/"), ("http_proxy", "p")];
        check(&both, "https://a/", Some("s:1"));
        check(&both, "http://a/", Some("p:80"));
        check(&[("HTTPS_PROXY", "http://s:1/")], "http://a/", None);
        check(
            &[("HTTPS_PROXY", ""), ("https_proxy", "http://[::1]:3128")],
            "https://a/",
            Some("::1:3128"),
        );
    }

    #[test]
    fn exceptions_and_this_machine_are_reached_directly() {
        let direct = |except: &str, uri: &str, is_direct: bool| {
            let variables = [("HTTPS_PROXY", "p:1"), ("NO_PROXY", except)];
            check(&variables, uri, (!is_direct).then_some("p:1"));
        };
        for uri in ["https://localhost/", "https://127.0.0.2/", "https://[::1]/"] {
            direct("", uri, true);
        }
        direct("b, a.example", "https://a.example/", true);
        direct("a.example", "https://x.A.example/", true);
        direct("a.example", "https://xa.example/", false);
        direct(".a.example", "https://x.a.example/", true);
        direct(".a.example", "https://a.example/", false);
        direct("a.example:8443", "https://a.example:8443/", true);
        direct("a.example:8443", "https://a.example/", false);
        direct("10.0.0.0/8", "https://10.1.2.3/", true);
        direct("10.0.0.0/8", "https://11.1.2.3/", false);
        direct("10.0.0.1", "https://10.0.0.1/", true);
        direct("[fd00::1]", "https://[fd00::1]/", true);
        direct("*", "https://a.example/", true);
        direct("0.1", "https://10.0.0.1/", false);
    }

    proptest! {
        #[test]
        fn any_environment_is_read_without_panic(proxy in ".{0,40}", except in ".{0,40}") {
            let (proxies, _) = proxies(&[("HTTPS_PROXY", &proxy), ("NO_PROXY", &except)]);
            let _ = proxies.between(&Target::parse("https://a.example/").unwrap());
        }
    }

    #[test]
    fn credentials_are_sent_and_never_shown() {
        let (proxies, _) = proxies(&[("HTTPS_PROXY", "http://user:p%40ss@proxy:3128")]);
        let proxy = proxies.between(&Target::parse("https://a/").unwrap()).unwrap();
        assert_eq!(proxy.authorization().unwrap(), "Basic dXNlcjpwQHNz");
        let shown = format!("{proxy} {proxies:?}");
        assert!(!shown.contains("user") && !shown.contains("dXNl"), "{shown}");
    }

    #[test]
    fn what_is_no_proxy_is_told() {
        for text in ["https://p:1", "socks5://p:1", "http://", "a b"] {
            let (proxies, wrong) = proxies(&[("HTTPS_PROXY", text), ("HTTP_PROXY", "p")]);
            assert_eq!(wrong, ["HTTPS_PROXY"], "{text}");
            assert!(proxies.between(&Target::parse("https://a/").unwrap()).is_none());
        }
    }
}
