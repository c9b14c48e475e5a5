//! The shipped configuration under `gateways/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis::resources::{self, ConfigFile};

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "yaml")
            && !path.to_str().unwrap().ends_with(".test.yaml")
        {
            found.push(path);
        }
    }
}

#[test]
fn samples_are_read_without_a_finding() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateways");
    let mut paths = Vec::new();
    yaml_files(&root, &mut paths);
    let files: Vec<ConfigFile> = paths
        .iter()
        .map(|path| ConfigFile {
            path: Arc::from(path.to_str().unwrap()),
            bytes: Arc::from(fs::read(path).unwrap()),
        })
        .collect();
    let parsed = resources::parse(&files);
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    let kinds = (
        parsed.set.gateways.len(),
        parsed.set.virtual_services.len(),
        parsed.set.destination_rules.len(),
        parsed.set.service_entries.len(),
        parsed.set.request_authentications.len(),
        parsed.set.peer_authentications.len(),
    );
    assert_eq!(kinds, (1, 3, 1, 3, 1, 1));
}
