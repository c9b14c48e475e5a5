//! One worker's connections to one cluster.
//!
//! [`Pool::acquire`] chooses an endpoint and finds or makes a connection to it; [`lease`] is that
//! connection in use.

mod coming;
mod demand;
mod host;
mod hosts;
pub mod lease;
mod opening;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::bounds::{Bound, Bounds, Overflow, Permit};
use super::connect::{ConnectError, Stream, connect};
use super::health::Health;
use super::resolve::Resolver;
use super::shared::SharedStates;
use super::tunnel::tunnel;
use crate::balance::outlier::Event;
use crate::base::limit;
use crate::snapshot::cluster::{Cluster, ConnectionRules, Limits, Protocol};
use crate::telemetry::Destination;
use crate::telemetry::upstream::{ConnectOutcome, UpstreamMetrics};

use coming::{Opener, Turn};
pub use demand::{AcquireError, Demand, Wanted};
use host::{Connection, Host, Open, Purpose, Room};
pub use hosts::PreviousTries;
use hosts::{Hosts, Sources};
use lease::{Lease, Parts};
use opening::{opening, own_name, start};

/// One worker's pool for one cluster. `B` is the type of request bodies.
pub struct Pool<B> {
    sources: RefCell<Sources>,
    hosts: RefCell<Hosts<B>>,
    bounds: RefCell<Option<Arc<Bounds>>>,
    metrics: Rc<UpstreamMetrics>,
    destination: RefCell<Rc<Destination>>,
}

/// A stream of bytes to an endpoint, which counts it until it is dropped.
#[derive(Debug)]
pub struct RawStream {
    /// The connection.
    pub stream: Stream,
    /// The endpoint's address; none for a Unix socket.
    pub peer: Option<SocketAddr>,
    _busy: Busy,
    _open: Open,
}

