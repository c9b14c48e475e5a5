//! The backend's part: rewrites, clusters, endpoints, how connections to them are secured.

use std::num::NonZeroU32;

use super::{Explanation, Share, Step, place, policy};
use crate::base::limit;
use crate::decide::reject::Reject;
use crate::route::weight::Weighted;
use crate::snapshot::Snapshot;
use crate::snapshot::cluster::{Address, Cluster, ClusterId, Endpoints, Sni, UpstreamTls};
use crate::snapshot::route::{Destination, Forward};

/// Endpoints that are named; of more, their number is said.
const NAMED_ENDPOINTS: usize = 16;

/// A request that is sent on; `path` with its query as the backend sees it, `authority` before the rule's
/// rewrites.
pub(super) fn forward(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    forward: &Forward,
    (path, authority): (&str, &str),
) {
    let own = forward.destinations.iter().next().and_then(|one| one.authority.as_ref());
    let new = forward.authority.as_ref().or(own).and_then(|name| name.to_str().ok());
    let authority = new.unwrap_or(authority);
    let timeout =
        forward.timeout.map_or("no timeout".to_owned(), |time| format!("timeout {time:?}"));
    tale.step("forward", format!("as {path} of {authority}, {timeout}"))
        .considered(policy::lines(snapshot, forward));
    tale.outcome.action = "forward";
    tale.outcome.path = Some(path.to_owned());
    tale.outcome.authority = Some(authority.to_owned());
    destinations(tale, snapshot, &forward.destinations);
}

/// Every destination with its share, and of which the outcome tells where they come to different things.
pub(super) fn destinations(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    all: &Weighted<Destination>,
) {
    for (weight, destination) in all.shares() {
        let part = Part { weight, total: all.total(), without: "503" };
        let step = cluster(tale, snapshot, destination.cluster, &part);
        step.considered(policy::operations("request", &destination.request_headers));
        step.considered(policy::operations("response", &destination.response_headers));
    }
    let nowhere = all.shares().filter(|(_, one)| one.cluster.is_none());
    let nowhere: u32 = nowhere.map(|(weight, _)| weight).sum();
    if nowhere > 0 && nowhere < all.total() {
        let code = Reject::ClusterNotFound.answer().code;
        let text = format!(
            "as told for the destinations that exist; {nowhere} of {} requests get 503: {code}",
            all.total()
        );
        tale.step("answer", text);
    }
}

/// A destination's part.
pub(super) struct Part {
    pub(super) weight: u32,
    /// The weights of all.
    pub(super) total: u32,
    /// What comes of it where there is nobody.
    pub(super) without: &'static str,
}

/// One destination.
pub(super) fn cluster<'a>(
    tale: &'a mut Explanation,
    snapshot: &Snapshot,
    id: Option<ClusterId>,
    part: &Part,
) -> &'a mut Step {
    let Part { weight, total, without } = *part;
    let cluster = id.and_then(|id| snapshot.cluster(id));
    let name = cluster.map(|cluster| cluster.name.to_string());
    let reason = match cluster.map(|cluster| &cluster.endpoints) {
        None => Some(Reject::ClusterNotFound.answer().code),
        Some(Endpoints::Static(list)) if list.is_empty() => {
            Some(Reject::NoHealthyUpstream.answer().code)
        }
        Some(_) => None,
    };
    tale.outcome.clusters.push(Share { cluster: name, weight, reason });
    let Some(cluster) = cluster else {
        let text = format!("an unknown service, weight {weight} of {total}: {without}");
        return tale.step("destination", text);
    };
    let facts = [
        format!("{}, by {}", cluster.protocol, cluster.balance.strategy),
        format!(
            "connect timeout {:?}, idle timeout {:?}",
            cluster.connect_timeout, cluster.idle_timeout
        ),
        security(cluster),
    ];
    let tunnel = cluster.tunnel.as_ref().map(|tunnel| format!("through a proxy, by {tunnel}"));
    let outliers = cluster.outliers.as_ref().map(|policy| format!("ejected are {policy}"));
    tale.step("destination", format!("{}, weight {weight} of {total}", cluster.name))
        .by(&cluster.origin)
        .considered(cluster.rules.iter().map(|rule| format!("as {} says", place(rule))))
        .considered(facts)
        .considered(
            cluster.hash.as_ref().map(|hash| format!("one client, one endpoint: by {hash}")),
        )
        .considered(cluster.balance.warm_up.map(|warm_up| warm_up.to_string()))
        .considered(outliers)
        .considered(bounds(cluster))
        .considered(tunnel)
        .considered(endpoints(&cluster.endpoints, without))
}

