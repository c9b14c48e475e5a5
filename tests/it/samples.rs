//! The shipped configuration under `gateways/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use portcullis::probe::Probes;
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
        parsed.set.authorization_policies.len(),
    );
    assert_eq!(kinds, (1, 3, 1, 3, 1, 1, 3));
}

/// `check` with the environment that the example gives the sidecar.
#[test]
fn the_sidecars_example_is_one_that_starts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sidecar");
    let pod: serde_yaml::Value =
        serde_yaml::from_str(&fs::read_to_string(folder.join("pod.yaml")).unwrap()).unwrap();
    let containers = pod["spec"]["containers"].as_sequence().unwrap();
    let sidecar = containers.iter().find(|one| one["name"] == "sidecar").unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    check.arg("check").args(["--config", folder.join("policies.yaml").to_str().unwrap()]);
    let mut probes = None;
    for variable in sidecar["env"].as_sequence().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let Some(value) = variable["value"].as_str() else { continue };
        match name {
            "ISTIO_KUBE_APP_PROBERS" => probes = Some(value),
            "PORTCULLIS_CONFIG" => {}
            _ => _ = check.env(name, value.replace("$(POD_IP)", "10.0.0.5")),
        }
    }
    let told = check.output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
    let probes: Probes = probes.unwrap().parse().unwrap();
    assert!(!probes.is_empty());
}
