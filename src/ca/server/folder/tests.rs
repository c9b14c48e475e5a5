//! The folder: made once, refused when a key is exposed or a part is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::ca::fixture::{NOW, workload};

fn open(path: &Path) -> Result<Contents, FolderError> {
    Folder::open(path.to_owned(), path.to_owned(), "td", NOW)?.read(&mut Reader::default())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_empty_folder_gets_a_ca_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/ca");
    let first = open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    for key in [KEY, ROOT_KEY] {
        assert_eq!(mode(&path.join(key)), 0o600, "{key}");
    }
    assert_eq!(mode(&path.join(ROOT)), 0o644);
    let second = open(&path).unwrap();
    assert_eq!(second.certificate.fingerprint(), first.certificate.fingerprint());
    assert_eq!(second.key, first.key);
}

#[test]
fn exposed_keys_and_missing_parts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    for (name, wide) in [KEY, ROOT_KEY].iter().flat_map(|name| WIDE.map(|wide| (name, wide))) {
        let path = dir.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, FolderError::Exposed { mode, .. } if mode == wide), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(dir.path().join(KEY), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(open(dir.path()).is_ok());
    fs::remove_file(dir.path().join(ROOT)).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, FolderError::Partial { missing: ROOT, .. }), "{error}");
}

const WIDE: [u32; 4] = [0o640, 0o604, 0o620, 0o601];

