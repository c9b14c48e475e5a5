use super::*;
use crate::compile::fixture;
use crate::resources::{ConfigFile, parse_mesh_networks};

fn settings(own: &str, networks: &str) -> CompileSettings {
    let bytes = format!("networks: {{{networks}}}").into_bytes().into();
    let read = parse_mesh_networks(&ConfigFile { path: "networks.yaml".into(), bytes });
    assert!(read.1.is_empty(), "{:?}", read.1);
    let labels = if own.is_empty() { Labels::new() } else { [(LABEL.into(), own.into())].into() };
    CompileSettings { labels, networks: read.0.unwrap(), ..CompileSettings::default() }
}

/// `n1` has no gateway, `n2` one, `n3` two, of which one is written twice, and `n4` two more.
const NETWORKS: &str = "n1: {}, n2: {gateways: [{address: 192.0.2.2, port: 15443}]}, \
    n3: {gateways: [{address: 192.0.2.4, port: 1}, {address: 192.0.2.3, port: 2}, \
    {address: 192.0.2.4, port: 1}]}, \
    n4: {gateways: [{address: four.example, port: 4}, {address: 2001:db8::4, port: 4}]}";

/// An endpoint from `ADDRESS NETWORK WEIGHT LOCALITY` that speaks the mesh's TLS; without an address
/// where that is `-`.
fn member(text: &str) -> Member {
    let mut parts = text.split(' ');
    let mut next = || parts.next().unwrap_or_default();
    let place = match next() {
        "-" => Place::Unknown(80),
        ip => Place::Address(Address::Socket(SocketAddr::new(ip.parse().unwrap(), 80))),
    };
    let (network, weight) = (next().to_owned(), next().parse().unwrap_or(1));
    Member { place, network, weight, locality: next().to_owned(), ..Member::example() }
}

fn shown(reached: &Reached) -> Vec<String> {
    let all = reached.members.iter().zip(&reached.encrypted).map(|(member, encrypted)| {
        let place = match &member.place {
            Place::Address(address) => address.to_string(),
            Place::Name(name, port) => format!("{name}:{port}"),
            Place::Unknown(port) => format!("unknown:{port}"),
        };
        let through = member.through.as_ref().map_or(String::new(), |name| format!(" {name}"));
        let plain = if *encrypted { "" } else { " plain" };
        let place = format!("{place}{through} {}{plain} {}", member.weight, member.locality);
        place.trim_end().to_owned()
    });
    all.collect()
}

const MESH: Way = Way { encrypted: true, mesh: true };

/// Expects `ADDRESS [NETWORK] WEIGHT LOCALITY` of each endpoint as this gateway of network `own` reaches it.
fn check(own: &str, members: &[&str], expected: &[&str]) {
    let settings = settings(own, NETWORKS);
    let members: Vec<_> = members.iter().map(|text| member(text)).collect();
    let reached = Networks::new(&settings).reached(&members, &vec![MESH; members.len()]);
    assert_eq!(shown(&reached), expected, "{members:?}");
    assert!(reached.left_out.is_empty());
}

#[test]
fn endpoints_elsewhere_are_reached_through_their_networks_gateways() {
    check("n1", &["10.0.0.1 n2"], &["192.0.2.2:15443 n2 1"]);
    check("n1", &["- n2"], &["192.0.2.2:15443 n2 1"]);
    check("n1", &["10.0.0.1 n2", "10.0.0.2 n2"], &["192.0.2.2:15443 n2 2"]);
    check("n1", &["10.0.0.1 n4"], &["[2001:db8::4]:4 n4 1", "four.example:4 n4 1"]);
    // Where the gateway's own network is not said, it is none that has gateways.
    check("", &["10.0.0.1 n2"], &["192.0.2.2:15443 n2 1"]);
}

#[test]
fn others_are_reached_directly() {
    check("n2", &["10.0.0.1 n2 3"], &["10.0.0.1:80 3"]);
    check(
        "n2",
        &["10.0.0.1", "10.0.0.2 n1", "10.0.0.3 n9"],
        &["10.0.0.1:80 1", "10.0.0.2:80 1", "10.0.0.3:80 1"],
    );
    check("", &["10.0.0.1 n1"], &["10.0.0.1:80 1"]);
    check("n2", &["- n2", "- n1"], &[]);
}

