//! Names as Kubernetes and Istio's validation have them.
//!
//! **Invariant**: what passes here is ASCII.

use std::net::IpAddr;

use ipnet::IpNet;

/// A DNS-1123 label: a namespace, for example.
pub fn is_dns_label(text: &str) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// A DNS-1123 subdomain: most resources' names.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A label of a name as Istio has it: capitals are let in.
pub(super) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// A name of labels, with the root's dot or without; the last label is no number.
pub(super) fn is_fqdn(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 255 && last.parse::<i64>().is_err() && name.split('.').all(is_label)
}

/// A name of labels, of which the first may be `*`, or begin with `*` or `*-`.
pub(super) fn is_wildcard_domain(text: &str) -> bool {
    let (first, rest) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
    let plain = first.strip_prefix('*').unwrap_or(first);
    let plain =
        if plain.len() < first.len() { plain.strip_prefix('-').unwrap_or(plain) } else { plain };
    (1..=255).contains(&text.len())
        && first.len() <= 63
        && (first == "*" || is_label(plain))
        && rest.is_none_or(|rest| rest.is_empty() || is_fqdn(rest))
}

/// The SNI of a cluster of the mesh, `outbound_.80_._.a.example.com`.
pub(super) fn is_cluster_name(text: &str) -> bool {
    let mut parts = text.split('_').skip(1);
    let port = parts.next().is_some_and(|port| port.contains(|c: char| c.is_ascii_digit()));
    let host = parts.nth(1).is_some_and(|host| host.contains(|c: char| c.is_ascii_alphabetic()));
    text.starts_with("outbound_") && text.len() <= 255 && port && host
}

/// The socket of `unix://`: a path from the root to a file, or an abstract name.
pub(super) fn is_socket(path: &str) -> bool {
    path.starts_with('@') || (path.starts_with('/') && !path.ends_with('/'))
}

/// An address, or a block of them as `10.0.0.0/8`.
pub(super) fn is_subnet(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok()
}

/// The key of a label: `name` or `prefix.example.com/name`.
pub fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_prefix = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(is_label);
    prefix.is_none_or(is_prefix) && name.len() <= 63 && is_qualified(name)
}

/// The value of a label, which may be empty.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified(value)
}

fn is_qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(is: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(is(text), "{text}");
        }
        for text in bad {
            assert!(!is(text), "{text}");
        }
    }

    #[test]
    fn names_are_told_apart_as_istio_does() {
        let long = "a".repeat(64);
        check(
            is_fqdn,
            &["a", "a.b-c.com", "A.com", "a.com.", "mesh", "gw.ns.svc.cluster.local"],
            &["", ".", "a b", "a_b", "-a.com", "a..b", "a.1", "10.0.0.1", "[::1]", "a/b", &long],
        );
        check(
            is_wildcard_domain,
            &["*", "a", "1", "*.a.com", "*a.com", "*-a.com", "a.", "A-1.com.", "*.com"],
            &[
                "", ".", "a*.com", "*.*.com", "-a", "a_b.com", "10.0.0.1", "::1", "a..b", "**",
                &long,
            ],
        );
        check(
            is_cluster_name,
            &["outbound_.80_._.a.com", "outbound_.80_.v1_.a"],
            &["outbound_.80", "outbound_.x_._.a.com", "outbound_.80_._.1", "inbound_.80_._.a.com"],
        );
        check(is_socket, &["/a/b", "@a", "@"], &["", "a", "/", "/a/"]);
        check(
            is_subnet,
            &["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"],
            &["", "foo", "10.0.0", "10.0.0.0/33", "10.0.0.0/8/8", "a.com"],
        );
        check(
            is_label_key,
            &["app", "a.b_c-D", "istio.io/rev", "0"],
            &["", "/a", "a/", "a b", "-a", "a/b/c", "a_b/c", &long],
        );
        check(is_label_value, &["", "v1", "a.b_c-D"], &["a b", "-a", "a*", "a/b"]);
    }
}
