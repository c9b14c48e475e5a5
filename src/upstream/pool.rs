//! One worker's connections to one cluster.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use smallvec::SmallVec;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::connect::{ConnectError, Security, Stream, connect};
use super::resolve::{Addresses, Resolver};
use crate::balance::{Candidate, Turn, choose};
use crate::base::limit;
use crate::snapshot::cluster::{
    Address, Cluster, DnsEndpoint, Endpoint, Endpoints, Protocol, Sni, UpstreamTls,
};
use crate::telemetry::worker::{ConnectOutcome, UpstreamMetrics};

/// One worker's pool for one cluster. `B` is the type of request bodies.
pub struct Pool<B> {
    cluster: RefCell<Arc<Cluster>>,
    hosts: RefCell<Hosts<B>>,
    names: RefCell<Vec<(DnsEndpoint, Arc<Addresses>)>>,
    turn: Turn,
    metrics: UpstreamMetrics,
}

struct Hosts<B> {
    list: Rc<[Rc<Host<B>>]>,
    /// The answers that `list` was made from.
    answers: Vec<Arc<Vec<std::net::IpAddr>>>,
}

/// One endpoint and the connections to it.
pub struct Host<B> {
    endpoint: Endpoint,
    active: Cell<u32>,
    idle: RefCell<Vec<Idle<B>>>,
    shared: RefCell<Vec<Shared<B>>>,
}

struct Idle<B> {
    sender: http1::SendRequest<B>,
    name: Option<ServerName<'static>>,
    local: Option<SocketAddr>,
    since: Instant,
}

struct Shared<B> {
    sender: http2::SendRequest<B>,
    name: Option<ServerName<'static>>,
    local: Option<SocketAddr>,
    active: Rc<Cell<u32>>,
}

/// A connection in use; its endpoint counts it until it is dropped.
pub struct Lease<B> {
    sender: Option<Sender<B>>,
    /// Whether it carried a request before: then it may have been closed meanwhile.
    pub reused: bool,
    /// The endpoint's address; none for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// This end's address.
    pub local: Option<SocketAddr>,
    name: Option<ServerName<'static>>,
    host: Rc<Host<B>>,
    metrics: UpstreamMetrics,
    streams: Option<Rc<Cell<u32>>>,
}

/// A sender of either version.
enum Sender<B> {
    /// HTTP/1.1: this request alone.
    Http1(http1::SendRequest<B>),
    /// HTTP/2: one of several.
    Http2(http2::SendRequest<B>),
}

/// What kind of connection will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Any that can carry a request.
    #[default]
    Any,
    /// One that carried nothing yet.
    Fresh,
}

/// No connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The cluster has no endpoint.
    #[error("no endpoint")]
    NoEndpoint,
    /// The chosen endpoint could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl<B> Candidate for Rc<Host<B>> {
    fn weight(&self) -> u32 {
        self.endpoint.weight
    }

    fn active(&self) -> u32 {
        self.active.get()
    }
}

impl<B> Host<B> {
    fn new(endpoint: Endpoint) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            active: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
        })
    }
}

