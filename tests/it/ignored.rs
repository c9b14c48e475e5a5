//! Private keys that the program writes are none of git's.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::authority::Ca;
use crate::gateway::Site;

/// Which of these paths git would leave out of this repository; nothing when there is no git or none of
/// its folders, as in an unpacked archive.
fn ignored(paths: &[String]) -> Option<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["check-ignore", "--no-index", "--stdin"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut git = git.spawn().ok()?;
    git.stdin.take()?.write_all(paths.join("\n").as_bytes()).ok()?;
    let output = git.wait_with_output().unwrap();
    // 0 and 1 say that some and that none are ignored.
    matches!(output.status.code(), Some(0 | 1)).then_some(())?;
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

fn all_ignored(paths: &[String]) {
    if let Some(ignored) = ignored(paths) {
        assert_eq!(ignored, paths);
    }
}

/// Asserts that every file below a folder that holds a private key would be ignored at the same place of
/// this repository; says how many there are.
pub fn keys_are_ignored(folder: &Path) -> usize {
    let (mut folders, mut keys): (Vec<PathBuf>, Vec<String>) = (vec![folder.into()], Vec::new());
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).is_ok_and(|text| text.contains("PRIVATE KEY")) {
                keys.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    all_ignored(&keys);
    keys.len()
}

#[test]
fn keys_that_certs_writes_are_ignored() {
    let site = Site::new();
    fs::remove_dir_all(site.path("certs")).unwrap();
    let mut certs = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    assert!(certs.arg("certs").current_dir(site.dir.path()).output().unwrap().status.success());
    assert_eq!(keys_are_ignored(site.dir.path()), 9);
}

#[test]
fn keys_that_the_ca_writes_are_ignored() {
    assert_eq!(keys_are_ignored(Ca::start(&[]).dir.path()), 3);
}

#[test]
fn keys_are_ignored_wherever_they_lie_and_nothing_else_is() {
    let paths = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    all_ignored(&paths(&[
        "tls.key",
        "key.pem",
        "src/tls/ca-key.pem",
        "gateways/shop/shop.key",
        "tests/it/client-key.pem",
        "deploy/client.p12",
        "deploy/client.pfx",
        "certs/shop-tls/key",
        "state/anything",
    ]));
    let wanted = paths(&["certs/README.md", "src/auth/jwt/keys.rs", "gateways/shop/shop.yaml"]);
    assert_eq!(ignored(&wanted).unwrap_or_default(), Vec::<String>::new());
}
