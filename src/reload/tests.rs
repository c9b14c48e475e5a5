use std::fs;

use super::*;
use crate::auth::jwt::KeyState;
use crate::compile::settings::CompileSettings;

struct Folder {
    dir: tempfile::TempDir,
    loader: Loader,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let settings = CompileSettings { certs: dir.path().join("certs"), ..Default::default() };
        let settle: Settle = Box::new(move |mesh| settings.clone().with_mesh(mesh));
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            Some(path)
        };
        let mesh = MeshFiles { config: file("mesh.yaml"), networks: file("networks.yaml") };
        let loader = Loader::new(vec![config], mesh, settle).unwrap();
        Self { dir, loader }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Listeners and codes of what is loaded; nothing when it is what was loaded before.
    fn load(&mut self) -> Option<(usize, Vec<&'static str>)> {
        let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
        let loaded = self.loader.load(&keys, Generation(1), 0).unwrap()?;
        let codes = loaded.diagnostics.iter().map(|d| d.code.id).collect();
        Some((loaded.output.snapshot.listeners.len(), codes))
    }
}

fn gateway(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g{port}}}\nspec: \
         {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: http, \
         protocol: HTTP}}, hosts: ['*']}}]}}\n"
    )
}

#[test]
fn equal_bytes_are_not_compiled_again() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    assert_eq!(folder.load(), Some((1, vec!["PC034"])));
    assert_eq!(folder.load(), None);
    folder.write("config/a.yaml", &gateway(80));
    assert_eq!(folder.load(), None);
    folder.write("config/b.yaml", &gateway(81));
    assert_eq!(folder.load().unwrap().0, 2);
    fs::remove_file(folder.dir.path().join("config/b.yaml")).unwrap();
    assert_eq!(folder.load().unwrap().0, 1);
}

#[test]
fn a_file_that_breaks_goes_on_as_it_was() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    folder.write("config/b.yaml", &gateway(81));
    folder.load();
    folder.write("config/a.yaml", "apiVersion: [");
    assert_eq!(folder.load(), Some((2, vec!["PC004", "PC016", "PC034", "PC034"])));
    folder.write("config/b.yaml", &gateway(82));
    assert_eq!(folder.load().unwrap().0, 2);
    folder.write("config/a.yaml", &gateway(83));
    assert_eq!(folder.load(), Some((2, vec!["PC034", "PC034"])));
}

/// Loads three Gateways of one file, then other text of it; the listeners that go on.
fn check(after: &str, ports: &[u16], codes: &[&str]) {
    let mut folder = Folder::new();
    let text = [80, 81, 82].map(gateway).join("---\n");
    folder.write("config/a.yaml", &text);
    assert_eq!(folder.load().unwrap().0, 3);
    folder.write("new", after);
    fs::rename(folder.dir.path().join("new"), folder.dir.path().join("config/a.yaml")).unwrap();
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let loaded = folder.loader.load(&keys, Generation(2), 0).unwrap().unwrap();
    let listeners = loaded.output.snapshot.listeners.iter().map(|listener| listener.port);
    assert_eq!(listeners.collect::<Vec<_>>(), ports, "{after}");
    let found = loaded.diagnostics.iter().map(|d| d.code.id).filter(|id| *id != "PC034");
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    assert_eq!(found, codes, "{after}\n{:#?}", loaded.diagnostics);
}

