use super::*;
use crate::resources::{ConfigFile, parse, parse_mesh_networks};
use crate::snapshot::cluster::Address;

fn check(spec: &str) -> Vec<Place> {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\nspec:\n  \
         hosts: [A.example]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n{spec}"
    );
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
    let parsed = parse(&[file]);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let settings = CompileSettings::default();
    let services = Services::new(&parsed.set, &settings, &mut Findings::default());
    let service = services.find("a.example", "default", "istio-system").unwrap();
    let members = services.members(service, &service.ports[0]);
    members.into_iter().map(|member| member.place).collect()
}

fn socket(text: &str) -> Place {
    Place::Address(Address::Socket(text.parse().unwrap()))
}

#[test]
fn listed_endpoints_have_their_own_ports() {
    let spec = "  resolution: STATIC\n  endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, \
                ports: {http: 8080}}]\n";
    assert_eq!(check(spec), [socket("10.0.0.1:80"), socket("10.0.0.2:8080")]);
}

#[test]
fn an_endpoints_own_network_counts_and_blocks_label_it() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  \
                hosts: [a.example]\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: \
                HTTP}]\n  endpoints: [{address: 10.0.0.1}, {network: n2}, {address: 10.0.0.2, network: \
                n2, labels: {topology.istio.io/network: own}}, {address: 192.0.2.1}]\n";
    let parsed = parse(&[ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() }]);
    let networks = b"networks: {n1: {endpoints: [{fromCidr: 10.0.0.0/8}]}}";
    let networks = ConfigFile { path: "networks.yaml".into(), bytes: networks[..].into() };
    let networks = parse_mesh_networks(&networks).0.unwrap();
    let settings = CompileSettings { networks, ..CompileSettings::default() };
    let services = Services::new(&parsed.set, &settings, &mut Findings::default());
    let service = services.find("a.example", "default", "istio-system").unwrap();
    let members = services.members(service, &service.ports[0]);
    let label = |member: &Member| member.labels.values().next().cloned().unwrap_or_default();
    let seen: Vec<_> =
        members.iter().map(|one| (one.place.clone(), one.network.as_str(), label(one))).collect();
    let at = |text: &str, network: &'static str, label: &str| (socket(text), network, label.into());
    let expected = [
        at("10.0.0.1:80", "", "n1"),
        (Place::Unknown(80), "n2", "n2".into()),
        at("10.0.0.2:80", "n2", "own"),
        at("192.0.2.1:80", "", ""),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn dns_without_endpoints_resolves_the_host_itself() {
    assert_eq!(check("  resolution: DNS\n"), [Place::Name("a.example".into(), 80)]);
}

#[test]
fn each_host_resolves_itself() {
    let spec = "  hosts: [b.example, A.example]\n  resolution: DNS\n";
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\nspec:\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n{spec}"
    );
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
    let parsed = parse(&[file]);
    let settings = CompileSettings::default();
    let services = Services::new(&parsed.set, &settings, &mut Findings::default());
    for host in ["a.example", "b.example"] {
        let service = services.find(host, "default", "istio-system").unwrap();
        let members = services.members(service, &service.ports[0]);
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].place, Place::Name(host.into(), 80));
    }
}

#[test]
fn an_entry_adds_to_the_kubernetes_service_of_its_host() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, \
                namespace: shop}\nspec: {hosts: [cart.shop.svc.cluster.local], resolution: STATIC, \
                subjectAltNames: [cart.example], ports: [{number: 90, name: x, protocol: \
                HTTP}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: \
                shop}\nspec: {ports: [{name: http, port: 80}]}\n";
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
    let parsed = parse(&[file]);
    let settings = CompileSettings::default();
    let services = Services::new(&parsed.set, &settings, &mut Findings::default());
    let cart = services.find("cart.shop.svc.cluster.local", "shop", "istio-system").unwrap();
    assert_eq!((cart.ports[0].number, cart.ports.len()), (80, 1));
    assert_eq!(cart.subject_alt_names, ["cart.example"]);
}

#[test]
fn none_has_no_endpoint_at_a_gateway() {
    assert_eq!(check("  resolution: NONE\n"), []);
}

/// Resources and their service `a.example` of namespace `shop`: the field because of which it refuses,
/// by its line, and its endpoints.
fn check_refusal(yaml: &str, line: Option<u32>, endpoints: usize) {
    let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.as_bytes().into() };
    let parsed = parse(&[file]);
    let settings = CompileSettings::default();
    let mut findings = Findings::default();
    let services = Services::new(&parsed.set, &settings, &mut findings);
    let service = services.find("a.example", "shop", "istio-system").unwrap();
    assert_eq!(services.refusing(service).map(|origin| origin.line), line, "{yaml}");
    assert_eq!(services.members(service, &service.ports[0]).len(), endpoints, "{yaml}");
    let told: Vec<_> = findings.finish().iter().map(|d| d.code.id).collect();
    let expected: &[&str] = if line.is_some() || endpoints == 0 { &["PC052"] } else { &[] };
    assert_eq!(told, expected, "{yaml}");
}

