//! Configurations of many hosts, and requests that are decided with them.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderMap, Method};
use portcullis::auth::jwt::{IssuerKeys, JwksSource, KeyState, TokenCache};
use portcullis::base::hash::Fingerprint;
use portcullis::base::id::Generation;
use portcullis::compile::files::FileStore;
use portcullis::compile::settings::CompileSettings;
use portcullis::compile::{Input, Reuse, compile};
use portcullis::decide::connection::ConnectionFacts;
use portcullis::decide::request::{Outcome, RequestFacts, decide};
use portcullis::resources::{ConfigFile, ResourceSet, parse};
use portcullis::route::matcher::RequestHead;
use portcullis::snapshot::Snapshot;
use portcullis::snapshot::listener::Servers;

pub const NOW: i64 = 1_800_000_000;

/// One plaintext server, and for each host a backend and ten rules, the last of them for any path.
pub fn site(hosts: u32) -> String {
    let mut text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, \
                    namespace: istio-system}\nspec: {selector: {istio: ingressgateway}, servers: \
                    [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n"
        .to_owned();
    for host in 0..hosts {
        let to = format!("route: [{{destination: {{host: h{host}.internal}}}}]");
        let mut rules = String::new();
        for rule in 0..9 {
            writeln!(rules, "  - {{match: [{{uri: {{prefix: /part{rule}/}}}}], {to}}}").unwrap();
        }
        writeln!(rules, "  - {{{to}}}").unwrap();
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
             h{host}, namespace: shop}}\nspec:\n  hosts: [h{host}.example.com]\n  gateways: \
             [istio-system/edge]\n  http:\n{rules}---\napiVersion: networking.istio.io/v1\nkind: \
             ServiceEntry\nmetadata: {{name: h{host}, namespace: shop}}\nspec: {{hosts: \
             [h{host}.internal], resolution: STATIC, ports: [{{number: 80, name: http, protocol: \
             HTTP}}], endpoints: [{{address: 127.0.0.1}}]}}\n"
        )
        .unwrap();
    }
    text
}

pub fn parsed(text: &str) -> ResourceSet {
    let bytes = text.as_bytes().to_vec().into();
    parse(&[ConfigFile { path: "site.yaml".into(), bytes }]).set
}

pub fn snapshot(set: &ResourceSet) -> Snapshot {
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let input = Input {
        set,
        files: &FileStore::default(),
        settings: &CompileSettings::default(),
        keys: &keys,
        now: NOW,
        generation: Generation(1),
        hash: Fingerprint::of(b""),
    };
    compile(&input, &Reuse::default()).snapshot
}

/// Rules of one host, each with a regular expression of its own.
pub fn many(rules: u32) -> String {
    let mut text =
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: many, \
                    namespace: shop}\nspec:\n  hosts: [many.example.com]\n  gateways: \
                    [istio-system/edge]\n  http:\n"
            .to_owned();
    for rule in 0..rules {
        let to = "route: [{destination: {host: h0.internal}}]";
        writeln!(text, "  - {{match: [{{uri: {{regex: '/r{rule}/[a-z]+/x'}}}}], {to}}}").unwrap();
    }
    text
}

/// Decides a GET; whether it is forwarded.
pub fn forwards(snapshot: &Snapshot, host: &str, path: &str, headers: &HeaderMap) -> bool {
    forwards_with(snapshot, host, path, headers, &TokenCache::none())
}

pub fn forwards_with(
    snapshot: &Snapshot,
    host: &str,
    path: &str,
    headers: &HeaderMap,
    tokens: &TokenCache,
) -> bool {
    let listener = &snapshot.listeners[0];
    let Servers::Http(block) = &listener.servers else { return false };
    let head = RequestHead {
        method: &Method::GET,
        scheme: "http",
        authority: host,
        path,
        query: None,
        headers,
        token: None,
    };
    let connection = ConnectionFacts {
        client: None,
        source: [127, 0, 0, 1].into(),
        local: ([127, 0, 0, 1], 443).into(),
        server_name: None,
    };
    let facts = RequestFacts {
        connection,
        trusted: None,
        head,
        path_and_query: path,
        tokens,
        now: NOW,
        random: 0,
    };
    matches!(decide(snapshot, block, &facts).outcome, Outcome::Forward(..))
}
