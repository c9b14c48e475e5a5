//! Gateways to listeners: which servers apply, where they listen, and which of them collide.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::base::host::HostPattern;
use crate::base::id::Origin;
use crate::diag::{Diagnostic, catalog};
use crate::resources::gateway::{Gateway, Server, TlsMode};
use crate::resources::{Resource, ResourceSet};
use crate::snapshot::listener::{ListenAddress, Written};

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

    /// Where it says at which address it listens.
    pub fn address_written(&self) -> Written {
        let bound = if self.server.bind.is_empty() { "port" } else { "bind" };
        let field = format!("{}.{bound}", self.field);
        let column = self.gateway.location(&field).column;
        Written { origin: self.gateway.origin(&field), column, field }
    }

    /// A field of the server, or of its TLS settings, that does not exist.
    pub fn unread(&self) -> Option<&str> {
        unread_of(self.gateway, &self.field)
    }
}

/// A field of the server at `spec.servers[2]`, or of its TLS settings, that does not exist.
pub fn unread_of<'a>(gateway: &'a Resource<Gateway>, server: &str) -> Option<&'a str> {
    unread(gateway).find(|field| {
        let own = field.strip_prefix(server).and_then(|rest| rest.strip_prefix('.'));
        own.is_some_and(|own| own.starts_with("tls.") || !own.contains('.'))
    })
}

/// Whether a protocol is HTTP in clear.
pub fn is_http(protocol: &str) -> bool {
    let known = ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY"];
    known.iter().any(|known| protocol.eq_ignore_ascii_case(known))
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

/// Where each host of a TLS server was claimed first.
type Claims<'a> = HashMap<(ListenAddress, &'a str), Origin>;

/// The listeners of every Gateway that selects this workload.
pub fn listeners<'a>(
    set: &'a ResourceSet,
    settings: &CompileSettings,
    findings: &mut Findings,
) -> Vec<ListenerDraft<'a>> {
    let mut drafts: BTreeMap<(ListenAddress, u16), ListenerDraft<'a>> = BTreeMap::new();
    let mut claimed: Claims<'a> = HashMap::new();
    let mut named = BTreeSet::new();
    for gateway in &set.gateways {
        if !selects(&gateway.spec.selector, &settings.labels) {
            let message = "the selector asks for other labels than this gateway has";
            let finding = at(gateway, "spec.selector", &catalog::GATEWAY_NOT_SELECTED, message);
            findings.add(finding.help("it is another gateway's; --labels says this one's"));
            continue;
        }
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let field = format!("spec.servers[{index}]");
            named.extend(server.port.as_ref().map(|port| port.number));
            let Some(draft) = read(gateway, server, field, findings) else { continue };
            let Some((address, port)) = address(&draft, settings, findings) else { continue };
            if is_own(&draft, (&address, port), settings, findings)
                || is_taken(&drafts, &draft, (&address, port), findings)
            {
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
    tell_unused(&named, set, settings, findings);
    drafts.into_values().filter(|listener| !listener.servers.is_empty()).collect()
}

/// Tells of ports that are moved and that no server has; without a server, or with a document that may
/// hold one, nobody knows.
fn tell_unused(
    named: &BTreeSet<u32>,
    set: &ResourceSet,
    settings: &CompileSettings,
    findings: &mut Findings,
) {
    if named.is_empty() || !set.broken.is_empty() {
        return;
    }
    for (from, to) in &settings.port_map {
        if !named.contains(&u32::from(*from)) {
            let message = format!("--port-map {from}={to} moves a port that no server has");
            findings.add(Diagnostic::new(&catalog::PORT_MAP_UNUSED, message));
        }
    }
}

fn read<'a>(
    gateway: &'a Resource<Gateway>,
    server: &'a Server,
    field: String,
    findings: &mut Findings,
) -> Option<ServerDraft<'a>> {
    let mut hosts = Vec::new();
    for written in &server.hosts {
        let (namespace, host) = match written.split_once('/') {
            None | Some(("*", _)) => (None, written.rsplit('/').next().unwrap_or_default()),
            Some((".", host)) => (Some(gateway.id.namespace.to_string()), host),
            Some((namespace, host)) => (Some(namespace.to_owned()), host),
        };
        // One that no request can have is told of where it is read.
        hosts.extend(HostPattern::parse(host).ok().map(|host| (namespace, host)));
    }
    if hosts.is_empty() {
        return None;
    }
    let protocol = server.port.as_ref().map_or("", |port| port.protocol.as_str());
    let mode = server.tls.as_ref().map(|tls| tls.mode);
    let doubtful = unread_of(gateway, &field);
    let kind = match (protocol.to_ascii_uppercase().as_str(), mode) {
        // Whatever was meant, its handshakes are refused.
        ("HTTPS" | "TLS", _) if doubtful.is_some() => Kind::Https,
        (protocol, _) if is_http(protocol) => Kind::Http,
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
    // An IPv4 address in IPv6's form is that address.
    let ip = ip.map(|ip| ip.map(|ip| ip.to_canonical()));
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
    if let Some((ip, kind)) = ip.and_then(|ip| Some((ip, unfit(ip)?))) {
        let message = format!("no connection can come to {ip}: it is {kind}");
        let field = draft.address_written().field;
        let finding = at(draft.gateway, field, &catalog::LISTENER_SETTING, message);
        findings.add(finding.help("choose an address of this machine with bind, or with --bind"));
        return None;
    }
    let bound = settings.port_map.get(&port).copied().unwrap_or(port);
    let address = match ip {
        Some(ip) => ListenAddress::Socket(SocketAddr::new(ip, bound)),
        None => ListenAddress::Any(bound),
    };
    Some((address, port))
}

