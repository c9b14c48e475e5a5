//! The connection's part: listener, server block, certificate, what is asked of the client.

use std::net::{Ipv4Addr, SocketAddr};

use http::Uri;

use super::backend::{self, Part};
use super::request::{self, Arrived};
use super::{Explanation, InvalidQuestion, Question, policy};
use crate::auth::authz::Peer;
use crate::base::host::without_port;
use crate::decide::connection::{ConnectionFacts, admit, choose, peer, remarks, rule_verdicts};
use crate::decide::external::of_stream;
use crate::decide::inbound::{self, Opening, Plain};
use crate::snapshot::Snapshot;
use crate::snapshot::inbound::Inbound;
use crate::snapshot::listener::{
    Announcers, Chain, ListenAddress, Listener, Servers, TcpBlock, Termination,
};
use crate::tls::identity::PeerIdentity;

/// What of a URL is about the connection.
pub(super) struct Asked {
    tls: bool,
    http: bool,
    port: u16,
}

impl Asked {
    pub(super) fn of(url: &Uri) -> Result<Self, InvalidQuestion> {
        let invalid = || InvalidQuestion::Url(url.to_string());
        let (tls, http, usual) = match url.scheme_str() {
            Some("https") => (true, true, Some(443)),
            Some("http") => (false, true, Some(80)),
            Some("tls") => (true, false, None),
            Some("tcp") => (false, false, None),
            _ => return Err(invalid()),
        };
        let host = url.authority().map(|authority| without_port(authority.as_str()));
        if host.is_none_or(str::is_empty) {
            return Err(invalid());
        }
        let port = url.port_u16().or(usual);
        let port = port.ok_or_else(|| InvalidQuestion::Port(url.to_string()))?;
        Ok(Self { tls, http, port })
    }
}

/// The listener of a port: the Gateway's own number first, then the number that is bound for it.
fn listener(snapshot: &Snapshot, port: u16) -> Option<&Listener> {
    let written = snapshot.listeners.iter().find(|listener| listener.port == port);
    let bound = || snapshot.listeners.iter().find(|one| one.address.port() == Some(port));
    written.or_else(bound).map(|listener| &**listener)
}

/// This end of a connection to a listener.
fn local(listener: &Listener) -> SocketAddr {
    let bound = match &listener.address {
        ListenAddress::Socket(address) => *address,
        other => (Ipv4Addr::LOCALHOST, other.port().unwrap_or(0)).into(),
    };
    match listener.servers {
        Servers::Inbound(_) => SocketAddr::new(bound.ip(), listener.port),
        _ => bound,
    }
}

pub(super) fn tell(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question,
    asked: &Asked,
) {
    let Some(listener) = listener(snapshot, asked.port) else {
        let ports = snapshot.listeners.iter().map(|one| format!("port {} is served", one.port));
        let text = format!("nothing listens on port {}: the connection is refused", asked.port);
        tale.step("listener", text).considered(ports);
        tale.outcome.action = "close";
        return;
    };
    let mapped = listener.address.port().is_some_and(|bound| bound != listener.port);
    let written = format!("bound for port {}", listener.port);
    tale.step("listener", listener.address.to_string()).considered(mapped.then_some(written));
    if let Some(Announcers { peers, origin }) = &listener.announcers {
        let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
        let text = format!("a PROXY header of {} says who the client is", peers.join(", "));
        tale.step("proxy protocol", text).by(origin);
    }
    match &listener.servers {
        Servers::Tcp(block) => {
            let passed = Passed { listener, block, name: None, client: None };
            stream(tale, snapshot, question, &passed, "bytes pass as they come");
        }
        Servers::Http(_) if asked.tls => {
            tale.step("server", "plaintext: a TLS handshake fails here");
            tale.outcome.action = "close";
        }
        Servers::Http(block) => {
            tale.step("server", format!("{} serves plaintext HTTP", block.key)).by(&block.origin);
            let local = local(listener);
            let arrived = Arrived { listener, block, tls: false, local, identity: None };
            request::tell(tale, snapshot, question, &arrived);
        }
        Servers::Tls(_) if !asked.tls => {
            tale.step("server", "TLS is expected: a request without it ends the connection");
            tale.outcome.action = "close";
        }
        Servers::Tls(chains) => {
            let name = question.server_name.as_str();
            let chain = choose(chains, (!name.is_empty()).then_some(name));
            secure(tale, snapshot, question, asked, (listener, chain));
        }
        Servers::Inbound(port) => workload(tale, snapshot, question, asked, (listener, port)),
    }
}

