use std::os::unix::fs::{PermissionsExt as _, symlink};

use proptest::prelude::*;

use super::*;
use crate::auth::jwt::fixture::{issuer, stranger};

const NOW: u64 = 1_800_000_000;

fn location(uri: &str) -> KeyLocation {
    KeyLocation::Uri(uri.into())
}

/// A store in a new folder that holds one key set, and that set's file.
fn with_one() -> (tempfile::TempDir, Store, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(&folder.path().join("a/b"));
    store.keep([&location("https://i/k")].into_iter());
    store.save(&location("https://i/k"), issuer().key_set("ES256", "k").as_bytes(), NOW);
    let file = store.path(digest(&location("https://i/k")));
    (folder, store, file)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_kept_is_read_back_and_nobody_else_may_read_it() {
    let (folder, store, file) = with_one();
    let saved = store.load(&location("https://i/k"), NOW + 60).unwrap();
    assert_eq!((saved.keys.usable(), saved.fetched_unix), (1, NOW));
    assert_eq!((mode(&file), mode(&store.folder)), (0o600, 0o700));
    assert!(store.load(&location("https://other/k"), NOW).is_none());
    assert!(store.load(&KeyLocation::Discovery { issuer: "https://i/k".into() }, NOW).is_none());
    let names: Vec<_> = fs::read_dir(&store.folder).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?} {folder:?}");
}

/// One change to a kept file, and why it is not used any more.
fn check(change: impl FnOnce(&Path), now: u64, matches: impl FnOnce(&Unusable) -> bool) {
    let (_folder, store, file) = with_one();
    change(&file);
    let outcome = read(&file, digest(&location("https://i/k")), now);
    assert!(outcome.as_ref().is_err_and(matches), "{outcome:?}");
    assert!(store.load(&location("https://i/k"), now).is_none());
}

#[test]
fn what_cannot_be_trusted_is_not_used() {
    let write = |text: &'static str| move |file: &Path| fs::write(file, text).unwrap();
    let week = limit::JWKS_KEPT_TIME.as_secs();
    let form = |error: &Unusable| matches!(error, Unusable::Form);
    check(write(""), NOW, form);
    check(write("{\"keys\":[]}"), NOW, form);
    check(write("\u{0}\u{1}"), NOW, form);
    let large = |file: &Path| fs::write(file, vec![b' '; FILE_BYTES + 1]).unwrap();
    check(large, NOW, |error| matches!(error, Unusable::TooLarge));
    let chmod = |mode| {
        move |file: &Path| fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap()
    };
    check(chmod(0o620), NOW, |error| matches!(error, Unusable::Foreign));
    check(chmod(0o602), NOW, |error| matches!(error, Unusable::Foreign));
    let nothing = |_: &Path| {};
    check(nothing, NOW + week + 1, |error| matches!(error, Unusable::Age(_)));
    check(nothing, NOW - 7_200, |error| matches!(error, Unusable::Age(_)));
    let link = |file: &Path| {
        let other = file.with_extension("other");
        fs::rename(file, &other).unwrap();
        symlink(other, file).unwrap();
    };
    check(link, NOW, |error| matches!(error, Unusable::File(_)));
    let folder = |file: &Path| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    };
    check(folder, NOW, |error| matches!(error, Unusable::NotAFile));
}

#[test]
fn a_document_read_back_is_parsed_as_a_fetched_one() {
    let of = |document: &str| {
        let document = document.to_owned();
        move |file: &Path| {
            let location = digest(&location("https://i/k")).to_string();
            let written = Written { location, fetched_unix: NOW, document: document.into() };
            fs::write(file, serde_json::to_vec(&written).unwrap()).unwrap();
        }
    };
    check(of("[]"), NOW, |error| matches!(error, Unusable::KeySet(InvalidKeySet::Json)));
    check(of("{\"keys\":[]}"), NOW, |error| {
        matches!(error, Unusable::KeySet(InvalidKeySet::NoUsableKey(_)))
    });
    let large = " ".repeat(limit::JWKS_BYTES + 1);
    check(of(&large), NOW, |error| matches!(error, Unusable::KeySet(InvalidKeySet::TooLarge(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_on_disk_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        static KEPT: std::sync::OnceLock<(tempfile::TempDir, Store, PathBuf)> =
            std::sync::OnceLock::new();
        let (_, store, file) = KEPT.get_or_init(with_one);
        fs::write(file, &bytes).unwrap();
        prop_assert!(store.load(&location("https://i/k"), NOW).is_none());
    }
}

#[test]
fn a_file_of_another_location_is_not_used() {
    let (_folder, store, file) = with_one();
    let other = store.path(digest(&location("https://other/k")));
    fs::rename(file, other).unwrap();
    assert!(store.load(&location("https://other/k"), NOW).is_none());
}

#[test]
fn files_of_locations_that_are_not_fetched_any_more_are_removed() {
    let (_folder, store, file) = with_one();
    let foreign = store.folder.join("notes.json");
    let left_over = file.with_extension("new");
    fs::write(&foreign, "mine").unwrap();
    fs::write(&left_over, "half").unwrap();
    store.keep([&location("https://i/k")].into_iter());
    assert!(file.exists() && foreign.exists());
    store.keep([&location("https://other/k")].into_iter());
    assert!(!file.exists() && !left_over.exists() && foreign.exists());
    store.save(&location("https://i/k"), stranger().key_set("ES256", "k").as_bytes(), NOW);
    assert!(!file.exists() && !left_over.exists(), "what is not wanted is not kept");
}

#[test]
fn a_folder_that_cannot_be_made_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let store = Store::new(&folder.path().join("file"));
    store.keep([&location("https://i/k")].into_iter());
    store.save(&location("https://i/k"), issuer().key_set("ES256", "k").as_bytes(), NOW);
    assert!(store.load(&location("https://i/k"), NOW).is_none());
}
