//! Names that a sidecar resolves: aliases of the trust domain, ports with names, identities by join token.

use crate::authority::{Ca, ECHO_TOKEN};
use crate::backend::Backend;
use crate::gateway::Site;
use crate::identity::echo_leaf;
use crate::sidecar::{FRONT, access, caller_of, declared, mode, plain_status, start_with, status};

#[tokio::test]
async fn identities_of_an_alias_are_those_of_the_trust_domain() {
    let application = Backend::http1().await;
    let site = Site::new();
    site.write("mesh.yaml", "trustDomain: cluster.local\ntrustDomainAliases: [old.example]\n");
    let mesh = site.path("mesh.yaml").display().to_string();
    let policy =
        access("rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}]}]");
    let config = declared("http", application.port) + &mode("STRICT") + &policy;
    let sidecar = start_with(&config, application.port, &["--mesh-config", &mesh]);
    for (id, expected) in [
        (FRONT, Some(200)),
        ("spiffe://old.example/ns/shop/sa/front", Some(200)),
        ("spiffe://old.example/ns/shop/sa/back", Some(403)),
        ("spiffe://other.example/ns/shop/sa/front", None),
    ] {
        assert_eq!(status(&sidecar.caller(id), sidecar.port, "/").await, expected, "{id}");
    }
    // Nobody's alias any more: not even a handshake.
    let told = "trustDomain: cluster.local\n";
    sidecar.process.reload(|| site.write("mesh.yaml", told));
    let old = sidecar.caller("spiffe://old.example/ns/shop/sa/front");
    assert_eq!(status(&old, sidecar.port, "/").await, None);
    assert_eq!(status(&sidecar.caller(FRONT), sidecar.port, "/").await, Some(200));
}

/// The slices of a Service say which number a name is: its protocol is the one declared.
#[tokio::test]
async fn a_port_with_a_name_is_known_by_the_slices() {
    let application = Backend::http2().await;
    let port = application.port;
    let named =
        declared("grpc-web", port).replace(&format!("targetPort: {port}"), "targetPort: web");
    let slice = |port: u16| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-1, \
             namespace: shop, labels: {{kubernetes.io/service-name: cart}}}}\naddressType: \
             IPv4\nports: [{{name: grpc-web, port: {port}}}]\nendpoints: [{{addresses: \
             [10.0.0.1]}}]\n"
        )
    };
    let sidecar = start_with(&(named.clone() + &slice(port)), port, &[]);
    let seen = plain_status(sidecar.port).await;
    assert_eq!(seen, Some(200), "declared as HTTP/2 for an HTTP/1.1 caller");
    // Another number's name: the port is not declared, and the version is the caller's.
    sidecar.process.reload(|| _ = sidecar.site.config("all", &(named + &slice(port ^ 1))));
    assert_ne!(plain_status(sidecar.port).await, Some(200));
}

/// The sidecar asks the CA service by a join token; a caller that expects another identity refuses it.
#[tokio::test]
async fn a_join_token_gives_the_sidecar_its_identity() {
    let application = Backend::http1().await;
    let ca = Ca::start(&[]);
    std::fs::write(ca.path("echo-token"), ECHO_TOKEN).unwrap();
    let path = |name: &str| ca.path(name).display().to_string();
    let (source, token) = (format!("ca:localhost:{}", ca.port), path("echo-token"));
    let roots = path("ca/root-cert.pem");
    let flags = ["--identity", &source, "--identity-token", &token, "--identity-roots", &roots];
    let sidecar = start_with(&mode("STRICT"), application.port, &flags);
    let own = echo_leaf(&ca).await;
    for (expected, answer) in [("echo", Some(200)), ("cart", None)] {
        let name = format!("spiffe://cluster.local/ns/shop/sa/{expected}");
        let caller =
            caller_of(&ca.read("ca/root-cert.pem"), Some(&own), &["http/1.1", "istio"], &name);
        assert_eq!(status(&caller, sidecar.port, "/").await, answer, "{expected}");
    }
    assert_eq!(plain_status(sidecar.port).await, None);
}
