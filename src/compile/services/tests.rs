use super::*;
use crate::resources::{ConfigFile, parse};

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
