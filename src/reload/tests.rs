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
        let mesh = dir.path().join("mesh.yaml");
        fs::write(&mesh, "").unwrap();
        let loader = Loader::new(vec![config], Some(mesh), settle).unwrap();
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
    assert_eq!(folder.load(), Some((2, vec!["PC004", "PC034", "PC034"])));
    folder.write("config/b.yaml", &gateway(82));
    assert_eq!(folder.load().unwrap().0, 2);
    folder.write("config/a.yaml", &gateway(83));
    assert_eq!(folder.load(), Some((2, vec!["PC034", "PC034"])));
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
