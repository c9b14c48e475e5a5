//! Who the client is behind the proxies before this gateway, and how it spoke to them.
//!
//! **Invariant:** of a peer that is not trusted nothing is believed, and of the addresses in
//! `x-forwarded-for` none beyond the first that is not.

use std::net::IpAddr;

use http::HeaderValue;
use http::header::HeaderMap;
use ipnet::IpNet;

use crate::base::header::{X_FORWARDED_FOR, X_FORWARDED_PROTO};
use crate::base::limit;
use crate::snapshot::forwarded::{TrustedProxies, contain};

/// Who a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The peer's address.
    pub peer: IpAddr,
    /// It came over TLS.
    pub tls: bool,
    /// It is a workload of the mesh that calls another, and proved it: what it says of the client is
    /// believed.
    pub workload: bool,
}

/// What the proxies say that are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The client's address.
    pub(super) client: Option<IpAddr>,
    /// `https` or `http`, as the client sees it.
    pub(super) scheme: Option<&'static str>,
}

/// What is believed of a sender's headers.
pub(super) fn told(proxies: &TrustedProxies, sender: Sender, headers: &HeaderMap) -> Told {
    let client = match proxies {
        TrustedProxies::Hops(hops) => match (*hops).max(usize::from(sender.workload)) {
            0 => return Told::default(),
            hops => elements(headers).rev().nth(hops - 1).and_then(address),
        },
        TrustedProxies::Blocks(blocks) if !contain(blocks, sender.peer) => return Told::default(),
        TrustedProxies::Blocks(blocks) => outermost(blocks, headers),
    };
    // Of several lines nobody knows which is whose.
    let mut said = headers.get_all(X_FORWARDED_PROTO).iter().map(HeaderValue::as_bytes);
    let scheme = match (said.next(), said.next()) {
        (Some(b"https"), None) => Some("https"),
        (Some(b"http"), None) => Some("http"),
        _ => None,
    };
    Told { client, scheme }
}

/// The first address from the right that is no trusted proxy's, or the leftmost (as Envoy's detection by
/// `xff_trusted_cidrs`). What a proxy said that is no address tells nothing.
fn outermost(blocks: &[IpNet], headers: &HeaderMap) -> Option<IpAddr> {
    let mut elements = elements(headers).rev();
    let mut client = None;
    for element in elements.by_ref().take(limit::TRUSTED_PROXIES) {
        let said = address(element)?;
        client = Some(said);
        if !contain(blocks, said) {
            return client;
        }
    }
    client.filter(|_| elements.next().is_none())
}

/// The lines of `x-forwarded-for` that say something: an empty one is no element, as with Envoy.
pub(super) fn lines(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &[u8]> {
    let lines = headers.get_all(X_FORWARDED_FOR).into_iter().map(HeaderValue::as_bytes);
    lines.filter(|line| !line.trim_ascii().is_empty())
}

/// Their elements.
fn elements(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &[u8]> {
    lines(headers).flat_map(|line| line.split(|byte| *byte == b','))
}

fn address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element.trim_ascii()).ok()?;
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who the client is by these proxies, when 10.0.0.1 says this.
    fn check(proxies: &TrustedProxies, lines: &[&[u8]], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        let sender = Sender { peer: [10, 0, 0, 1].into(), tls: false, workload: false };
        let expected = expected.map(|address| address.parse().unwrap());
        let said: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line)).collect();
        assert_eq!(told(proxies, sender, &headers).client, expected, "{said:?}");
    }

    fn blocks(blocks: &[&str]) -> TrustedProxies {
        TrustedProxies::Blocks(blocks.iter().map(|block| block.parse().unwrap()).collect())
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_trusted_is_the_clients() {
        let trusted = blocks(&["10.0.0.0/8", "2001:db8::/32"]);
        let check = |lines: &[&[u8]], expected| check(&trusted, lines, expected);
        check(&[b"203.0.113.9"], Some("203.0.113.9"));
        check(&[b"192.0.2.1, 203.0.113.9"], Some("203.0.113.9"));
        check(&[b"203.0.113.9, 10.0.0.2,2001:db8::1"], Some("203.0.113.9"));
        check(&[b"6.6.6.6,203.0.113.9", b"10.0.0.2"], Some("203.0.113.9"));
        check(&[b"::ffff:203.0.113.9, ::ffff:10.0.0.2"], Some("203.0.113.9"));
        // All are trusted: the one farthest away.
        check(&[b"10.0.0.3, 10.0.0.2"], Some("10.0.0.3"));
        check(&[], None);
    }

    #[test]
    fn what_is_no_address_hides_nobody_who_stands_right_of_it() {
        let trusted = blocks(&["10.0.0.0/8"]);
        for garbage in [&b"nonsense"[..], b"\xff", b"", b"10.0.0.2:80", b"10.0.0.0/8", b"unknown"] {
            let before = [garbage, b",203.0.113.9"].concat();
            check(&trusted, &[&before], Some("203.0.113.9"));
            check(&TrustedProxies::Hops(1), &[&before], Some("203.0.113.9"));
            check(&trusted, &[garbage, b"203.0.113.9"], Some("203.0.113.9"));
            check(&trusted, &[&[b"203.0.113.9,", garbage].concat()], None);
            check(&TrustedProxies::Hops(1), &[&[b"203.0.113.9,", garbage].concat()], None);
        }
    }

    #[test]
    fn an_empty_line_is_no_element() {
        let trusted = blocks(&["10.0.0.0/8"]);
        for empty in [&b""[..], b" ", b"\t "] {
            for lines in [[b"203.0.113.9", empty], [empty, b"203.0.113.9"]] {
                check(&trusted, &lines, Some("203.0.113.9"));
                check(&TrustedProxies::Hops(1), &lines, Some("203.0.113.9"));
            }
            check(&trusted, &[empty], None);
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        check(&blocks(&["10.0.0.2/32"]), &[b"203.0.113.9"], None);
        check(&blocks(&[]), &[b"203.0.113.9"], None);
        check(&TrustedProxies::Hops(0), &[b"203.0.113.9"], None);
        check(&TrustedProxies::Hops(2), &[b"203.0.113.9"], None);
    }

    #[test]
    fn a_scheme_counts_that_is_said_once() {
        let trusted = blocks(&["10.0.0.1/32"]);
        for (lines, expected) in [
            (&["https"][..], Some("https")),
            (&["http"], Some("http")),
            (&["https", "http"], None),
            (&["https", "https"], None),
            (&["https,http"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_PROTO, HeaderValue::from_static(line));
            }
            let sender = Sender { peer: [10, 0, 0, 1].into(), tls: false, workload: false };
            assert_eq!(told(&trusted, sender, &headers).scheme, expected, "{lines:?}");
            let stranger = Sender { peer: [10, 0, 0, 2].into(), ..sender };
            assert_eq!(told(&trusted, stranger, &headers).scheme, None, "{lines:?}");
        }
    }

    #[test]
    fn so_many_trusted_proxies_are_looked_at_and_no_more() {
        let all = |proxies: usize| format!("203.0.113.9{}", ",10.0.0.2".repeat(proxies));
        let trusted = blocks(&["10.0.0.0/8"]);
        check(&trusted, &[all(limit::TRUSTED_PROXIES - 1).as_bytes()], Some("203.0.113.9"));
        check(&trusted, &[all(limit::TRUSTED_PROXIES).as_bytes()], None);
    }
}
