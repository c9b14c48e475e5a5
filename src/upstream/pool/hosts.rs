//! The endpoints of a pool as they are now, and how load is spread over them.
//!
//! **Invariant:** an endpoint that stays keeps its connections, whatever else changes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::host::Host;
use crate::balance::plan::{Candidate, Load, Plan};
use crate::balance::previous::PreviousLevels;
use crate::balance::{Member, Policy};
use crate::snapshot::cluster::{Address, Cluster, DnsEndpoint, Endpoints};
use crate::upstream::health::Health;
use crate::upstream::resolve::{Addresses, Resolver};

/// Where a pool's endpoints come from.
pub(super) struct Sources {
    pub(super) cluster: Arc<Cluster>,
    pub(super) names: Vec<Name>,
    pub(super) health: Option<Arc<Health>>,
}

/// A name that is resolved.
pub(super) struct Name {
    endpoint: DnsEndpoint,
    pub(super) addresses: Arc<Addresses>,
}

/// Endpoints now.
pub(super) struct Hosts<B> {
    list: Vec<(Rc<Host<B>>, Member)>,
    plan: Plan,
    /// Versions of what this was made from.
    answers: SmallVec<[u32; 2]>,
    health: u32,
    /// Whether some are still warming up.
    warming: bool,
}

impl<B> Default for Hosts<B> {
    fn default() -> Self {
        let (list, plan) = (Vec::new(), Plan::default());
        Self { list, plan, answers: SmallVec::new(), health: 0, warming: false }
    }
}

/// What a request's earlier tries leave to know.
#[derive(Debug, Default)]
pub struct PreviousTries {
    /// Endpoints that are left out where there are others.
    endpoints: SmallVec<[SocketAddr; 2]>,
    /// Whether they are for a request that a hash keeps on one endpoint, too.
    whatever_hash: bool,
    /// The localities' levels; nothing when retries stay where they are.
    levels: Option<PreviousLevels>,
}

impl PreviousTries {
    /// Nothing yet; whether retries go to other localities, and to other endpoints than a hash says.
    pub fn new(remote: bool, whatever_hash: bool) -> Self {
        let levels = remote.then(PreviousLevels::default);
        Self { endpoints: SmallVec::new(), whatever_hash, levels }
    }

    /// Leaves an endpoint out from now on.
    pub fn leave(&mut self, endpoint: Option<SocketAddr>) {
        self.endpoints.extend(endpoint);
    }

    /// Leaves none out.
    pub fn forget_endpoints(&mut self) {
        self.endpoints.clear();
    }

    /// Another try follows.
    pub fn again(&mut self) {
        if let Some(levels) = &mut self.levels {
            levels.again();
        }
    }

    fn left_out(&self) -> &[u8] {
        self.levels.as_ref().map_or(&[], PreviousLevels::left_out)
    }

    fn has<B>(&self, host: &Host<B>) -> bool {
        !self.endpoints.is_empty()
            && host.socket().is_some_and(|socket| self.endpoints.contains(&socket))
    }
}

/// An endpoint as configuration and DNS say.
struct Found {
    name: Arc<str>,
    /// Nothing where DNS knows none.
    address: Option<Address>,
    tls: bool,
    member: Member,
}

impl Sources {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        resolver: &Resolver,
        health: Option<Arc<Health>>,
    ) -> Self {
        let watch = |endpoint: &DnsEndpoint| Name {
            endpoint: endpoint.clone(),
            addresses: resolver.addresses(&endpoint.name),
        };
        let names = match &cluster.endpoints {
            Endpoints::Static(_) => Vec::new(),
            Endpoints::Dns(list) => list.iter().map(watch).collect(),
            Endpoints::LogicalDns(endpoint) => vec![watch(endpoint)],
        };
        Self { cluster, names, health }
    }

    fn found(&self) -> Vec<Found> {
        let at = |address: &Address, tls, member| Found {
            name: address.to_string().into(),
            address: Some(address.clone()),
            tls,
            member,
        };
        match &self.cluster.endpoints {
            Endpoints::Static(list) => {
                list.iter().map(|e| at(&e.address, e.tls, e.member)).collect()
            }
            Endpoints::Dns(_) => {
                let all = |Name { endpoint, addresses }: &Name| {
                    let mut ips = addresses.latest().to_vec();
                    ips.sort_unstable();
                    ips.into_iter()
                        .map(|ip| Address::Socket((ip, endpoint.port).into()))
                        .map(|address| at(&address, endpoint.tls, endpoint.member))
                        .collect::<Vec<_>>()
                };
                self.names.iter().flat_map(all).collect()
            }
            Endpoints::LogicalDns(_) => {
                let first = |Name { endpoint, addresses }: &Name| {
                    let ip = addresses.latest().first().copied();
                    Found {
                        name: format!("{}:{}", endpoint.name, endpoint.port).into(),
                        address: ip.map(|ip| Address::Socket((ip, endpoint.port).into())),
                        tls: endpoint.tls,
                        member: endpoint.member,
                    }
                };
                self.names.iter().map(first).collect()
            }
        }
    }
}

