//! From a request head to what is done with it.
//!
//! The order is Istio's: token, authorization, then route.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use http::header::HeaderMap;
use smallvec::smallvec;

use crate::auth::authz::{Denial, Facts, HttpFacts, Remark, RuleVerdict};
use crate::auth::jwt::{JwtFailure, RequestTokens, TokenCache, Verdict, is_preflight};
use crate::base::host::{HostPattern, without_port};
use crate::base::id::Origin;
use crate::route::matcher::{RequestHead, TokenClaims};
use crate::route::path::readings;
use crate::route::rewrite::Redirect;
use crate::snapshot::listener::{Chain, Listener, ServerBlock, Servers};
use crate::snapshot::route::{Action, Destination, DirectResponse, Forward, Route, VirtualHost};
use crate::snapshot::{Access, Authorization, Snapshot};

use super::connection::ConnectionFacts;
use super::external::refuse_unasked_request;
use super::reject::Reject;
use super::standing::Tightened;
use crate::route::headers::HeaderOps;

/// What a decision may look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The connection it came over.
    pub connection: ConnectionFacts<'a>,
    /// The client by the trusted hops; nothing where the peer is.
    pub trusted: Option<IpAddr>,
    /// Head in normal form.
    pub head: RequestHead<'a>,
    /// Path and query as sent.
    pub path_and_query: &'a str,
    /// Tokens that this worker has verified: they change no decision, only what it costs.
    pub tokens: &'a TokenCache,
    /// Unix time in seconds.
    pub now: i64,
    /// Uniformly random: picks among weighted destinations.
    pub random: u32,
}

/// What to do with a request, and what decided it.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The block that serves the host; the connection's own, or another of its port.
    pub server: &'a ServerBlock,
    /// The virtual host, when there is one.
    pub host: Option<&'a VirtualHost>,
    /// The rule, when one matched.
    pub route: Option<&'a Route>,
    /// What the token says.
    pub verdict: Verdict,
    /// The rule of a policy that allowed it, where one had to.
    pub allowed: Option<&'a Origin>,
    /// What policies say that are not enforced.
    pub remarks: Vec<Remark<'a>>,
    /// A wait that the rule injects before it.
    pub delay: Option<Duration>,
    /// What to do.
    pub outcome: Outcome<'a>,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Send it to a destination.
    Forward(&'a Forward, &'a Destination),
    /// Answer with a `location`, and operations on the answer's headers.
    Redirect(&'a Redirect, &'a HeaderOps),
    /// Answer with the `location` of the same URL under HTTPS.
    HttpsRedirect,
    /// Answer with fixed content.
    Respond(&'a DirectResponse),
    /// Answer a CORS preflight with these headers.
    Preflight(HeaderMap),
    /// Refuse.
    Reject(Reject),
}

impl Outcome<'_> {
    /// Whether the token and the policies let the request pass, so that a rule, or that there is none,
    /// decides.
    pub fn is_routed(&self) -> bool {
        !matches!(self, Self::Reject(Reject::Jwt(_) | Reject::Denied(_)))
    }
}

/// Decides what a [server](serving_block) does with a request that it serves.
pub fn decide<'a>(
    snapshot: &'a Snapshot,
    server: &'a ServerBlock,
    facts: &RequestFacts<'_>,
) -> Decision<'a> {
    let mut decision = Decision {
        server,
        host: None,
        route: None,
        verdict: Verdict::Anonymous,
        allowed: None,
        remarks: Vec::new(),
        delay: None,
        outcome: Outcome::Reject(Reject::RouteNotFound),
    };
    match authenticate(snapshot, facts) {
        Ok(verdict) => decision.verdict = verdict,
        Err(failure) => {
            decision.outcome = Outcome::Reject(Reject::Jwt(failure));
            return decision;
        }
    }
    let headers = judged_headers(snapshot, &decision.verdict, facts.head.headers);
    let head = RequestHead { headers: &headers, ..facts.head };
    let facts = &RequestFacts { head, ..*facts };
    let (remarks, judgement) = authorize(snapshot, facts, &decision.verdict);
    decision.remarks = remarks;
    match judgement {
        Ok(allowed) => decision.allowed = allowed,
        Err(denial) => {
            decision.outcome = Outcome::Reject(Reject::Denied(Box::new(denial)));
            return decision;
        }
    }
    route(&mut decision, without_port(facts.head.authority), facts);
    decision
}

