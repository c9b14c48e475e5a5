//! The members of a service as a cluster's endpoints.
//!
//! **Invariant:** every endpoint has an address or a name, and a share of traffic.

use std::collections::HashMap;
use std::sync::Arc;

use crate::balance;
use crate::snapshot::cluster::{Address, DnsEndpoint, Endpoint, Endpoints};

use super::locality::Standing;
use super::services::{Discovery, Member, Place};

/// A member that gets load.
struct Used<'m> {
    member: &'m Member,
    share: balance::Member,
    tls: bool,
}

/// Endpoints of members; `standings` and `encrypted` say of each where it stands and whether it is
/// spoken to through the cluster's TLS.
pub(super) fn endpoints(
    discovery: Discovery,
    members: &[Member],
    standings: &[Standing],
    encrypted: &[bool],
) -> Endpoints {
    let all = used(members, standings, encrypted);
    let through = all.iter().any(|one| one.member.through.is_some());
    let known = all.iter().filter_map(|one| match &one.member.place {
        Place::Address(address) => Some(Endpoint {
            address: address.clone(),
            member: one.share,
            tls: one.tls,
            through: one.member.through.clone(),
        }),
        Place::Name(..) | Place::Unknown(_) => None,
    });
    let mut named: Vec<DnsEndpoint> = all
        .iter()
        .filter(|one| discovery != Discovery::Listed || one.member.through.is_some())
        .filter_map(|one| match &one.member.place {
            Place::Name(name, port) => Some(DnsEndpoint {
                name: name.clone(),
                port: *port,
                member: one.share,
                tls: one.tls,
                through: one.member.through.clone(),
            }),
            Place::Address(_) | Place::Unknown(_) => None,
        })
        .collect();
    if named.is_empty() {
        return Endpoints::Static(known.collect());
    }
    if discovery == Discovery::LogicalDns && !through {
        return Endpoints::LogicalDns(Arc::new(named.swap_remove(0)));
    }
    named.extend(known.filter_map(|Endpoint { address, member, tls, through }| match address {
        Address::Socket(socket) => {
            let name = socket.ip().to_string().into();
            Some(DnsEndpoint { name, port: socket.port(), member, tls, through })
        }
        Address::Unix(_) => None,
    }));
    Endpoints::Dns(named.into())
}

/// Members that get load. A network's gateway is one endpoint, whatever the localities behind it: it stands
/// with the nearest of them.
fn used<'m>(members: &'m [Member], standings: &[Standing], encrypted: &[bool]) -> Vec<Used<'m>> {
    let mut all: Vec<Used<'m>> = Vec::with_capacity(members.len());
    let mut gateways: HashMap<&Place, usize> = HashMap::new();
    for ((member, standing), tls) in members.iter().zip(standings).zip(encrypted) {
        let Standing { level, locality, used: true } = *standing else { continue };
        let share = balance::Member { weight: member.weight, level, locality };
        if member.through.is_some() {
            let at = *gateways.entry(&member.place).or_insert(all.len());
            if let Some(known) = all.get_mut(at) {
                if level < known.share.level {
                    known.share = share;
                } else if level == known.share.level {
                    known.share.weight = known.share.weight.saturating_add(share.weight);
                }
                known.tls |= tls;
                continue;
            }
        }
        all.push(Used { member, share, tls: *tls });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member at `NAME`, or at an address, from `PLACE WEIGHT LEVEL NETWORK`; a network's gateway where
    /// there is one, and a member without load where the level is `-`.
    fn read(text: &str) -> (Member, Standing) {
        let parts: Vec<_> = text.split(' ').collect();
        let place = match parts[0].parse() {
            Ok(socket) => Place::Address(Address::Socket(socket)),
            Err(_) => Place::Name(parts[0].into(), 80),
        };
        let weight = parts[1].parse().unwrap();
        let through = parts.get(3).map(|name| (*name).into());
        let level = parts[2].parse().ok();
        let standing =
            Standing { level: level.unwrap_or_default(), locality: 0, used: level.is_some() };
        (Member { place, weight, through, ..Member::example() }, standing)
    }

    fn check(discovery: Discovery, members: &[&str], kind: &str, expected: &[&str]) {
        let (members, standings): (Vec<_>, Vec<_>) = members.iter().map(|text| read(text)).unzip();
        let found = endpoints(discovery, &members, &standings, &vec![true; members.len()]);
        let through = |network: &Option<Arc<str>>| {
            network.as_ref().map_or_else(String::new, |name| format!(" {name}"))
        };
        let share = |share: &balance::Member| format!("{} {}", share.weight, share.level);
        let named = |e: &DnsEndpoint| {
            format!("{}:{} {}{}", e.name, e.port, share(&e.member), through(&e.through))
        };
        let (seen, shown): (_, Vec<String>) = match &found {
            Endpoints::Static(list) => {
                let known = |e: &Endpoint| {
                    format!("{} {}{}", e.address, share(&e.member), through(&e.through))
                };
                ("static", list.iter().map(known).collect())
            }
            Endpoints::Dns(list) => ("dns", list.iter().map(named).collect()),
            Endpoints::LogicalDns(one) => ("logical", vec![named(one)]),
        };
        assert_eq!((seen, shown), (kind, expected.iter().map(|one| (*one).to_owned()).collect()));
    }

    #[test]
    fn names_are_resolved_as_the_service_says() {
        use Discovery::{Dns, Listed, LogicalDns};
        check(Listed, &["10.0.0.1:80 1 0", "a 1 0"], "static", &["10.0.0.1:80 1 0"]);
        check(Listed, &["10.0.0.1:80 1 -"], "static", &[]);
        check(Dns, &["10.0.0.1:80 2 1", "a 1 0"], "dns", &["a:80 1 0", "10.0.0.1:80 2 1"]);
        check(LogicalDns, &["a 1 0"], "logical", &["a:80 1 0"]);
    }

    #[test]
    fn names_of_gateways_are_resolved_whatever_the_service_says() {
        use Discovery::{Listed, LogicalDns};
        let members = ["10.0.0.1:80 1 0", "stray 1 0", "gate 2 0 n2"];
        check(Listed, &members, "dns", &["gate:80 2 0 n2", "10.0.0.1:80 1 0"]);
        check(LogicalDns, &["g 1 0 n2", "h 1 0 n2"], "dns", &["g:80 1 0 n2", "h:80 1 0 n2"]);
        check(LogicalDns, &["192.0.2.1:1 1 0 n2"], "static", &["192.0.2.1:1 1 0 n2"]);
    }

    #[test]
    fn a_gateway_stands_with_the_nearest_of_what_is_behind_it() {
        let members = ["192.0.2.1:1 5 2 n2", "192.0.2.1:1 2 1 n2", "192.0.2.1:1 3 1 n2"];
        check(Discovery::Listed, &members, "static", &["192.0.2.1:1 5 1 n2"]);
        let members = ["192.0.2.1:1 2 1 n2", "192.0.2.1:1 7 2 n2", "192.0.2.1:1 4 - n2"];
        check(Discovery::Listed, &members, "static", &["192.0.2.1:1 2 1 n2"]);
    }
}
