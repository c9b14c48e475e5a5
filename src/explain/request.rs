//! The request's part: host, token, access, route, and what the gateway answers itself.

use std::net::SocketAddr;

use http::uri::PathAndQuery;
use http::{HeaderMap, Request, StatusCode};

use super::head::read;
use super::{Explanation, Question, backend, place, policy, token};
use crate::auth::authz::Denial;
use crate::auth::jwt::{TokenCache, Verdict};
use crate::decide::connection::{ConnectionFacts, peer};
use crate::decide::external::{providers, selects};
use crate::decide::grpc_web::Call;
use crate::decide::head::Head;
use crate::decide::reject::Reject;
use crate::decide::reply::{Dialect, Status};
use crate::decide::request::{
    Decision, Outcome, RequestFacts, decide, is_grpc, judged_headers, routing_head, rule_verdicts,
};
use crate::decide::target::target;
use crate::route::matcher::RequestHead;
use crate::route::weight::Weighted;
use crate::snapshot::listener::{Listener, ServerBlock};
use crate::snapshot::route::{Action, Destination, Route};
use crate::snapshot::{Authorization, Snapshot};
use crate::tls::identity::PeerIdentity;

/// Where a request has arrived.
pub(super) struct Arrived<'a> {
    pub(super) listener: &'a Listener,
    pub(super) block: &'a ServerBlock,
    pub(super) tls: bool,
    pub(super) local: SocketAddr,
    pub(super) identity: Option<PeerIdentity>,
}

pub(super) fn tell(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question,
    arrived: &Arrived<'_>,
) {
    tale.outcome.server = Some(arrived.block.key.to_string());
    let grpc = is_grpc(&question.headers);
    let mut dialect = if grpc { Dialect::Grpc } else { Dialect::Http };
    decided(tale, snapshot, question, arrived, &mut dialect);
    sent(tale, dialect);
}

/// Tells how an answer of the gateway's own reaches a client that speaks gRPC.
fn sent(tale: &mut Explanation, dialect: Dialect) {
    let http = tale.outcome.status.and_then(|status| StatusCode::from_u16(status).ok());
    let Some(http) = http else { return };
    let sent = Status { http, grpc: tale.outcome.grpc_status }.sent(dialect);
    tale.outcome.status = Some(sent.http.as_u16());
    tale.outcome.grpc_status = sent.grpc;
    if let Some(grpc) = sent.grpc {
        let text = format!("the answer is sent as {} with grpc-status {grpc}", sent.http.as_u16());
        tale.step("grpc", text);
    }
}

/// Tells the decisions, and what becomes of the client's dialect.
fn decided(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question,
    arrived: &Arrived<'_>,
    dialect: &mut Dialect,
) {
    let Some((mut request, head, server)) = read(tale, question, arrived) else { return };
    let path_and_query = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let client = arrived.identity.as_ref().map(peer);
    let facts = RequestFacts {
        connection: ConnectionFacts {
            client: client.as_ref(),
            source: question.source,
            local: arrived.local,
            server_name: (arrived.tls && !question.server_name.is_empty())
                .then_some(&question.server_name),
        },
        trusted: head.trusted_ip,
        head: head.for_routing(request.method(), request.headers(), request.uri().query()),
        path_and_query,
        tokens: &TokenCache::none(),
        now: question.now,
        random: 0,
    };
    let decision = decide(snapshot, server, &facts);
    let decision = match telling(&decision) {
        Some(random) => decide(snapshot, server, &RequestFacts { random, ..facts }),
        None => decision,
    };
    if asked(tale, snapshot, &facts) == Asked::Refused {
        return;
    }
    token::tell(tale, snapshot, question.fetched, &facts);
    if let Outcome::Reject(reject @ Reject::Jwt(_)) = &decision.outcome {
        return refuse(tale, "token", reject);
    }
    if let Verdict::Verified(token) = &decision.verdict {
        tale.outcome.principal = token.principal.as_deref().map(str::to_owned);
    }
    policy::remarks(tale, &decision.remarks);
    let headers = judged_headers(snapshot, &decision.verdict, facts.head.headers);
    let seen = RequestHead { headers: &headers, ..facts.head };
    access(tale, snapshot, arrived, (&RequestFacts { head: seen, ..facts }, &decision));
    tale.outcome.policy = decision.allowed.map(|origin| origin.resource.to_string());
    if let Outcome::Reject(reject @ Reject::Denied(denial)) = &decision.outcome {
        tale.outcome.policy = Some(denial.origin.resource.to_string());
        return refuse(tale, "access", reject);
    }
    routes(tale, &decision, &routing_head(seen, &decision.verdict));
    if grpc_web(tale, arrived.block, request.headers_mut()) {
        *dialect = Dialect::GrpcWeb;
    }
    if let Outcome::Preflight(_) = decision.outcome {
        *dialect = Dialect::Http;
    }
    outcome(tale, snapshot, &decision, &head, request);
}