/// What bounds it, where anything does.
fn bounds(cluster: &Cluster) -> Vec<String> {
    let (limits, each) = (cluster.limits, cluster.connection);
    let most =
        |of: &str, most: Option<NonZeroU32>| most.map(|most| format!("{of}: at most {most}"));
    let streams = Some(each.streams).filter(|most| *most != limit::UPSTREAM_STREAMS);
    [
        most("connections", limits.connections),
        most("requests that wait for a connection", limits.pending),
        most("requests at a time", limits.requests),
        most("retries at a time", limits.retries.filter(|_| limits.budget.is_none())),
        limits.budget.map(|budget| budget.to_string()),
        most("requests of a connection", each.requests),
        most("streams of a connection", streams),
        each.age.map(|age| format!("age of a connection: at most {age:?}")),
        each.proxy
            .map(|version| format!("a PROXY header of version {version} begins each connection")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn security(cluster: &Cluster) -> String {
    match &cluster.tls {
        UpstreamTls::Plain => "plaintext".to_owned(),
        UpstreamTls::Broken(why) => format!("TLS, and every connection fails: {why}"),
        UpstreamTls::Tls { config, sni, accepted, shown } => {
            let sni = match sni {
                Sni::Fixed(name) => format!("name {}", name.to_str()),
                Sni::RequestHost => "the request's host as name".to_owned(),
                Sni::Absent => "no name".to_owned(),
            };
            let alpn: Vec<_> =
                config.alpn_protocols.iter().map(|name| String::from_utf8_lossy(name)).collect();
            let alpn =
                if alpn.is_empty() { String::new() } else { format!(", ALPN {}", alpn.join(" ")) };
            let shown = match shown {
                Some(identity) => format!(", shows {identity}"),
                None => String::new(),
            };
            let accepted = match &**accepted {
                [] => ", accepts what its roots vouch for".to_owned(),
                names => format!(", accepts {}", names.join(" or ")),
            };
            format!("TLS with {sni}{alpn}{shown}{accepted}")
        }
    }
}

fn endpoints(endpoints: &Endpoints, without: &str) -> Vec<String> {
    let differ = differ(endpoints);
    let share = |weight: u32, level: u8| {
        let weight = if differ { format!(", weight {weight}") } else { String::new() };
        format!("{weight}{}", priority(level))
    };
    let all: Vec<String> = match endpoints {
        Endpoints::Static(list) => list
            .iter()
            .map(|endpoint| {
                let plain = if endpoint.tls { "" } else { ", plaintext" };
                let share = share(endpoint.member.weight, endpoint.member.level);
                let through = through(endpoint.through.as_deref());
                let address = &endpoint.address;
                let kind = if matches!(address, Address::Unix(_)) { "unix://" } else { "" };
                format!("endpoint {kind}{address}{plain}{through}{share}")
            })
            .collect(),
        Endpoints::Dns(list) => list
            .iter()
            .map(|one| {
                let through = through(one.through.as_deref());
                let share = share(one.member.weight, one.member.level);
                format!("endpoints of {}:{} by DNS{through}{share}", one.name, one.port)
            })
            .collect(),
        Endpoints::LogicalDns(one) => {
            vec![format!("first address of {}:{} by DNS", one.name, one.port)]
        }
    };
    match all.len() {
        0 => vec![format!("no endpoint: {without}")],
        1..=NAMED_ENDPOINTS => all,
        count => {
            let rest = format!("and {} more", count - NAMED_ENDPOINTS);
            all.into_iter().take(NAMED_ENDPOINTS).chain([rest]).collect()
        }
    }
}

/// Whether endpoints have different weights.
fn differ(endpoints: &Endpoints) -> bool {
    let uneven = |mut weights: Vec<u32>| {
        weights.dedup();
        weights.len() > 1
    };
    match endpoints {
        Endpoints::Static(list) => uneven(list.iter().map(|one| one.member.weight).collect()),
        Endpoints::Dns(list) => uneven(list.iter().map(|one| one.member.weight).collect()),
        Endpoints::LogicalDns(_) => false,
    }
}

/// What stands in place of the endpoint.
fn through(network: Option<&str>) -> String {
    let said = |network| format!(", through the gateway of network {network}");
    network.map_or_else(String::new, said)
}

fn priority(level: u8) -> String {
    match level {
        0 => String::new(),
        level => format!(", priority {level}"),
    }
}