/// A workload's port; a caller with a certificate is one of the mesh.
fn workload(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question,
    asked: &Asked,
    (listener, port): (&Listener, &Inbound),
) {
    tale.step("peer authentication", port.mode()).by(&port.origin);
    if asked.tls && port.mutual.is_some() {
        let of_the_mesh = !question.client_chain.is_empty();
        let offered: &[&[u8]] = match (of_the_mesh, asked.http) {
            (true, true) => &[b"istio-http/1.1", b"istio", b"http/1.1"],
            (true, false) => &[b"istio"],
            (false, true) => &[b"h2", b"http/1.1"],
            (false, false) => &[],
        };
        let Some(chain) = inbound::chain(port, Some(offered.iter().copied())) else {
            tale.step("server", "TLS that is not the mesh's is refused; show a --client-cert");
            tale.outcome.action = "close";
            return;
        };
        return secure(tale, snapshot, question, asked, (listener, Some(&chain)));
    }
    let opening = match (asked.tls, asked.http) {
        (true, _) => Opening::Tls,
        (false, true) => Opening::Http1,
        (false, false) => Opening::Other,
    };
    match inbound::plain(port, opening) {
        None => {
            tale.step("server", "mutual TLS is required: plaintext is refused");
            tale.outcome.action = "close";
        }
        Some(Plain::Tcp(block)) => {
            let passed = Passed { listener, block, name: None, client: None };
            stream(tale, snapshot, question, &passed, "bytes pass as they come");
        }
        Some(Plain::Http(block, _)) => {
            tale.step("server", format!("{} serves plaintext HTTP", block.key)).by(&block.origin);
            let local = local(listener);
            let arrived = Arrived { listener, block, tls: false, local, identity: None };
            request::tell(tale, snapshot, question, &arrived);
        }
    }
}

fn secure(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question,
    asked: &Asked,
    (listener, chain): (&Listener, Option<&Chain>),
) {
    let named = match question.server_name.as_str() {
        "" => "a ClientHello without a name".to_owned(),
        name => format!("name {name}"),
    };
    let name = Some(question.server_name.as_str()).filter(|name| !name.is_empty());
    match chain {
        None => {
            let text = format!("no server for {named}: alert unrecognized_name");
            tale.step("server", text);
            tale.outcome.action = "close";
        }
        Some(Chain::Passthrough(block)) => {
            let how = format!("{named}: passed through undecrypted");
            stream(tale, snapshot, question, &Passed { listener, block, name, client: None }, &how);
        }
        Some(Chain::AutoPassthrough(auto)) => {
            if let Some(block) = auto.services.lookup(&question.server_name) {
                let how = "the service that the name says, to the mesh's clients";
                let passed = Passed { listener, block, name, client: None };
                stream(tale, snapshot, question, &passed, how);
            } else {
                let text = format!("{named} is no service here: alert unrecognized_name");
                tale.step("server", text).by(&auto.origin);
                tale.outcome.action = "close";
            }
        }
        Some(Chain::Tcp(block)) => {
            let shaken = match &block.tls {
                Some(tls) => terminate(tale, question, tls),
                None => Some(Shaken(None)),
            };
            let Some(Shaken(identity)) = shaken else { return };
            let client = identity.as_ref().map(peer);
            let passed = Passed { listener, block, name, client: client.as_ref() };
            stream(tale, snapshot, question, &passed, &format!("{named}: decrypted"));
        }
        Some(Chain::Http(block)) => {
            tale.step("server", format!("{} for {named}", block.key)).by(&block.origin);
            let Some(tls) = &block.tls else { return };
            let Some(Shaken(identity)) = terminate(tale, question, tls) else { return };
            if asked.http {
                let arrived =
                    Arrived { listener, block, tls: true, local: local(listener), identity };
                request::tell(tale, snapshot, question, &arrived);
            } else {
                tale.outcome.action = "stream";
                tale.outcome.server = Some(block.key.to_string());
            }
        }
    }
}