/// Whether a request's token and the policies let it pass. No provider is asked: where there is one, what
/// it said when it was asked stands.
pub(super) fn allow(snapshot: &Snapshot, facts: &RequestFacts<'_>) -> Result<(), Tightened> {
    if let Authorization::Enforce(access) = &snapshot.authorization {
        refuse_unasked_request(access, facts).map_err(Tightened::Policy)?;
    }
    let verdict = match authenticate(snapshot, facts) {
        Ok(verdict) => verdict,
        Err(failure) => return Err(Tightened::Token(failure)),
    };
    let headers = judged_headers(snapshot, &verdict, facts.head.headers);
    let head = RequestHead { headers: &headers, ..facts.head };
    let (_, judgement) = authorize(snapshot, &RequestFacts { head, ..*facts }, &verdict);
    judgement.map(drop).map_err(Tightened::Policy)
}

/// What routing looks at: the head, and what the token claims.
pub fn routing_head<'a>(head: RequestHead<'a>, verdict: &'a Verdict) -> RequestHead<'a> {
    let token = match verdict {
        Verdict::Verified(token) => {
            Some(TokenClaims { claims: &token.claims, delimited: &token.space_delimited })
        }
        Verdict::Anonymous => None,
    };
    RequestHead { token, ..head }
}

/// The block that serves a request for a host and port on this connection; nothing when it is
/// misdirected. What it believes of the sender is what counts, as it would if the client had connected
/// to it.
///
/// A host is served by the block that its SNI would have reached, which a wider host of this connection's
/// block is not. Another block than the connection's serves it if this connection could have been made to
/// it: the certificate covers the name, and the client-certificate rule and the versions are the same.
pub fn serving_block<'a>(
    listener: &'a Listener,
    block: &'a ServerBlock,
    authority: &str,
) -> Option<&'a ServerBlock> {
    let (Servers::Tls(chains), Some(own)) = (&listener.servers, &block.tls) else {
        return Some(block);
    };
    // The root's dot names no other host.
    let host = without_port(authority).trim_end_matches('.');
    let Some(Chain::Http(other)) = chains.lookup(host) else { return None };
    if std::ptr::eq(other.as_ref(), block) {
        return Some(block);
    }
    let their = other.tls.as_ref()?;
    let covered = own.certificate_names.iter().any(|name| certificate_covers(name, host));
    let (Ok(theirs), Ok(ours)) = (&their.tls, &own.tls) else { return None };
    let same = their.client_rule == own.client_rule && theirs.has_versions_of(ours);
    (covered && same).then_some(&**other)
}

/// A certificate's wildcard stands for one label only (RFC 6125 section 6.4.3).
fn certificate_covers(name: &HostPattern, host: &str) -> bool {
    match name {
        HostPattern::Exact(exact) => exact.eq_ignore_ascii_case(host),
        HostPattern::Suffix(suffix) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && suffix.get(1..).is_some_and(|s| s.eq_ignore_ascii_case(rest))
        }),
        HostPattern::Any => false,
    }
}

fn authenticate(snapshot: &Snapshot, facts: &RequestFacts<'_>) -> Result<Verdict, JwtFailure> {
    let Some(authenticator) = &snapshot.authentication else { return Ok(Verdict::Anonymous) };
    if is_preflight(facts.head.method, facts.head.headers) {
        return Ok(Verdict::Anonymous);
    }
    let tokens =
        RequestTokens { headers: facts.head.headers, path_and_query: facts.path_and_query };
    authenticator.authenticate(tokens, facts.now, facts.tokens)
}

/// The headers that policies and routes look at.
pub fn judged_headers<'a>(
    snapshot: &Snapshot,
    verdict: &Verdict,
    headers: &'a HeaderMap,
) -> Cow<'a, HeaderMap> {
    match &snapshot.authentication {
        Some(authenticator) => authenticator.judged(verdict, headers),
        None => Cow::Borrowed(headers),
    }
}

