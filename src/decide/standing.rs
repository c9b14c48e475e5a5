//! Whether what was let in would be let in now: streams that live long are asked about again.
//!
//! **Invariant:** what is gone from the configuration, or cannot be used, ends nothing; what would be
//! refused by what is there does.

use std::borrow::Cow;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;

use super::connection::{ConnectionFacts, admit, choose};
use super::head::Head;
use super::reject::{Answer, Blame, answer};
use super::request::{RequestFacts, allow};
use crate::auth::authz::Denial;
use crate::auth::jwt::JwtFailure;
use crate::base::hash::Fingerprint;
use crate::base::host::without_port;
use crate::base::id::Origin;
use crate::snapshot::Snapshot;
use crate::snapshot::inbound::{Inbound, Spoken};
use crate::snapshot::listener::{
    Chain, ListenAddress, Listener, ServerBlock, Servers, TcpBlock, Termination,
};

/// How a connection was let in.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// Where it was accepted.
    pub address: &'a ListenAddress,
    /// What was asked of its certificate; nothing where TLS does not end here.
    pub client_rule: Option<Fingerprint>,
    /// The certificate it showed, and its intermediates.
    pub chain: &'a [CertificateDer<'static>],
    /// Unix time in seconds, now.
    pub now: i64,
}

/// Why what was let in would be refused now.
#[derive(Clone, Debug)]
pub enum Tightened {
    /// A policy refuses.
    Policy(Denial),
    /// The token is good no more.
    Token(JwtFailure),
    /// The client's certificate would be refused: why, and by which server.
    Certificate(String, Origin),
    /// Mutual TLS is required, by this resource.
    Plaintext(Origin),
}

/// Whether an answer may take long, as far as its request tells: a WebSocket, a call of gRPC or gRPC-Web,
/// or events (`text/event-stream`) where they are asked for by name.
pub fn may_last(head: &Head, headers: &HeaderMap) -> bool {
    let is_call = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    head.upgrade
        || headers.get(CONTENT_TYPE).is_some_and(is_call)
        || headers.get_all(ACCEPT).iter().any(names_events)
}

/// Whether one of an `Accept` header's media ranges (RFC 9110, section 12.5.1) is that of events.
fn names_events(accept: &HeaderValue) -> bool {
    accept.as_bytes().split(|byte| *byte == b',').any(|range| {
        let kind = range.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Judges a stream of bytes again.
pub fn stream(
    snapshot: &Snapshot,
    admission: &Admission<'_>,
    facts: &ConnectionFacts<'_>,
) -> Result<(), Tightened> {
    let Some(listener) = snapshot.listener(admission.address) else { return Ok(()) };
    let block: Option<&TcpBlock> = match &listener.servers {
        Servers::Http(_) => None,
        Servers::Tcp(block) => Some(block),
        Servers::Tls(chains) => match choose(chains, facts.server_name) {
            Some(Chain::Tcp(block) | Chain::Passthrough(block)) => Some(block),
            _ => None,
        },
        Servers::Inbound(inbound) => {
            secured(inbound, admission)?.and_then(|spoken| spoken.tcp()).map(|block| &**block)
        }
    };
    let Some(block) = block else { return Ok(()) };
    certificate(block.tls.as_ref(), &block.server, admission)?;
    admit(snapshot, block, facts).map_err(Tightened::Policy)
}

/// Judges a request again, whose answer is under way.
pub fn request(
    snapshot: &Snapshot,
    admission: &Admission<'_>,
    facts: &RequestFacts<'_>,
) -> Result<(), Tightened> {
    let Some(listener) = snapshot.listener(admission.address) else { return Ok(()) };
    if let Servers::Inbound(inbound) = &listener.servers {
        let block = secured(inbound, admission)?.and_then(|spoken| spoken.http());
        if let Some(block) = block {
            certificate(block.tls.as_ref(), &block.origin, admission)?;
        }
    }
    let host = without_port(facts.head.authority);
    for block in servers(listener, facts.connection.server_name, host).into_iter().flatten() {
        certificate(block.tls.as_ref(), &block.origin, admission)?;
    }
    allow(snapshot, facts)
}

/// What a workload's port has for a connection like this; mutual TLS may be required by now.
fn secured<'a>(
    inbound: &'a Inbound,
    admission: &Admission<'_>,
) -> Result<Option<&'a Spoken>, Tightened> {
    match (&inbound.plain, admission.client_rule) {
        (None, None) => Err(Tightened::Plaintext(inbound.origin.clone())),
        (plain, None) => Ok(plain.as_ref()),
        (_, Some(_)) => Ok(inbound.mutual.as_ref()),
    }
}

/// The blocks whose rule for clients a request has to meet: its connection's, and its host's.
fn servers<'a>(
    listener: &'a Listener,
    server_name: Option<&str>,
    host: &str,
) -> [Option<&'a ServerBlock>; 2] {
    let Servers::Tls(chains) = &listener.servers else { return [None, None] };
    let block = |chain: Option<&'a Chain>| match chain {
        Some(Chain::Http(block)) => Some(&**block),
        _ => None,
    };
    let own = block(choose(chains, server_name));
    let other = block(chains.lookup(host));
    [own, other.filter(|other| own.is_none_or(|own| !std::ptr::eq(own, *other)))]
}

