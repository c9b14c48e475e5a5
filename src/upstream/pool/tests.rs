use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::task::LocalSet;

use super::*;
use crate::balance::{Member, Policy};
use crate::base::hash::Fingerprint;
use crate::base::id::{Origin, ResourceId};
use crate::snapshot::cluster::{DnsEndpoint, Endpoints, UpstreamTls};
use crate::telemetry::{Metrics, WorkloadLabels};
use crate::upstream::resolve::Addresses;

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn cluster(endpoints: Endpoints) -> Arc<Cluster> {
    let resource = ResourceId::new("ServiceEntry", "shop", "a");
    Arc::new(Cluster {
        name: "outbound|80||a.example".into(),
        key: Fingerprint::of(b"a"),
        origin: Origin { resource, file: "a.yaml".into(), line: 1 },
        rules: Box::default(),
        endpoints,
        balance: Policy::default(),
        hash: None,
        outliers: None,
        limits: Limits::default(),
        protocol: Protocol::Http1,
        for_http2: None,
        connection: ConnectionRules {
            requests: None,
            age: None,
            streams: limit::UPSTREAM_STREAMS,
            keepalive: None,
            ping: None,
            proxy: None,
        },
        tunnel: None,
        tls: UpstreamTls::Plain,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(1),
        tcp_idle_timeout: Duration::from_mins(1),
        labels: Arc::default(),
    })
}

/// Two servers with one port, at different addresses, that take connections and say nothing.
fn servers() -> (u16, [TcpListener; 2]) {
    loop {
        let first = TcpListener::bind((FIRST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(other) = TcpListener::bind((OTHER, port)) {
            return (port, [first, other]);
        }
    }
}

/// A pool for a name that DNS tells addresses of.
struct World {
    pool: Rc<Pool<Full<Bytes>>>,
    addresses: Arc<Addresses>,
    _servers: [TcpListener; 2],
}

impl World {
    fn new(endpoints: fn(DnsEndpoint) -> Endpoints) -> Self {
        let (port, servers) = servers();
        let name: Arc<str> = "a.example".into();
        let resolver = Resolver::new(Handle::current()).unwrap();
        let addresses = resolver.unasked(&name);
        let member = Member::default();
        let cluster =
            cluster(endpoints(DnsEndpoint { name, port, member, tls: false, through: None }));
        let worker = Metrics::new(WorkloadLabels::default()).unwrap().worker();
        let metrics = (worker.upstream(&cluster.name), worker.destination(&cluster.labels));
        let pool = Pool::new(cluster, &resolver, &SharedStates::default(), metrics);
        Self { pool, addresses, _servers: servers }
    }

    /// A connection for one more request, and where it leads; nothing where there is no endpoint.
    async fn acquire(&self) -> Option<(Lease<Full<Bytes>>, IpAddr)> {
        let client = ((FIRST, 1).into(), (FIRST, 2).into());
        let demand = Demand { host: "a.com", hash: None, client, wanted: Wanted::Any };
        match self.pool.acquire(&demand, &mut PreviousTries::default()).await {
            Ok(lease) => {
                let peer = lease.peer().unwrap().ip();
                Some((lease, peer))
            }
            Err(AcquireError::NoEndpoint) => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn expect(&self, address: Ipv4Addr) -> Lease<Full<Bytes>> {
        let (lease, peer) = self.acquire().await.unwrap();
        assert_eq!(peer, address);
        lease
    }
}

#[tokio::test]
async fn one_name_keeps_its_connections_and_opens_new_ones_where_it_leads_now() {
    LocalSet::new()
        .run_until(async {
            let world = World::new(|one| Endpoints::LogicalDns(Arc::new(one)));
            world.addresses.tell(&[FIRST.into(), OTHER.into()]);
            let busy = world.expect(FIRST).await;
            world.expect(FIRST).await.give_back();
            world.addresses.tell(&[OTHER.into(), FIRST.into()]);
            let idle = world.expect(FIRST).await;
            let new = world.expect(OTHER).await;
            // No answer to a name that led somewhere takes it away.
            world.addresses.tell(&[]);
            world.expect(OTHER).await;
            busy.give_back();
            world.expect(FIRST).await;
            drop((idle, new));
        })
        .await;
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint_as_long_as_it_is_one() {
    LocalSet::new()
        .run_until(async {
            let world = World::new(|one| Endpoints::Dns([one].into()));
            world.addresses.tell(&[FIRST.into()]);
            world.expect(FIRST).await.give_back();
            world.addresses.tell(&[OTHER.into()]);
            world.expect(OTHER).await.give_back();
            world.addresses.tell(&[]);
            assert!(world.acquire().await.is_none());
        })
        .await;
}
