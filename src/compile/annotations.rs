//! Annotations of Gateways, for what Istio has no field for.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::diag::{Severity, catalog};
use crate::resources::{Gateway, Resource, ResourceSet};

use super::findings::{Findings, at};
use super::{announcers, client_cert, forwarded, path_normalization};

/// What the names of ours begin with.
const OWN: &str = "portcullis.dev/";

/// Those that are acted on.
const KNOWN: [&str; 6] = [
    announcers::PORTS,
    announcers::PEERS,
    client_cert::ANNOTATION,
    forwarded::PROXIES,
    forwarded::DETAILS,
    path_normalization::ANNOTATION,
];

/// Tells of those that cannot be followed.
pub(super) fn tell(set: &ResourceSet, findings: &mut Findings) {
    for gateway in &set.gateways {
        let names = gateway.meta.annotations.keys().filter(|name| name.starts_with(OWN));
        for name in names.filter(|name| !KNOWN.contains(&name.as_str())) {
            let message = format!("\"{name}\" is no annotation of a Gateway");
            let finding = at(gateway, field(name), &catalog::UNKNOWN_ANNOTATION, message);
            findings.add(finding.help(format!("correct its name; known are {}", KNOWN.join(", "))));
        }
        client_cert::tell(gateway, findings);
        announcers::tell(gateway, findings);
        forwarded::tell(gateway, findings);
        path_normalization::tell(gateway, findings);
    }
}

/// Tells of a value that restricts less, or otherwise, than it was meant to.
pub(super) fn refuse(
    (gateway, name): (&Resource<Gateway>, &str),
    findings: &mut Findings,
    message: String,
    help: &str,
) {
    let finding = at(gateway, field(name), &catalog::INVALID_ANNOTATION, message);
    findings.add(finding.severity(Severity::Error).help(help));
}

/// Where an annotation is written.
pub(super) fn field(name: &str) -> String {
    format!("metadata.annotations.{name}")
}

/// The parts of its value, which commas separate.
pub(super) fn listed<'a>(
    gateway: &'a Resource<Gateway>,
    name: &str,
) -> impl Iterator<Item = &'a str> {
    let value = gateway.meta.annotations.get(name).map_or("", String::as_str);
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Port names, or `*`, each with a text: `PORT=TEXT`, or a text alone for all.
pub(super) fn entries<'a>(
    gateway: &'a Resource<Gateway>,
    name: &str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    listed(gateway, name)
        .map(|entry| entry.split_once('=').unwrap_or(("*", entry)))
        .map(|(port, text)| (port.trim(), text.trim()))
}

/// The text of a port: by its name, or else that of all.
pub(super) fn entry<'a>(gateway: &'a Resource<Gateway>, name: &str, port: &str) -> Option<&'a str> {
    let of = |wanted: &str| entries(gateway, name).find(|(port, _)| *port == wanted);
    of(port).or_else(|| of("*")).map(|(_, text)| text)
}

/// An address, or a block of them; of IPv4 where it is written as IPv6 (RFC 4291 section 2.5.5.2).
pub(super) fn block(text: &str) -> Option<IpNet> {
    let written = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let mapped = match written {
        IpNet::V6(block) => block.addr().to_ipv4_mapped().zip(block.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let block = mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    Some(block.map_or(written, IpNet::V4))
}

/// Tells of texts that are no addresses and no blocks.
pub(super) fn refuse_blocks(gateway: &Resource<Gateway>, name: &str, findings: &mut Findings) {
    for text in listed(gateway, name).filter(|text| block(text).is_none()) {
        let help = "list addresses and blocks such as 10.0.0.0/8, separated by commas";
        let message = format!("\"{text}\" is no address and no block");
        refuse((gateway, name), findings, message, help);
    }
}

/// Whether a name is the port name of a server, or stands for them all.
pub(super) fn names_port(gateway: &Resource<Gateway>, name: &str) -> bool {
    let mut ports = gateway.spec.servers.iter().filter_map(|server| server.port.as_ref());
    name == "*" || ports.any(|port| port.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_of_the_family_that_peers_are_seen_in() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(block(text).map(|block| block.to_string()).as_deref(), expected, "{text}");
        };
        check("10.0.0.0/8", Some("10.0.0.0/8"));
        check("192.0.2.7", Some("192.0.2.7/32"));
        check("2001:db8::/32", Some("2001:db8::/32"));
        check("::ffff:192.0.2.7", Some("192.0.2.7/32"));
        check("::ffff:127.0.0.0/104", Some("127.0.0.0/8"));
        check("::ffff:0.0.0.0/95", Some("::ffff:0.0.0.0/95"));
        check("::/0", Some("::/0"));
        check("10.0.0.0/33", None);
        check("here", None);
    }
}
