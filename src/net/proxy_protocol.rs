//! The PROXY protocol's header, which tells a server whom a connection is for (HAProxy's
//! specification, versions 1 and 2).
//!
//! **Invariant:** a header tells one family of addresses; IPv4 within IPv6 is told as IPv4.

use std::net::{IpAddr, SocketAddr};

/// Version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_2_PROXY: u8 = 0x21;
const TCP_4: u8 = 0x11;
const TCP_6: u8 = 0x21;
const UNKNOWN: u8 = 0x00;

/// The header of a connection from `source` to `destination`.
pub fn header(version: Version, (source, destination): (SocketAddr, SocketAddr)) -> Vec<u8> {
    let ends = (source.ip().to_canonical(), destination.ip().to_canonical());
    let ports = (source.port(), destination.port());
    match version {
        Version::V1 => text(ends, ports).into_bytes(),
        Version::V2 => binary(ends, ports),
    }
}

fn text(ends: (IpAddr, IpAddr), (from, to): (u16, u16)) -> String {
    let family = match ends {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        _ => return "PROXY UNKNOWN\r\n".to_owned(),
    };
    format!("PROXY {family} {} {} {from} {to}\r\n", ends.0, ends.1)
}

fn binary(ends: (IpAddr, IpAddr), (from, to): (u16, u16)) -> Vec<u8> {
    let mut body = Vec::with_capacity(36);
    let family = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            TCP_4
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            TCP_6
        }
        _ => UNKNOWN,
    };
    if family != UNKNOWN {
        body.extend(from.to_be_bytes());
        body.extend(to.to_be_bytes());
    }
    let mut header = Vec::with_capacity(52);
    header.extend(SIGNATURE);
    header.extend([VERSION_2_PROXY, family]);
    header.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    header.extend(body);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, source: &str, destination: &str, expected: &[u8]) {
        let ends = (source.parse().unwrap(), destination.parse().unwrap());
        assert_eq!(header(version, ends), expected, "{source} {destination}");
    }

    #[test]
    fn version_1_is_a_line() {
        let check = |source, destination, line: &str| {
            check(Version::V1, source, destination, line.as_bytes());
        };
        check("192.0.2.1:5", "192.0.2.2:443", "PROXY TCP4 192.0.2.1 192.0.2.2 5 443\r\n");
        check(
            "[2001:db8::1]:5",
            "[2001:db8::2]:443",
            "PROXY TCP6 2001:db8::1 2001:db8::2 5 443\r\n",
        );
        check("[::ffff:192.0.2.1]:5", "192.0.2.2:4", "PROXY TCP4 192.0.2.1 192.0.2.2 5 4\r\n");
        check("[2001:db8::1]:5", "192.0.2.2:4", "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let start = b"\r\n\r\n\0\r\nQUIT\n\x21";
        let whole = |rest: &[u8]| [start, rest].concat();
        let four = b"\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x05\x01\xbb";
        check(Version::V2, "192.0.2.1:5", "192.0.2.2:443", &whole(four));
        check(Version::V2, "192.0.2.1:5", "[2001:db8::2]:443", &whole(b"\x00\x00\x00"));
        let six = header(
            Version::V2,
            ("[2001:db8::1]:5".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap()),
        );
        assert_eq!((six.len(), six[13], six[15]), (52, 0x21, 36));
    }
}
