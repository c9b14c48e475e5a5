//! Modules import downward only, the data half knows no YAML, and compiling does no I/O.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it may import of this crate.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("diag", &["base"]),
    ("resources", &["base", "diag"]),
    ("telemetry", &["base"]),
    ("route", &["base"]),
    ("auth", &["base"]),
    ("balance", &["base"]),
    ("tls", &["base"]),
    ("snapshot", &["base", "route", "auth", "balance", "tls"]),
    ("decide", &["base", "route", "auth", "tls", "snapshot"]),
    ("explain", &["base", "route", "auth", "tls", "snapshot", "decide"]),
    ("expectation", &["base", "diag", "snapshot", "explain"]),
    ("compile", &["base", "diag", "resources", "route", "auth", "balance", "tls", "snapshot"]),
    ("net", &["base", "telemetry", "tls"]),
    ("grpc", &["base"]),
    ("probe", &["base", "tls", "grpc"]),
    ("source", &["base", "diag", "resources"]),
    ("ca", &["base", "resources", "auth", "tls", "grpc", "source"]),
    ("upstream", &["base", "auth", "balance", "tls", "snapshot", "net", "telemetry"]),
    (
        "proxy",
        &[
            "base",
            "route",
            "auth",
            "balance",
            "tls",
            "snapshot",
            "decide",
            "net",
            "grpc",
            "upstream",
            "telemetry",
        ],
    ),
    ("identity", &["base", "tls", "grpc", "ca"]),
    (
        "reload",
        &["base", "diag", "resources", "auth", "tls", "source", "identity", "compile", "snapshot"],
    ),
    ("admin", &["base", "diag", "snapshot", "net", "telemetry", "probe"]),
];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

fn module(name: &str) -> &str {
    name.split(['/', '.']).next().unwrap()
}

#[test]
fn modules_import_downward_only() {
    let mut wrong = Vec::new();
    for (name, text) in all() {
        let own = module(&name);
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == own) else { continue };
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            for import in line.split("crate::").skip(1) {
                let target = import.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                let target = target.unwrap_or_default();
                let known = LAYERS.iter().any(|(layer, _)| *layer == target)
                    || matches!(target, "app" | "cli");
                if known && target != own && !allowed.contains(&target) {
                    wrong.push(format!("{name} imports {target}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_layers_touch_no_runtime_and_no_file() {
    let pure = [
        "base",
        "diag",
        "resources",
        "route",
        "auth",
        "balance",
        "tls",
        "decide",
        "explain",
        "expectation",
        "compile",
        "ca",
    ];
    let mut wrong = Vec::new();
    for (name, text) in all() {
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        let server = name.starts_with("ca/server");
        if pure.contains(&module(&name)) && !server && !name.ends_with("tests.rs") {
            for banned in ["tokio::", "std::fs", "std::net::TcpStream", "SystemTime::now"] {
                let used = production
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(banned));
                if used {
                    wrong.push(format!("{name} uses {banned}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> = all()
        .into_iter()
        .filter(|(name, text)| !name.ends_with("tests.rs") && !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}