/// What policies say that are not enforced, and the rule that allowed where one had to.
type Judgement<'a> = (Vec<Remark<'a>>, Result<Option<&'a Origin>, Denial>);

/// Asks the policies.
fn authorize<'a>(
    snapshot: &'a Snapshot,
    facts: &RequestFacts<'_>,
    verdict: &Verdict,
) -> Judgement<'a> {
    let Access { policies, shadow, .. } = match &snapshot.authorization {
        Authorization::Open => return (Vec::new(), Ok(None)),
        Authorization::Refuse(origin) => {
            return (Vec::new(), Err(Denial::whole(origin.clone())));
        }
        Authorization::Enforce(access) => &**access,
    };
    let of_paths = shadow.as_ref().is_some_and(|shadow| shadow.looks_at_paths());
    judged(facts, verdict, of_paths || policies.look_at_paths(), |facts| {
        let remarks = shadow.as_ref().map(|shadow| shadow.judge(facts));
        (remarks.unwrap_or_default(), policies.judge(facts))
    })
}

/// What each rule of the policies says of a request whose headers are [`judged_headers`].
pub fn rule_verdicts<'a>(
    access: &'a Access,
    facts: &RequestFacts<'_>,
    verdict: &Verdict,
) -> Vec<RuleVerdict<'a>> {
    let policies = &access.policies;
    judged(facts, verdict, policies.look_at_paths(), |facts| policies.verdicts(facts))
}

/// Judges what policies look at of a request; its path in every reading, where these matter.
pub(super) fn judged<R>(
    facts: &RequestFacts<'_>,
    verdict: &Verdict,
    every_reading: bool,
    judge: impl FnOnce(&Facts<'_>) -> R,
) -> R {
    let paths = if every_reading {
        readings(facts.head.path)
    } else {
        smallvec![Cow::Borrowed(facts.head.path)]
    };
    let connection = facts.connection.for_policies();
    judge(&Facts {
        remote: facts.trusted.unwrap_or(connection.source),
        http: Some(HttpFacts {
            authority: facts.head.authority,
            method: facts.head.method.as_str(),
            scheme: facts.head.scheme,
            paths: &paths,
            reading: 0,
            query: facts.head.query,
            headers: facts.head.headers,
            verdict,
        }),
        ..connection
    })
}

fn route(decision: &mut Decision<'_>, host: &str, facts: &RequestFacts<'_>) {
    let Some(virtual_host) = decision.server.routes.hosts.lookup(host) else { return };
    decision.host = Some(virtual_host);
    if virtual_host.https_redirect.is_some() && facts.head.scheme != "https" {
        decision.outcome = Outcome::HttpsRedirect;
        return;
    }
    let head = routing_head(facts.head, &decision.verdict);
    let Some(route) = virtual_host.find(&head) else { return };
    decision.route = Some(route);
    decision.outcome = match &route.action {
        Action::Redirect(redirect, headers) => Outcome::Redirect(redirect, headers),
        Action::Respond(response) => Outcome::Respond(response),
        Action::Forward(forward) => {
            let injected = forward.fault.as_ref().map(|fault| fault.draw(facts.random));
            let injected = injected.unwrap_or_default();
            decision.delay = injected.delay;
            match injected.abort {
                Some(abort) => Outcome::Reject(Reject::Fault(abort)),
                None => toward(forward, facts),
            }
        }
    };
}

/// Where a request goes that its rule forwards: nowhere when it is a preflight for the gateway.
fn toward<'a>(forward: &'a Forward, facts: &RequestFacts<'_>) -> Outcome<'a> {
    let cors = forward.cors.as_ref();
    let preflight = cors.and_then(|cors| cors.preflight(facts.head.method, facts.head.headers));
    if let Some(headers) = preflight {
        return Outcome::Preflight(headers);
    }
    match forward.destinations.pick(facts.random) {
        Some(destination) if destination.cluster.is_some() => {
            Outcome::Forward(forward, destination)
        }
        _ => Outcome::Reject(Reject::ClusterNotFound),
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
    })
}
