//! Consistent hashing over endpoints that fail, stall, reset and come back.

use crate::backend::Backend;
use crate::client::Http;
use crate::gateway::{Gateway, Site, endpoints, gateway, policy, routes};

const USERS: [&str; 8] = ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal"];

struct World {
    backends: [Backend; 3],
    gateway: Gateway,
    http: Http,
    _site: Site,
}

impl World {
    async fn new() -> Self {
        let backends =
            [Backend::resetting().await, Backend::resetting().await, Backend::resetting().await];
        let list = backends.each_ref().map(|one| (one.port, ""));
        let rules =
            "  http: [{timeout: 200ms, route: [{destination: {host: echo.shop.internal}}]}]\n";
        let rule = "loadBalancer: {consistentHash: {httpHeaderName: x-user}}, outlierDetection: \
                    {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 1s, \
                    maxEjectionPercent: 50}";
        let site = Site::new();
        site.config(
            "all",
            &(gateway("plain", 80, "HTTP", "'*'", "")
                + &routes("r", "istio-system/plain", "a.com", rules)
                + &endpoints("echo", "HTTP", &list)
                + &policy("echo", rule)),
        );
        let gateway = site.start(&[80]);
        let http = Http::plain(gateway.port(80)).await;
        Self { backends, gateway, http, _site: site }
    }

    /// The port of the backend that each user's requests reach.
    async fn homes(&mut self) -> [u64; USERS.len()] {
        let mut homes = [0; USERS.len()];
        for (home, user) in homes.iter_mut().zip(USERS) {
            let reply = self.http.ask("http://a.com/", &[("x-user", user)]).await;
            *home = reply.json()["port"].as_u64().unwrap();
        }
        homes
    }

    /// The same while a backend is ejected that answers requests of its users for a path as it should not.
    async fn without(&mut self, bad: u64, path: &str, status: u16) -> [u64; USERS.len()] {
        let url = format!("http://a.com{path}");
        loop {
            while !self.ejected(bad) {
                let reply = self.http.ask(&url, &[("x-user", USERS[0])]).await;
                assert_eq!(reply.status, status, "{path}");
            }
            let homes = [self.homes().await, self.homes().await];
            // Else it was back too early to say; the next time is longer.
            if self.ejected(bad) {
                assert_eq!(homes[0], homes[1], "{path}");
                return homes[0];
            }
        }
    }

    fn ejected(&self, port: u64) -> bool {
        let explained = self.gateway.admin("/explain?url=http://a.com/").to_string();
        explained.contains(&format!("127.0.0.1:{port} is ejected"))
    }
}

/// A user's home answers requests for a path as it should not: its users go elsewhere until it is back.
async fn check(path: &str, status: u16) {
    let mut world = World::new().await;
    let homes = world.homes().await;
    let bad = homes[0];
    assert!(homes.iter().any(|home| *home != bad), "{homes:?}");
    let meanwhile = world.without(bad, path, status).await;
    for (now, home) in meanwhile.into_iter().zip(homes) {
        assert!(now != bad && (now == home || home == bad), "{path}: {meanwhile:?}, {homes:?}");
    }
    world.gateway.wait("it is back", || !world.ejected(bad));
    assert_eq!(world.homes().await, homes, "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_leave_an_endpoint_that_fails_stalls_or_resets_and_return_when_it_is_back() {
    check("/status/503", 503).await;
    check("/never", 504).await;
    check("/abort", 503).await;
}