#[derive(Debug)]
struct Busy(Rc<Room>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

impl<B> Pool<B> {
    /// An empty pool.
    pub fn new(
        cluster: Arc<Cluster>,
        resolver: &Resolver,
        shared: &SharedStates,
        (metrics, destination): (UpstreamMetrics, Rc<Destination>),
    ) -> Rc<Self> {
        let pool = Self {
            sources: RefCell::new(Sources::new(cluster.clone(), resolver, None)),
            hosts: RefCell::default(),
            bounds: RefCell::default(),
            metrics: Rc::new(metrics),
            destination: RefCell::new(destination),
        };
        pool.adopt(cluster, resolver, shared);
        Rc::new(pool)
    }

    /// Takes a new snapshot's cluster with the same key: endpoints that stay keep their
    /// connections, the others' finish what they carry.
    pub fn adopt(&self, cluster: Arc<Cluster>, resolver: &Resolver, shared: &SharedStates) {
        let health = cluster.outliers.as_ref().map(|policy| {
            let health = shared.health(&cluster, || Health::new(policy));
            health.adopt(policy);
            health
        });
        let bounds = (cluster.limits != Limits::default()).then(|| {
            let bounds = shared.bounds(&cluster);
            bounds.adopt(&cluster.limits);
            bounds
        });
        self.bounds.replace(bounds);
        let counted = self.destination();
        if counted.labels() != &cluster.labels {
            self.destination.replace(counted.relabelled(&cluster.labels));
        }
        self.sources.replace(Sources::new(cluster, resolver, health));
        self.renew();
    }

    /// Where its requests and streams are counted.
    pub fn destination(&self) -> Rc<Destination> {
        self.destination.borrow().clone()
    }

    fn renew(&self) {
        let (new, ejected_left) = self.hosts.borrow().renew(&self.sources.borrow());
        let old = self.hosts.replace(new);
        self.metrics.returned(ejected_left);
        let hosts = self.hosts.borrow();
        for host in old.iter().filter(|host| !hosts.iter().any(|new| Rc::ptr_eq(host, new))) {
            self.metrics.idle(-host.clear());
        }
    }

    /// An endpoint by the cluster's strategy, and by what was tried before.
    fn pick(&self, hash: Option<u64>, tried: &mut PreviousTries) -> Option<Rc<Host<B>>> {
        let old = self.hosts.borrow().are_old(&self.sources.borrow());
        if old {
            self.renew();
        }
        self.hosts.borrow().choose(hash, tried)
    }

    /// An endpoint once the cluster's names were asked for: a request that comes before DNS answered
    /// waits as it would for a connection.
    async fn first_host(
        &self,
        hash: Option<u64>,
        tried: &mut PreviousTries,
    ) -> Option<Rc<Host<B>>> {
        let (names, most) = {
            let sources = self.sources.borrow();
            let names: Vec<_> = sources.names.iter().map(|name| name.addresses.clone()).collect();
            (names, sources.cluster.connect_timeout)
        };
        let answers = async {
            for name in &names {
                name.answered().await;
            }
        };
        let _ = timeout(most, answers).await;
        self.pick(hash, tried)
    }

    async fn host(
        &self,
        hash: Option<u64>,
        tried: &mut PreviousTries,
    ) -> Result<Rc<Host<B>>, AcquireError> {
        match self.pick(hash, tried) {
            Some(host) => Ok(host),
            // Boxed: most requests find an endpoint and need no room for waiting.
            None => Box::pin(self.first_host(hash, tried)).await.ok_or(AcquireError::NoEndpoint),
        }
    }

    fn permit(&self, of: Bound) -> Result<Option<Permit>, Overflow> {
        match &*self.bounds.borrow() {
            None => Ok(None),
            Some(bounds) => bounds.take(of).inspect_err(|_| self.metrics.overflow(of as usize)),
        }
    }

    /// Permission to send a request again (`maxRetries`); hold it until that is over.
    pub fn retry(&self) -> Result<Option<Permit>, Overflow> {
        self.permit(Bound::Retries)
    }

    /// A raw connection, for TCP routes.
    pub async fn open_raw(&self, demand: &Demand<'_>) -> Result<RawStream, AcquireError> {
        let host = self.host(demand.hash, &mut PreviousTries::default()).await?;
        let open = host.room.enter(self.permit(Bound::Connections)?);
        host.room.active.set(host.room.active.get() + 1);
        let busy = Busy(host.room.clone());
        let cluster = self.sources.borrow().cluster.clone();
        let stream = self.open(&host, demand, &cluster).await?;
        let stream = match &cluster.tunnel {
            None => stream,
            Some(asked) => Box::pin(tunnel(stream, asked, cluster.connect_timeout)).await?,
        };
        if let Some(watch) = &*host.watch.borrow() {
            watch.record(Event::Answer(200), &self.metrics);
        }
        Ok(RawStream { stream, peer: host.socket(), _busy: busy, _open: open })
    }

    async fn open(
        &self,
        host: &Host<B>,
        demand: &Demand<'_>,
        cluster: &Cluster,
    ) -> Result<Stream, ConnectError> {
        let address = host.address.borrow().clone();
        let result = connect(&address, opening(cluster, host, demand)?).await;
        self.metrics.connect(match &result {
            Ok(_) => ConnectOutcome::Ok,
            Err(ConnectError::Refused(_)) => ConnectOutcome::Refused,
            Err(ConnectError::Timeout) => ConnectOutcome::Timeout,
            Err(ConnectError::Tls(_) | ConnectError::Unusable(_)) => ConnectOutcome::Tls,
        });
        if let (Err(error), Some(watch)) = (&result, &*host.watch.borrow()) {
            let late = matches!(error, ConnectError::Timeout);
            let event = if late { Event::TimedOut } else { Event::Failed };
            watch.record(event, &self.metrics);
        }
        result
    }

    /// A connection of a host that can carry one more request.
    fn reuse(&self, host: &Host<B>, purpose: &Purpose, cluster: &Cluster) -> Option<Connection<B>> {
        if cluster.protocol == Protocol::Http2 {
            return host.shared(purpose, &cluster.connection);
        }
        let (found, taken) = host.idle(purpose, &cluster.connection);
        if taken > 0 {
            self.metrics.idle(-taken);
        }
        found
    }

    /// Closes connections that were unused for too long, lets ejected endpoints back whose time is
    /// over, and lets new ones warm up.
    pub fn sweep(&self, now: Instant) {
        let returned = {
            let sources = self.sources.borrow();
            sources.health.as_ref().map_or(0, |health| health.sweep(now))
        };
        self.metrics.returned(returned);
        if self.hosts.borrow().are_warming() {
            self.renew();
        }
        let sources = self.sources.borrow();
        let Cluster { connection, idle_timeout, .. } = &*sources.cluster;
        for host in self.hosts.borrow().iter() {
            let closed = host.sweep(now, connection, *idle_timeout);
            if closed > 0 {
                self.metrics.idle(-closed);
            }
        }
    }
}

impl<B> Pool<B>
where
    B: http_body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection that can carry a request now. What was tried is left out where there is something
    /// else; an address that fails is added to it.
    pub async fn acquire(
        &self,
        demand: &Demand<'_>,
        tried: &mut PreviousTries,
    ) -> Result<Lease<B>, AcquireError> {
        let permit = self.permit(Bound::Requests)?;
        let host = self.host(demand.hash, tried).await?;
        let cluster = self.sources.borrow().cluster.clone();
        let purpose = Purpose {
            name: own_name(&cluster, &host, demand.host),
            client: cluster.connection.proxy.map(|_| demand.client),
        };
        if demand.wanted == Wanted::Any
            && let Some((sender, facts)) = self.reuse(&host, &purpose, &cluster)
        {
            return Ok(self.lease((sender, facts), host, permit, &cluster.connection));
        }
        // Boxed: most requests find a connection and need no room for making one.
        let connection = Box::pin(async {
            let made = self.make(&host, demand, purpose, &cluster).await;
            if let Err(AcquireError::Connect(_)) = &made {
                tried.leave(host.socket());
            }
            made
        })
        .await?;
        Ok(self.lease(connection, host, permit, &cluster.connection))
    }

    /// Waits for an HTTP/2 connection that is being opened for others, and takes it if it has room; else
    /// it is the caller's turn to open one.
    async fn share(
        &self,
        host: &Rc<Host<B>>,
        purpose: &Purpose,
        cluster: &Cluster,
    ) -> Result<Connection<B>, Option<Opener>> {
        loop {
            match host.coming.join(purpose) {
                Turn::Open(opener) => return Err(Some(opener)),
                Turn::Wait(expected) if expected.failed().await => return Err(None),
                Turn::Wait(_) => {}
            }
            if let Some(found) = self.reuse(host, purpose, cluster) {
                return Ok(found);
            }
        }
    }

    /// A new connection, or one that became free while there was no room for another.
    async fn make(
        &self,
        host: &Rc<Host<B>>,
        demand: &Demand<'_>,
        purpose: Purpose,
        cluster: &Arc<Cluster>,
    ) -> Result<Connection<B>, AcquireError> {
        let _pending = self.permit(Bound::Pending)?;
        let mut opener = None;
        if cluster.protocol == Protocol::Http2 && demand.wanted == Wanted::Any {
            opener = match self.share(host, &purpose, cluster).await {
                Ok(found) => return Ok(found),
                Err(opener) => opener,
            };
        }
        let room = async {
            loop {
                match self.permit(Bound::Connections) {
                    Ok(permit) => return Ok(permit),
                    // Other endpoints, or other workers, hold them all: one is made all the same, as
                    // nothing here would ever become free.
                    Err(_) if !host.room.is_open() => return Ok(None),
                    Err(_) => {
                        self.metrics.idle(-host.evict());
                        host.room.freed().await;
                    }
                }
                if demand.wanted == Wanted::Any
                    && let Some(found) = self.reuse(host, &purpose, cluster)
                {
                    return Err(found);
                }
            }
        };
        let permit = match timeout(limit::PENDING_TIME, room).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(found)) => return Ok(found),
            Err(_) => return Err(Overflow.into()),
        };
        let open = host.room.enter(permit);
        let made = async {
            let stream = self.open(host, demand, cluster).await?;
            start(host, stream, purpose, cluster, open).await
        };
        let made = made.await;
        if let (Err(_), Some(opener)) = (&made, &opener) {
            opener.fail();
        }
        Ok(made?)
    }

    fn lease(
        &self,
        (sender, facts): Connection<B>,
        host: Rc<Host<B>>,
        permit: Option<Permit>,
        rules: &ConnectionRules,
    ) -> Lease<B> {
        facts.served.set(facts.served.get().saturating_add(1));
        let last = facts.is_spent(rules);
        Lease::new(Parts { sender, facts, host, metrics: self.metrics.clone(), permit, last })
    }
}

#[cfg(test)]
mod tests;