/// Of several destinations one that exists is told; the number with which a request goes there, where it
/// went to another.
fn telling(decision: &Decision<'_>) -> Option<u32> {
    let Outcome::Reject(Reject::ClusterNotFound) = decision.outcome else { return None };
    destinations(decision)?.number_for(|one| one.cluster.is_some())
}

/// Where the rule of a decision sends requests.
fn destinations<'a>(decision: &Decision<'a>) -> Option<&'a Weighted<Destination>> {
    match &decision.route?.action {
        Action::Forward(forward) => Some(&forward.destinations),
        Action::Redirect(..) | Action::Respond(_) => None,
    }
}

/// Tells of a call of gRPC-Web, and makes its head gRPC's where the data path does: whether it does.
fn grpc_web(tale: &mut Explanation, block: &ServerBlock, headers: &mut HeaderMap) -> bool {
    let mut translated = headers.clone();
    let Some(call) = Call::begin(&mut translated) else { return false };
    if !block.grpc_web {
        let text = "treated as it is: the server's port is not of protocol GRPC-WEB";
        tale.step("grpc-web", text).by(&block.origin);
        return false;
    }
    let form = |text: bool| if text { "base64" } else { "binary" };
    let (asked, answer) = (form(call.text), form(call.answer_in_text));
    let text = format!("becomes gRPC; its body is {asked}, the answer's will be {answer}");
    tale.step("grpc-web", text).by(&block.origin);
    *headers = translated;
    true
}

/// Whether a request goes on after its providers, none of which is really asked.
#[derive(PartialEq, Eq)]
enum Asked {
    Passed,
    Refused,
}

fn asked(tale: &mut Explanation, snapshot: &Snapshot, facts: &RequestFacts<'_>) -> Asked {
    for external in providers(snapshot) {
        let Some(selected) = selects(external, facts) else { continue };
        let Some(provider) = &external.provider else {
            refuse(tale, "provider", &Reject::Denied(Box::new(Denial::by(&selected))));
            return Asked::Refused;
        };
        let failure = if provider.fail_open {
            "passes".to_owned()
        } else {
            format!("gets {}", provider.status_on_error.as_u16())
        };
        let text = format!("{} would be asked; from here on as if it allowed", provider.name);
        let failing = format!("while it fails, the request {failure}");
        tale.step("provider", text).by(selected.origin).considered([failing]);
    }
    Asked::Passed
}

fn access(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    arrived: &Arrived<'_>,
    (facts, decision): (&RequestFacts<'_>, &Decision<'_>),
) {
    let who = arrived.identity.as_ref().and_then(PeerIdentity::spiffe_id);
    let who = who.map(|id| format!("source principal {}", id.principal()));
    match &snapshot.authorization {
        Authorization::Open => {
            tale.step("access", "no AuthorizationPolicy applies").considered(who);
        }
        Authorization::Refuse(origin) => {
            tale.step("access", "everything is refused").by(origin).considered(who);
        }
        Authorization::Enforce(access) => {
            let verdicts = rule_verdicts(access, facts, &decision.verdict);
            let step = policy::judged(tale, access, &verdicts).considered(who);
            if let Some(origin) = decision.allowed {
                step.by(origin);
            }
        }
    }
}

