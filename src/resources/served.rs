//! What a broken Gateway or VirtualService was to serve, as far as it can be read: nothing else serves
//! it in its place.

use std::collections::BTreeSet;

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
    let Some(spec) = root.entry("spec").map(|spec| &spec.value) else { return Served::default() };
    match kind {
        Kind::VirtualService => Served {
            servers: vec![ServedHosts { hosts: hosts(spec), port: None, redirects: false }],
            gateways: match spec.entry("gateways").map(|names| &names.value) {
                None => Some(Vec::new()),
                Some(names) if names.is_null() => Some(Vec::new()),
                Some(Node { value: Value::Sequence(names), .. }) => {
                    names.iter().map(text).collect()
                }
                Some(_) => None,
            },
        },
        Kind::Gateway => {
            let servers = spec.entry("servers").map(|servers| &servers.value.value);
            let Some(Value::Sequence(servers)) = servers else { return Served::default() };
            Served { servers: servers.iter().map(server).collect(), gateways: None }
        }
        _ => Served::default(),
    }
}

/// Of a text that is not YAML: every word that may be a host.
pub(super) fn of_text(kind: &str, text: &str) -> Served {
    if !matches!(kind, "Gateway" | "VirtualService") || text.len() > limit::BROKEN_TEXT_BYTES {
        return Served::default();
    }
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*');
    let is_host = |word: &&str| {
        word.contains('.') && !matches!(HostPattern::parse(word), Err(_) | Ok(HostPattern::Any))
    };
    let words: BTreeSet<&str> = text.split(|c| !part(c)).filter(is_host).collect();
    let hosts = words.into_iter().map(str::to_owned).collect();
    let redirects = kind == "Gateway" && text.contains("httpsRedirect");
    Served { servers: vec![ServedHosts { hosts, port: None, redirects }], gateways: None }
}

fn server(server: &Node<'_>) -> ServedHosts {
    let number = below(server, &["port", "number"]);
    let port = number.and_then(|number| match number.scalar()? {
        Scalar::Int(number) => u16::try_from(number).ok(),
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    });
    let redirect = below(server, &["tls", "httpsRedirect"]);
    let redirects = redirect.is_some_and(|redirect| redirect.scalar() != Some(Scalar::Bool(false)));
    ServedHosts { hosts: hosts(server), port, redirects }
}

fn below<'n, 'i>(node: &'n Node<'i>, path: &[&str]) -> Option<&'n Node<'i>> {
    path.iter().try_fold(node, |node, name| Some(&node.entry(name)?.value))
}

fn hosts(node: &Node<'_>) -> Vec<String> {
    let written = node.entry("hosts").map(|hosts| &hosts.value);
    let texts: Vec<String> = match written {
        Some(Node { value: Value::Sequence(items), .. }) => items.iter().filter_map(text).collect(),
        Some(one) => text(one).into_iter().collect(),
        None => Vec::new(),
    };
    let bare =
        |host: String| host.rsplit_once('/').map_or(host.clone(), |(_, bare)| bare.to_owned());
    texts.into_iter().map(bare).collect()
}

fn text(node: &Node<'_>) -> Option<String> {
    match node.scalar()? {
        Scalar::Text(text) => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(shown.collect::<Vec<_>>(), servers, "{spec}");
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
            &["a.com"],
            Some(&["g"]),
        );
        check("VirtualService", "{hosts: a.com, http: 1}", &["a.com"], Some(&[]));
        check("VirtualService", "{hosts: 5, gateways: g}", &[""], None);
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
