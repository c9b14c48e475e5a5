//! The engine and a naive model of the authorization language agree about random policies and requests.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod generate;
mod model;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis::auth::authz::{Facts, HttpFacts, Policies};
use portcullis::auth::jwt::{IssuerKeys, JwksSource, KeyState, Verdict, VerifiedToken};
use portcullis::base::hash::Fingerprint;
use portcullis::base::id::Generation;
use portcullis::compile::files::FileStore;
use portcullis::compile::settings::CompileSettings;
use portcullis::compile::{Input, Reuse, compile};
use portcullis::decide::connection::peer;
use portcullis::resources::{ConfigFile, parse};
use portcullis::snapshot::{Access, Authorization};
use portcullis::tls::identity::PeerIdentity;

use model::{Policy, Request};

const SETS: usize = 1_250;
const REQUESTS: usize = 800;

/// The engine's policies, by way of their YAML.
fn compiled(policies: &[Policy]) -> Arc<Access> {
    let documents = policies
        .iter()
        .enumerate()
        .map(|(index, policy)| generate::document(policy, &format!("p{index}")));
    let bytes = documents.collect::<Vec<_>>().join("\n---\n").into_bytes();
    let set = parse(&[ConfigFile { path: "a.yaml".into(), bytes: bytes.into() }]).set;
    let settings = CompileSettings {
        namespace: model::NAMESPACE.into(),
        trust_domain: model::DOMAINS[0].into(),
        trust_domain_aliases: vec![model::DOMAINS[1].into()],
        ..CompileSettings::default()
    };
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let input = Input {
        set: &set,
        files: &FileStore::default(),
        settings: &settings,
        keys: &keys,
        now: 0,
        generation: Generation(1),
        hash: Fingerprint::of(b""),
    };
    match compile(&input, &Reuse::default()).snapshot.authorization {
        Authorization::Enforce(access) => access,
        other => panic!("{policies:?}: {other:?}"),
    }
}

/// A request as the engine sees it.
struct Seen<'a> {
    request: &'a Request,
    peer: Option<portcullis::auth::authz::Peer>,
    paths: Vec<Cow<'a, str>>,
    headers: HeaderMap,
    verdict: Verdict,
}

impl<'a> Seen<'a> {
    fn of(request: &'a Request) -> Self {
        let identity = PeerIdentity {
            uri_sans: request.uris.clone(),
            dns_sans: Vec::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            fingerprint: Fingerprint::of(b""),
            not_after: 0,
        };
        let (mut paths, mut headers, mut verdict) =
            (Vec::new(), HeaderMap::new(), Verdict::Anonymous);
        if let Some(http) = &request.http {
            paths = http.paths.iter().map(|path| Cow::Borrowed(&**path)).collect();
            for (name, line) in &http.headers {
                let name = HeaderName::try_from(name).unwrap();
                headers.append(name, HeaderValue::from_str(line).unwrap());
            }
            if let Some(claims) = &http.claims {
                let text = |name: &str| claims[name].as_str();
                let principal = text("iss").zip(text("sub"));
                verdict = Verdict::Verified(Box::new(VerifiedToken {
                    rule: 0,
                    claims: claims.as_object().unwrap().clone().into(),
                    space_delimited: Arc::new([]),
                    principal: principal.map(|(iss, sub)| format!("{iss}/{sub}").into()),
                    payload: "".into(),
                    places: Vec::new(),
                }));
            }
        }
        let peer = (!request.uris.is_empty()).then(|| peer(&identity));
        Self { request, peer, paths, headers, verdict }
    }

    fn passes(&self, policies: &Policies) -> bool {
        let request = self.request;
        let facts = Facts {
            peer: self.peer.as_ref(),
            source: request.source,
            remote: request.remote,
            local: request.local.into(),
            server_name: (!request.server_name.is_empty()).then_some(&*request.server_name),
            http: request.http.as_ref().map(|http| HttpFacts {
                authority: &http.authority,
                method: &http.method,
                scheme: &http.scheme,
                paths: &self.paths,
                reading: 0,
                query: http.query.as_deref(),
                headers: &self.headers,
                verdict: &self.verdict,
            }),
        };
        policies.judge(&facts).is_ok()
    }
}

/// Compares over a share of the policies; gives how often requests passed.
fn compare(seed: u64, sets: usize) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let requests: Vec<Request> = (0..REQUESTS).map(|_| generate::request(&mut rng)).collect();
    let views: Vec<Seen<'_>> = requests.iter().map(Seen::of).collect();
    let mut passed = 0;
    for _ in 0..sets {
        let policies = generate::policies(&mut rng);
        let engine = compiled(&policies);
        for view in &views {
            let expected = model::passes(&policies, view.request);
            passed += usize::from(expected);
            let actual = view.passes(&engine.policies);
            assert_eq!(actual, expected, "{policies:#?} {:#?}", view.request);
        }
    }
    passed
}

#[test]
fn engine_and_model_agree_about_a_million_pairs() {
    let halves: Vec<_> =
        [7, 8].map(|seed| std::thread::spawn(move || compare(seed, SETS / 2))).into();
    let passed: usize = halves.into_iter().map(|half| half.join().unwrap()).sum();
    // Both answers are common, or the comparison would say little.
    let pairs = SETS * REQUESTS;
    assert!(pairs >= 1_000_000);
    assert!(passed > pairs / 10 && passed < pairs * 9 / 10, "{passed} of {pairs} passed");
}

#[test]
fn the_generator_reaches_every_field() {
    let mut rng = fastrand::Rng::with_seed(9);
    let mut seen = HashSet::new();
    for _ in 0..500 {
        for rule in generate::policies(&mut rng).into_iter().flat_map(|policy| policy.rules) {
            let fields = rule.from.into_iter().chain(rule.to).flatten().chain(rule.when);
            seen.extend(fields.map(|field| (field.name, field.negated)));
        }
    }
    assert_eq!(seen.len(), 2 * 31, "{seen:?}");
}
