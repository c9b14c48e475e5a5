//! `portcullis ca` on a free port and sockets of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use portcullis::base::hash::Fingerprint;
use portcullis::grpc::client::{Client, connect_unix, over};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::client::connect;
use crate::gateway::{PATIENCE, collect, free_port};

/// The join token of `workloads.yaml`.
pub const TOKEN: &str = "a-join-token-for-tests";

/// The join token of the backend `shop/echo`.
pub const ECHO_TOKEN: &str = "a-join-token-for-the-backend";

/// A running CA; it is killed when dropped.
pub struct Ca {
    pub dir: tempfile::TempDir,
    pub port: u16,
    arguments: Vec<String>,
    child: Child,
    err: Arc<Mutex<Vec<u8>>>,
}

impl Ca {
    /// A CA that gives this process's user `istio-system/gateway`, and the join token's holder too;
    /// another user would be `shop/other`.
    pub fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ca")).unwrap();
        let digest = |token: &str| Fingerprint::of(token.as_bytes());
        let uid = rustix::process::getuid().as_raw();
        let account = "namespace: istio-system, serviceAccount: gateway";
        let workloads = format!(
            "sockets: [{{uid: 4294967293, namespace: shop, serviceAccount: other}}, {{uid: {uid}, \
             {account}}}]\ntokens: [{{sha256: '{}', {account}}}, \
             {{sha256: '{}', namespace: shop, serviceAccount: echo}}]\n",
            digest(TOKEN),
            digest(ECHO_TOKEN),
        );
        fs::write(dir.path().join("ca/workloads.yaml"), workloads).unwrap();
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self::start_in(dir, arguments)
    }

    pub fn start_in(dir: tempfile::TempDir, arguments: &[&str]) -> Self {
        let port = free_port();
        let mut all = vec!["ca".to_owned(), "--listen".into(), format!("127.0.0.1:{port}")];
        let sockets = ["--sds", "sds.sock", "--workload-api", "workload.sock"];
        all.extend(sockets.iter().chain(arguments).map(|argument| (*argument).to_owned()));
        let (child, err) = launch(dir.path(), &all);
        let mut ca = Self { dir, port, arguments: all, child, err };
        ca.wait_until_it_serves();
        ca
    }

    /// Ends the process, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it anew after [`Self::kill`].
    pub fn restart(&mut self) {
        (self.child, self.err) = launch(self.dir.path(), &self.arguments);
        self.wait_until_it_serves();
    }

    fn wait_until_it_serves(&mut self) {
        self.wait("the CA serves", |ca| ca.err().contains("the CA serves"));
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.lock().unwrap()).into_owned()
    }

    pub fn wait(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let over = self.child.try_wait().unwrap();
            let gone = over.is_some() || start.elapsed() > PATIENCE;
            assert!(!gone, "waited for: {what}\n{over:?}\n{}", self.err());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A file or socket in its working folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a file of the CA's folder.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path("ca").join(name);
        let beside = path.with_extension("tmp~");
        fs::write(&beside, text).unwrap();
        if path.exists() {
            fs::set_permissions(&beside, fs::metadata(&path).unwrap().permissions()).unwrap();
        }
        fs::rename(beside, path).unwrap();
    }

    /// Gives everyone at its sockets a new certificate every second, when it looks at its files, for so
    /// long.
    pub async fn renewing(&self, time: Duration) {
        let (start, workloads) = (Instant::now(), self.read("ca/workloads.yaml"));
        let mut changes = 0;
        while start.elapsed() < time {
            changes += 1;
            self.write("workloads.yaml", format!("{workloads}# {changes}\n"));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Lines of the issuance log.
    pub fn issued(&self) -> Vec<Value> {
        let log = self.read("ca/issued.jsonl");
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The roots it hands out.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.read("ca/root-cert.pem").as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        roots
    }

    /// A client of its port, which verifies the CA as `localhost`.
    pub async fn client(&self) -> Client {
        let mut config =
            ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, connect(self.port).await).await.unwrap();
        over(stream, http::Uri::from_static("https://localhost")).await.unwrap()
    }

    /// A client of one of its sockets.
    pub async fn socket(&self, name: &str) -> Client {
        connect_unix(&self.path(name)).await.unwrap()
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(folder: &Path, arguments: &[String]) -> (Child, Arc<Mutex<Vec<u8>>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (err, _) = collect(child.stderr.take().unwrap());
    (child, err)
}
