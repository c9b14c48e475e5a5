use super::*;
use crate::compile::fixture::{codes, set_of};
use crate::compile::settings::OwnPorts;
use crate::resources::{ConfigFile, parse};

fn check(servers: &str) -> (Vec<(u16, Vec<Kind>)>, Vec<&'static str>) {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: gw}}\nspec:\n  \
         selector: {{istio: ingressgateway}}\n  servers:\n{servers}"
    );
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
    let parsed = parse(&[file]);
    let mut findings = Findings::default();
    let drafts = listeners(&parsed.set, &CompileSettings::default(), &mut findings);
    let kinds = |l: &ListenerDraft<'_>| (l.port, l.servers.iter().map(|s| s.kind).collect());
    let codes = findings.finish().iter().map(|d| d.code.id).collect();
    (drafts.iter().map(kinds).collect(), codes)
}

fn server(port: u16, name: &str, protocol: &str, host: &str, tls: &str) -> String {
    format!(
        "  - port: {{number: {port}, name: {name}, protocol: {protocol}}}\n    hosts: \
         [\"{host}\"]\n{tls}"
    )
}

#[test]
fn termination_and_passthrough_share_a_port() {
    let simple = "    tls: {mode: SIMPLE, credentialName: a}\n";
    let yaml = server(443, "a", "HTTPS", "a.com", simple)
        + &server(443, "b", "TLS", "b.com", "    tls: {mode: PASSTHROUGH}\n")
        + &server(80, "c", "HTTP", "*", "");
    assert_eq!(
        check(&yaml),
        (vec![(80, vec![Kind::Http]), (443, vec![Kind::Https, Kind::Passthrough])], vec![])
    );
}

#[test]
fn a_server_with_a_field_that_does_not_exist_is_not_open() {
    let cases = [
        ("HTTP", "tls: {httpRedirect: true}", None),
        ("HTTP", "tsl: {httpsRedirect: true}", None),
        ("TCP", "tsl: {mode: MUTUAL, credentialName: a}", None),
        ("HTTP", "bnid: 127.0.0.1", None),
        // Handshakes are refused, and the host goes to no other server.
        ("HTTPS", "tls: {mdoe: MUTUAL, credentialName: a}", Some(Kind::Https)),
        ("TLS", "tls: {mdoe: MUTUAL, credentialName: a}", Some(Kind::Https)),
        ("HTTP", "tls: {httpsRedirect: true}", Some(Kind::Http)),
    ];
    for (protocol, field, kind) in cases {
        let (listeners, codes) =
            check(&server(80, "a", protocol, "a.com", &format!("    {field}\n")));
        let kinds: Vec<Kind> = listeners.into_iter().flat_map(|(_, kinds)| kinds).collect();
        assert_eq!(kinds, Vec::from_iter(kind), "{protocol} {field}");
        let told = if kind.is_none() { vec!["PC052"] } else { vec![] };
        assert_eq!(codes, told, "{protocol} {field}");
    }
}

#[test]
fn the_earlier_server_wins_a_port() {
    let simple = "    tls: {mode: SIMPLE, credentialName: a}\n";
    let yaml = server(443, "a", "HTTPS", "a.com", simple) + &server(443, "b", "HTTP", "b.com", "");
    assert_eq!(check(&yaml), (vec![(443, vec![Kind::Https])], vec!["PC030"]));
}

#[test]
fn listeners_that_the_system_would_refuse_are_told() {
    let on = |name: &str, bind: &str, port| {
        let bind = if bind.is_empty() { String::new() } else { format!("    bind: '{bind}'\n") };
        server(port, name, "HTTP", "*", "") + &bind
    };
    let refused = |first: &str, second: &str| {
        let servers = on("a", first, 80) + &on("b", second, 80) + &on("c", second, 81);
        let (listeners, codes) = check(&servers);
        assert_eq!(listeners.len(), 3 - codes.len());
        codes == ["PC030"]
    };
    for (first, second) in [
        ("", "127.0.0.1"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "::"),
        ("::", "127.0.0.1"),
    ] {
        assert!(refused(first, second), "{first} {second}");
    }
    for (first, second) in [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "::1"), ("::1", "127.0.0.1")] {
        assert!(!refused(first, second), "{first} {second}");
    }
}

