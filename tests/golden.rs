//! Golden tests: resources in, snapshot and findings out. `UPDATE_GOLDEN=1 cargo test --test golden`
//! writes what is expected; look at the difference before committing it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use portcullis::auth::jwt::{IssuerKeys, JwksSource, KeyState};
use portcullis::base::id::Generation;
use portcullis::compile::settings::CompileSettings;
use portcullis::diag::render;
use portcullis::reload::{Loader, MeshFiles};
use portcullis::snapshot::view;

/// Compiles `tests/golden/NAME.yaml`, with `NAME.networks` where there is one, and compares with
/// `NAME.expected`.
fn check(name: &str) {
    let config = format!("tests/golden/{name}.yaml");
    let settings = CompileSettings {
        certs: "no-certs".into(),
        identity: "no-identity".into(),
        ..CompileSettings::default()
    };
    let settle = Box::new(move |mesh: &_| settings.clone().with_mesh(mesh));
    let networks = Path::new("tests/golden").join(format!("{name}.networks"));
    let mesh = MeshFiles { config: None, networks: networks.exists().then_some(networks) };
    let mut loader = Loader::new(vec![config.into()], mesh, settle).unwrap();
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let first = loader.load(&keys, Generation(1), 0).unwrap().expect("the first load is new");
    let read = |path: &str| fs::read(path).ok().map(Into::into);
    let mut text = render::text(&first.diagnostics, &read).trim_end().to_owned();
    let mut shown = view::snapshot(&first.output.snapshot);
    shown.as_object_mut().unwrap().retain(|key, _| key != "hash");
    write!(text, "\n\n{}\n", serde_json::to_string_pretty(&shown).unwrap()).unwrap();
    let path = format!("tests/golden/{name}.expected");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{path} differs from:\n{text}");
}

#[test]
fn every_case_is_as_expected() {
    let mut cases: Vec<_> = fs::read_dir("tests/golden")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 4, "{cases:?}");
    for case in cases {
        check(case.file_stem().and_then(|stem| Path::new(stem).to_str()).unwrap());
    }
}