#[test]
fn a_key_that_lies_alone_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    for name in [ROOT_KEY, CHAIN, KEY] {
        let path = dir.path().join(name);
        fs::write(&path, "mine").unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, FolderError::Partial { missing: CERTIFICATE, .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine", "{name}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_mounted_secret_is_read_by_its_group_and_nobody_else() {
    let (root, other) = (0, 1000);
    let check = |mode, owner, own, expected| {
        assert_eq!(exposed(mode, owner, own), expected, "{mode:o} of {owner} for {own}");
    };
    check(0o600, other, other, false);
    check(0o400, root, root, false);
    check(0o440, root, other, false);
    check(0o640, root, other, false);
    check(0o440, root, root, true);
    check(0o440, other, other, true);
    for mode in [0o644, 0o444, 0o404, 0o460, 0o450] {
        check(mode, root, other, true);
        check(mode, root, root, true);
    }
}

#[test]
fn what_a_plugged_in_ca_writes_goes_elsewhere() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(dir.path()).unwrap();
    let read = || {
        let folder = Folder::open(dir.path().to_owned(), state.path().to_owned(), "td", NOW)?;
        folder.write_list("list")?;
        folder.read(&mut Reader::default())
    };
    // As Kubernetes mounts a Secret.
    let data = dir.path().join("..data");
    fs::create_dir(&data).unwrap();
    for name in [CERTIFICATE, KEY, ROOT, CHAIN] {
        fs::rename(dir.path().join(name), data.join(name)).unwrap();
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
    }
    fs::remove_file(dir.path().join(ROOT_KEY)).unwrap();
    fs::write(dir.path().join(REVOKED), "not read").unwrap();
    fs::write(state.path().join(REVOKED), "4aff 2026-01-01T00:00:00Z").unwrap();
    assert_eq!(read().unwrap().revoked.len(), 1);
    assert_eq!(fs::read_to_string(state.path().join(LIST)).unwrap(), "list");
    assert!(!dir.path().join(LIST).exists());
    fs::set_permissions(data.join(KEY), fs::Permissions::from_mode(0o644)).unwrap();
    let error = read().err().unwrap().to_string();
    assert!(error.contains("defaultMode: 0400"), "{error}");
}

#[test]
fn a_ca_that_was_being_made_is_finished() {
    let (whole, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = open(whole.path()).unwrap();
    let names = [ROOT_KEY, ROOT, KEY, CHAIN, CERTIFICATE];
    // Each state that a crash can leave: some files are in place, the others wait.
    for count in 0..=names.len() {
        let path = dir.path().join(count.to_string());
        fs::create_dir_all(path.join(".made")).unwrap();
        fs::write(path.join(".made/former"), "").unwrap();
        for (index, name) in names.iter().enumerate() {
            let place = if index < count { path.clone() } else { path.join(".made") };
            fs::copy(whole.path().join(name), place.join(name)).unwrap();
        }
        let found = open(&path).unwrap();
        assert_eq!(found.key, made.key, "{count}");
        assert!(!path.join(".made").exists());
    }
    // What is not complete was never in use.
    let path = dir.path().join("making");
    fs::create_dir_all(path.join(".making")).unwrap();
    fs::write(path.join(".making").join(KEY), "half").unwrap();
    assert_ne!(open(&path).unwrap().key, made.key);
    // A key of the operator's is not written over.
    let path = dir.path().join("other");
    fs::create_dir_all(path.join(".made")).unwrap();
    fs::write(path.join(".made/former"), "").unwrap();
    for name in names {
        fs::copy(whole.path().join(name), path.join(".made").join(name)).unwrap();
    }
    fs::write(path.join(KEY), "mine").unwrap();
    let error = open(&path).err().unwrap();
    assert!(matches!(error, FolderError::Unfinished(_)), "{error}");
    assert_eq!(fs::read_to_string(path.join(KEY)).unwrap(), "mine");
}

#[test]
fn the_signing_certificate_is_renewed_below_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path().to_owned(), dir.path().to_owned(), "td", NOW).unwrap();
    let read = || folder.read(&mut Reader::default()).unwrap();
    let renew = |now| folder.renew(&workload("ca"), "td", now);
    let before = read();
    assert!(renew(NOW).unwrap());
    let after = read();
    assert_ne!(after.certificate.fingerprint(), before.certificate.fingerprint());
    assert_eq!(after.roots.fingerprint(), before.roots.fingerprint());
    // A root that is to come stands first: the one whose key is here is taken all the same.
    let other = create_root("td", NOW).unwrap().certificate;
    let own = String::from_utf8(after.roots.bytes().to_vec()).unwrap();
    fs::write(dir.path().join(ROOT), format!("{other}{own}")).unwrap();
    assert!(renew(NOW).unwrap());
    // Nothing is put in place that is no authority with the other files.
    let before = read();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(dir.path().join(ROOT), format!("{own}{broken}")).unwrap();
    let error = renew(NOW).unwrap_err();
    assert!(matches!(error, FolderError::Authority { .. }), "{error}");
    // Nor what a key of no valid root signed.
    fs::write(dir.path().join(ROOT), own).unwrap();
    assert!(!renew(NOW + time::Duration::days(4000)).unwrap());
    fs::write(dir.path().join(ROOT), other).unwrap();
    assert!(!renew(NOW).unwrap());
    fs::remove_file(dir.path().join(ROOT_KEY)).unwrap();
    assert!(!renew(NOW).unwrap());
    let after = read();
    assert_eq!(after.certificate.fingerprint(), before.certificate.fingerprint());
    assert_eq!(after.key, before.key);
}

fn check_revoked(text: &str, expected: Option<&[Revoked]>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(REVOKED), text).unwrap();
    let contents = open(dir.path());
    assert_eq!(contents.ok().map(|contents| contents.revoked).as_deref(), expected, "{text}");
}

#[test]
fn revoked_serials_have_a_time() {
    let one = Revoked { serial: vec![0x4a, 0xff], at: 1_767_225_600 };
    check_revoked("", Some(&[]));
    check_revoked("# none yet\n\n", Some(&[]));
    check_revoked("4aFF 2026-01-01T00:00:00Z # lost\n", Some(&[one]));
    for text in [
        "4aff",
        "4af 2026-01-01T00:00:00Z",
        "xx 2026-01-01T00:00:00Z",
        "4aff yesterday",
        "4aff 2026-01-01T00:00:00Z more",
        &format!("{} 2026-01-01T00:00:00Z", "4a".repeat(21)),
    ] {
        check_revoked(text, None);
    }
}
