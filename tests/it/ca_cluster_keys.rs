//! The built-in CA and a cluster's service accounts: whose keys it trusts, and where it has them from.

use std::fs;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::json;
use tokio::time::timeout;
use tonic::Code;

use crate::authority::Ca;
use crate::ca::{create, signing_request, verify};
use crate::fixture;
use crate::gateway::PATIENCE;
use crate::keys::KeyServer;
use crate::pki::Authority;

#[tokio::test]
async fn a_service_account_token_is_verified_by_the_clusters_keys() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("keys.json"), fixture::issuer().key_set("RS256", "k")).unwrap();
    let ca = Ca::start_in(dir, &["--token-keys", "keys.json", "--trust-domain", "td"]);
    let mut client = ca.client().await;
    let key = KeyPair::generate().unwrap();
    let now = UnixTime::now().as_secs();
    let claims = |audience: &str| {
        json!({
            "iss": "https://kubernetes", "aud": [audience], "exp": now + 600,
            "sub": "system:serviceaccount:shop:cart",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}},
        })
    };
    let header = json!({"alg": "RS256", "kid": "k"});
    let good = fixture::issuer().token(&header, &claims("istio-ca"));
    let chain = create(&mut client, &good, signing_request(&key, &[]), 0).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let middle = CertificateDer::from_pem_slice(chain[1].as_bytes()).unwrap();
    verify(&ca, &[leaf, middle], "spiffe://td/ns/shop/sa/cart");
    let other = fixture::issuer().token(&header, &claims("kubernetes"));
    let forged = fixture::stranger().token(&header, &claims("istio-ca"));
    for token in [other, forged] {
        let outcome = create(&mut client, &token, signing_request(&key, &[]), 0).await;
        assert_eq!(outcome.unwrap_err().code(), Code::Unauthenticated);
    }
    // The keys are replaced; the other issuer's tokens hold from then on.
    fs::write(ca.path("keys.json"), fixture::stranger().key_set("RS256", "k")).unwrap();
    let forged = fixture::stranger().token(&header, &claims("istio-ca"));
    timeout(PATIENCE, async {
        while create(&mut client, &forged, signing_request(&key, &[]), 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_clusters_keys_are_fetched_from_their_address() {
    let keys = KeyServer::start(fixture::issuer().key_set("RS256", "k")).await;
    let address = format!("http://127.0.0.1:{}/keys", keys.port);
    let ca = Ca::start(&["--token-keys", &address]);
    let mut client = ca.client().await;
    let key = KeyPair::generate().unwrap();
    let claims = json!({
        "iss": "https://kubernetes", "aud": "istio-ca", "exp": UnixTime::now().as_secs() + 600,
        "sub": "system:serviceaccount:shop:cart",
    });
    let header = json!({"alg": "RS256", "kid": "k"});
    let good = fixture::issuer().token(&header, &claims);
    timeout(PATIENCE, async {
        while create(&mut client, &good, signing_request(&key, &[]), 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let forged = fixture::stranger().token(&header, &claims);
    let outcome = create(&mut client, &forged, signing_request(&key, &[]), 0).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_servers_keys_are_asked_for_with_a_token_over_its_own_tls() {
    let (own, other) = (Authority::new("cluster"), Authority::new("another"));
    let keys = fixture::issuer().key_set("RS256", "k");
    let server = KeyServer::secure(keys, &own.leaf(&["localhost"], 1), "first").await;
    let address = format!("https://localhost:{}/openid/v1/jwks", server.port);
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    fs::write(path("ca.crt"), other.pem()).unwrap();
    fs::write(path("token"), "second\n").unwrap();
    let (roots, token) = (path("ca.crt"), path("token"));
    let mut ca = Ca::start(&[
        "--token-keys",
        &address,
        "--token-keys-ca",
        &roots,
        "--token-keys-token",
        &token,
    ]);
    let mut client = ca.client().await;
    let key = KeyPair::generate().unwrap();
    let claims = json!({
        "iss": "https://kubernetes", "aud": "istio-ca", "exp": UnixTime::now().as_secs() + 600,
        "sub": "system:serviceaccount:shop:cart",
    });
    let good = fixture::issuer().token(&json!({"alg": "RS256", "kid": "k"}), &claims);
    // Another CA's server is not asked, and a wrong token gives no keys.
    ca.wait("it does not trust the server", |ca| ca.err().contains("TLS handshake"));
    assert_eq!(server.fetches(), 0);
    fs::write(path("ca.crt"), own.pem()).unwrap();
    ca.wait("its token is refused", |_| server.fetches() > 0);
    assert!(create(&mut client, &good, signing_request(&key, &[]), 0).await.is_err());
    fs::write(path("token"), "first\n").unwrap();
    timeout(PATIENCE, async {
        while create(&mut client, &good, signing_request(&key, &[]), 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert!(!ca.err().contains("second"), "{}", ca.err());
}

/// What the CA says when its cluster's key set is had by way of a redirect to `to`.
async fn redirected(own: &Authority, to: &str, said: &str) {
    let api = KeyServer::redirecting(to, &own.leaf(&["localhost"], 2), "cluster-token").await;
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    let (roots, token) = (path("ca.crt"), path("token"));
    fs::write(&roots, own.pem()).unwrap();
    fs::write(&token, "cluster-token\n").unwrap();
    let address = format!("https://localhost:{}/keys", api.port);
    let named = ["--token-keys", &address, "--log-level", "debug"];
    let access = ["--token-keys-ca", &roots, "--token-keys-token", &token];
    let mut ca = Ca::start(&[named, access].concat());
    ca.wait(said, |ca| ca.err().contains(said));
    assert!(api.saw("authorization: bearer cluster-token\r\n"));
    assert!(!ca.err().contains("cluster-token"), "{}", ca.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_never_takes_the_clusters_token_elsewhere() {
    let own = Authority::new("cluster");
    let leaf = own.leaf(&["localhost"], 1);
    let keys = fixture::issuer().key_set("RS256", "k");
    // Another port is another server: it is asked without the token, and its keys hold.
    let other = KeyServer::secure(keys.clone(), &leaf, "").await;
    redirected(&own, &format!("https://localhost:{}/k", other.port), "key set fetched").await;
    assert!(other.fetches() > 0 && !other.saw("authorization"));
    let asking = KeyServer::secure(keys.clone(), &leaf, "cluster-token").await;
    redirected(&own, &format!("https://localhost:{}/k", asking.port), "has status 401").await;
    assert!(asking.fetches() > 0 && !asking.saw("authorization"));
    let plain = KeyServer::start(keys).await;
    let to = format!("http://localhost:{}/k", plain.port);
    redirected(&own, &to, "leads from https to").await;
    assert_eq!(plain.fetches(), 0);
}
