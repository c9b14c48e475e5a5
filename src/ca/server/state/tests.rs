//! A CA over its folder, without its interfaces.

use std::fs;

use rcgen::{CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use super::*;
use crate::ca::fixture::{NOW, workload};
use crate::ca::{NewAuthority, create_root};

struct Fixture {
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
}

const OLD: OffsetDateTime = time::macros::datetime!(2026-11-15 03:04:05 UTC);
const FILES: [&str; 3] = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem"];

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() }
    }

    fn open(&self, now: OffsetDateTime) -> Result<(Ca, Keeper), FolderError> {
        let settings = CaSettings {
            dir: self.dir.path().to_owned(),
            state: self.state.path().to_owned(),
            trust_domain: "td".to_owned(),
            own: workload("ca"),
            names: Vec::new(),
            lifetime: Duration::from_hours(1),
        };
        let callers = TokenCallers { trust_domain: "td".to_owned(), kubernetes: None };
        Ca::open(settings, callers, now)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn files(&self) -> [Vec<u8>; 3] {
        FILES.map(|name| fs::read(self.dir.path().join(name)).unwrap())
    }

    fn signers(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.state.path().join("signers")).unwrap();
        folder.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Writes down a certificate that is good for as long as what signed it.
fn issue(ca: &Ca, now: OffsetDateTime) {
    let standing = ca.standing().borrow().clone();
    let id = workload("a");
    let life = Duration::from_hours(24 * 400);
    let template = Template { id: &id, names: Vec::new(), life };
    let issued = standing.authority.issue(&KeyPair::generate().unwrap(), template, now).unwrap();
    let signer = standing.authority.signer();
    let record = IssuanceRecord::new((&issued, signer), &id, Caller::JoinToken, now);
    ca.ledger.lock().unwrap().add(&record, now).unwrap();
}

fn plugged(usages: &[KeyUsagePurpose]) -> NewAuthority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = usages.to_vec();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    NewAuthority { certificate, key: crate::base::secret::Secret::new(key.serialize_pem()) }
}

#[test]
fn a_ca_that_may_sign_no_list_issues_without_one() {
    use KeyUsagePurpose::{
        ContentCommitment, CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment,
    };
    // As Istio's own tools make one.
    let istio = [DigitalSignature, ContentCommitment, KeyEncipherment, KeyCertSign];
    let check = |usages: &[KeyUsagePurpose], lists: usize| {
        let fixture = Fixture::new();
        let signing = plugged(usages);
        for name in ["ca-cert.pem", "root-cert.pem"] {
            fixture.write(name, &signing.certificate);
        }
        fixture.write("ca-key.pem", signing.key.expose());
        fs::write(fixture.state.path().join("revoked.txt"), "4aff 2026-01-01T00:00:00Z").unwrap();
        let (ca, keeper) = fixture.open(NOW).unwrap();
        let standing = ca.standing().borrow().clone();
        assert_eq!(standing.lists.len(), lists, "{usages:?}");
        assert_eq!(!standing.enforced.is_empty(), lists == 1, "{usages:?}");
        assert_eq!(keeper.unlisted.signers.len(), 1 - lists, "{usages:?}");
        assert!(keeper.unlisted.revoked);
    };
    check(&istio, 0);
    check(&[KeyCertSign], 0);
    check(&[KeyCertSign, CrlSign], 1);
    check(&[], 1);
}

#[test]
fn what_is_renewed_is_kept_first_for_its_list() {
    let fixture = Fixture::new();
    let (ca, keeper) = fixture.open(NOW).unwrap();
    issue(&ca, NOW);
    drop((ca, keeper));
    fs::remove_dir_all(fixture.state.path().join("signers")).unwrap();
    let before = fixture.files();
    let (ca, _keeper) = fixture.open(OLD).unwrap();
    assert_ne!(fixture.files(), before);
    assert_eq!(fixture.signers().len(), 2);
    assert_eq!(ca.standing().borrow().lists.len(), 2);
}

#[test]
fn a_renewal_that_fails_leaves_a_good_ca_as_it_is() {
    let check = |name: &str, text: &str| {
        let fixture = Fixture::new();
        drop(fixture.open(NOW).unwrap());
        let before = fixture.files();
        fixture.write(name, text);
        let (ca, mut keeper) = fixture.open(OLD).unwrap();
        assert_eq!(fixture.files(), before, "{name}");
        assert!(keeper.renewal_due > OLD.unix_timestamp(), "it is tried again");
        assert!(keeper.look(OLD).is_none());
        // Once it has expired there is nothing to go on with.
        drop((ca, keeper));
        assert!(fixture.open(OLD + time::Duration::days(300)).is_err());
        assert_eq!(fixture.files(), before, "{name}");
    };
    check("root-key.pem", "no key");
    // Another root's.
    check("root-key.pem", create_root("td", NOW).unwrap().key.expose());
}

#[test]
fn a_former_signer_that_cannot_be_read_stops_the_start_and_not_a_running_ca() {
    let fixture = Fixture::new();
    let (ca, mut keeper) = fixture.open(NOW).unwrap();
    issue(&ca, NOW);
    let [former] = &fixture.signers()[..] else { panic!("there is one signer") };
    let content = fs::read(former).unwrap();
    assert_eq!(keeper.look(OLD).unwrap().lists.len(), 2);
    fs::write(former, "broken").unwrap();
    fs::write(fixture.state.path().join("revoked.txt"), "4aff 2026-01-01T00:00:00Z").unwrap();
    assert!(keeper.look(OLD).is_none());
    assert!(keeper.failure.contains(&*former.to_string_lossy()), "{}", keeper.failure);
    drop((ca, keeper));
    let error = fixture.open(OLD).err().unwrap();
    assert!(matches!(error, FolderError::FormerSigner(_)), "{error}");
    fs::write(former, content).unwrap();
    assert!(fixture.open(OLD).is_ok());
}

#[test]
fn one_folder_has_one_ca_whatever_its_state() {
    let fixture = Fixture::new();
    let running = fixture.open(NOW).unwrap();
    let other = Fixture { dir: fixture.dir, state: tempfile::tempdir().unwrap() };
    let error = other.open(NOW).err().unwrap();
    assert!(matches!(&error, FolderError::InUse(path) if path == other.dir.path()), "{error}");
    drop(running);
    assert!(other.open(NOW).is_ok());
}

#[test]
fn errors_say_what_the_system_says_once() {
    let why = std::io::Error::from(std::io::ErrorKind::NotFound);
    let told = why.to_string();
    let error = anyhow::Error::new(FolderError::File { path: "file".into(), why });
    assert_eq!(format!("{error:#}"), format!("\"file\": {told}"));
}

#[test]
fn a_root_that_ends_while_it_runs_is_told_at_once() {
    let fixture = Fixture::new();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.not_after = NOW + time::Duration::hours(1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.clone().self_signed(&key).unwrap().pem();
    for name in ["ca-cert.pem", "root-cert.pem"] {
        fixture.write(name, &certificate);
    }
    fixture.write("ca-key.pem", &key.serialize_pem());
    let (ca, mut keeper) = fixture.open(NOW).unwrap();
    let end = ca.standing().borrow().authority.end().at;
    assert_eq!(end, params.not_after.unix_timestamp());
    let at = |second| OffsetDateTime::from_unix_timestamp(second).unwrap();
    assert!(keeper.look(at(end)).is_none() && keeper.failure.is_empty());
    assert!(keeper.look(at(end + 1)).is_none());
    assert!(keeper.failure.contains("has expired"), "{}", keeper.failure);
    drop((ca, keeper));
    assert!(fixture.open(at(end + 1)).is_err());
}