#[test]
fn a_resource_that_breaks_goes_on_and_the_others_of_its_file_go_live() {
    let broken = |from: &str, to: &str| {
        let text = [80, 81, 83].map(gateway).join("---\n");
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    check(&broken("number: 80", "number: abc"), &[80, 81, 83], &["PC011", "PC016"]);
    check(&broken("istio.io/v1", "istio.io/v7"), &[80, 81, 83], &["PC008", "PC016"]);
    check(&broken("apiVersion", "apiVersoin"), &[80, 81, 83], &["PC007", "PC016"]);
    check(&broken("kind: Gateway", "kind: Gatewaay"), &[80, 81, 83], &["PC014", "PC016"]);
}

#[test]
fn a_document_that_does_not_say_what_it_is_takes_nothing_away() {
    let first = gateway(80) + "---\n";
    let all =
        |second: &str, code| check(&format!("{first}{second}"), &[80, 81, 82], &[code, "PC016"]);
    all("kind: [", "PC004");
    all("apiVers", "PC007");
    all("metadata: {name: g81}", "PC007");
    all(&gateway(81).replace("name: g81", "name: ''"), "PC007");
    all(&gateway(81).replace("kind: Gateway", "kind: Door"), "PC009");
}

#[test]
fn what_is_deleted_goes_even_beside_what_is_broken() {
    check(&[80, 81].map(gateway).join("---\n"), &[80, 81], &[]);
    let broken = gateway(81).replace("number: 81", "number: abc");
    check(&format!("{}---\n{broken}", gateway(80)), &[80, 81], &["PC011", "PC016"]);
    check(&gateway(84), &[84], &[]);
    // A name of its own: what it takes the place of is not known.
    let other = broken.replace("name: g81", "name: other");
    check(&format!("{}---\n{other}", gateway(80)), &[80], &["PC011", "PC045"]);
}

#[test]
fn what_was_never_read_refuses_until_all_was_read_once() {
    let unread = "kind AuthorizationPolicy: [";
    let mut folder = Folder::new();
    folder.write("config/a.yaml", unread);
    let refuses = |folder: &mut Folder| folder.load().unwrap().1.contains(&"PC052");
    // Nothing worked before there was a resource.
    folder.write("config/a.yaml", "");
    assert!(!refuses(&mut folder));
    folder.write("config/a.yaml", unread);
    folder.write("config/b.yaml", &gateway(80));
    assert!(refuses(&mut folder));
    folder.write("config/c.yaml", unread);
    fs::remove_file(folder.dir.path().join("config/a.yaml")).unwrap();
    assert!(refuses(&mut folder));
    fs::remove_file(folder.dir.path().join("config/c.yaml")).unwrap();
    assert!(!refuses(&mut folder));
    folder.write("config/c.yaml", unread);
    assert!(!refuses(&mut folder));
}

#[test]
fn a_folder_that_is_left_out_refuses_at_a_start_alone() {
    let mut folder = Folder::new();
    let deep = format!("config/{}a.yaml", "a/".repeat(limit::CONFIG_FOLDERS_DEPTH + 1));
    folder.write("config/a.yaml", &gateway(80));
    folder.write(&deep, "");
    assert!(folder.load().unwrap().1.contains(&"PC052"));
    fs::remove_dir_all(folder.dir.path().join("config/a")).unwrap();
    assert!(!folder.load().unwrap().1.contains(&"PC052"));
    folder.write(&deep, "");
    assert_eq!(folder.load(), Some((1, vec!["PC034", "PC017"])));
}

#[test]
fn what_goes_on_does_so_until_it_is_mended_or_deleted() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    folder.load();
    let broken = gateway(80).replace("number: 80", "number: abc");
    folder.write("config/a.yaml", &broken);
    assert_eq!(folder.load().unwrap().0, 1);
    for other in [81, 82] {
        folder.write("config/b.yaml", &gateway(other));
        assert_eq!(folder.load(), Some((2, vec!["PC016", "PC034", "PC011", "PC034"])));
    }
    // Moved to another file, it is the same resource.
    fs::remove_file(folder.dir.path().join("config/a.yaml")).unwrap();
    folder.write("config/c.yaml", &broken);
    let (listeners, codes) = folder.load().unwrap();
    assert_eq!((listeners, codes.contains(&"PC016")), (2, true));
    fs::remove_file(folder.dir.path().join("config/c.yaml")).unwrap();
    assert_eq!(folder.load(), Some((1, vec!["PC034"])));
    folder.write("config/c.yaml", &broken);
    assert_eq!(folder.load(), Some((1, vec!["PC034", "PC045", "PC011"])));
}

#[test]
fn a_policy_that_breaks_is_enforced_as_it_was_and_a_new_one_refuses() {
    use crate::snapshot::Authorization;

    let policy = |paths: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, \
             namespace: istio-system}}\nspec: {{action: DENY, rules: [{{to: [{{operation: {{paths: \
             {paths}}}}}]}}]}}\n"
        )
    };
    let mut folder = Folder::new();
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let load = |folder: &mut Folder, text: &str| {
        folder.write("config/p.yaml", text);
        let loaded = folder.loader.load(&keys, Generation(1), 0).unwrap().unwrap();
        matches!(loaded.output.snapshot.authorization, Authorization::Refuse(_))
    };
    assert!(load(&mut folder, &policy("7")), "a broken first version refuses");
    assert!(!load(&mut folder, &policy("[/private]")));
    assert!(!load(&mut folder, &policy("7")), "the last good one goes on");
    assert!(!load(&mut folder, "kind: AuthorizationPolicy\nspec: ["), "a cut one, too");
    let second = policy("7").replace("name: p", "name: q");
    assert!(load(&mut folder, &second), "another one that is broken refuses");
    assert!(!load(&mut folder, &policy("[/private]")));
    let beside = format!("kind: [\n---\n{second}");
    assert!(load(&mut folder, &beside), "beside a document that does not say what it is, too");
}