/// Judges the client's certificate where the rule for it is another one by now.
fn certificate(
    termination: Option<&Termination>,
    origin: &Origin,
    admission: &Admission<'_>,
) -> Result<(), Tightened> {
    let Some(Termination { tls, client_rule, revocations, .. }) = termination else {
        return Ok(());
    };
    if admission.client_rule == Some(*client_rule) {
        let revoked = revocations.as_ref().is_some_and(|all| all.revoke(admission.chain));
        let why = || Tightened::Certificate(REVOKED.to_owned(), origin.clone());
        return if revoked { Err(why()) } else { Ok(()) };
    }
    let Ok(tls) = tls else { return Ok(()) };
    let judged = tls.judge_client(admission.chain, admission.now);
    judged.map(drop).map_err(|why| match admission.client_rule {
        Some(_) => Tightened::Certificate(why, origin.clone()),
        None => Tightened::Plaintext(origin.clone()),
    })
}

/// Why the client of a mesh's server is let in no more.
const REVOKED: &str = "the certificate was revoked";

impl Tightened {
    /// What the client is told, where there is no answer yet.
    pub(super) fn answer(&self) -> Answer {
        let (status, body, details, code) = match self {
            Self::Policy(_) => {
                (403, "RBAC: access denied", "rbac_access_denied", "tightened_authorization")
            }
            Self::Token(failure) => {
                (failure.status().as_u16(), "", "jwt_authn_access_denied", "tightened_token")
            }
            Self::Certificate(..) => {
                (403, "", "client_certificate_refused", "tightened_client_certificate")
            }
            Self::Plaintext(_) => (403, "", "mutual_tls_required", "tightened_mutual_tls"),
        };
        Answer { blame: Blame::Policy, ..answer(status, body, "-", details, code) }
    }

    /// The body for the client.
    pub(super) fn body(&self) -> Cow<'static, str> {
        match self {
            Self::Token(failure) => failure.message().into(),
            _ => self.answer().body.into(),
        }
    }

    /// Envoy's response code details, or what is wrong with a certificate.
    pub(super) fn details(&self) -> Cow<'static, str> {
        match self {
            Self::Policy(denial) => denial.details.to_string().into(),
            Self::Token(failure) => failure.details().into(),
            Self::Certificate(why, _) => why.clone().into(),
            Self::Plaintext(_) => self.answer().details.into(),
        }
    }

    /// What refuses it.
    pub(super) fn origin(&self) -> &Origin {
        match self {
            Self::Policy(denial) => &denial.origin,
            Self::Token(failure) => &failure.origin,
            Self::Certificate(_, origin) | Self::Plaintext(origin) => origin,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    /// Headers of a request without an upgrade, and whether its answer may take long.
    fn check(headers: &[(HeaderName, &'static str)], expected: bool) {
        let pair = |(name, value): &(HeaderName, &'static str)| {
            (name.clone(), HeaderValue::from_static(value))
        };
        let map = headers.iter().map(pair).collect();
        assert_eq!(may_last(&Head::default(), &map), expected, "{headers:?}");
    }

    #[test]
    fn calls_last_and_so_do_events_that_are_asked_for_by_name() {
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
        ] {
            check(&[(CONTENT_TYPE, kind)], true);
        }
        for accept in [
            "text/event-stream",
            "application/json, text/event-stream",
            "Text/Event-Stream;q=0.9,*/*",
        ] {
            check(&[(ACCEPT, accept)], true);
        }
        check(&[(ACCEPT, "application/json"), (ACCEPT, "text/event-stream")], true);
        let head = Head { upgrade: true, ..Head::default() };
        assert!(may_last(&head, &HeaderMap::new()));
    }

    #[test]
    fn other_answers_do_not() {
        check(&[], false);
        for accept in
            ["*/*", "text/*", "text/html", "text/event-streams", "text/plain;text/event-stream"]
        {
            check(&[(ACCEPT, accept)], false);
        }
        for kind in ["application/json", "text/event-stream", "grpc"] {
            check(&[(CONTENT_TYPE, kind)], false);
        }
    }
}
