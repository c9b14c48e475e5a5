//! A configuration from which single fields are taken out.

use std::fs;
use std::sync::{Arc, LazyLock};

use portcullis::auth::jwt::{IssuerKeys, JwksSource, KeyState};
use portcullis::base::file::FileBytes;
use portcullis::base::hash::Fingerprint;
use portcullis::base::id::Generation;
use portcullis::compile::files::{FileStore, Wanted, wanted};
use portcullis::compile::settings::CompileSettings;
use portcullis::compile::{Input, Output, Reuse, compile};
use portcullis::diag::{Code, Diagnostic, Severity, catalog};
use portcullis::resources::mesh_config::{ExtAuthzHttp, ExtensionProvider};
use portcullis::resources::{ConfigFile, parse, parse_mesh_networks};
use portcullis::snapshot::listener::{Chain, Servers, Termination};
use serde_json::Value;

use super::pki::{Authority, Leaf};

/// Files for every name that a configuration asks for.
struct Pki {
    authority: Authority,
    leaf: Leaf,
    revoked: String,
    other: Authority,
}

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let authority = Authority::new("root");
    let leaf = authority.leaf(&["a.com", "spiffe://cluster.local/ns/a/sa/a"], 1);
    let revoked = authority.revoke(&[7]).0;
    Pki { authority, leaf, revoked, other: Authority::new("other") }
});

fn settings() -> CompileSettings {
    let networks = b"networks: {n1: {gateways: [{address: 192.0.2.8, port: 15443}]}}";
    let networks = ConfigFile { path: "networks.yaml".into(), bytes: networks[..].into() };
    let asked = ExtAuthzHttp { service: "ext.internal".into(), port: 80, ..Default::default() };
    CompileSettings {
        extension_providers: vec![ExtensionProvider {
            name: "ext".into(),
            envoy_ext_authz_http: Some(asked),
            envoy_ext_authz_grpc: None,
        }],
        certs: "certs".into(),
        identity: "identity".into(),
        locality: "r/z/s".into(),
        networks: parse_mesh_networks(&networks).0.unwrap(),
        ..CompileSettings::default()
    }
}

fn files(list: Vec<Wanted>) -> FileStore {
    let pki = &*PKI;
    let content = |name: &str| {
        Ok(FileBytes::new(match name {
            name if name.contains("key") => pki.leaf.key.clone().into_bytes(),
            name if name.contains("crl") => pki.revoked.clone().into_bytes(),
            "other-ca" => pki.other.pem().into(),
            name if name.contains("ca") || name.contains("root") => pki.authority.pem().into(),
            _ => pki.leaf.chain.clone().into_bytes(),
        }))
    };
    let mut store = FileStore::default();
    for one in list {
        match one {
            Wanted::File(path) => {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let name = if name == "cert-chain.pem" { "leaf".to_owned() } else { name };
                store.insert(path, content(&name));
            }
            Wanted::Folder(path) if path.components().count() > 2 => {}
            Wanted::Folder(path) => {
                let ca = if path.ends_with("b") { "other-ca" } else { "ca" };
                let files = [("tls.crt", "leaf"), ("tls.key", "key"), ("ca.crt", ca)];
                let contents = files.map(|(key, name)| (key, content(name))).to_vec();
                store.insert_folder(path, contents);
            }
        }
    }
    store
}

/// A field where it is written.
pub(crate) struct Field {
    pub(crate) kind: String,
    /// `spec.servers[].port.number`.
    pub(crate) pattern: String,
    document: usize,
    /// JSON pointer.
    pointer: Vec<String>,
    /// `spec.servers[0].port.number`.
    path: String,
}

/// What a finding says of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) severity: Severity,
    pub(crate) text: String,
}

/// What becomes of what is compiled without a field.
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Its resource cannot be used.
    Broken,
    /// Something else.
    Other,
}

