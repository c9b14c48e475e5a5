//! The ways to an issuer: discovery, TLS, proxies, declared endpoints.

use super::*;

#[tokio::test]
async fn discovery_leads_to_the_key_set() {
    let server = Server::new(|_| answer(404, ""));
    let address = server.start().await;
    server.say(move |path| match path {
        "/realm/.well-known/openid-configuration" => {
            let issuer = format!("http://{address}/realm/");
            let keys = format!("http://{address}/certs");
            answer(200, json!({"issuer": issuer, "jwks_uri": keys}).to_string())
        }
        "/certs" => answer(200, good_keys()),
        _ => answer(404, ""),
    });
    let location = KeyLocation::Discovery { issuer: format!("http://{address}/realm/").into() };
    let engine = engine(quick());
    engine.update(&[JwksSource { location, ..source("") }]);
    let status = reached(&engine, |progress| progress.fetches > 0).await;
    assert_eq!((status.state, status.last_error), (JwksState::Ready, None));

    let location = KeyLocation::Discovery { issuer: format!("http://{address}/realm").into() };
    let engine = engine_with(quick(), Vec::new(), Proxies::default());
    engine.update(&[JwksSource { location, ..source("") }]);
    let status = reached(&engine, |progress| progress.fetches > 0).await;
    let (class, text) = status.last_error.unwrap();
    assert_eq!((status.state, class), (JwksState::NeverFetched, "discovery"), "{text}");
}

#[tokio::test]
async fn tls_is_verified_with_the_extra_roots() {
    let (address, root) = tls_issuer("localhost").await;
    for (roots, ready) in [(vec![root], true), (Vec::new(), false)] {
        let engine = engine_with(quick(), roots, Proxies::default());
        engine.update(&[source(&format!("https://localhost:{}/keys", address.port()))]);
        let status = reached(&engine, |progress| progress.fetches > 0).await;
        assert_eq!(status.state == JwksState::Ready, ready, "{status:?}");
        assert_eq!(status.last_error.is_some_and(|(class, _)| class == "tls"), !ready);
    }
}

/// A TLS issuer of a name, and the root that it is trusted by.
async fn tls_issuer(name: &str) -> (SocketAddr, CertificateDer<'static>) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let root = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![root.clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let server = Server::new(|_| answer(200, good_keys()));
    (server.start_at("127.0.0.1:0".parse().unwrap(), Some(tls)).await, root)
}

/// A proxy that answers CONNECT with a status, and joins with `to` when that is 200; gives its
/// address and the heads it gets.
async fn tunnelling(status: u16, to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            seen.lock().unwrap().push(String::from_utf8(head).unwrap());
            let answer = format!("HTTP/1.1 {status} x\r\n\r\n");
            client.write_all(answer.as_bytes()).await.unwrap();
            if status == 200 {
                let mut issuer = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut issuer).await;
            }
        }
    });
    (address, heads)
}

#[tokio::test]
async fn keys_come_through_a_proxy_by_connect() {
    let (issuer, root) = tls_issuer("issuer.example").await;
    for (answer, class) in [(200, None), (403, Some("proxy"))] {
        let (proxy, heads) = tunnelling(answer, issuer).await;
        let engine = engine_with(quick(), vec![root.clone()], Proxies::both(&proxy.to_string()));
        engine.update(&[source("https://issuer.example/keys")]);
        let status = reached(&engine, |progress| progress.fetches > 0).await;
        assert_eq!(status.last_error.map(|(class, _)| class), class);
        assert_eq!(status.state == JwksState::Ready, class.is_none());
        let head = heads.lock().unwrap()[0].to_ascii_lowercase();
        assert!(head.starts_with("connect issuer.example:443 http/1.1\r\n"), "{head}");
    }
    let engine = engine_with(quick(), vec![root], Proxies::both("127.0.0.1:1"));
    engine.update(&[source("https://issuer.example/keys")]);
    let status = reached(&engine, |progress| progress.fetches > 0).await;
    assert_eq!(status.last_error.unwrap().0, "proxy");
}

#[tokio::test]
async fn plain_addresses_are_asked_of_a_proxy_whole_and_metadata_services_never() {
    let proxy = Server::new(|_| answer(200, good_keys())).start().await;
    let proxies = || Proxies::both(&proxy.to_string());
    for (uri, error) in [
        ("http://issuer.example/keys", None),
        ("http://169.254.169.254/keys", Some("address_refused")),
        ("http://127.0.0.1:1/keys", Some("connect")),
    ] {
        let engine = engine_with(quick(), Vec::new(), proxies());
        engine.update(&[source(uri)]);
        let status = reached(&engine, |progress| progress.fetches > 0).await;
        assert_eq!(status.last_error.map(|(class, _)| class), error, "{uri}");
    }
}

#[tokio::test]
async fn a_declared_host_is_reached_at_its_endpoints_with_its_own_name() {
    let (issuer, root) = tls_issuer("issuer.example").await;
    let place = (issuer.ip().to_string().into(), issuer.port());
    let places = Arc::new([("127.0.0.1".into(), 1), place]);
    let declared = |port| {
        Some(DeclaredEndpoints { host: "issuer.example".into(), port, places: places.clone() })
    };
    // The proxy leads nowhere: what is declared needs none.
    let engine = engine_with(quick(), vec![root], Proxies::both("127.0.0.1:1"));
    let known = source("https://issuer.example/keys");
    engine.update(&[JwksSource { endpoints: declared(8443), ..known.clone() }]);
    let status = reached(&engine, |progress| progress.fetches > 0).await;
    assert_eq!(status.last_error.unwrap().0, "proxy", "another port is not declared");
    engine.update(&[JwksSource { endpoints: declared(443), ..known }]);
    let status = reached(&engine, |progress| progress.last_success_unix.is_some()).await;
    assert_eq!((status.state, status.last_error), (JwksState::Ready, None));
}
