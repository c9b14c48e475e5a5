//! Asking other services whether a request, or a connection, may go on (AuthorizationPolicy's CUSTOM).
//!
//! **Invariant:** a request passes only when every provider that is asked about it allows it, or failed
//! and is `failOpen`.

mod body;
mod by_grpc;
mod by_http;
mod changes;
pub mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Request, StatusCode, response};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout;

pub use self::changes::Change;
use self::changes::Changes;
use super::attempt::head_of;
use super::dress::address;
use super::exchange::Exchange;
use super::request_body::RequestBody;
use crate::auth::authz::Denial;
use crate::base::host::without_port;
use crate::base::id::Origin;
use crate::base::limit;
use crate::decide::external::{providers, selects};
use crate::decide::reject::Reject;
use crate::decide::request::RequestFacts;
use crate::proxy::worker::Worker;
use crate::snapshot::Snapshot;
use crate::snapshot::cluster::Cluster;
use crate::snapshot::external::{Provider, ProviderProtocol};
use crate::upstream::pool::{Demand, PreviousTries, Wanted};

/// Why a request goes no further.
pub enum Refusal {
    /// For a reason of our own; the rule that selected the request, where it was one.
    Own(Reject),
    /// A provider's answer, and the rule that had it asked.
    Answer(Box<Denied>, Origin),
}

/// A provider's answer for the client.
pub struct Denied {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What a provider said.
enum Said {
    Allowed(Changes),
    Denied(Denied),
}

/// A provider did not answer as it should; what it did, for the log.
#[derive(Debug)]
struct Failure(&'static str);

/// An answer read to its end.
type Answer = (response::Parts, Bytes, Option<HeaderMap>);

/// Asks every provider that a CUSTOM policy names for this request.
pub async fn consult(exchange: &mut Exchange, snapshot: &Snapshot) -> Result<(), Refusal> {
    for external in providers(snapshot) {
        let Exchange { request, head, .. } = &*exchange;
        let connection = exchange.connection();
        let facts = RequestFacts {
            connection: connection.facts(),
            trusted: head.trusted_ip,
            head: head.for_routing(request.method(), request.headers(), request.uri().query()),
            path_and_query: "",
            tokens: &connection.registered.worker.tokens,
            now: 0,
            random: 0,
        };
        let Some(selected) = selects(external, &facts) else { continue };
        let origin = selected.origin.clone();
        let Some(provider) = &external.provider else {
            return Err(Refusal::Own(Reject::Denied(Box::new(Denial::by(&selected)))));
        };
        match ask(exchange, snapshot, provider).await {
            Ok(Said::Allowed(changes)) => changes.make(exchange),
            Ok(Said::Denied(denied)) => return Err(Refusal::Answer(Box::new(denied), origin)),
            Err(Unanswered::Client(reject)) => return Err(Refusal::Own(reject)),
            Err(Unanswered::Provider(Failure(why))) => {
                tracing::debug!(provider = %provider.name, why, "external authorization failed");
                if !provider.fail_open {
                    let status = provider.status_on_error;
                    let failed = Reject::ExternalError(status, Box::new(origin), why);
                    return Err(Refusal::Own(failed));
                }
            }
        }
    }
    Ok(())
}

/// Why there is no answer of a provider.
enum Unanswered {
    /// The client did not send what it needs.
    Client(Reject),
    /// It did not say it.
    Provider(Failure),
}

async fn ask(
    exchange: &Exchange,
    snapshot: &Snapshot,
    provider: &Provider,
) -> Result<Said, Unanswered> {
    let Exchange { request, head, .. } = exchange;
    let body = match &provider.body {
        None => None,
        Some(rule) => {
            let read = body::beginning(&exchange.upload, rule).await;
            Some(read.map_err(Unanswered::Client)?)
        }
    };
    let check = match &provider.protocol {
        ProviderProtocol::Http(rule) => by_http::check(rule, head, request, body),
        ProviderProtocol::Grpc => {
            by_grpc::check(provider, exchange.connection(), head, request, body)
        }
    };
    let check = check.ok_or(Unanswered::Provider(Failure("the check cannot be written")))?;
    let Some(cluster) = snapshot.cluster(provider.cluster) else {
        return Err(Unanswered::Provider(Failure("no cluster")));
    };
    let connection = exchange.connection();
    let about = About {
        host: without_port(&head.authority),
        scheme: head.scheme,
        client: (connection.peer, connection.local),
    };
    let sending = send(&connection.registered.worker, cluster, &about, check);
    let answer = match timeout(provider.timeout, sending).await {
        Ok(answer) => answer.map_err(Unanswered::Provider)?,
        Err(_) => return Err(Unanswered::Provider(Failure("no answer in time"))),
    };
    let said = match &provider.protocol {
        ProviderProtocol::Http(rule) => by_http::said(rule, answer),
        ProviderProtocol::Grpc => by_grpc::said(&answer),
    };
    said.map_err(Unanswered::Provider)
}

/// What a connection to a provider may depend on.
struct About<'a> {
    /// The host that is asked for.
    host: &'a str,
    /// The scheme it is asked for by.
    scheme: &'a str,
    /// The client's end of its connection, and this one.
    client: (SocketAddr, SocketAddr),
}

/// Sends a check over the data path's own connections; once more on a new one when an idle one had died.
async fn send(
    worker: &Worker,
    cluster: &Arc<Cluster>,
    about: &About<'_>,
    mut check: Request<Bytes>,
) -> Result<Answer, Failure> {
    let pool = worker.upstreams.pool(cluster, &worker.telemetry.metrics);
    address(&mut check, cluster, about.scheme);
    for wanted in [Wanted::Any, Wanted::Fresh] {
        let demand = Demand { host: about.host, hash: None, client: about.client, wanted };
        let lease = pool.acquire(&demand, &mut PreviousTries::default()).await;
        let mut lease = lease.map_err(|_| Failure("no connection"))?;
        let own = head_of(&check).map(|()| RequestBody::own(check.body().clone()));
        match lease.send(own).await {
            Ok(response) => {
                let (parts, incoming) = response.into_parts();
                let body = Limited::new(incoming, limit::EXTERNAL_ANSWER_BYTES).collect().await;
                let body = body.map_err(|_| Failure("an answer that breaks off or is too long"))?;
                let trailers = body.trailers().cloned();
                lease.give_back();
                return Ok((parts, body.to_bytes(), trailers));
            }
            Err(_) if lease.reused && wanted == Wanted::Any => {}
            Err(_) => break,
        }
    }
    Err(Failure("the connection failed"))
}
