//! What a running gateway knows of endpoints and its configuration does not say.

use std::net::IpAddr;
use std::sync::Arc;

use crate::explain::{Explanation, Step};
use crate::snapshot::Snapshot;
use crate::snapshot::cluster::{Cluster, DnsEndpoint, Endpoints};
use crate::upstream::resolve::Resolver;
use crate::upstream::shared::SharedStates;

/// Where it is known.
#[derive(Clone)]
pub(super) struct EndpointStates {
    pub(super) shared: SharedStates,
    pub(super) resolver: Resolver,
}

impl EndpointStates {
    /// Adds it to what was explained: whom outlier detection ejected, and what names resolve to.
    pub(super) fn tell(&self, told: &mut Explanation, snapshot: &Snapshot) {
        for share in &told.outcome.clusters {
            let Some(name) = share.cluster.as_deref() else { continue };
            let Some(cluster) = snapshot.clusters.iter().find(|one| &*one.name == name) else {
                continue;
            };
            let ejected = self.shared.ejected(cluster);
            let decision = match ejected.len() {
                0 => format!("none of {name} is ejected"),
                count => format!("{count} of {name} ejected"),
            };
            let resolved = self.resolved(cluster);
            let ejected = ejected.iter().map(|endpoint| format!("{endpoint} is ejected"));
            let considered = resolved.into_iter().chain(ejected).collect();
            told.steps.push(Step { step: "endpoints now", decision, by: None, considered });
        }
    }

    fn resolved(&self, cluster: &Cluster) -> Vec<String> {
        let list: &[DnsEndpoint] = match &cluster.endpoints {
            Endpoints::Static(_) => &[],
            Endpoints::Dns(list) => list,
            Endpoints::LogicalDns(one) => std::slice::from_ref(one),
        };
        let mut names: Vec<&Arc<str>> = list.iter().map(|endpoint| &endpoint.name).collect();
        names.sort_unstable();
        names.dedup();
        let line = |name: &Arc<str>| match self.resolver.known(name).as_slice() {
            [] => format!("{name} has no address"),
            found => {
                let found: Vec<_> = found.iter().map(IpAddr::to_string).collect();
                format!("{name} is {}", found.join(" "))
            }
        };
        names.into_iter().map(line).collect()
    }
}