#[test]
fn addresses_that_no_listener_can_have_are_told() {
    for bind in ["fe80::1", "ff02::1", "224.0.0.1", "255.255.255.255", "::ffff:224.0.0.1"] {
        let (listeners, codes) = check(
            &(server(80, "a", "HTTP", "*", &format!("    bind: '{bind}'\n"))
                + &server(81, "b", "HTTP", "*", "")),
        );
        assert_eq!((listeners, codes), (vec![(81, vec![Kind::Http])], vec!["PC035"]), "{bind}");
    }
}

#[test]
fn an_ipv4_address_in_ipv6s_form_is_that_address() {
    let yaml = server(80, "a", "HTTP", "a.com", "    bind: '::ffff:127.0.0.1'\n")
        + &server(80, "b", "HTTP", "b.com", "    bind: 127.0.0.1\n");
    assert_eq!(check(&yaml), (vec![(80, vec![Kind::Http, Kind::Http])], vec![]));
}

#[test]
fn the_programs_own_ports_are_no_servers() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec:\n  \
                selector: {istio: ingressgateway}\n  servers:\n"
        .to_owned()
        + &server(80, "a", "HTTP", "*", "")
        + &server(7, "b", "HTTP", "*", "    bind: 10.0.0.1\n")
        + &server(8, "c", "HTTP", "*", "");
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
    let set = parse(&[file]).set;
    let check = |own: &str, port_map: &[(u16, u16)], expected: &[&str]| {
        let own_ports = OwnPorts { admin: Some(own.parse().unwrap()), ..OwnPorts::default() };
        let port_map = port_map.iter().copied().collect();
        let settings = CompileSettings { port_map, own_ports, ..CompileSettings::default() };
        let mut findings = Findings::default();
        let count = listeners(&set, &settings, &mut findings).len();
        let told = findings.finish();
        let told: Vec<_> = told.iter().map(|d| format!("{} {}", d.code.id, d.field)).collect();
        assert_eq!(told, expected, "{own}");
        assert_eq!(count, 3 - expected.len(), "{own}");
    };
    check("127.0.0.1:80", &[], &["PC030 spec.servers[0].port"]);
    check("0.0.0.0:7", &[], &["PC030 spec.servers[1].port"]);
    check("127.0.0.1:7", &[], &[]);
    check("[::1]:1", &[(8, 1)], &["PC030 spec.servers[2].port"]);
    check("[::1]:80", &[(80, 1)], &[]);
}

#[test]
fn ports_mapped_to_one_are_told() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec:\n  \
                selector: {istio: ingressgateway}\n  servers:\n"
        .to_owned()
        + &server(80, "a", "HTTP", "*", "")
        + &server(81, "b", "HTTP", "*", "");
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
    let set = parse(&[file]).set;
    let port_map = [(80, 8080), (81, 8080)].into_iter().collect();
    let settings = CompileSettings { port_map, ..CompileSettings::default() };
    let mut findings = Findings::default();
    assert_eq!(listeners(&set, &settings, &mut findings).len(), 1);
    let told = findings.finish();
    let places: Vec<_> = told.iter().map(|d| (d.code.id, d.field.as_str())).collect();
    assert_eq!(places, [("PC030", "spec.servers[1].port")]);
}

#[test]
fn a_repeated_tls_host_drops_the_later_server() {
    let simple = "    tls: {mode: SIMPLE, credentialName: a}\n";
    let yaml =
        server(443, "a", "HTTPS", "a.com", simple) + &server(443, "b", "HTTPS", "a.com", simple);
    assert_eq!(check(&yaml), (vec![(443, vec![Kind::Https])], vec!["PC031"]));
}

#[test]
fn a_server_that_validation_should_have_stopped_is_left_out_and_told() {
    let spec = "spec: {servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}]}";
    let version = "networking.istio.io/v1";
    let spoil: [fn(&mut Server); 3] = [
        |server| server.bind = "localhost".into(),
        |server| server.port.as_mut().unwrap().number = 70_000,
        |server| server.port.as_mut().unwrap().protocol = "UDP".into(),
    ];
    for spoil in spoil {
        let mut set = set_of(&[(version, "Gateway", "{name: gw}", spec)]);
        spoil(&mut std::sync::Arc::make_mut(&mut set.gateways[0]).spec.servers[0]);
        let mut findings = Findings::default();
        assert_eq!(listeners(&set, &CompileSettings::default(), &mut findings).len(), 0);
        assert_eq!(codes(findings), ["PC035"]);
    }
}
