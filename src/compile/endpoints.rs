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
