//! Endpoints of other networks: two gateways of this binary, one before each network.

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, free_port, gateway, routes, to};

const NAME: &str = "outbound_.80_._.cart.shop.internal";
/// Where nobody is (RFC 5737).
const NOWHERE: &str = "192.0.2.1";

/// `cart.shop.internal` with one endpoint of namespace `shop`, and what else is said of it.
fn cart(address: &str, port: u16, said: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: cart, namespace: \
         shop}}\nspec: {{hosts: [cart.shop.internal], location: MESH_INTERNAL, resolution: STATIC, \
         ports: [{{number: 80, name: p, protocol: HTTP}}], endpoints: [{{address: {address}, ports: \
         {{p: {port}}}{said}}}]}}\n"
    )
}

fn networks(gateway: u16) -> String {
    format!("networks: {{n2: {{gateways: [{{address: 127.0.0.1, port: {gateway}}}]}}, n3: {{}}}}\n")
}

/// A gateway in network `n1`, the gateway of `n2`, and a workload of service account `cart` that asks for
/// certificates of the mesh.
struct World {
    site: Site,
    backend: Backend,
    edge: Gateway,
    east: Gateway,
}

impl World {
    async fn new() -> Self {
        let site = Site::new();
        let backend = Backend::mutual(&site.workload("shop", "cart", 40), &site.mesh).await;
        let label =
            |network: &str| format!("istio=ingressgateway,topology.istio.io/network={network}");
        let passing = gateway("east", 15443, "TLS", "'*.shop.internal'", "mode: AUTO_PASSTHROUGH");
        let near = cart("127.0.0.1", backend.port, ", network: n2, serviceAccount: cart");
        site.write("east/all.yaml", passing + &near);
        let east = site.launch("run", "east", &[15443], &["--labels", &label("n2")]);
        east.wait("it is ready", || east.status("/healthz/ready") == Some(200));
        site.write("networks.yaml", networks(east.port(15443)));
        site.config("all", &config(&far("n2")));
        let arguments = ["--labels", &label("n1"), "--mesh-networks", "networks.yaml"];
        let edge = site.start_with(&[80], &arguments);
        Self { site, backend, edge, east }
    }

    fn change(&self, cart: &str) {
        self.edge.reload(|| _ = self.site.config("all", &config(cart)));
    }

    /// Where the edge says that it sends requests.
    fn explained(&self) -> String {
        self.edge.admin("/explain?url=http://a.com/").to_string()
    }
}

/// Waits until a finding is told: the report follows the snapshot.
fn told(edge: &Gateway, code: &str) {
    edge.wait(code, || edge.admin("/diagnostics").to_string().contains(code));
}

fn config(cart: &str) -> String {
    gateway("plain", 80, "HTTP", "'*'", "")
        + &routes("r", "istio-system/plain", "'*'", &to("cart"))
        + cart
}

fn far(network: &str) -> String {
    cart(NOWHERE, 80, &format!(", network: {network}, serviceAccount: cart"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_networks_endpoints_are_reached_through_its_gateway() {
    let world = World::new().await;
    let mut http = Http::plain(world.edge.port(80)).await;
    let reply = http.get("http://a.com/x").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!((&reply.json()["tls"]["sni"], &reply.json()["path"]), (&NAME.into(), &"/x".into()));
    assert!(world.east.metrics().contains("istio_tcp_connections_opened_total"));
    let explained = world.explained();
    let through =
        format!("127.0.0.1:{}, through the gateway of network n2", world.east.port(15443));
    assert!(explained.contains(&through), "{explained}");
    // Who is there is known by the mesh's TLS, whoever passes it on.
    world.change(&far("n2").replace("serviceAccount: cart", "serviceAccount: other"));
    assert_eq!(http.get("http://a.com/").await.status, 503);
    world.change(&cart("''", 80, ", network: n2, serviceAccount: cart"));
    assert_eq!(http.get("http://a.com/").await.status, 200);
    assert_eq!(world.backend.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_reached_directly_need_no_gateway() {
    let World { ref site, ref backend, ref edge, .. } = World::new().await;
    let world = |said: &str| cart("127.0.0.1", backend.port, said);
    let mut http = Http::plain(edge.port(80)).await;
    edge.reload(|| site.write("networks.yaml", networks(free_port())));
    let reply = http.get("http://a.com/").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    for network in ["", ", network: n1", ", network: n3", ", network: n9"] {
        let cart = world(&format!("{network}, serviceAccount: cart"));
        edge.reload(|| _ = site.config("all", &config(&cart)));
        assert_eq!(http.get("http://a.com/").await.status, 200, "{network}");
    }
    told(edge, "PC070");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_speak_the_meshs_tls_gets_nothing_through_a_gateway() {
    let world = World::new().await;
    let mut http = Http::plain(world.edge.port(80)).await;
    world.change(&cart("127.0.0.1", world.backend.port, ", network: n2"));
    let reply = http.get("http://a.com/").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (503, "no healthy upstream"));
    told(&world.edge, "PC072");
    told(&world.edge, "PC042");
    assert_eq!(world.backend.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_networks_go_on() {
    let world = World::new().await;
    let mut http = Http::plain(world.edge.port(80)).await;
    world.edge.reload(|| world.site.write("networks.yaml", "networks: {n2: {gateways: 1}}\n"));
    told(&world.edge, "PC011");
    assert_eq!(http.get("http://a.com/").await.status, 200);
    world.edge.reload(|| world.site.write("networks.yaml", "networks: {}\n"));
    assert!(world.explained().contains(NOWHERE));
    let broken = "networks: {n2: {endpoints: [{fromCidr: 10.0.0.0/33}]}}\n";
    world.site.write("networks.yaml", broken);
    let told = world.site.command(&["check", "--mesh-networks", "networks.yaml"]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(!told.status.success() && text.contains("10.0.0.0/33"), "{text}");
}