#[test]
fn what_depends_on_time_is_found_as_time_passes() {
    use crate::tls::material::Material;
    use crate::tls::pki::Authority;

    let mut folder = Folder::new();
    let leaf = Authority::new("ca").leaf_until(&["*"], 1, 2030);
    let material = Material::parse(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap();
    folder.write("certs/a/tls.crt", &leaf.chain);
    folder.write("certs/a/tls.key", &leaf.key);
    let secure = "protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: a}";
    folder.write("config/a.yaml", &gateway(443).replace("protocol: HTTP}", secure));
    let (end, day) = (material.leaf().not_after, 86_400);
    let mut dates = |now: i64| {
        let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
        let loaded = folder.loader.load(&keys, Generation(1), now).unwrap()?;
        let codes = loaded.diagnostics.iter().map(|d| d.code.id);
        let codes: Vec<_> = codes.filter(|id| id.starts_with("PC02")).collect();
        Some((codes, folder.loader.changes_at()))
    };
    let soon = end - 14 * day + 1;
    assert_eq!(dates(end - 20 * day), Some((vec![], Some(soon))));
    assert_eq!(dates(soon - 1), None);
    assert_eq!(dates(soon), Some((vec!["PC024"], Some(soon + day))));
    assert_eq!(dates(end - 5), Some((vec!["PC024"], Some(end + 55))), "not more often");
    assert_eq!(dates(end + 55), Some((vec!["PC023"], None)));
    assert_eq!(dates(end + 500), None);
}

#[test]
fn a_file_that_never_was_good_harms_no_other() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", "apiVersion: [");
    folder.write("config/b.yaml", &gateway(81));
    assert_eq!(folder.load(), Some((1, vec!["PC004", "PC034"])));
}

#[test]
fn a_root_that_is_gone_changes_nothing() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    folder.load();
    fs::rename(folder.dir.path().join("config"), folder.dir.path().join("other")).unwrap();
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let error = folder.loader.load(&keys, Generation(2), 0).unwrap_err();
    assert!(error.to_string().contains("config"), "{error}");
    fs::rename(folder.dir.path().join("other"), folder.dir.path().join("config")).unwrap();
    assert_eq!(folder.load(), None);
}

#[test]
fn mesh_config_is_followed_and_a_broken_one_changes_nothing() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    assert!(folder.load().is_some());
    let domain = |folder: &Folder| folder.loader.mesh.settings.trust_domain.clone();
    assert_eq!(domain(&folder), "cluster.local");
    folder.write("mesh.yaml", "trustDomain: other\n");
    assert!(folder.load().is_some());
    assert_eq!(domain(&folder), "other");
    folder.write("mesh.yaml", "trustDomain: [\n");
    let (listeners, codes) = folder.load().unwrap();
    assert_eq!((listeners, codes.contains(&"PC004")), (1, true));
    assert_eq!(domain(&folder), "other");
    fs::remove_file(folder.dir.path().join("mesh.yaml")).unwrap();
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let error = folder.loader.load(&keys, Generation(1), 0).unwrap_err().to_string();
    assert!(error.contains("mesh.yaml") && error.contains("--mesh-config"), "{error}");
}

#[test]
fn mesh_networks_are_followed_and_broken_ones_change_nothing() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    assert!(folder.load().is_some());
    let names = |folder: &Folder| {
        let networks = &folder.loader.mesh.settings.networks.networks;
        networks.keys().cloned().collect::<Vec<_>>()
    };
    folder.write("networks.yaml", "networks: {n1: {gateways: [{address: 192.0.2.1}]}}\n");
    assert_eq!(folder.load(), Some((1, vec!["PC034", "PC071"])));
    assert_eq!(names(&folder), ["n1"]);
    folder.write("networks.yaml", "networks: {n2: {gateways: [{address: 192.0.2.1, port: 0}]}}\n");
    assert_eq!(folder.load(), Some((1, vec!["PC034", "PC011"])));
    assert_eq!(names(&folder), ["n1"]);
    fs::remove_file(folder.dir.path().join("networks.yaml")).unwrap();
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
    let error = folder.loader.load(&keys, Generation(1), 0).unwrap_err().to_string();
    assert!(error.contains("networks.yaml") && error.contains("--mesh-networks"), "{error}");
    let path = folder.dir.path().join("networks.yaml");
    fs::write(&path, "networks: 1\n").unwrap();
    let mesh = MeshFiles { config: None, networks: Some(path) };
    let settle: Settle = Box::new(|mesh| CompileSettings::default().with_mesh(mesh));
    let error = Loader::new(vec![], mesh, settle).err().unwrap().to_string();
    assert!(error.contains("networks.yaml:1:11"), "{error}");
}

#[test]
fn a_file_emptied_in_place_goes_on_until_it_settles_and_a_renamed_one_is_believed() {
    let mut folder = Folder::new();
    folder.write("config/a.yaml", &gateway(80));
    folder.load();
    folder.write("config/a.yaml", "");
    assert_eq!(folder.load(), None);
    assert!(folder.loader.look_again().is_some());
    folder.write("config/a.yaml", &gateway(81));
    assert_eq!(folder.load().unwrap().0, 1);
    assert_eq!(folder.loader.look_again(), None);
    folder.write("new", "");
    fs::rename(folder.dir.path().join("new"), folder.dir.path().join("config/a.yaml")).unwrap();
    assert_eq!(folder.load().unwrap().0, 0);
}
