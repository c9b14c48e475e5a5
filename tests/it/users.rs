//! The CA's sockets: asked by processes of two users, and by one user too often.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::authority::Ca;
use crate::gateway::PATIENCE;

/// Users that no account has.
const KNOWN: u32 = 61_001;
const UNKNOWN: u32 = 61_002;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway of another user that asks for its identity.
fn ask(ca: &Ca, uid: u32, source: &str) -> Process {
    let arguments = ["run", "--config", "config", "--status", "off", "--metrics", "off"];
    let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .args(["--admin", "off", "--state", "off", "--workers", "1", "--identity", source])
        .current_dir(ca.dir.path())
        .uid(uid)
        .gid(uid)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

#[test]
fn a_user_gets_its_own_identity_and_another_none() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only the superuser can start processes of other users");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.path().join("ca")).unwrap();
    fs::create_dir(dir.path().join("config")).unwrap();
    let workloads = format!("sockets: [{{uid: {KNOWN}, namespace: shop, serviceAccount: cart}}]\n");
    fs::write(dir.path().join("ca/workloads.yaml"), workloads).unwrap();
    let mut ca = Ca::start_in(dir, &["--log-format", "json"]);
    for source in ["unix:workload.sock", "sds:unix:sds.sock"] {
        let own = |ca: &Ca| {
            let known = json!(format!("uid {KNOWN}"));
            ca.issued().into_iter().filter(|line| line["caller"] == known).collect::<Vec<_>>()
        };
        let before = own(&ca).len();
        let refusals = |ca: &Ca| ca.err().matches(&format!("uid {UNKNOWN}")).count();
        let refused = refusals(&ca);
        let (_known, _unknown) = (ask(&ca, KNOWN, source), ask(&ca, UNKNOWN, source));
        ca.wait("one is refused", |ca| refusals(ca) > refused);
        ca.wait("the other has a certificate", |ca| own(ca).len() > before);
        let last = own(&ca).pop().unwrap();
        assert_eq!(last["identity"], json!("spiffe://cluster.local/ns/shop/sa/cart"));
    }
    let unknown = json!(format!("uid {UNKNOWN}"));
    assert!(ca.issued().iter().all(|line| line["caller"] != unknown));
}

/// Connections that one user may have to a socket.
const SHARE: usize = 128;

#[test]
fn a_user_holds_its_share_of_a_socket_and_no_more() {
    let mut ca = Ca::start(&[]);
    let path = ca.path("sds.sock");
    // A connection that is taken hears the server's settings; another ends.
    let taken = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream.read(&mut [0; 9]).unwrap() > 0).then_some(stream)
    };
    let mut held: Vec<_> = (0..SHARE).map(|_| taken()).collect();
    assert!(held.iter().all(Option::is_some));
    assert!(taken().is_none());
    ca.wait("it is told", |ca| ca.err().contains("as many connections as it may"));
    held.pop();
    ca.wait("there is room again", |_| taken().is_some());
}
