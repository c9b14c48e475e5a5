//! What a broken Gateway or VirtualService was to serve, as far as it can be read: nothing else serves
//! it in its place.

use std::collections::BTreeSet;

use super::broken::is_plain;
use super::kind::Kind;
use super::node::{Node, Scalar, Value};
use crate::base::host::HostPattern;
use crate::base::limit;

/// What it was to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The hosts of a VirtualService; of a Gateway, those of each server.
    pub servers: Vec<ServedHosts>,
    /// `spec.gateways` of a VirtualService; `None` when it could not be read.
    pub gateways: Option<Vec<String>>,
    /// What streams of bytes the `tcp` rules of a VirtualService were for.
    pub streams: Streams,
    /// Whether it may have been to serve more hosts than those.
    pub more: bool,
}

/// Streams of bytes that were to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// None.
    #[default]
    Nothing,
    /// Those of these ports (`tcp[].match[].port`).
    Ports(Vec<u16>),
    /// Those of any port, as far as can be read.
    Anything,
}

impl Streams {
    /// Whether it may have been a port's.
    pub fn are_of(&self, port: u16) -> bool {
        match self {
            Self::Nothing => false,
            Self::Ports(ports) => ports.contains(&port),
            Self::Anything => true,
        }
    }
}

/// Hosts that were to be served, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedHosts {
    /// Those that can be read, without their namespaces.
    pub hosts: Vec<String>,
    /// `port.number` of a Gateway's server; `None` when it could not be read.
    pub port: Option<u16>,
    /// Whether plaintext requests were to be sent to HTTPS, unless it says that they were not.
    pub redirects: bool,
}

/// Of a document that is YAML.
pub(super) fn read(kind: Kind, root: &Node<'_>) -> Served {
    let spec = root.entry("spec").map(|spec| &spec.value);
    match (kind, spec) {
        (Kind::VirtualService, Some(spec @ Node { value: Value::Mapping(_), .. })) => {
            let (hosts, more) = hosts(spec);
            Served {
                servers: vec![ServedHosts { hosts, port: None, redirects: false }],
                gateways: gateways(spec),
                streams: streams(spec),
                more,
            }
        }
        (Kind::Gateway, Some(spec)) => {
            let servers = spec.entry("servers").map(|servers| &servers.value.value);
            let Some(Value::Sequence(servers)) = servers else { return unknown() };
            let (servers, more): (Vec<_>, Vec<_>) = servers.iter().map(server).unzip();
            let more = more.contains(&true);
            Served { servers, more, ..Served::default() }
        }
        (Kind::Gateway | Kind::VirtualService, _) => unknown(),
        _ => Served::default(),
    }
}

/// Of a text that is not YAML: every word that may be a host.
pub(super) fn of_text(kind: &str, text: &str) -> Served {
    if !matches!(kind, "Gateway" | "VirtualService") {
        return Served::default();
    }
    if text.len() > limit::BROKEN_TEXT_BYTES {
        return unknown();
    }
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*');
    let is_host = |word: &&str| {
        word.contains('.') && !matches!(HostPattern::parse(word), Err(_) | Ok(HostPattern::Any))
    };
    let words: BTreeSet<&str> = text.split(|c| !part(c)).filter(is_host).collect();
    let more = words.len() > limit::UNSERVED_HOSTS || !is_plain(text);
    let hosts = words.into_iter().take(limit::UNSERVED_HOSTS).map(str::to_owned).collect();
    let redirects = kind == "Gateway" && text.contains("httpsRedirect");
    let of_bytes = kind == "VirtualService" && text.contains("tcp");
    Served {
        servers: vec![ServedHosts { hosts, port: None, redirects }],
        gateways: None,
        streams: if of_bytes { Streams::Anything } else { Streams::Nothing },
        more,
    }
}

/// Nobody knows what.
fn unknown() -> Served {
    Served { streams: Streams::Anything, more: true, ..Served::default() }
}

fn gateways(spec: &Node<'_>) -> Option<Vec<String>> {
    match spec.entry("gateways").map(|names| &names.value) {
        None => Some(Vec::new()),
        Some(names) if names.is_null() => Some(Vec::new()),
        Some(Node { value: Value::Sequence(names), .. }) => names.iter().map(text).collect(),
        Some(_) => None,
    }
}

