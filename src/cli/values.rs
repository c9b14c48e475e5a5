//! Values of flags that are more than a word.
//!
//! **Invariant:** a reader refuses what it does not understand, and its message shows a right value.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::app::settings::Locality;
use crate::base::duration::{self, InvalidDuration};
use crate::base::secret::Secret;
use crate::explain;
use crate::resources::name;
use crate::snapshot::listener::ListenAddress;
use crate::telemetry::logs::{self, LogsError};

/// A value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidValue {
    #[error("write two ports as FROM=TO, each from 1 to 65535, for example 443=8443")]
    PortMap,
    #[error("write an address and a port, for example 127.0.0.1:15021 or [::]:15021, or off")]
    Listen,
    #[error("write labels as KEY=VALUE, separated by commas, for example istio=ingressgateway")]
    Labels,
    #[error("write REGION/ZONE/SUBZONE, the last two may be left out, for example eu-west/a")]
    Locality,
    #[error("write a namespace: at most 63 lower-case letters, digits and \"-\", for example edge")]
    Namespace,
    #[error(
        "write a trust domain: letters, digits, \".\", \"-\" and \"_\", for example cluster.local"
    )]
    TrustDomain,
    #[error("write a DNS name in lower case without a final dot, for example shop.example.com")]
    DnsName,
    #[error("write a header as NAME: VALUE, for example \"accept: text/html\"")]
    Header,
    #[error(
        "a token is letters, digits, dots and the like: three parts as they come from an issuer"
    )]
    Token,
    #[error(
        "write where callers connect and where the application is, as LISTEN=APP, each a port or ADDR:PORT, for example 15006=8080"
    )]
    Inbound,
    #[error("write a life from 1s to 2160h, for example 24h")]
    Lifetime,
}

/// A gateway's port and the port bound in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortMap {
    pub(super) from: u16,
    pub(super) to: u16,
}

impl FromStr for PortMap {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let port = |text: &str| match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(InvalidValue::PortMap),
        };
        let (from, to) = text.split_once('=').ok_or(InvalidValue::PortMap)?;
        Ok(Self { from: port(from)?, to: port(to)? })
    }
}

/// Where callers of an application connect, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inbound {
    address: Option<IpAddr>,
    port: u16,
    pub(super) application: SocketAddr,
}

impl Inbound {
    /// Where callers connect; `bind` is the address where none is written, else every one.
    pub(super) fn listen(&self, bind: Option<IpAddr>) -> ListenAddress {
        match self.address.or(bind) {
            Some(address) => ListenAddress::Socket(SocketAddr::new(address, self.port)),
            None => ListenAddress::Any(self.port),
        }
    }
}

impl FromStr for Inbound {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let read = |text: &str| {
            let port = text.parse::<u16>().ok().map(|port| (None, port));
            let whole = || text.parse::<SocketAddr>().ok().map(|at| (Some(at.ip()), at.port()));
            port.or_else(whole).filter(|(_, port)| *port > 0).ok_or(InvalidValue::Inbound)
        };
        let (listen, application) = text.split_once('=').ok_or(InvalidValue::Inbound)?;
        let ((address, port), (at, application)) = (read(listen)?, read(application)?);
        let at = at.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Self { address, port, application: SocketAddr::new(at, application) })
    }
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl FromStr for Listen {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|addr| Self(Some(addr))).map_err(|_| InvalidValue::Listen),
        }
    }
}

/// A folder for state, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateDir(pub(super) Option<PathBuf>);

impl From<&str> for StateDir {
    fn from(text: &str) -> Self {
        Self((text != "off").then(|| PathBuf::from(text)))
    }
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), InvalidValue> {
    explain::header(text).ok_or(InvalidValue::Header)
}

/// A token, as `authorization` names it.
pub(super) fn bearer(text: &str) -> Result<Secret<HeaderValue>, InvalidValue> {
    let value = HeaderValue::try_from(format!("Bearer {text}"));
    value.map(Secret::new).map_err(|_| InvalidValue::Token)
}

/// Labels of this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels(pub(super) BTreeMap<String, String>);

impl FromStr for Labels {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let pairs = text.split(',').map(|pair| {
            let pair = pair.split_once('=');
            let is_label = |(key, value): &(&str, &str)| {
                name::is_label_key(key) && name::is_label_value(value) && value.len() <= 63
            };
            let (key, value) = pair.filter(is_label)?;
            Some((key.to_owned(), value.to_owned()))
        });
        pairs.collect::<Option<_>>().map(Self).ok_or(InvalidValue::Labels)
    }
}

/// Reads a namespace.
pub(super) fn namespace(text: &str) -> Result<String, InvalidValue> {
    if name::is_dns_label(text) { Ok(text.to_owned()) } else { Err(InvalidValue::Namespace) }
}

/// Reads a trust domain (SPIFFE-ID section 2.1; capitals and `@` are in Istio's, too).
pub(super) fn trust_domain(text: &str) -> Result<String, InvalidValue> {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    let good = (1..=255).contains(&text.len()) && text.chars().all(part);
    if good { Ok(text.to_owned()) } else { Err(InvalidValue::TrustDomain) }
}