/// A handshake that went well, and who the client is.
struct Shaken(Option<PeerIdentity>);

/// The handshake; nothing when it fails.
fn terminate(
    tale: &mut Explanation,
    question: &Question,
    termination: &Termination,
) -> Option<Shaken> {
    let tls = match &termination.tls {
        Ok(tls) => tls,
        Err(unusable) => {
            tale.step("certificate", format!("the handshake fails: {}", unusable.reason));
            tale.outcome.action = "close";
            return None;
        }
    };
    let names = termination.certificate_names.iter().map(|name| format!("for {name}"));
    tale.step("certificate", tls.versions()).considered(names);
    let identity = question.client_chain.first();
    let identity = identity.and_then(|leaf| PeerIdentity::from_der(leaf).ok());
    match tls.judge_client(&question.client_chain, question.now) {
        Ok(how) => {
            let shown = identity.as_ref().map(|peer| format!("shown: {}", known_as(peer)));
            let told = termination.client_cert_headers && identity.is_some();
            let told = told.then(|| "backends are told of it by Client-Cert".to_owned());
            tale.step("client certificate", how).considered(shown).considered(told);
            let asked = tls.asks_clients();
            Some(Shaken(identity.filter(|_| asked)))
        }
        Err(why) => {
            tale.step("client certificate", format!("the handshake fails: {why}"));
            tale.outcome.action = "close";
            None
        }
    }
}

fn known_as(peer: &PeerIdentity) -> String {
    match peer.spiffe_id() {
        Some(id) => id.as_str().to_owned(),
        None => peer.subject.clone(),
    }
}

/// A connection whose bytes are passed on.
struct Passed<'a> {
    listener: &'a Listener,
    block: &'a TcpBlock,
    name: Option<&'a str>,
    client: Option<&'a Peer>,
}

fn stream(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question,
    passed: &Passed<'_>,
    how: &str,
) {
    let Passed { listener, block, name, client } = *passed;
    tale.step("server", format!("{}: {how}", block.key)).by(&block.origin);
    tale.outcome.server = Some(block.key.to_string());
    let local = local(listener);
    let facts = ConnectionFacts { client, source: question.source, local, server_name: name };
    policy::remarks(tale, &remarks(snapshot, block, &facts));
    if let Some((access, verdicts)) = rule_verdicts(snapshot, block, &facts) {
        policy::judged(tale, access, &verdicts);
    }
    if let Err(denial) = admit(snapshot, block, &facts) {
        let text = format!("the connection is closed: {}", denial.details);
        tale.step("authorization", text).by(&denial.origin);
        tale.outcome.policy = Some(denial.origin.resource.to_string());
        tale.outcome.action = "close";
        return;
    }
    for (provider, selected) in of_stream(snapshot, block, &facts) {
        let does = if provider.fail_open { "passes" } else { "is closed" };
        let text = format!("{} would be asked; from here on as if it allowed", provider.name);
        let failing = format!("while it fails, the connection {does}");
        tale.step("provider", text).by(selected.origin).considered([failing]);
    }
    tale.outcome.action = "stream";
    let total = block.destinations.total();
    for (weight, id) in block.destinations.shares() {
        let part = Part { weight, total, without: "the connection is closed" };
        backend::cluster(tale, snapshot, *id, &part);
    }
}
