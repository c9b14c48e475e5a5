//! TCP between workloads: what Istio's peers say of themselves before a stream never becomes part of it.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::client::{connect, mesh_tls, shake};
use crate::gateway::{PATIENCE, Site, gateway, policy, routes, service};

const EXCHANGE: &[u8] = b"istio-peer-exchange";

/// A workload of Istio: once peers agree on the exchange, it begins with its metadata.
async fn istio(site: &Site) -> u16 {
    let own = site.workload("shop", "echo", 7);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.mesh.pem().as_bytes()).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
    let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![EXCHANGE.to_vec(), b"istio".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
            if agreed == EXCHANGE {
                stream.write_all(b"\x3d\x23\x04\x67metadata").await.unwrap();
            }
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            stream.write_all(&[&agreed, &b" "[..], &all].concat()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn streams_of_both_directions_are_the_applications_alone() {
    let site = Site::new();
    let port = istio(&site).await;
    let rules = "  tcp: [{route: [{destination: {host: echo.shop.internal}}]}]\n";
    site.config(
        "all",
        &(gateway("plain", 9000, "TCP", "'*'", "")
            + &gateway("mesh", 443, "TLS", "mesh.com", "mode: ISTIO_MUTUAL")
            + &routes("r", "istio-system/plain, istio-system/mesh", "'*'", rules)
            + &service("echo", "TCP", port)
            + &policy("echo", "tls: {mode: ISTIO_MUTUAL}")),
    );
    let gateway = site.start(&[9000, 443]);
    let mut stream = connect(gateway.port(9000)).await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "istio hello");

    // As a server it agrees on nothing with a caller that offers the exchange; on HTTP with others.
    for (offered, agreed) in
        [(vec![EXCHANGE, b"istio"], None), (vec![EXCHANGE, b"h2"], Some(&b"h2"[..]))]
    {
        let own = site.workload("shop", "front", 8);
        let mut config = (*mesh_tls(&site.mesh, Some(&own))).clone();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let mut stream = shake(&Arc::new(config), gateway.port(443), "mesh.com").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
        assert_eq!(said, "istio hello");
    }
}
