//! Gateways to listeners: which servers apply, where they listen, and which of them collide.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::base::host::HostPattern;
use crate::diag::catalog;
use crate::resources::gateway::{Gateway, Server, TlsMode};
use crate::resources::{Resource, ResourceSet};
use crate::snapshot::listener::ListenAddress;

use super::findings::{Findings, at};
use super::names::selects;
use super::selection::unread;
use super::settings::CompileSettings;

/// Why a server with a field that does not exist is not served.
pub const DOUBTFUL: &str = "a server with a field that does not exist may let in more than it says";

/// What is spoken on a server's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plaintext HTTP.
    Http,
    /// TLS, ended here, then HTTP.
    Https,
    /// TLS, ended here, then bytes.
    TlsTcp,
    /// TLS, sent on.
    Passthrough,
    /// TLS, sent on to the service its SNI names.
    AutoPassthrough,
    /// Bytes.
    Tcp,
}

/// A server that applies here.
#[derive(Debug)]
pub struct ServerDraft<'a> {
    /// The Gateway it belongs to.
    pub gateway: &'a Resource<Gateway>,
    /// The server as written.
    pub server: &'a Server,
    /// `spec.servers[2]`.
    pub field: String,
    /// What is spoken on it.
    pub kind: Kind,
    /// Namespace that may bind (nothing: every), and pattern.
    pub hosts: Vec<(Option<String>, HostPattern)>,
}

impl ServerDraft<'_> {
    /// `namespace/name/port`, the same across snapshots.
    pub fn key(&self) -> String {
        let port = self.server.port.as_ref().map_or("", |port| port.name.as_str());
        let (namespace, name) = (&self.gateway.id.namespace, &self.gateway.id.name);
        let first = self.server.hosts.first().map_or("", String::as_str);
        format!("{namespace}/{name}/{port}/{first}")
    }

    /// A field of the server, or of its TLS settings, that does not exist.
    pub fn unread(&self) -> Option<&str> {
        unread_of(self.gateway, &self.field)
    }
}

fn unread_of<'a>(gateway: &'a Resource<Gateway>, server: &str) -> Option<&'a str> {
    unread(gateway).find(|field| {
        let own = field.strip_prefix(server).and_then(|rest| rest.strip_prefix('.'));
        own.is_some_and(|own| own.starts_with("tls.") || !own.contains('.'))
    })
}

/// A listener and its servers.
#[derive(Debug)]
pub struct ListenerDraft<'a> {
    /// What is bound.
    pub address: ListenAddress,
    /// Port as written.
    pub port: u16,
    /// Servers in order; the earlier one won where two collided.
    pub servers: Vec<ServerDraft<'a>>,
}

/// The listeners of every Gateway that selects this workload.
pub fn listeners<'a>(
    set: &'a ResourceSet,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Vec<ListenerDraft<'a>> {
    let mut drafts: BTreeMap<(ListenAddress, u16), ListenerDraft<'a>> = BTreeMap::new();
    let mut claimed: HashSet<(ListenAddress, &'a str)> = HashSet::new();
    for gateway in &set.gateways {
        if !selects(&gateway.spec.selector, &settings.labels) {
            let message = "the selector asks for other labels than this gateway has";
            let finding = at(gateway, "spec.selector", &catalog::GATEWAY_NOT_SELECTED, message);
            findings.add(finding.help("it is another gateway's; --labels says this one's"));
            continue;
        }
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let field = format!("spec.servers[{index}]");
            let Some(draft) = read(gateway, server, field, findings) else { continue };
            let Some((address, port)) = address(&draft, settings, findings) else { continue };
            if is_taken(&drafts, &draft, (&address, port), findings) {
                continue;
            }
            let listener = drafts.entry((address.clone(), port)).or_insert_with(|| ListenerDraft {
                address: address.clone(),
                port,
                servers: Vec::new(),
            });
            if accepts(listener, &draft, &address, &mut claimed, findings) {
                listener.servers.push(draft);
            }
        }
    }
    drafts.into_values().filter(|listener| !listener.servers.is_empty()).collect()
}

