//! How a pool opens a connection: where to, how secured, and what is spoken on it.
//!
//! **Invariant:** an endpoint that is to be spoken to through TLS is never spoken to without.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::Demand;
use super::host::{Connection, Connects, Facts, Host, Open, Purpose};
use super::lease::Sender;
use crate::base::limit;
use crate::net::awaited::{Allowance, Awaited};
use crate::net::executor::LocalExecutor;
use crate::net::flood::{Greeted, Metered};
use crate::net::proxy_protocol;
use crate::snapshot::cluster::{Address, Cluster, Protocol, ProxyVersion, Sni, UpstreamTls};
use crate::upstream::connect::{ConnectError, Opening, Security, Stream};

/// How a connection to a host is opened.
pub(super) fn opening<B>(
    cluster: &Cluster,
    host: &Host<B>,
    demand: &Demand<'_>,
) -> Result<Opening, ConnectError> {
    let header = |version| {
        let version = match version {
            ProxyVersion::V1 => proxy_protocol::Version::V1,
            ProxyVersion::V2 => proxy_protocol::Version::V2,
        };
        proxy_protocol::header(version, demand.client)
    };
    Ok(Opening {
        security: security(cluster, (&host.address.borrow(), host.tls), demand.host)?,
        within: cluster.connect_timeout,
        keepalive: cluster.connection.keepalive,
        preface: cluster.connection.proxy.map(header),
    })
}

/// Speaks HTTP on a new connection.
pub(super) async fn start<B>(
    host: &Host<B>,
    stream: Stream,
    purpose: Purpose,
    cluster: &Cluster,
    open: Open,
) -> Result<Connection<B>, ConnectError>
where
    B: http_body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let facts = Rc::new(Facts {
        purpose,
        peer: host.socket(),
        local: stream.local_address(),
        connects: Connects::default(),
        allowance: Allowance::default(),
        born: Instant::now(),
        served: Cell::default(),
        streams: Cell::default(),
    });
    let failed = |error: hyper::Error| ConnectError::Refused(std::io::Error::other(error));
    if cluster.protocol != Protocol::Http2 {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(limit::HTTP1_HEAD_BYTES)
            .handshake(TokioIo::new(Awaited::new(stream, facts.allowance.clone())))
            .await
            .map_err(failed)?;
        spawn_local(async move {
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        return Ok((Sender::Http1(sender), facts));
    }
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .initial_stream_window_size(limit::HTTP2_STREAM_WINDOW * 4)
        .initial_connection_window_size(limit::HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(limit::HTTP2_HEADER_LIST_BYTES);
    if let Some(ping) = cluster.connection.ping {
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(ping.interval)
            .keep_alive_timeout(ping.timeout)
            .keep_alive_while_idle(true);
    }
    let greeted = Greeted::default();
    let stream = TokioIo::new(Metered::backend(stream, greeted.clone()));
    let (sender, connection) = builder.handshake(stream).await.map_err(failed)?;
    let told = facts.clone();
    spawn_local(async move {
        let mut connection = pin!(connection);
        let mut greeting = pin!(greeted.wait());
        let ended = poll_fn(|cx| {
            if !told.connects.is_told() && greeting.as_mut().poll(cx).is_ready() {
                told.connects.tell(connection.is_extended_connect_protocol_enabled());
            }
            connection.as_mut().poll(cx)
        });
        let _ = ended.await;
        told.connects.tell(false);
        drop(open);
    });
    host.share(sender.clone(), facts.clone());
    Ok((Sender::Http2(sender), facts))
}

/// The name of a connection that no request for another host may use.
pub(super) fn own_name<B>(
    cluster: &Cluster,
    host: &Host<B>,
    name: &str,
) -> Option<ServerName<'static>> {
    match &cluster.tls {
        UpstreamTls::Tls { sni: Sni::RequestHost, .. } if host.tls => {
            ServerName::try_from(name.to_owned()).ok()
        }
        _ => None,
    }
}

fn security(
    cluster: &Cluster,
    (address, tls): (&Address, bool),
    host: &str,
) -> Result<Security, ConnectError> {
    match &cluster.tls {
        UpstreamTls::Plain => Ok(Security::Plain),
        _ if !tls => Ok(Security::Plain),
        UpstreamTls::Broken(reason) => Err(ConnectError::Unusable(reason.clone())),
        UpstreamTls::Tls { config, sni, .. } => {
            let named = match sni {
                Sni::Fixed(name) => Some(name.clone()),
                Sni::RequestHost => ServerName::try_from(host.to_owned()).ok(),
                Sni::Absent => None,
            };
            let ip = match address {
                Address::Socket(socket) => socket.ip(),
                Address::Unix(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            };
            let name = named.unwrap_or_else(|| ServerName::IpAddress(ip.into()));
            Ok(Security::Tls(config.clone(), name))
        }
    }
}
