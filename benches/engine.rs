//! The decisions of the data path and their compilation, without a network: `cargo bench`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use portcullis::auth::jwt::TokenCache;
use portcullis::base::host::HostPattern;
use portcullis::base::memory::Mimalloc;
use portcullis::route::hosts::HostIndex;

#[path = "../src/auth/jwt/fixture.rs"]
mod fixture;
#[path = "shared/site.rs"]
mod site;

use site::{NOW, forwards, forwards_with, many, parsed, site, snapshot};

#[global_allocator]
static ALLOCATOR: Mimalloc = Mimalloc;

const SIZES: [u32; 3] = [10, 1_000, 10_000];

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sni lookup");
    for size in SIZES {
        let mut index = HostIndex::default();
        for host in 0..size {
            for name in [format!("h{host}.example.com"), format!("*.w{host}.example.com")] {
                index.entry(&HostPattern::parse(&name).unwrap(), || host);
            }
        }
        for (kind, name, found) in [
            ("exact", "h7.example.com", true),
            ("wildcard", "a.b.w7.example.com", true),
            ("unknown", "a.b.example.org", false),
        ] {
            assert_eq!(index.lookup(name).is_some(), found);
            group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                bencher.iter(|| index.lookup(black_box(name)));
            });
        }
    }
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route match");
    for size in SIZES {
        let snapshot = snapshot(&parsed(&site(size)));
        let headers = HeaderMap::new();
        for (kind, path) in [("first rule", "/part0/x"), ("tenth rule", "/other")] {
            assert!(forwards(&snapshot, "h7.example.com", path, &headers));
            group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                bencher.iter(|| forwards(&snapshot, black_box("h7.example.com"), path, &headers));
            });
        }
    }
}

/// Many rules of one host, each with a regular expression of its own.
fn expressions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("regex rules of one host");
    for size in [10, 100, 1_000] {
        let text = site(1) + &many(size);
        let snapshot = snapshot(&parsed(&text));
        let (headers, last) = (HeaderMap::new(), format!("/r{}/abc/x", size - 1));
        assert!(forwards(&snapshot, "many.example.com", &last, &headers));
        group.bench_function(BenchmarkId::new("last rule", size), |bencher| {
            bencher.iter(|| forwards(&snapshot, "many.example.com", black_box(&last), &headers));
        });
    }
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("jwt check");
    let issuer = fixture::issuer();
    let claims = serde_json::json!({
        "iss": "https://issuer", "sub": "alice", "aud": "shop", "exp": NOW + 3600,
    });
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let rule = format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
             tokens, namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: https://issuer, jwks: \
             '{}'}}]}}\n",
            issuer.key_set(algorithm, "k")
        );
        let snapshot = snapshot(&parsed(&(site(1) + &rule)));
        let header = serde_json::json!({"alg": algorithm, "kid": "k"});
        let bearer = |token: &str| {
            let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            HeaderMap::from_iter([(AUTHORIZATION, value)])
        };
        let good = bearer(&issuer.token(&header, &claims));
        let forged = bearer(&fixture::stranger().token(&header, &claims));
        assert!(forwards(&snapshot, "h0.example.com", "/", &good));
        assert!(!forwards(&snapshot, "h0.example.com", "/", &forged));
        group.bench_function(BenchmarkId::new("new", algorithm), |bencher| {
            bencher.iter(|| forwards(&snapshot, "h0.example.com", "/", black_box(&good)));
        });
        let cache = TokenCache::default();
        let again = |headers| forwards_with(&snapshot, "h0.example.com", "/", headers, &cache);
        assert!(again(&good) && !again(&forged));
        group.bench_function(BenchmarkId::new("again", algorithm), |bencher| {
            bencher.iter(|| again(black_box(&good)));
        });
    }
}

/// Policies of so many rules each, of which the last rule of the last one allows what is asked: each
/// rule allows one path to one issuer.
fn allow(policies: u32, rules: u32) -> String {
    let mut text = String::new();
    for policy in 0..policies {
        write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: \
             p{policy}, namespace: istio-system}}\nspec:\n  rules:\n"
        )
        .unwrap();
        for rule in 0..rules {
            writeln!(
                text,
                "  - {{from: [{{source: {{requestPrincipals: ['https://issuer/*']}}}}], to: \
                 [{{operation: {{methods: [GET, HEAD], paths: ['/p{policy}/r{rule}/*']}}}}], when: \
                 [{{key: 'request.auth.claims[aud]', values: [shop, office]}}]}}"
            )
            .unwrap();
        }
    }
    text
}

/// A request with a token that was verified before, by how many policies judge it; and one with
/// neither.
fn access(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request with a known token");
    let (open, none) = (snapshot(&parsed(&site(1))), HeaderMap::new());
    let cache = TokenCache::default();
    let bare = |path: &str| forwards_with(&open, "h0.example.com", path, &none, &cache);
    assert!(bare("/p9/r9/x"));
    group.bench_function("no token, no policy", |bencher| {
        bencher.iter(|| bare(black_box("/p9/r9/x")));
    });
    let issuer = fixture::issuer();
    let claims = serde_json::json!({
        "iss": "https://issuer", "sub": "alice", "aud": "shop", "exp": NOW + 3600,
    });
    let token = issuer.token(&serde_json::json!({"alg": "ES256", "kid": "k"}), &claims);
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let tokens = format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: \
         tokens, namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: https://issuer, jwks: \
         '{}'}}]}}\n",
        issuer.key_set("ES256", "k")
    );
    for (policies, rules) in [(0, 0), (1, 10), (1, 100), (1, 1_000), (10, 10)] {
        let snapshot = snapshot(&parsed(&(site(1) + &tokens + &allow(policies, rules))));
        let cache = TokenCache::default();
        let path = format!("/p{}/r{}/x", policies.max(1) - 1, rules.max(1) - 1);
        let asked = |path: &str| forwards_with(&snapshot, "h0.example.com", path, &headers, &cache);
        assert!(asked(&path) && asked("/other") == (policies == 0));
        let name = BenchmarkId::new("policies x rules", format!("{policies}x{rules}"));
        group.bench_function(name, |bencher| bencher.iter(|| asked(black_box(&path))));
    }
}

fn compilation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("configuration");
    group.sample_size(10);
    for size in SIZES {
        let text = site(size);
        group.bench_function(BenchmarkId::new("parse", size), |bencher| {
            bencher.iter(|| parsed(black_box(&text)));
        });
        let set = parsed(&text);
        assert_eq!(snapshot(&set).clusters.len(), size as usize);
        group.bench_function(BenchmarkId::new("compile", size), |bencher| {
            bencher.iter(|| snapshot(black_box(&set)));
        });
    }
}

criterion_group!(benches, names, routes, expressions, tokens, access, compilation);
criterion_main!(benches);