fn read<'a>(
    gateway: &'a Resource<Gateway>,
    server: &'a Server,
    field: String,
    findings: &mut Findings,
) -> Option<ServerDraft<'a>> {
    let mut hosts = Vec::new();
    for (index, written) in server.hosts.iter().enumerate() {
        let (namespace, host) = match written.split_once('/') {
            None | Some(("*", _)) => (None, written.rsplit('/').next().unwrap_or_default()),
            Some((".", host)) => (Some(gateway.id.namespace.to_string()), host),
            Some((namespace, host)) => (Some(namespace.to_owned()), host),
        };
        match HostPattern::parse(host) {
            Ok(pattern) => hosts.push((namespace, pattern)),
            Err(error) => {
                let field = format!("{field}.hosts[{index}]");
                let diagnostic = at(gateway, field, &catalog::INVALID_HOST, error.to_string());
                findings.add(diagnostic.help("the server is left out until the host is mended"));
                return None;
            }
        }
    }
    let protocol = server.port.as_ref().map_or("", |port| port.protocol.as_str());
    let mode = server.tls.as_ref().map(|tls| tls.mode);
    let doubtful = unread_of(gateway, &field);
    let kind = match (protocol.to_ascii_uppercase().as_str(), mode) {
        // Whatever was meant, its handshakes are refused.
        ("HTTPS" | "TLS", _) if doubtful.is_some() => Kind::Https,
        ("HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB", _) => Kind::Http,
        (_, Some(TlsMode::AutoPassthrough)) => Kind::AutoPassthrough,
        ("HTTPS", Some(TlsMode::Passthrough)) | ("TLS", Some(TlsMode::Passthrough) | None) => {
            Kind::Passthrough
        }
        ("HTTPS", Some(_)) => Kind::Https,
        ("TLS" | "TCP", Some(_)) => Kind::TlsTcp,
        ("TCP" | "MONGO" | "REDIS" | "MYSQL", None) => Kind::Tcp,
        _ => {
            let message = format!("protocol \"{protocol}\" cannot be served with these settings");
            findings.add(
                at(gateway, format!("{field}.port"), &catalog::LISTENER_SETTING, message)
                    .help("HTTPS and TLS servers need a tls block; known protocols are HTTP, HTTPS, HTTP2, GRPC, TLS and TCP"),
            );
            return None;
        }
    };
    if let Some(unread) = doubtful.filter(|_| matches!(kind, Kind::Http | Kind::Tcp)) {
        let finding = at(gateway, unread, &catalog::POLICY_FAILS_CLOSED, DOUBTFUL);
        findings.add(finding.help("the server is left out until it is mended; others go on"));
        return None;
    }
    Some(ServerDraft { gateway, server, field, kind, hosts })
}

fn address(
    draft: &ServerDraft<'_>,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Option<(ListenAddress, u16)> {
    let bind = draft.server.bind.as_str();
    if let Some(path) = bind.strip_prefix("unix://") {
        return Some((ListenAddress::Unix(path.into()), 0));
    }
    let number = draft.server.port.as_ref().map_or(0, |port| port.number);
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    let ip = if bind.is_empty() { Ok(settings.bind) } else { bind.parse::<IpAddr>().map(Some) };
    let (Some(port), Ok(ip)) = (port, ip) else {
        let diagnostic = at(
            draft.gateway,
            format!("{}.port", draft.field),
            &catalog::LISTENER_SETTING,
            "the port or the bind address cannot be used",
        );
        findings.add(diagnostic.help("write a port from 1 to 65535 and an IP address"));
        return None;
    };
    let bound = settings.port_map.get(&port).copied().unwrap_or(port);
    let address = match ip {
        Some(ip) => ListenAddress::Socket(SocketAddr::new(ip, bound)),
        None => ListenAddress::Any(bound),
    };
    Some((address, port))
}

/// Whether the system would refuse a new listener beside those that are there; the earlier wins.
fn is_taken(
    drafts: &BTreeMap<(ListenAddress, u16), ListenerDraft<'_>>,
    draft: &ServerDraft<'_>,
    (address, port): (&ListenAddress, u16),
    findings: &mut Findings,
) -> bool {
    if drafts.contains_key(&(address.clone(), port)) {
        return false;
    }
    let mut others = drafts.values().filter(|other| !other.servers.is_empty());
    let Some(other) = others.find(|other| overlap(&other.address, address)) else { return false };
    let first = other.servers.first().map(|server| server.gateway.id.to_string());
    let message = format!(
        "port {port} is bound where {} has bound port {} already",
        first.unwrap_or_default(),
        other.port
    );
    let finding =
        at(draft.gateway, format!("{}.port", draft.field), &catalog::PORT_CONFLICT, message);
    findings.add(finding.help("the server is left out; change its port, its bind or --port-map"));
    true
}