impl<B> Hosts<B> {
    /// Whether something changed since these were made.
    pub(super) fn are_old(&self, sources: &Sources) -> bool {
        let answers = sources.names.iter().map(|name| name.addresses.version());
        !answers.eq(self.answers.iter().copied())
            || sources.health.as_ref().is_some_and(|health| health.version() != self.health)
    }

    /// Whether shares change with time alone.
    pub(super) fn are_warming(&self) -> bool {
        self.warming
    }

    /// Makes them anew; also says how many ejected endpoints left.
    pub(super) fn renew(&self, sources: &Sources) -> (Self, usize) {
        // Versions before content: what changes in between is seen the next time.
        let answers = sources.names.iter().map(|name| name.addresses.version()).collect();
        let version = sources.health.as_ref().map_or(0, |health| health.version());
        let mut old: HashMap<(Arc<str>, bool), Rc<Host<B>>> = self
            .list
            .iter()
            .map(|(host, _)| ((host.name.clone(), host.tls), host.clone()))
            .collect();
        let mut list: Vec<(Rc<Host<B>>, Member)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for Found { name, address, tls, member } in sources.found() {
            if !seen.insert((name.clone(), tls)) {
                continue;
            }
            let known = old.remove(&(name.clone(), tls));
            // One name that stands for no address any more goes on to mean the last one, as in Envoy.
            let former = || known.as_ref().map(|host| host.address.borrow().clone());
            let Some(address) = address.or_else(former) else { continue };
            let host = known.unwrap_or_else(|| Host::new(name, address.clone(), tls));
            host.address.replace(address);
            list.push((host, member));
        }
        let mut usable = vec![true; list.len()];
        let mut left = 0;
        if let Some(health) = &sources.health {
            let names: Vec<_> = list.iter().map(|(host, _)| host.name.clone()).collect();
            let (watches, gone) = health.watch(&names);
            left = gone;
            for (((host, _), usable), (watch, ejected)) in list.iter().zip(&mut usable).zip(watches)
            {
                *usable = !ejected;
                host.watch.replace(Some(watch));
            }
        } else {
            for (host, _) in &list {
                host.watch.take();
            }
        }
        let (plan, warming) = plan(&sources.cluster.balance, &list, &usable);
        (Self { list, plan, answers, health: version, warming }, left)
    }

    /// Every endpoint.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Host<B>>> {
        self.list.iter().map(|(host, _)| host)
    }

    /// An endpoint for a request, by what was tried before: one of those again only where there is no
    /// other, or where a hash says that it shall be that one and the rule lets it.
    pub(super) fn choose(
        &self,
        hash: Option<u64>,
        tried: &mut PreviousTries,
    ) -> Option<Rc<Host<B>>> {
        let mut found = self.pick(hash, tried, tried.left_out());
        if let Some(levels) = &mut tried.levels
            && found.is_none()
        {
            levels.reset();
            found = self.pick(hash, tried, &[]);
        }
        let (host, member) = found?;
        if let Some(levels) = &mut tried.levels {
            levels.at(member.level);
        }
        Some(host.clone())
    }

    fn pick(
        &self,
        hash: Option<u64>,
        tried: &PreviousTries,
        left_out: &[u8],
    ) -> Option<&(Rc<Host<B>>, Member)> {
        /// Choices before the first untried one is taken, wherever it stands.
        const CHOICES: u64 = 4;
        /// From one choice of a hash to the next: a table's neighbours may be the same endpoint's.
        const FAR: u64 = 0x9e37_79b9_7f4a_7c15;
        let choose = |hash| {
            let index = match left_out {
                [] => self.plan.choose(self, hash),
                _ => self.plan.choose_beyond(self, hash, left_out),
            };
            self.list.get(index?)
        };
        let first = choose(hash)?;
        let untried = |(host, _): &&(Rc<Host<B>>, Member)| !tried.has(host);
        if (hash.is_some() && !tried.whatever_hash) || untried(&first) {
            return Some(first);
        }
        // A hash's next choices are as much its own as the first.
        let next = |n: u64| hash.map(|hash| hash.wrapping_add(n.wrapping_mul(FAR)));
        let by_strategy = (1..=CHOICES).filter_map(|n| choose(next(n))).find(untried);
        let any = || self.plan.hosts(left_out).filter_map(|i| self.list.get(i)).find(untried);
        by_strategy.or_else(any).or(Some(first))
    }
}

fn plan<B>(policy: &Policy, list: &[(Rc<Host<B>>, Member)], usable: &[bool]) -> (Plan, bool) {
    let now = Instant::now();
    let mut warming = false;
    let candidates: Vec<Candidate<'_>> = list
        .iter()
        .zip(usable)
        .map(|((host, member), usable)| {
            let age = now.saturating_duration_since(host.since);
            let factor = policy.warm_up.map_or(1.0, |warm_up| warm_up.factor(age));
            warming |= factor < 1.0;
            Candidate { name: &host.name, member: *member, factor, usable: *usable }
        })
        .collect();
    (Plan::new(policy, &candidates, fastrand::u32(..)), warming)
}

impl<B> Load for Hosts<B> {
    fn active(&self, index: usize) -> u32 {
        self.list.get(index).map_or(0, |(host, _)| host.room.active.get())
    }

    fn random(&self) -> u32 {
        fastrand::u32(..)
    }
}
