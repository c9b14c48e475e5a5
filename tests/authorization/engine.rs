//! The engine asked as the model is.

use std::borrow::Cow;
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

use super::generate;
use super::model::{self, Policy, Request};

/// The engine's policies, by way of their YAML.
pub fn compiled(policies: &[Policy]) -> Arc<Access> {
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
pub struct Seen<'a> {
    pub request: &'a Request,
    peer: Option<portcullis::auth::authz::Peer>,
    paths: Vec<Cow<'a, str>>,
    headers: HeaderMap,
    verdict: Verdict,
}

impl<'a> Seen<'a> {
    pub fn of(request: &'a Request) -> Self {
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
                    places: Vec::new().into(),
                }));
            }
        }
        let peer = (!request.uris.is_empty()).then(|| peer(&identity));
        Self { request, peer, paths, headers, verdict }
    }

    pub fn passes(&self, policies: &Policies) -> bool {
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