/// Whether two sockets cannot listen at once.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (one, other) = match (one, other) {
        (ListenAddress::Any(a), ListenAddress::Any(b)) => return a == b,
        (ListenAddress::Any(port), ListenAddress::Socket(socket))
        | (ListenAddress::Socket(socket), ListenAddress::Any(port)) => {
            return *port == socket.port();
        }
        (ListenAddress::Socket(one), ListenAddress::Socket(other)) => (one, other),
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => return a == b,
        (ListenAddress::Unix(_), _) | (_, ListenAddress::Unix(_)) => return false,
    };
    let covers = |wide: IpAddr, narrow: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

/// Whether a server can join a listener; the earlier server wins.
fn accepts<'a>(
    listener: &ListenerDraft<'a>,
    draft: &ServerDraft<'a>,
    address: &ListenAddress,
    claimed: &mut HashSet<(ListenAddress, &'a str)>,
    findings: &mut Findings,
) -> bool {
    let is_tls = |kind| !matches!(kind, Kind::Http | Kind::Tcp);
    if let Some(first) = listener.servers.first() {
        let fits = match (first.kind, draft.kind) {
            (Kind::Http, Kind::Http) => true,
            (Kind::Tcp, _) | (_, Kind::Tcp) => false,
            (a, b) => is_tls(a) && is_tls(b),
        };
        if !fits {
            let message = format!(
                "port {} is already used by {} for another protocol",
                listener.port, first.gateway.id
            );
            findings.add(
                at(draft.gateway, &draft.field, &catalog::PORT_CONFLICT, message)
                    .help("the server is left out; give it another port or bind address"),
            );
            return false;
        }
    }
    if is_tls(draft.kind) || draft.server.tls.is_some() {
        for host in &draft.server.hosts {
            if claimed.contains(&(address.clone(), host.as_str())) {
                let message = format!("host \"{host}\" is already served on this port");
                findings.add(
                    at(
                        draft.gateway,
                        format!("{}.hosts", draft.field),
                        &catalog::DUPLICATE_HOST,
                        message,
                    )
                    .help("the whole server is left out; keep one server for a host"),
                );
                return false;
            }
        }
        claimed.extend(draft.server.hosts.iter().map(|host| (address.clone(), host.as_str())));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{ConfigFile, parse};

    fn check(servers: &str) -> (Vec<(u16, Vec<Kind>)>, Vec<&'static str>) {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: gw}}\nspec:\n  \
             selector: {{istio: ingressgateway}}\n  servers:\n{servers}"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        let mut findings = Findings::default();
        let drafts = listeners(&parsed.set, &CompileSettings::default(), &mut findings);
        let kinds = |l: &ListenerDraft<'_>| (l.port, l.servers.iter().map(|s| s.kind).collect());
        let codes = findings.finish().iter().map(|d| d.code.id).collect();
        (drafts.iter().map(kinds).collect(), codes)
    }

    fn server(port: u16, name: &str, protocol: &str, host: &str, tls: &str) -> String {
        format!(
            "  - port: {{number: {port}, name: {name}, protocol: {protocol}}}\n    hosts: \
             [\"{host}\"]\n{tls}"
        )
    }

    #[test]
    fn termination_and_passthrough_share_a_port() {
        let simple = "    tls: {mode: SIMPLE, credentialName: a}\n";
        let yaml = server(443, "a", "HTTPS", "a.com", simple)
            + &server(443, "b", "TLS", "b.com", "    tls: {mode: PASSTHROUGH}\n")
            + &server(80, "c", "HTTP", "*", "");
        assert_eq!(
            check(&yaml),
            (vec![(80, vec![Kind::Http]), (443, vec![Kind::Https, Kind::Passthrough])], vec![])
        );
    }

    #[test]
    fn a_server_with_a_field_that_does_not_exist_is_not_open() {
        let cases = [
            ("HTTP", "tls: {httpRedirect: true}", None),
            ("HTTP", "tsl: {httpsRedirect: true}", None),
            ("TCP", "tsl: {mode: MUTUAL, credentialName: a}", None),
            ("HTTP", "bnid: 127.0.0.1", None),
            // Handshakes are refused, and the host goes to no other server.
            ("HTTPS", "tsl: {mode: MUTUAL, credentialName: a}", Some(Kind::Https)),
            ("HTTPS", "tls: {mdoe: MUTUAL, credentialName: a}", Some(Kind::Https)),
            ("TLS", "tls: {mdoe: MUTUAL, credentialName: a}", Some(Kind::Https)),
            ("HTTP", "tls: {httpsRedirect: true}", Some(Kind::Http)),
        ];
        for (protocol, field, kind) in cases {
            let (listeners, codes) =
                check(&server(80, "a", protocol, "a.com", &format!("    {field}\n")));
            let kinds: Vec<Kind> = listeners.into_iter().flat_map(|(_, kinds)| kinds).collect();
            assert_eq!(kinds, Vec::from_iter(kind), "{protocol} {field}");
            let told = if kind.is_none() { vec!["PC052"] } else { vec![] };
            assert_eq!(codes, told, "{protocol} {field}");
        }
    }

    #[test]
    fn the_earlier_server_wins_a_port() {
        let simple = "    tls: {mode: SIMPLE, credentialName: a}\n";
        let yaml =
            server(443, "a", "HTTPS", "a.com", simple) + &server(443, "b", "HTTP", "b.com", "");
        assert_eq!(check(&yaml), (vec![(443, vec![Kind::Https])], vec!["PC030"]));
    }

    #[test]
    fn listeners_that_the_system_would_refuse_are_told() {
        let on = |bind: &str, port| {
            server(port, "a", "HTTP", "*", "") + &format!("    bind: '{bind}'\n")
        };
        let refused = |first: &str, second: &str| {
            let (listeners, codes) = check(&(on(first, 80) + &on(second, 80) + &on(second, 81)));
            assert_eq!(listeners.len(), 3 - codes.len());
            codes == ["PC030"]
        };
        for (first, second) in [
            ("", "127.0.0.1"),
            ("127.0.0.1", ""),
            ("::1", ""),
            ("0.0.0.0", "127.0.0.1"),
            ("::1", "::"),
            ("::", "127.0.0.1"),
        ] {
            assert!(refused(first, second), "{first} {second}");
        }
        for (first, second) in
            [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "::1"), ("::1", "127.0.0.1")]
        {
            assert!(!refused(first, second), "{first} {second}");
        }
    }

    #[test]
    fn ports_mapped_to_one_are_told() {
        let yaml =
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec:\n  \
                    selector: {istio: ingressgateway}\n  servers:\n"
                .to_owned()
                + &server(80, "a", "HTTP", "*", "")
                + &server(81, "b", "HTTP", "*", "");
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let set = parse(&[file]).set;
        let port_map = [(80, 8080), (81, 8080)].into_iter().collect();
        let settings = CompileSettings { port_map, ..CompileSettings::default() };
        let mut findings = Findings::default();
        assert_eq!(listeners(&set, &settings, &mut findings).len(), 1);
        let told = findings.finish();
        let places: Vec<_> = told.iter().map(|d| (d.code.id, d.field.as_str())).collect();
        assert_eq!(places, [("PC030", "spec.servers[1].port")]);
    }

    #[test]
    fn a_repeated_tls_host_drops_the_later_server() {
        let simple = "    tls: {mode: SIMPLE, credentialName: a}\n";
        let yaml = server(443, "a", "HTTPS", "a.com", simple)
            + &server(443, "b", "HTTPS", "a.com", simple);
        assert_eq!(check(&yaml), (vec![(443, vec![Kind::Https])], vec!["PC031"]));
    }

    #[test]
    fn a_bad_host_drops_its_server() {
        assert_eq!(check(&server(80, "a", "HTTP", "a*.com", "")), (vec![], vec!["PC032"]));
    }
}
