//! A gateway that starts does not open while something that may be a policy was never read; one that
//! runs is not closed by what is added to it and says nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::client::Http;
use crate::gateway::{Gateway, Site, gateway, routes};

const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: \
                      {name: d, namespace: istio-system}\nspec: {action: DENY, rules: [{to: \
                      [{operation: {paths: [/x]}}]}]}\n";

fn site() -> Site {
    let site = Site::new();
    let rules = "  http: [{directResponse: {status: 201}}]\n";
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("a", "istio-system/plain", "a.com", rules)),
    );
    site
}

/// What the policy denies, and what it does not.
async fn answers(gateway: &Gateway) -> (u16, u16) {
    let mut http = Http::plain(gateway.port(80)).await;
    let denied = http.get("http://a.com/x").await.status.as_u16();
    (denied, http.get("http://a.com/y").await.status.as_u16())
}

/// A way to write the policy so that it cannot be read.
type Break = fn(&Path);

fn utf16(path: &Path) {
    let text = POLICY.encode_utf16().flat_map(u16::to_le_bytes);
    put(path, [0xff, 0xfe].into_iter().chain(text).collect::<Vec<u8>>());
}

fn binary(path: &Path) {
    put(path, [0, 159, 146, 150]);
}

fn too_large(path: &Path) {
    let mut text = POLICY.to_owned();
    text.extend(std::iter::repeat_n('\n', 16 << 20));
    put(path, text);
}

/// Not to be opened, by anybody.
fn unopened(path: &Path) {
    let beside = path.with_extension("tmp~");
    symlink(path.file_name().unwrap(), &beside).unwrap();
    fs::rename(beside, path).unwrap();
}

fn without_a_colon(path: &Path) {
    put(path, POLICY.replace("kind:", "kind"));
}

fn only_a_spec(path: &Path) {
    put(path, POLICY.replace("apiVersion", "apiversion").replace("kind", "Kind"));
}

fn without_a_kind(path: &Path) {
    put(path, POLICY.replace("kind: AuthorizationPolicy\n", ""));
}

fn of_another_kind(path: &Path) {
    put(path, POLICY.replace("AuthorizationPolicy", "Policy"));
}

fn without_metadata(path: &Path) {
    put(path, POLICY.replace("metadata: {name: d, namespace: istio-system}\n", ""));
}

fn in_a_list(path: &Path) {
    put(path, format!("- {}", POLICY.trim_end().replace('\n', "\n  ")));
}

fn put(path: &Path, text: impl AsRef<[u8]>) {
    let beside = path.with_extension("tmp~");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Refused from a cold start, with the reason told; as it was once it had been read.
async fn check(breaks: Break) {
    let site = site();
    let path = site.path("config/deny.yaml");
    breaks(&path);
    let cold = site.start(&[80]);
    assert_eq!(answers(&cold).await, (403, 403));
    cold.tells("every request gets 403 until it");
    let checked = site.command(&["check"]);
    assert_eq!(checked.status.code(), Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(told.contains("PC052") && told.contains("config/deny.yaml:"), "{told}");
    let explained = site.command(&["explain", "http://a.com/y"]);
    let told = String::from_utf8(explained.stdout).unwrap();
    assert!(told.contains("everything is refused") && told.contains("config/deny.yaml:"), "{told}");
    // Under another name it is read as little.
    let moved = site.path("config/moved.yaml");
    cold.reload(|| fs::rename(&path, &moved).unwrap());
    assert_eq!(answers(&cold).await, (403, 403));
    cold.reload(|| put(&moved, POLICY));
    assert_eq!(answers(&cold).await, (403, 201));
    cold.reload(|| breaks(&moved));
    assert_eq!(answers(&cold).await, (403, 201));
    cold.reload(|| fs::remove_file(&moved).unwrap());
    assert_eq!(answers(&cold).await, (201, 201));
}

#[tokio::test]
async fn a_file_that_is_not_text_refuses_from_a_cold_start() {
    check(utf16).await;
    check(binary).await;
}

#[tokio::test]
async fn a_file_that_is_not_read_refuses_from_a_cold_start() {
    check(too_large).await;
    check(unopened).await;
}

#[tokio::test]
async fn a_policy_that_does_not_say_which_it_is_refuses_from_a_cold_start() {
    check(without_a_kind).await;
    check(of_another_kind).await;
    check(without_a_colon).await;
    check(only_a_spec).await;
}

#[tokio::test]
async fn a_policy_that_is_not_told_whose_it_is_refuses_from_a_cold_start() {
    check(without_metadata).await;
    check(in_a_list).await;
}

#[tokio::test]
async fn files_beyond_the_most_refuse_from_a_cold_start_and_go_on_while_they_are_there() {
    let site = site();
    for number in 0..19_998 {
        fs::write(site.path(&format!("config/b{number}.yaml")), "").unwrap();
    }
    let path = site.path("config/deny.yaml");
    put(&path, POLICY);
    let warm = site.start(&[80]);
    assert_eq!(answers(&warm).await, (403, 201));
    // Read in the order of their names, the policy is the last.
    warm.reload(|| _ = site.config("b", ""));
    warm.tells("left out");
    assert_eq!(answers(&warm).await, (403, 201));
    drop(warm);
    let cold = site.start(&[80]);
    assert_eq!(answers(&cold).await, (403, 403));
    cold.tells("every request gets 403 until it");
    cold.reload(|| fs::remove_file(site.path("config/b.yaml")).unwrap());
    assert_eq!(answers(&cold).await, (403, 201));
}

#[tokio::test]
async fn what_is_added_to_a_gateway_that_runs_closes_nothing_unless_it_says_that_it_may() {
    let site = site();
    let warm = site.start(&[80]);
    let path = site.path("config/stray.yaml");
    for breaks in [binary as Break, too_large, unopened, without_a_colon, only_a_spec] {
        warm.reload(|| breaks(&path));
        assert_eq!(answers(&warm).await, (201, 201));
    }
    for breaks in [utf16 as Break, without_a_kind, without_metadata] {
        warm.reload(|| breaks(&path));
        assert_eq!(answers(&warm).await, (403, 403));
    }
    warm.reload(|| fs::remove_file(&path).unwrap());
    assert_eq!(answers(&warm).await, (201, 201));
}

#[tokio::test]
async fn what_says_that_it_is_something_else_refuses_nothing() {
    let site = site();
    site.config("kustomization", "resources: [all.yaml]\n");
    site.write("config/latin.yaml", b"kind: Deployment\nmetadata: {name: caf\xe9}\n");
    site.config("role", "kind: ClusterRole\nrules: [{apiGroups: [security.istio.io]]\n");
    site.config("elsewhere", &POLICY.replace("istio-system", "shop").replace("kind", "Kind"));
    assert_eq!(answers(&site.start(&[80])).await, (201, 201));
}