fn routes(tale: &mut Explanation, decision: &Decision<'_>, head: &RequestHead<'_>) {
    let Some(host) = decision.host else {
        let served =
            decision.server.routes.hosts.iter().map(|(name, _)| format!("{name} has routes"));
        let mut served: Vec<_> = served.collect();
        served.sort();
        tale.step("route", format!("no VirtualService for {}", head.authority)).considered(served);
        return;
    };
    tale.outcome.host = Some(host.name.to_string());
    if matches!(decision.outcome, Outcome::HttpsRedirect)
        && let Some(origin) = &host.https_redirect
    {
        tale.step("route", format!("httpsRedirect holds for {}", host.name)).by(origin);
        return;
    }
    let chosen = |route: &Route| decision.route.is_some_and(|found| std::ptr::eq(found, route));
    let before = host.routes.iter().take_while(|route| !chosen(route));
    let before: Vec<_> = before
        .map(|route| {
            let why = match route.condition.mismatch(head) {
                Some(mismatch) => format!("{mismatch} does not match"),
                None => "not reached".to_owned(),
            };
            let name = if route.name.is_empty() { "a rule" } else { &*route.name };
            format!("{name}: {why}; {}", place(&route.origin))
        })
        .collect();
    match decision.route {
        Some(route) => {
            tale.outcome.route = Some(place(&route.origin));
            tale.outcome.rule = Some(route.name.to_string()).filter(|name| !name.is_empty());
            let name = if route.name.is_empty() { "a rule" } else { &*route.name };
            tale.step("route", format!("{name} of {}", host.name))
                .by(&route.origin)
                .considered(before)
                .considered(route.counted.as_ref().map(|name| format!("counted as {name}")));
            if let Action::Forward(forward) = &route.action
                && let Some(fault) = &forward.fault
            {
                policy::fault(tale, fault);
            }
        }
        None => {
            tale.step("route", format!("no rule of {} matches", host.name)).considered(before);
        }
    }
}

fn outcome(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    decision: &Decision<'_>,
    head: &Head,
    mut request: Request<()>,
) {
    let query = request.uri().query().map(str::to_owned);
    let moved = |redirect: &crate::route::rewrite::Redirect| {
        redirect.location(head.scheme, &head.authority, &head.path, query.as_deref())
    };
    match &decision.outcome {
        Outcome::Reject(Reject::ClusterNotFound) => {
            if let Some(all) = destinations(decision).filter(|all| all.iter().count() > 1) {
                backend::destinations(tale, snapshot, all);
            }
            refuse(tale, "answer", &Reject::ClusterNotFound);
        }
        Outcome::Reject(reject) => refuse(tale, "answer", reject),
        Outcome::HttpsRedirect => {
            let to = crate::route::rewrite::Redirect::to_https();
            redirected(tale, to.status.as_u16(), moved(&to));
        }
        Outcome::Redirect(redirect, _) => {
            redirected(tale, redirect.status.as_u16(), moved(redirect));
        }
        Outcome::Respond(response) => {
            let (status, bytes) = (response.status.as_u16(), response.body.len());
            tale.step("answer", format!("{status} with a body of {bytes} bytes"));
            tale.outcome.action = "respond";
            tale.outcome.status = Some(status);
        }
        Outcome::Preflight(headers) => {
            let lines = headers.iter().map(|(name, value)| {
                format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            });
            tale.step("answer", "200 to a CORS preflight").considered(lines);
            tale.outcome.action = "respond";
            tale.outcome.status = Some(200);
        }
        Outcome::Forward(forward, _) => {
            let sent = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
            let cut = snapshot.authentication.as_ref().and_then(|authenticator| {
                authenticator.apply(&decision.verdict, request.headers_mut(), &sent)
            });
            match target(forward, &sent, head.target(request.uri(), cut).as_deref()) {
                Ok(new) => {
                    let path = new.as_ref().map_or(&*sent, PathAndQuery::as_str);
                    backend::forward(tale, snapshot, forward, (path, &head.authority));
                }
                Err(reject) => {
                    if forward.destinations.iter().any(|one| one.cluster.is_none()) {
                        backend::destinations(tale, snapshot, &forward.destinations);
                    }
                    refuse(tale, "answer", &reject);
                }
            }
        }
    }
}

fn redirected(tale: &mut Explanation, status: u16, location: String) {
    tale.step("answer", format!("{status} to {location}"));
    tale.outcome.action = "redirect";
    tale.outcome.status = Some(status);
    tale.outcome.location = Some(location);
}

pub(super) fn refuse(tale: &mut Explanation, step: &'static str, reject: &Reject) {
    let Status { http, grpc } = reject.reply();
    let (status, code) = (http.as_u16(), reject.answer().code);
    let told = tale.step(step, format!("{status}: {code}"));
    if let Some(origin) = reject.origin() {
        told.by(origin);
    }
    tale.outcome.action = "reject";
    tale.outcome.status = Some(status);
    tale.outcome.grpc_status = grpc;
    tale.outcome.reason = Some(code);
}