pub(crate) struct World {
    name: String,
    documents: Vec<Value>,
    output: Output,
    findings: Vec<Diagnostic>,
    seen: Vec<String>,
}

impl World {
    /// Every file of `worlds/`.
    pub(crate) fn all() -> Vec<Self> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fields/worlds");
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::new(path.to_str().unwrap())).collect()
    }

    fn new(path: &str) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let documents: Vec<Value> = serde_yaml::Deserializer::from_str(&text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect();
        let first = run(&documents, &Reuse::default());
        // Once more with what the first one made, so that all that comes after is compared alike.
        let second = run(&documents, &first.1.reuse);
        let seen = observed(&second.1);
        let again = observed(&run(&documents, &second.1.reuse).1);
        let differs = seen.iter().zip(&again).find(|(one, other)| one != other);
        assert!(differs.is_none(), "{path} compiles differently each time: {differs:?}");
        let (findings, output) = second;
        Self { name: path.to_owned(), documents, output, findings, seen }
    }

    /// The plain fields that are written here, by the patterns of their kinds.
    pub(crate) fn fields(&self, kinds: &[(&str, Vec<String>)]) -> Vec<Field> {
        let mut out = Vec::new();
        for (document, value) in self.documents.iter().enumerate() {
            let kind = value["kind"].as_str().unwrap();
            let Some((_, patterns)) = kinds.iter().find(|(name, _)| *name == kind) else {
                continue;
            };
            let mut here = Vec::new();
            let place = (vec!["spec".to_owned()], "spec".to_owned());
            written(&value["spec"], "spec", place, patterns, &mut here);
            assert!(!here.is_empty(), "{} {kind}", self.name);
            out.extend(here.into_iter().map(|(pattern, (pointer, path))| Field {
                kind: kind.to_owned(),
                pattern,
                document,
                pointer,
                path,
            }));
        }
        out
    }

    /// What becomes of what is compiled when the field is taken out.
    pub(crate) fn effect(&self, field: &Field) -> Effect {
        let mut documents = self.documents.clone();
        let (last, above) = field.pointer.split_last().unwrap();
        let mut parent = &mut documents[field.document];
        for step in above {
            parent = match parent {
                Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
                other => &mut other[step.as_str()],
            };
        }
        match parent {
            Value::Array(items) => _ = items.remove(last.parse().unwrap()),
            other => _ = other.as_object_mut().unwrap().remove(last).unwrap(),
        }
        let (findings, output) = run(&documents, &self.output.reuse);
        let errors = |findings: &[Diagnostic]| {
            findings.iter().filter(|one| *one.code == catalog::SCHEMA_ERROR).count()
        };
        if observed(&output) == self.seen {
            Effect::None
        } else if errors(&findings) > errors(&self.findings) {
            Effect::Broken
        } else {
            Effect::Other
        }
    }

    /// What the findings say of the field.
    pub(crate) fn told(&self, field: &Field) -> Vec<Told> {
        let kind = &*field.kind;
        let name = self.documents[field.document]["metadata"]["name"].as_str().unwrap();
        let of = |finding: &&Diagnostic| {
            let id = finding.resource.as_ref();
            let below = field.path.strip_prefix(&finding.field);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                && id.is_some_and(|id| id.kind == kind && &*id.name == name)
        };
        let told = self.findings.iter().filter(of).filter(|one| is_about_a_field(one.code));
        let told = told.map(|finding| {
            let text = if finding.help == finding.code.help {
                finding.message.clone()
            } else {
                format!("{}: {}", finding.message, finding.help)
            };
            Told { severity: finding.severity, text }
        });
        told.collect()
    }
}

/// Whether findings of a code say what becomes of a field, and not what is wrong with a world.
fn is_about_a_field(code: &Code) -> bool {
    [
        &catalog::FIELD_NOT_ACTED_ON,
        &catalog::VALUE_NOT_ACTED_ON,
        &catalog::INEFFECTIVE_POLICY,
        &catalog::SCHEMA_ERROR,
        &catalog::DEPRECATED,
    ]
    .contains(&code)
}

