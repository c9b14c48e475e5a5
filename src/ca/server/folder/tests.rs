//! The folder: made once, refused when a key is exposed or a part is missing.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::ca::fixture::NOW;

fn open(path: &Path) -> Result<Contents, FolderError> {
    Folder::open(path.to_owned(), "td", NOW)?.read(&mut Reader::default())
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
fn the_log_is_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path().to_owned(), "td", NOW).unwrap();
    folder.log().unwrap();
    assert_eq!(mode(&dir.path().join(LOG)), 0o600);
}

#[test]
fn one_process_at_a_time_writes_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path().to_owned(), "td", NOW).unwrap();
    let held = folder.log().unwrap();
    assert!(matches!(folder.log(), Err(FolderError::InUse(_))));
    drop(held);
    assert!(folder.log().is_ok());
}

#[test]
fn the_signing_certificate_is_renewed_below_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(dir.path()).unwrap();
    let folder = Folder::open(dir.path().to_owned(), "td", NOW).unwrap();
    assert!(folder.renew("td", NOW).unwrap());
    let after = open(dir.path()).unwrap();
    assert_ne!(after.certificate.fingerprint(), before.certificate.fingerprint());
    assert_eq!(after.roots.fingerprint(), before.roots.fingerprint());
    fs::remove_file(dir.path().join(ROOT_KEY)).unwrap();
    assert!(!folder.renew("td", NOW).unwrap());
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