impl<B> Pool<B>
where
    B: http_body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool.
    pub fn new(cluster: Arc<Cluster>, resolver: &Resolver, metrics: UpstreamMetrics) -> Rc<Self> {
        let pool = Self {
            hosts: RefCell::new(Hosts { list: Rc::new([]), answers: Vec::new() }),
            names: RefCell::default(),
            turn: Turn::starting_at(fastrand::u32(..)),
            metrics,
            cluster: RefCell::new(cluster.clone()),
        };
        pool.adopt(cluster, resolver);
        Rc::new(pool)
    }

    /// Takes a new snapshot's cluster with the same key: endpoints that stay keep their
    /// connections, the others' finish what they carry.
    pub fn adopt(&self, cluster: Arc<Cluster>, resolver: &Resolver) {
        let watch = |dns: &DnsEndpoint| (dns.clone(), resolver.addresses(&dns.name));
        let names = match &cluster.endpoints {
            Endpoints::Static(endpoints) => {
                self.set_hosts(endpoints, Vec::new());
                Vec::new()
            }
            Endpoints::Dns(list) => list.iter().map(watch).collect(),
            Endpoints::LogicalDns(dns) => vec![watch(dns)],
        };
        self.names.replace(names);
        self.cluster.replace(cluster);
    }

    fn set_hosts(&self, endpoints: &[Endpoint], answers: Vec<Arc<Vec<std::net::IpAddr>>>) {
        let old = self.hosts.borrow().list.clone();
        let keep = |endpoint: &Endpoint| {
            old.iter()
                .find(|host| host.endpoint == *endpoint)
                .cloned()
                .unwrap_or_else(|| Host::new(endpoint.clone()))
        };
        let list = endpoints.iter().map(keep).collect();
        self.hosts.replace(Hosts { list, answers });
    }

    /// The endpoints as they are now; resolved names are looked at again.
    fn hosts(&self) -> Rc<[Rc<Host<B>>]> {
        let names = self.names.borrow();
        if !names.is_empty() {
            let answers: Vec<_> = names.iter().map(|(_, addresses)| addresses.latest()).collect();
            let same = {
                let known = &self.hosts.borrow().answers;
                known.len() == answers.len()
                    && known.iter().zip(&answers).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            if !same {
                let logical = matches!(self.cluster.borrow().endpoints, Endpoints::LogicalDns(_));
                let endpoints: Vec<Endpoint> = names
                    .iter()
                    .zip(&answers)
                    .flat_map(|((dns, _), ips)| {
                        let most = if logical { 1 } else { ips.len() };
                        ips.iter().take(most).map(|ip| Endpoint {
                            address: Address::Socket(SocketAddr::new(*ip, dns.port)),
                            weight: dns.weight,
                            tls: dns.tls,
                        })
                    })
                    .collect();
                self.set_hosts(&endpoints, answers);
            }
        }
        self.hosts.borrow().list.clone()
    }

    /// An endpoint by the cluster's strategy; one in `avoid` only where there is no other.
    fn pick(&self, avoid: &[SocketAddr]) -> Option<Rc<Host<B>>> {
        let hosts = self.hosts();
        let strategy = self.cluster.borrow().strategy;
        let index = choose(strategy, &hosts, &self.turn, || fastrand::u32(..))?;
        let tried = |host: &Host<B>| matches!(&host.endpoint.address, Address::Socket(socket) if avoid.contains(socket));
        let (before, after) = hosts.split_at_checked(index)?;
        let untried = after.iter().chain(before).find(|host| !tried(host));
        untried.or(after.first()).cloned()
    }

    /// An endpoint once the cluster's names were asked for: a request that comes before DNS answered
    /// waits as it would for a connection.
    async fn first_host(&self) -> Option<Rc<Host<B>>> {
        let names: Vec<_> = self.names.borrow().iter().map(|(_, name)| name.clone()).collect();
        let most = self.cluster.borrow().connect_timeout;
        let answers = async {
            for name in &names {
                name.answered().await;
            }
        };
        let _ = timeout(most, answers).await;
        self.pick(&[])
    }

    /// A connection that can carry a request for `host_name` now. Endpoints in `avoid` are left out
    /// where there are others; the address that failed is added to it.
    pub async fn acquire(
        &self,
        host_name: &str,
        avoid: &mut SmallVec<[SocketAddr; 2]>,
        wanted: Wanted,
    ) -> Result<Lease<B>, AcquireError> {
        let host = match self.pick(avoid) {
            Some(host) => host,
            None => Box::pin(self.first_host()).await.ok_or(AcquireError::NoEndpoint)?,
        };
        let cluster = self.cluster.borrow().clone();
        let security = security(&cluster, &host.endpoint, host_name)?;
        let name = match &security {
            Security::Tls(_, name) if has_own_name(&cluster) => Some(name.clone()),
            _ => None,
        };
        if wanted == Wanted::Any
            && let Some(lease) = self.reuse(&host, name.as_ref(), cluster.protocol)
        {
            return Ok(lease);
        }
        // Boxed: most requests find a connection and need no room for making one.
        Box::pin(async {
            let stream = self.open(&host, security, &cluster).await.inspect_err(|_| {
                if let Address::Socket(socket) = host.endpoint.address {
                    avoid.push(socket);
                }
            })?;
            Ok(self.start(host, stream, name, cluster.protocol).await?)
        })
        .await
    }

    /// A raw connection, for TCP routes.
    pub async fn open_raw(&self) -> Result<(Stream, Option<SocketAddr>), AcquireError> {
        let host = match self.pick(&[]) {
            Some(host) => host,
            None => self.first_host().await.ok_or(AcquireError::NoEndpoint)?,
        };
        let cluster = self.cluster.borrow().clone();
        let security = security(&cluster, &host.endpoint, "")?;
        let peer = match host.endpoint.address {
            Address::Socket(socket) => Some(socket),
            Address::Unix(_) => None,
        };
        Ok((self.open(&host, security, &cluster).await?, peer))
    }

    async fn open(
        &self,
        host: &Host<B>,
        security: Security,
        cluster: &Cluster,
    ) -> Result<Stream, ConnectError> {
        let result = connect(&host.endpoint.address, security, cluster.connect_timeout).await;
        self.metrics.connect(match &result {
            Ok(_) => ConnectOutcome::Ok,
            Err(ConnectError::Refused(_)) => ConnectOutcome::Refused,
            Err(ConnectError::Timeout) => ConnectOutcome::Timeout,
            Err(ConnectError::Tls(_) | ConnectError::Unusable(_)) => ConnectOutcome::Tls,
        });
        result
    }

    fn reuse(
        &self,
        host: &Rc<Host<B>>,
        name: Option<&ServerName<'static>>,
        protocol: Protocol,
    ) -> Option<Lease<B>> {
        if protocol == Protocol::Http2 {
            let mut shared = host.shared.borrow_mut();
            shared.retain(|one| !one.sender.is_closed());
            let found = shared.iter().find(|one| {
                one.name.as_ref() == name && (one.active.get() as usize) < limit::UPSTREAM_STREAMS
            })?;
            let sender = Sender::Http2(found.sender.clone());
            let streams = Some(found.active.clone());
            return Some(self.lease(
                host.clone(),
                sender,
                name.cloned(),
                Origin { local: found.local, reused: true, streams },
            ));
        }
        let mut idle = host.idle.borrow_mut();
        while let Some(index) = idle.iter().rposition(|one| one.name.as_ref() == name) {
            let one = idle.remove(index);
            self.metrics.idle(-1);
            if !one.sender.is_closed() {
                let sender = Sender::Http1(one.sender);
                let origin = Origin { local: one.local, reused: true, streams: None };
                return Some(self.lease(host.clone(), sender, one.name, origin));
            }
        }
        None
    }

    async fn start(
        &self,
        host: Rc<Host<B>>,
        stream: Stream,
        name: Option<ServerName<'static>>,
        protocol: Protocol,
    ) -> Result<Lease<B>, ConnectError> {
        let local = stream.local_address();
        let failed = |error: hyper::Error| ConnectError::Refused(std::io::Error::other(error));
        if protocol == Protocol::Http2 {
            let (sender, connection) = http2::Builder::new(LocalExecutor)
                .initial_stream_window_size(limit::HTTP2_STREAM_WINDOW * 4)
                .initial_connection_window_size(limit::HTTP2_CONNECTION_WINDOW)
                .max_header_list_size(limit::HTTP2_HEADER_LIST_BYTES)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(failed)?;
            spawn_local(async move {
                let _ = connection.await;
            });
            let streams = Rc::new(Cell::new(0));
            host.shared.borrow_mut().push(Shared {
                sender: sender.clone(),
                name: name.clone(),
                local,
                active: streams.clone(),
            });
            let origin = Origin { local, reused: false, streams: Some(streams) };
            return Ok(self.lease(host, Sender::Http2(sender), name, origin));
        }
        let (sender, connection) = http1::Builder::new()
            .max_header_size(limit::HTTP1_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        spawn_local(async move {
            let _ = connection.with_upgrades().await;
        });
        let origin = Origin { local, reused: false, streams: None };
        Ok(self.lease(host, Sender::Http1(sender), name, origin))
    }

    fn lease(
        &self,
        host: Rc<Host<B>>,
        sender: Sender<B>,
        name: Option<ServerName<'static>>,
        origin: Origin,
    ) -> Lease<B> {
        host.active.set(host.active.get() + 1);
        self.metrics.active(1);
        if let Some(streams) = &origin.streams {
            streams.set(streams.get() + 1);
        }
        let peer = match host.endpoint.address {
            Address::Socket(socket) => Some(socket),
            Address::Unix(_) => None,
        };
        Lease {
            sender: Some(sender),
            reused: origin.reused,
            peer,
            local: origin.local,
            name,
            host,
            metrics: self.metrics.clone(),
            streams: origin.streams,
        }
    }

    /// Closes connections that were unused for too long.
    pub fn sweep(&self, now: Instant) {
        let most = self.cluster.borrow().idle_timeout;
        for host in self.hosts.borrow().list.iter() {
            let mut idle = host.idle.borrow_mut();
            let before = idle.len();
            idle.retain(|one| {
                !one.sender.is_closed() && now.saturating_duration_since(one.since) < most
            });
            let closed = i64::try_from(before - idle.len()).unwrap_or(0);
            if closed > 0 {
                self.metrics.idle(-closed);
            }
            host.shared.borrow_mut().retain(|one| !one.sender.is_closed());
        }
    }
}

struct Origin {
    local: Option<SocketAddr>,
    reused: bool,
    streams: Option<Rc<Cell<u32>>>,
}

impl<B: http_body::Body + 'static> Lease<B> {
    /// Sends a request. When nothing of it was sent, it comes back with the error.
    pub async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        match &mut self.sender {
            Some(Sender::Http1(sender)) => {
                // A connection given back a moment ago may still be finishing its last request.
                let _ = sender.ready().await;
                sender.try_send_request(request).await
            }
            Some(Sender::Http2(sender)) => sender.try_send_request(request).await,
            None => std::future::pending().await,
        }
    }

    /// Gives an HTTP/1.1 connection back once its response was read to the end.
    pub fn give_back(mut self) {
        let Some(Sender::Http1(sender)) = self.sender.take() else { return };
        let mut idle = self.host.idle.borrow_mut();
        if !sender.is_closed() && idle.len() < limit::UPSTREAM_IDLE_CONNECTIONS {
            self.metrics.idle(1);
            let name = self.name.take();
            idle.push(Idle { sender, name, local: self.local, since: Instant::now() });
        }
    }
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        self.host.active.set(self.host.active.get().saturating_sub(1));
        self.metrics.active(-1);
        if let Some(streams) = &self.streams {
            streams.set(streams.get().saturating_sub(1));
        }
    }
}

/// Runs hyper's HTTP/2 tasks on the worker itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}

fn has_own_name(cluster: &Cluster) -> bool {
    matches!(&cluster.tls, UpstreamTls::Tls { sni: Sni::RequestHost, .. })
}

fn security(
    cluster: &Cluster,
    endpoint: &Endpoint,
    host_name: &str,
) -> Result<Security, ConnectError> {
    match &cluster.tls {
        UpstreamTls::Plain => Ok(Security::Plain),
        _ if !endpoint.tls => Ok(Security::Plain),
        UpstreamTls::Broken(reason) => Err(ConnectError::Unusable(reason.clone())),
        UpstreamTls::Tls { config, sni } => {
            let named = match sni {
                Sni::Fixed(name) => Some(name.clone()),
                Sni::RequestHost => ServerName::try_from(host_name.to_owned()).ok(),
                Sni::Absent => None,
            };
            let name = match (named, &endpoint.address) {
                (Some(name), _) => name,
                (None, Address::Socket(socket)) => ServerName::IpAddress(socket.ip().into()),
                (None, Address::Unix(_)) => return Ok(Security::Plain),
            };
            Ok(Security::Tls(config.clone(), name))
        }
    }
}