/// A JSON pointer, and the path as findings write it.
type Place = (Vec<String>, String);

/// Plain fields below a value: those whose pattern is one of `patterns`.
fn written(
    value: &Value,
    pattern: &str,
    (pointer, path): Place,
    patterns: &[String],
    out: &mut Vec<(String, Place)>,
) {
    let known = |pattern: &str| {
        patterns.iter().any(|one| {
            one.strip_prefix(pattern)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    if patterns.iter().any(|one| one == pattern) {
        out.push((pattern.to_owned(), (pointer, path)));
        return;
    }
    let below =
        |key: &str, path: String| (pointer.iter().cloned().chain([key.to_owned()]).collect(), path);
    match value {
        Value::Object(entries) => {
            for (key, entry) in entries {
                let map = format!("{pattern}.*");
                let field = format!("{pattern}.{key}");
                let pattern = if known(&map) { map } else { field };
                assert!(known(&pattern), "no type reads {pattern}");
                written(entry, &pattern, below(key, format!("{path}.{key}")), patterns, out);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let place = below(&index.to_string(), format!("{path}[{index}]"));
                written(item, &format!("{pattern}[]"), place, patterns, out);
            }
        }
        // An empty message, such as a match of any value.
        other => panic!("{path} is {other}, and its type has fields"),
    }
}

/// Each document on a line of its own, so that places stay the same whatever is taken out.
fn run(documents: &[Value], previous: &Reuse) -> (Vec<Diagnostic>, Output) {
    let text: Vec<_> = documents.iter().map(Value::to_string).collect();
    let bytes = text.join("\n---\n").into_bytes();
    let parsed = parse(&[ConfigFile { path: "world.yaml".into(), bytes: bytes.into() }]);
    let settings = settings();
    let files = files(wanted(&parsed.set, &settings));
    let input = Input {
        set: &parsed.set,
        files: &files,
        settings: &settings,
        keys: &|_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched)),
        now: 1_800_000_000,
        generation: Generation(1),
        hash: Fingerprint::of(b""),
    };
    let output = compile(&input, previous);
    let findings = parsed.diagnostics.into_iter().chain(output.diagnostics.iter().cloned());
    (findings.collect(), output)
}

/// All that was compiled, piece by piece: hash tables have no order. What terminates TLS is taken over while
/// it is the same, so its place in memory stands for it. A column is another once something before it is taken out.
fn observed(output: &Output) -> Vec<String> {
    let text = format!("{:?}", output.snapshot);
    let pieces = text.split(['{', '}', '[', ']', ',']).map(str::trim);
    let mut pieces: Vec<String> =
        pieces.filter(|piece| !piece.starts_with("column: ")).map(str::to_owned).collect();
    let mut add = |key: &str, termination: Option<&Termination>| {
        if let Some(Termination { tls: Ok(tls), .. }) = termination {
            pieces.push(format!("{key} {:p}", Arc::as_ptr(tls)));
        }
    };
    for listener in &output.snapshot.listeners {
        match &listener.servers {
            Servers::Http(block) => add(&block.key, block.tls.as_ref()),
            Servers::Tcp(block) => add(&block.key, block.tls.as_ref()),
            Servers::Tls(chains) => {
                for (_, chain) in chains.iter() {
                    match chain {
                        Chain::Http(block) => add(&block.key, block.tls.as_ref()),
                        Chain::Tcp(block) => add(&block.key, block.tls.as_ref()),
                        Chain::Passthrough(_) | Chain::AutoPassthrough(_) => {}
                    }
                }
            }
            // The world is a gateway's.
            Servers::Inbound(_) => {}
        }
    }
    pieces.push(format!("{:?}", output.key_sources));
    pieces.push(format!("{:?}", output.token_parameters));
    pieces.sort_unstable();
    pieces
}