#[test]
fn an_entry_that_may_have_demanded_more_refuses() {
    let entry = |namespace: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, \
             namespace: {namespace}}}\nspec:\n  hosts: [A.example]\n  resolution: STATIC\n  ports: \
             [{{number: 80, name: http, protocol: HTTP}}]\n  {more}\n---\n"
        )
    };
    let good = "endpoints: [{address: 10.0.0.1, serviceAccount: a}]";
    check_refusal(&entry("shop", good), None, 1);
    for misspelt in ["subjectAltName: [b]", "Location: MESH_INTERNAL"] {
        check_refusal(&entry("shop", &format!("{good}\n  {misspelt}")), Some(9), 1);
    }
    let endpoint = "endpoints: [{address: 10.0.0.1, serviceAcount: a}]";
    check_refusal(&entry("shop", endpoint), Some(8), 1);
    let port = "endpoints: [{address: 10.0.0.1}]\n  ports: [{number: 80, name: a, protocl: HTTP}]";
    let port = entry("shop", port).replacen(
        "  ports: [{number: 80, name: http, protocol: HTTP}]\n",
        "",
        1,
    );
    check_refusal(&port, None, 1);
    // Somebody else's entry for the same host harms only their own.
    let foreign = entry("shop", good) + &entry("other", "subjectAltName: [b]");
    let file = ConfigFile { path: "a.yaml".into(), bytes: foreign.into_bytes().into() };
    let parsed = parse(&[file]);
    let settings = CompileSettings::default();
    let services = Services::new(&parsed.set, &settings, &mut Findings::default());
    let refuses =
        |from| services.refusing(services.find("a.example", from, "x").unwrap()).is_some();
    assert!(refuses("other") && !refuses("shop"));
}

#[test]
fn a_workload_that_may_have_demanded_more_is_no_endpoint() {
    let with = |field: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, \
             namespace: shop}}\nspec: {{hosts: [a.example], resolution: STATIC, ports: [{{number: 80, \
             name: http, protocol: HTTP}}], workloadSelector: {{labels: {{app: \
             a}}}}}}\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: \
             w, namespace: shop}}\nspec: {{address: 10.0.0.1, labels: {{app: a}}, {field}: b}}\n"
        )
    };
    check_refusal(&with("serviceAccount"), None, 1);
    check_refusal(&with("serviceAcount"), None, 0);
}

#[test]
fn a_gateway_uses_what_is_exported_to_its_namespace() {
    let entry = |namespace: &str, export: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, \
             namespace: {namespace}}}\nspec: {{hosts: [a.example], exportTo: [{export}], resolution: \
             STATIC}}\n---\n"
        )
    };
    let check = |entries: &[(&str, &str)], expected: Option<&str>| {
        let yaml: String = entries.iter().map(|(from, to)| entry(from, to)).collect();
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        let settings = CompileSettings::default();
        let services = Services::new(&parsed.set, &settings, &mut Findings::default());
        let found = services.find("a.example", "shop", "edge");
        assert_eq!(found.map(|service| service.namespace.as_str()), expected, "{entries:?}");
        let all: Vec<_> = services.visible("edge").collect();
        assert_eq!(all.is_empty(), expected.is_none(), "{entries:?}");
    };
    check(&[("shop", "'.'")], None);
    check(&[("shop", "other")], None);
    check(&[("shop", "'~'")], None);
    check(&[("shop", "edge")], Some("shop"));
    check(&[("edge", "'.'")], Some("edge"));
    check(&[("far", "edge")], Some("far"));
    check(&[("old", "'*'"), ("young", "'*'")], Some("old"));
    check(&[("old", "'*'"), ("shop", "'*'")], Some("shop"));
    check(&[("old", "'*'"), ("shop", "'.'")], Some("old"));
    check(&[("old", "'*'"), ("young", "edge")], Some("young"));
    check(&[("old", "'*'"), ("edge", "'*'")], Some("old"));
}

#[test]
fn a_port_speaks_what_its_app_protocol_name_or_number_says() {
    let check = |port: &str, expected: Speaks| {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop}}\nspec: {{ports: \
             [{{{port}}}]}}\n"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let (set, settings) = (parse(&[file]).set, CompileSettings::default());
        let services = Services::new(&set, &settings, &mut Findings::default());
        let host = "a.shop.svc.cluster.local";
        let service = services.find(host, "shop", "istio-system").unwrap();
        assert_eq!(service.ports[0].speaks, expected, "{port}");
    };
    check("port: 80, name: http", Speaks::Http);
    check("port: 80, name: http-web", Speaks::Http);
    check("port: 80, name: grpc-web", Speaks::Http2);
    check("port: 80, name: tcp-x", Speaks::Bytes);
    check("port: 80, name: web", Speaks::Unsaid);
    check("port: 3306, name: web", Speaks::Bytes);
    check("port: 80, name: tcp-x, appProtocol: HTTP2", Speaks::Http2);
    check("port: 80, name: http, appProtocol: kubernetes.io/h2c", Speaks::Http2);
    check("port: 80, name: grpc, appProtocol: kubernetes.io/ws", Speaks::Http);
    check("port: 80, name: http, appProtocol: https", Speaks::Bytes);
}
