//! Copies of requests for other destinations (`VirtualService.spec.http[].mirrors`).
//!
//! **Invariant:** a mirror never delays or fails the request it copies: it runs by itself, its body
//! is what went through, and what is too much is dropped.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::attempt::{head_of, host};
use super::dress::address;
use super::exchange::Exchange;
use super::forward::Work;
use super::request_body::RequestBody;
use crate::base::limit;
use crate::proxy::worker::Worker;
use crate::route::share::another;
use crate::snapshot::cluster::Cluster;
use crate::upstream::pool::{Demand, PreviousTries, Wanted};

/// Starts the mirrors of a request that is about to be sent.
pub fn start(exchange: &Exchange, work: &Work<'_>) {
    for (mirror, salt) in work.rule.mirrors.iter().zip(3..) {
        let worker = &exchange.connection().registered.worker;
        let busy = Rc::strong_count(&worker.mirrors) > limit::MIRRORED_REQUESTS;
        if busy || exchange.head.upgrade || !mirror.share.takes(another(work.random, salt)) {
            continue;
        }
        let Some(cluster) = work.snapshot.cluster(mirror.cluster).cloned() else { continue };
        let mut copy = head_of(&exchange.request).map(|()| exchange.upload.tap());
        address(&mut copy, &cluster, exchange.head.scheme);
        let time = work.rule.timeout.unwrap_or(limit::MIRROR_TIME).min(limit::MIRROR_TIME);
        let host = host(&copy, &exchange.head).to_owned();
        let client = (exchange.connection().peer, exchange.connection().local);
        spawn_local(send(worker.clone(), cluster, client, (copy, host), time));
    }
}

async fn send(
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    client: (SocketAddr, SocketAddr),
    (request, host): (Request<RequestBody>, String),
    time: Duration,
) {
    let _counted = worker.mirrors.clone();
    let pool = worker.upstreams.pool(&cluster, &worker.telemetry.metrics);
    let demand = Demand { host: &host, hash: None, client, wanted: Wanted::Any };
    let exchange = async {
        let mut lease = pool.acquire(&demand, &mut PreviousTries::default()).await.ok()?;
        lease.ready().await;
        let mut answer = lease.send(request).await.ok()?.into_body();
        while let Some(frame) = answer.frame().await {
            frame.ok()?;
        }
        lease.give_back();
        Some(())
    };
    let answered = timeout(time, exchange).await;
    tracing::debug!(cluster = %cluster.name, ?answered, "mirrored request ended");
}
