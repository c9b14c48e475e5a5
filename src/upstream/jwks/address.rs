//! Where a key set may never be fetched from.
//!
//! **Invariant:** judged on the address that is connected to, after name resolution, so a name
//! cannot lead to a cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is link-local, a cloud's metadata service, or no single host. Loopback and
/// private networks are allowed: issuers inside the cluster live there.
pub(super) fn is_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_refused_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_refused_v4(v4),
            None => {
                v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local()
                    || METADATA_V6.contains(&v6)
            }
        },
    }
}

fn is_refused_v4(v4: Ipv4Addr) -> bool {
    let this_network = v4.octets().starts_with(&[0]);
    this_network
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_multicast()
        || v4 == METADATA_V4
}

/// The IPv4 address in a mapped (`::ffff:0:0/96`) or translated (`64:ff9b::/96`, RFC 6052) one.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    v6.to_ipv4_mapped().or_else(|| match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    })
}

/// Alibaba Cloud's metadata service, which is not link-local.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

/// Metadata services of AWS and Google Cloud over IPv6.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, refused: bool) {
        assert_eq!(is_refused(address.parse().unwrap()), refused, "{address}");
    }

    #[test]
    fn metadata_services_are_refused_in_every_spelling() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ] {
            check(address, true);
        }
    }

    #[test]
    fn loopback_and_private_networks_are_allowed() {
        for address in
            ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "100.100.100.201", "fd00::1", "8.8.8.8"]
        {
            check(address, false);
        }
    }
}