/// The kind of an address that no listener can have, on whichever machine.
fn unfit(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            Some("a link-local address, which counts on one interface alone")
        }
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

/// Whether the program itself listens there.
fn is_own(
    draft: &ServerDraft<'_>,
    (address, port): (&ListenAddress, u16),
    settings: &CompileSettings,
    findings: &mut Findings,
) -> bool {
    let Some((flag, own)) = settings.own_ports.at(address) else { return false };
    let message = format!("port {port} cannot be bound: {flag} has {own} for this program itself");
    let field = format!("{}.port", draft.field);
    let finding = at(draft.gateway, field, &catalog::PORT_CONFLICT, message);
    let help = format!("the server is left out; change its port, --port-map or {flag}");
    findings.add(finding.help(help));
    true
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
    let Some(other) = others.find(|other| other.address.overlaps(address)) else { return false };
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

/// Whether a server can join a listener; the earlier server wins.
fn accepts<'a>(
    listener: &ListenerDraft<'a>,
    draft: &ServerDraft<'a>,
    address: &ListenAddress,
    claimed: &mut Claims<'a>,
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
        for (index, host) in draft.server.hosts.iter().enumerate() {
            if let Some(first) = claimed.get(&(address.clone(), host.as_str())) {
                findings.add(claimed_twice(draft, index, first));
                return false;
            }
        }
        let hosts = draft.server.hosts.iter();
        let origin = draft.gateway.origin(&draft.field);
        claimed.extend(hosts.map(|host| ((address.clone(), host.as_str()), origin.clone())));
    }
    true
}

/// Two servers for one host: those of one Gateway, or those of two (IST0145).
fn claimed_twice(draft: &ServerDraft<'_>, host: usize, first: &Origin) -> Diagnostic {
    let own = draft.gateway.origin(&draft.field);
    let code = if first.resource == own.resource {
        &catalog::DUPLICATE_HOST
    } else {
        &catalog::CONFLICTING_GATEWAYS
    };
    let written = draft.server.hosts.get(host).map_or("", String::as_str);
    let message = format!("host \"{written}\" is already served on this port by {first}");
    at(draft.gateway, format!("{}.hosts[{host}]", draft.field), code, message)
        .help("the whole server is left out; keep one server for a host")
}

#[cfg(test)]
mod tests;