#[test]
fn gateways_share_the_weight_of_what_is_behind_them() {
    let both = ["192.0.2.3:2 n3 5", "192.0.2.4:1 n3 5"];
    check(
        "n1",
        &["10.0.0.1 n1 2", "10.0.0.2 n3 4", "10.0.0.3 n3"],
        &["10.0.0.1:80 4", both[0], both[1]],
    );
    let all = ["10.0.0.1 n2 4294967295", "10.0.0.2 n3 4294967295"];
    check(
        "n1",
        &all,
        &[
            "192.0.2.2:15443 n2 4294967295",
            "192.0.2.3:2 n3 2147483647",
            "192.0.2.4:1 n3 2147483647",
        ],
    );
}

#[test]
fn each_locality_keeps_its_share() {
    check(
        "n1",
        &["10.0.0.1 n2 2 eu", "10.0.0.2 n2 1 us", "10.0.0.3 n2 1 eu"],
        &["192.0.2.2:15443 n2 3 eu", "192.0.2.2:15443 n2 1 us"],
    );
}

#[test]
fn what_does_not_speak_the_meshs_tls_is_left_out_and_sealed_bytes_are_passed_on() {
    let settings = settings("n1", NETWORKS);
    let networks = Networks::new(&settings);
    let members = ["10.0.0.1 n2", "10.0.0.2 n1", "10.0.0.3 n2", "10.0.0.4 n3"].map(member);
    let check = |encrypted: bool, mesh: bool, expected: &[&str], left_out: &[(&str, usize)]| {
        let reached = networks.reached(&members, &[Way { encrypted, mesh }; 4]);
        assert_eq!(shown(&reached), expected);
        let found: Vec<_> = reached.left_out.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(found, left_out);
    };
    check(false, false, &["10.0.0.2:80 2 plain"], &[("n2", 2), ("n3", 1)]);
    check(true, false, &["10.0.0.2:80 2"], &[("n2", 2), ("n3", 1)]);
    let sealed = [
        "10.0.0.2:80 2 plain",
        "192.0.2.2:15443 n2 4 plain",
        "192.0.2.3:2 n3 1 plain",
        "192.0.2.4:1 n3 1 plain",
    ];
    check(false, true, &sealed, &[]);
}

#[test]
fn blocks_say_which_network_an_address_is_in() {
    let text = "a: {endpoints: [{fromCidr: 10.1.0.0/16}]}, b: {endpoints: [{fromCidr: 10.0.0.0/8}, \
                {fromCidr: 192.0.2.7}, {fromCidr: '2001:db8::/32'}]}";
    let settings = settings("", text);
    let networks = Networks::new(&settings);
    for (address, network) in [
        ("10.1.2.3", "b"),
        ("10.200.0.1", "b"),
        ("192.0.2.7", "b"),
        ("192.0.2.8", ""),
        ("2001:db8::1", "b"),
        ("a.example", ""),
        ("", ""),
    ] {
        assert_eq!(networks.of(address), network, "{address}");
    }
}

#[test]
fn networks_that_nobody_names_are_told() {
    let resource = |network: &str, own: &str| {
        let spec = format!(
            "spec: {{hosts: [a.b], location: MESH_INTERNAL, resolution: STATIC, ports: [{{number: 80, \
             name: p, protocol: HTTP}}], endpoints: [{{address: 10.0.0.1, network: {network}}}]}}"
        );
        let set = fixture::set_of(&[
            ("networking.istio.io/v1", "ServiceEntry", "{name: a}", &spec),
            (
                "networking.istio.io/v1",
                "WorkloadEntry",
                "{name: a}",
                &format!("spec: {{address: 10.0.0.1, network: {network}}}"),
            ),
        ]);
        let mut findings = Findings::default();
        tell(&set, &settings(own, NETWORKS), &mut findings);
        fixture::codes(findings)
    };
    assert_eq!(resource("n9", "n1"), ["PC070", "PC070"]);
    for (network, own) in [("n9", "n9"), ("n1", ""), ("n2", "n1"), ("''", "")] {
        assert!(resource(network, own).is_empty(), "{network} {own}");
    }
}