/// Reads `REGION/ZONE/SUBZONE`.
pub(super) fn locality(text: &str) -> Result<Locality, InvalidValue> {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let locality = Locality { region: next(), zone: next(), sub_zone: next() };
    if locality.region.is_empty() || parts.next().is_some() {
        return Err(InvalidValue::Locality);
    }
    Ok(locality)
}

/// Reads a duration in Istio's grammar.
pub(super) fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    duration::parse(text)
}

/// Reads which lines the program's log holds.
pub(super) fn log_level(text: &str) -> Result<String, LogsError> {
    logs::check(text)?;
    Ok(text.to_owned())
}

/// Reads a host name or wildcard to put into a certificate.
pub(super) fn dns_name(text: &str) -> Result<String, InvalidValue> {
    match crate::base::host::HostPattern::parse(text) {
        Ok(_) if text != "*" && text == text.to_ascii_lowercase() => Ok(text.to_owned()),
        _ => Err(InvalidValue::DnsName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr + PartialEq + std::fmt::Debug>(text: &str, expected: Option<&T>) {
        assert_eq!(text.parse().ok().as_ref(), expected, "{text}");
    }

    #[test]
    fn port_maps_are_two_ports() {
        check("443=8443", Some(&PortMap { from: 443, to: 8443 }));
        for text in ["443", "443=", "=443", "0=1", "1=0", "1=65536", "1=2=3", "-1=2", ""] {
            check::<PortMap>(text, None);
        }
    }

    #[test]
    fn inbound_ports_are_two_places() {
        let inbound = |address: Option<&str>, port, application: &str| Inbound {
            address: address.map(|text| text.parse().unwrap()),
            port,
            application: application.parse().unwrap(),
        };
        check("15006=8080", Some(&inbound(None, 15006, "127.0.0.1:8080")));
        check("10.0.0.1:1=[::1]:2", Some(&inbound(Some("10.0.0.1"), 1, "[::1]:2")));
        for text in ["", "1", "1=", "=1", "0=1", "1=0", "a=1", "1=localhost:1", "1=2=3", "1=65536"]
        {
            check::<Inbound>(text, None);
        }
        let bind = "127.0.0.2".parse().ok();
        let at = |text: &str| text.parse::<Inbound>().unwrap().listen(bind).to_string();
        assert_eq!((at("1=2"), at("127.0.0.1:1=2")), ("127.0.0.2:1".into(), "127.0.0.1:1".into()));
    }

    #[test]
    fn listen_addresses_are_an_address_with_a_port_or_off() {
        check("off", Some(&Listen(None)));
        check("127.0.0.1:1", Some(&Listen(Some(([127, 0, 0, 1], 1).into()))));
        check("[::]:2", Some(&Listen(Some(([0u16; 8], 2).into()))));
        for text in ["", "OFF", ":1", "1", "localhost:1", "127.0.0.1"] {
            check::<Listen>(text, None);
        }
    }

    #[test]
    fn state_can_be_turned_off() {
        assert_eq!(StateDir::from("off"), StateDir(None));
        assert_eq!(StateDir::from("state/"), StateDir(Some("state/".into())));
    }

    #[test]
    fn labels_are_pairs() {
        let labels = |pairs: &[(&str, &str)]| {
            Some(Labels(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()))
        };
        check(
            "istio=ingressgateway,app=edge",
            labels(&[("istio", "ingressgateway"), ("app", "edge")]).as_ref(),
        );
        check("a=", labels(&[("a", "")]).as_ref());
        check("", labels(&[]).as_ref());
        check("k8s.io/a_b=1.2", labels(&[("k8s.io/a_b", "1.2")]).as_ref());
        let long = format!("a={}", "b".repeat(64));
        for text in ["a", "=a", "a=b=c", "a=b,", ",a=b", "a=b,,c=d", "a b=c", "/a=b", "-a=b", &long]
        {
            check::<Labels>(text, None);
        }
    }

    #[test]
    fn namespaces_and_trust_domains_are_names() {
        assert_eq!(namespace("istio-system"), Ok("istio-system".into()));
        for text in ["", "A_B", "a.b", "-a", &"a".repeat(64)] {
            assert_eq!(namespace(text), Err(InvalidValue::Namespace), "{text}");
        }
        assert_eq!(trust_domain("td_1.Cluster-x.local"), Ok("td_1.Cluster-x.local".into()));
        for text in ["", "a/b", "spiffe://a", "a b", &"a".repeat(256)] {
            assert_eq!(trust_domain(text), Err(InvalidValue::TrustDomain), "{text}");
        }
    }

    #[test]
    fn localities_have_up_to_three_parts() {
        let parts = |text| locality(text).map(|l| [l.region, l.zone, l.sub_zone]);
        assert_eq!(parts("r/z/s"), Ok(["r", "z", "s"].map(str::to_owned)));
        assert_eq!(parts("r"), Ok(["r", "", ""].map(str::to_owned)));
        for text in ["", "/z", "r/z/s/t"] {
            assert_eq!(parts(text), Err(InvalidValue::Locality), "{text}");
        }
    }

    #[test]
    fn certificate_names_are_host_names() {
        assert!(dns_name("*.example.com").is_ok());
        for text in ["*", "", "a b", "A.example.com", "a..b"] {
            assert_eq!(dns_name(text), Err(InvalidValue::DnsName), "{text}");
        }
    }
}
