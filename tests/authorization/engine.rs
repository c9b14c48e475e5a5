//! The engine asked as the model is.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis::auth::authz::{Facts, HttpFacts, Peer, Remark};
use portcullis::auth::jwt::{IssuerKeys, JwksSource, KeyState, Verdict, VerifiedToken};
use portcullis::base::hash::Fingerprint;
use portcullis::base::id::Generation;
use portcullis::compile::files::FileStore;
use portcullis::compile::settings::CompileSettings;
use portcullis::compile::{Input, Reuse, compile};
use portcullis::decide::connection::{ConnectionFacts, admit, peer, remarks};
use portcullis::decide::external::of_stream;
use portcullis::diag::Severity;
use portcullis::resources::{
    ConfigFile, Parsed, ParsedFile, assemble, parse_file, parse_mesh_config,
};
use portcullis::snapshot::listener::{Servers, TcpBlock};
use portcullis::snapshot::{Access, Authorization, Snapshot};
use portcullis::tls::identity::PeerIdentity;

use super::generate;
use super::judge::{self, Judgement};
use super::model::{self, Policy, Request};

/// What the policies are compiled with: a server for bytes, and the providers.
struct World {
    settings: CompileSettings,
    rest: ParsedFile,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let file = |path: &str, text: String| ConfigFile {
        path: path.into(),
        bytes: text.into_bytes().into(),
    };
    let (mesh, found) = parse_mesh_config(&file("mesh.yaml", generate::mesh()));
    assert!(found.is_empty(), "{found:?}");
    let settings = CompileSettings {
        namespace: judge::NAMESPACE.into(),
        root_namespace: judge::ROOT.into(),
        labels: judge::LABELS.map(|(name, value)| (name.into(), value.into())).into(),
        trust_domain: model::DOMAINS[0].into(),
        ..CompileSettings::default()
    };
    let rest = parse_file(&file("rest.yaml", generate::rest()));
    assert!(rest.diagnostics.is_empty(), "{:?}", rest.diagnostics);
    World { settings: settings.with_mesh(&mesh.unwrap()), rest }
});

/// Compiled policies, and the server whose bytes are passed on.
pub struct Engine {
    snapshot: Snapshot,
    block: Arc<TcpBlock>,
}

impl Engine {
    /// The engine's policies, by way of their YAML.
    pub fn new(policies: &[Policy]) -> Self {
        let documents = policies
            .iter()
            .enumerate()
            .map(|(index, policy)| generate::document(policy, &format!("p{index}")));
        let bytes = documents.collect::<Vec<_>>().join("\n---\n").into_bytes();
        let file = parse_file(&ConfigFile { path: "a.yaml".into(), bytes: bytes.into() });
        // What Istio's webhook refuses would say nothing of the engine.
        let refused = file.diagnostics.iter().find(|one| one.severity == Severity::Error);
        assert!(refused.is_none(), "{refused:?}");
        let set = assemble([&file, &WORLD.rest], &Parsed::default(), Generation(0)).set;
        let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
        let input = Input {
            set: &set,
            files: &FileStore::default(),
            settings: &WORLD.settings,
            keys: &keys,
            now: 0,
            generation: Generation(1),
            hash: Fingerprint::of(b""),
        };
        let snapshot = compile(&input, &Reuse::default()).snapshot;
        let block = snapshot.listeners.iter().find_map(|listener| match &listener.servers {
            Servers::Tcp(block) => Some(block.clone()),
            _ => None,
        });
        Self { block: block.unwrap(), snapshot }
    }
}

/// A request as the engine sees it.
pub struct Seen<'a> {
    request: &'a Request,
    peer: Option<Peer>,
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

    pub fn judge(&self, engine: &Engine) -> Judgement {
        match &engine.snapshot.authorization {
            Authorization::Refuse(_) => {
                Judgement { passes: false, asked: Vec::new(), remarks: Vec::new() }
            }
            Authorization::Open => {
                Judgement { passes: true, asked: Vec::new(), remarks: Vec::new() }
            }
            Authorization::Enforce(access) => match &self.request.http {
                Some(http) => self.judge_request(access, http),
                None => self.judge_stream(engine),
            },
        }
    }

    /// Providers before everything else, which know nothing of tokens.
    fn judge_request(&self, access: &Access, http: &model::Http) -> Judgement {
        let Access { external, policies, shadow } = access;
        let nobody = Verdict::Anonymous;
        let facts = |verdict| Facts {
            peer: self.peer.as_ref(),
            source: self.request.source,
            remote: self.request.remote,
            local: self.request.local.into(),
            server_name: self.server_name(),
            http: Some(HttpFacts {
                authority: &http.authority,
                method: &http.method,
                scheme: &http.scheme,
                paths: &self.paths,
                reading: 0,
                query: http.query.as_deref(),
                headers: &self.headers,
                verdict,
            }),
        };
        let remarks = shadow.iter().flat_map(|all| all.judge(&facts(&self.verdict)));
        let mut judgement =
            Judgement { passes: false, asked: Vec::new(), remarks: remarks.map(told).collect() };
        let anonymous = facts(&nobody);
        for one in external.iter().filter(|one| one.policies.select(&anonymous).is_some()) {
            let Some(provider) = &one.provider else { return judgement };
            judgement.asked.push(provider.name.to_string());
            if self.request.denied_by.contains(&&*provider.name) {
                return judgement;
            }
        }
        judgement.passes = policies.judge(&facts(&self.verdict)).is_ok();
        judgement
    }

    fn judge_stream(&self, engine: &Engine) -> Judgement {
        let Engine { snapshot, block } = engine;
        let facts = ConnectionFacts {
            client: self.peer.as_ref(),
            source: self.request.source,
            local: self.request.local.into(),
            server_name: self.server_name(),
        };
        let remarks = remarks(snapshot, block, &facts).into_iter().map(told).collect();
        let mut judgement = Judgement { passes: false, asked: Vec::new(), remarks };
        if admit(snapshot, block, &facts).is_err() {
            return judgement;
        }
        for (provider, _) in of_stream(snapshot, block, &facts) {
            judgement.asked.push(provider.name.to_string());
            if self.request.denied_by.contains(&&*provider.name) {
                return judgement;
            }
        }
        judgement.passes = true;
        judgement
    }

    fn server_name(&self) -> Option<&str> {
        (!self.request.server_name.is_empty()).then_some(&*self.request.server_name)
    }
}

fn told(remark: Remark<'_>) -> (&'static str, &'static str) {
    (remark.action, remark.result)
}
