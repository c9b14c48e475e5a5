//! The members of a service as a cluster's endpoints.
//!
//! **Invariant:** every endpoint has an address or a name, and a share of traffic.

use std::sync::Arc;

use crate::balance;
use crate::snapshot::cluster::{Address, DnsEndpoint, Endpoint, Endpoints};

use super::locality::Standing;
use super::services::{Discovery, Member, Place};

/// Endpoints of members; `standings` and `encrypted` say of each where it stands and whether it is
/// spoken to through the cluster's TLS.
pub(super) fn endpoints(
    discovery: Discovery,
    members: &[Member],
    standings: &[Standing],
    encrypted: &[bool],
) -> Endpoints {
    let all = || {
        members.iter().zip(standings).zip(encrypted).filter(|((_, standing), _)| standing.used).map(
            |((member, standing), tls)| {
                let share = balance::Member {
                    weight: member.weight,
                    level: standing.level,
                    locality: standing.locality,
                };
                (&member.place, share, *tls)
            },
        )
    };
    let known = all().filter_map(|(place, member, tls)| match place {
        Place::Address(address) => Some(Endpoint { address: address.clone(), member, tls }),
        Place::Name(..) => None,
    });
    let mut named: Vec<DnsEndpoint> = all()
        .filter_map(|(place, member, tls)| match place {
            Place::Name(name, port) => {
                Some(DnsEndpoint { name: name.clone(), port: *port, member, tls })
            }
            Place::Address(_) => None,
        })
        .collect();
    if named.is_empty() || discovery == Discovery::Listed {
        return Endpoints::Static(known.collect());
    }
    if discovery == Discovery::LogicalDns {
        return Endpoints::LogicalDns(Arc::new(named.swap_remove(0)));
    }
    named.extend(known.filter_map(|Endpoint { address, member, tls }| match address {
        Address::Socket(socket) => {
            let name = socket.ip().to_string().into();
            Some(DnsEndpoint { name, port: socket.port(), member, tls })
        }
        Address::Unix(_) => None,
    }));
    Endpoints::Dns(named.into())
}