fn streams(spec: &Node<'_>) -> Streams {
    let rules = match spec.entry("tcp").map(|rules| &rules.value) {
        None => return Streams::Nothing,
        Some(rules) if rules.is_null() => return Streams::Nothing,
        Some(Node { value: Value::Sequence(rules), .. }) => rules,
        Some(_) => return Streams::Anything,
    };
    let ports = |rule: &Node<'_>| match &below(rule, &["match"])?.value {
        Value::Sequence(matches) if !matches.is_empty() => {
            matches.iter().map(|one| number(below(one, &["port"])?)).collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    let all: Option<Vec<_>> = rules.iter().map(ports).collect();
    all.map_or(Streams::Anything, |ports| Streams::Ports(ports.concat()))
}

/// A server of a Gateway, and whether it has more hosts.
fn server(server: &Node<'_>) -> (ServedHosts, bool) {
    let port = below(server, &["port", "number"]).and_then(number);
    let redirect = below(server, &["tls", "httpsRedirect"]);
    let redirects = redirect.is_some_and(|redirect| redirect.scalar() != Some(Scalar::Bool(false)));
    let (hosts, more) = hosts(server);
    (ServedHosts { hosts, port, redirects }, more)
}

fn number(node: &Node<'_>) -> Option<u16> {
    match node.scalar()? {
        Scalar::Int(number) => u16::try_from(number).ok(),
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn below<'n, 'i>(node: &'n Node<'i>, path: &[&str]) -> Option<&'n Node<'i>> {
    path.iter().try_fold(node, |node, name| Some(&node.entry(name)?.value))
}

/// Those that can be read, without their namespaces; whether there may be more.
fn hosts(node: &Node<'_>) -> (Vec<String>, bool) {
    let written = match node.entry("hosts").map(|hosts| &hosts.value) {
        Some(Node { value: Value::Sequence(items), .. }) => items,
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let texts: Vec<String> = written.iter().filter_map(text).collect();
    let more = texts.is_empty() || texts.len() < written.len();
    let bare =
        |host: String| host.rsplit_once('/').map_or(host.clone(), |(_, bare)| bare.to_owned());
    (texts.into_iter().map(bare).collect(), more)
}

fn text(node: &Node<'_>) -> Option<String> {
    match node.scalar()? {
        Scalar::Text(text) => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Streams;
    use crate::resources::{ConfigFile, parse};

    /// A broken resource in; hosts, ports and Gateways out.
    fn check(kind: &str, spec: &str, servers: &[&str], gateways: Option<&[&str]>) {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
        let served = parse(&[file]).set.broken.remove(0).served;
        let shown = served.servers.iter().map(|server| {
            let port = server.port.map_or(String::new(), |port| format!(":{port}"));
            let to = if server.redirects { " redirected" } else { "" };
            format!("{}{port}{to}", server.hosts.join(","))
        });
        let more = served.more.then(|| "more".to_owned());
        assert_eq!(shown.chain(more).collect::<Vec<_>>(), servers, "{spec}");
        assert_eq!(
            served.gateways.as_deref(),
            gateways
                .map(|names| { names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>() })
                .as_deref(),
            "{spec}"
        );
    }

    #[test]
    fn hosts_of_a_virtual_service_are_read_as_far_as_they_can_be() {
        check(
            "VirtualService",
            "{hosts: [a.com, 5], gateways: [g], http: 1}",
            &["a.com", "more"],
            Some(&["g"]),
        );
        check("VirtualService", "{hosts: a.com, http: 1}", &["a.com"], Some(&[]));
        check("VirtualService", "{hosts: 5, gateways: g}", &["", "more"], None);
        check("VirtualService", "{hosts: [a.com], gateways: [5]}", &["a.com"], None);
        check("VirtualService", "{hosts: [a.com], gateways: [g]}", &["a.com"], Some(&["g"]));
        check(
            "VirtualService",
            "{hosts: ['*.a.com', '*'], http: [}",
            &["*.a.com,networking.istio.io"],
            None,
        );
    }

    #[test]
    fn what_cannot_be_read_of_hosts_is_told() {
        check("VirtualService", "{http: 1}", &["", "more"], Some(&[]));
        check("VirtualService", "5", &["more"], None);
        check("Gateway", "{servers: 5}", &["more"], None);
        check(
            "Gateway",
            "{servers: [{hosts: [a.com], port: 5}, {hosts: 5}]}",
            &["a.com", "", "more"],
            None,
        );
        let hidden = ["networking.istio.io", "more"];
        check("VirtualService", "{hosts: [{{ .Values.host }}], http: 1}", &hidden, None);
        let many: Vec<_> = (0..2_000).map(|host| format!("h{host}.com")).collect();
        let served = super::of_text("VirtualService", &many.join(","));
        assert!(served.more);
        assert_eq!(served.servers[0].hosts.len(), super::limit::UNSERVED_HOSTS);
        let long = "a.com ".repeat(super::limit::BROKEN_TEXT_BYTES);
        assert_eq!(super::of_text("Gateway", &long), super::unknown());
    }

    #[test]
    fn streams_are_of_the_ports_that_every_rule_names() {
        let check = |spec: &str, expected: Streams| {
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\n\
                 spec: {{hosts: ['*'], http: 1, {spec}}}\n"
            );
            let file = ConfigFile { path: "a.yaml".into(), bytes: text.into_bytes().into() };
            let served = parse(&[file]).set.broken.remove(0).served;
            assert_eq!(served.streams, expected, "{spec}");
        };
        check("tcp: null", Streams::Nothing);
        check("tls: []", Streams::Nothing);
        check(
            "tcp: [{match: [{port: 1}, {port: '2'}]}, {match: [{port: 3}]}]",
            Streams::Ports(vec![1, 2, 3]),
        );
        for any in
            ["tcp: 5", "tcp: [5]", "tcp: [{}]", "tcp: [{match: []}]", "tcp: [{match: [{port: x}]}]"]
        {
            check(any, Streams::Anything);
        }
        check("tcp: [", Streams::Anything);
        check("tls: [", Streams::Nothing);
    }

    #[test]
    fn servers_of_a_gateway_are_read_with_their_ports() {
        check(
            "Gateway",
            "{servers: [{hosts: [shop/a.com], port: {number: 80}, tls: {httpsRedirect: true}}, {hosts: \
             ['*.b.com'], port: {number: '443'}}, {hosts: [c.com], port: 5}, {hosts: [d.com], tls: \
             {httpsRedirect: 'no'}}, {hosts: [e.com], tls: {httpsRedirect: false}}]}",
            &["a.com:80 redirected", "*.b.com:443", "c.com", "d.com redirected", "e.com"],
            None,
        );
        check(
            "Gateway",
            "{servers: [{hosts: [a.com], tls: {httpsRedirect: true}]}",
            &["a.com,networking.istio.io redirected"],
            None,
        );
    }
}
