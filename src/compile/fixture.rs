//! Policies for tests, and the gateway they may select.

use crate::resources::{ConfigFile, ResourceSet, parse};

use super::findings::Findings;
use super::settings::CompileSettings;

/// A gateway labelled `istio: edge` in namespace `edge`, with root namespace `root`.
pub(super) fn settings() -> CompileSettings {
    CompileSettings {
        namespace: "edge".into(),
        root_namespace: "root".into(),
        labels: [("istio".to_owned(), "edge".to_owned())].into(),
        ..CompileSettings::default()
    }
}

/// Security resources of one kind from pairs of metadata and the rest.
pub(super) fn set(kind: &str, parts: &[&str]) -> ResourceSet {
    let parts = parts.chunks(2).map(|part| ("security.istio.io/v1", kind, part[0], part[1]));
    set_of(&parts.collect::<Vec<_>>())
}

/// Resources from version, kind, metadata and the rest.
pub(super) fn set_of(parts: &[(&str, &str, &str, &str)]) -> ResourceSet {
    let documents = parts.iter().map(|(version, kind, metadata, rest)| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {metadata}\n{rest}\n")
    });
    let bytes = documents.collect::<Vec<_>>().join("---\n").into_bytes();
    parse(&[ConfigFile { path: "a.yaml".into(), bytes: bytes.into() }]).set
}

/// The codes of findings.
pub(super) fn codes(findings: Findings) -> Vec<&'static str> {
    findings.finish().iter().map(|finding| finding.code.id).collect()
}
