//! A connection whose bytes are passed on: its providers are asked by gRPC before it has a destination.

use tokio::time::timeout;

use super::{About, Failure, by_grpc, send};
use crate::base::id::Origin;
use crate::decide::connection::ConnectionFacts;
use crate::decide::external::of_stream;
use crate::grpc::ext_authz::{AttributeContext, CheckRequest, TlsSession};
use crate::proxy::connection::Connection;
use crate::snapshot::external::Provider;
use crate::snapshot::listener::TcpBlock;
use crate::tls::identity::PeerIdentity;

/// Why a connection goes no further, and the rule that had the provider asked.
pub enum Refused<'a> {
    /// A provider says so.
    Denied(&'a Origin),
    /// It did not say what it thinks; what it did, for the log.
    Failed(&'a Origin, &'static str),
}

/// Asks every provider that a CUSTOM policy names for this connection.
pub async fn consult<'a>(
    connection: &'a Connection,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
) -> Result<(), Refused<'a>> {
    for (provider, selected) in of_stream(&connection.snapshot, block, facts) {
        match timeout(provider.timeout, ask(connection, block, provider)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err(Refused::Denied(selected.origin)),
            Ok(Err(Failure(why))) => failed(provider, selected.origin, why)?,
            Err(_) => failed(provider, selected.origin, "no answer in time")?,
        }
    }
    Ok(())
}

fn failed<'a>(
    provider: &Provider,
    origin: &'a Origin,
    why: &'static str,
) -> Result<(), Refused<'a>> {
    tracing::debug!(provider = %provider.name, why, "external authorization failed");
    if provider.fail_open { Ok(()) } else { Err(Refused::Failed(origin, why)) }
}

async fn ask(
    connection: &Connection,
    block: &TcpBlock,
    provider: &Provider,
) -> Result<bool, Failure> {
    let Connection { peer, local, .. } = *connection;
    let server_name = connection.server_name.as_deref();
    let identity = connection.chain.first().and_then(|leaf| PeerIdentity::from_der(leaf).ok());
    let client = identity.as_ref().map_or("", by_grpc::principal);
    let own = block.tls.as_ref().and_then(|tls| tls.certificate_uris.first());
    let message = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(by_grpc::peer(peer, client)),
            destination: Some(by_grpc::peer(local, own.map_or("", String::as_str))),
            request: None,
            tls_session: server_name.map(|name| TlsSession { sni: name.to_owned() }),
        }),
    };
    let check = by_grpc::framed(provider, &message);
    let check = check.ok_or(Failure("the check cannot be written"))?;
    let cluster = connection.snapshot.cluster(provider.cluster).ok_or(Failure("no cluster"))?;
    let about =
        About { host: server_name.unwrap_or_default(), scheme: "https", client: (peer, local) };
    let answer = send(&connection.registered.worker, cluster, &about, check).await?;
    by_grpc::response(&answer).map(|answer| by_grpc::is_allowed(&answer))
}
