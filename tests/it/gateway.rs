//! The real binary on free ports of loopback, in a folder of its own.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::pki::{Authority, Leaf};

/// Longest any condition is awaited.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// By when a process has ended that was told to: its drain's deadline, and some time.
const DRAINED: Duration = Duration::from_secs(25 + 20);

/// A folder with configuration, certificates and identity.
pub struct Site {
    pub dir: tempfile::TempDir,
    /// Signs servers of the edge.
    pub edge: Authority,
    /// Signs clients of the edge.
    pub clients: Authority,
    /// Signs workloads.
    pub mesh: Authority,
}

impl Site {
    /// A folder with a mesh identity and no configuration.
    pub fn new() -> Self {
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
            edge: Authority::new("edge"),
            clients: Authority::new("clients"),
            mesh: Authority::new("mesh"),
        };
        fs::create_dir(site.path("config")).unwrap();
        site.identity("gateway", 1);
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file as careful programs do: beside it, then renamed.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.with_extension("tmp~");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    /// A resource file.
    pub fn config(&self, name: &str, text: &str) -> &Self {
        self.write(&format!("config/{name}.yaml"), text);
        self
    }

    /// A server credential for names.
    pub fn certificate(&self, credential: &str, names: &[&str]) -> Leaf {
        let leaf = self.edge.leaf(names, 1);
        self.write(&format!("certs/{credential}/tls.key"), &leaf.key);
        self.write(&format!("certs/{credential}/tls.crt"), &leaf.chain);
        leaf
    }

    /// The CA of clients beside a credential.
    pub fn client_ca(&self, credential: &str) {
        self.write(&format!("certs/{credential}/ca.crt"), self.clients.pem());
    }

    /// The mesh identity of a service account.
    pub fn identity(&self, account: &str, serial: u64) {
        let leaf = self.workload("istio-system", account, serial);
        self.write("certs/identity/key.pem", &leaf.key);
        self.write("certs/identity/cert-chain.pem", &leaf.chain);
        self.write("certs/identity/root-cert.pem", self.mesh.pem());
    }

    pub fn workload(&self, namespace: &str, account: &str, serial: u64) -> Leaf {
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        self.mesh.leaf(&[&id], serial)
    }

    /// Runs another command over this folder to its end.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .args(["--config", "config", "--certs", "certs"])
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }

    /// Starts the gateway with each of these ports mapped to a free one, and waits until it is ready.
    pub fn start(&self, ports: &[u16]) -> Gateway {
        self.start_with(ports, &[])
    }

    pub fn start_with(&self, ports: &[u16], arguments: &[&str]) -> Gateway {
        let gateway = self.spawn(ports, arguments);
        gateway.wait("it is ready", || gateway.status("/healthz/ready") == Some(200));
        gateway
    }

    /// Starts the gateway and waits for nothing.
    pub fn spawn(&self, ports: &[u16], arguments: &[&str]) -> Gateway {
        self.launch("run", "config", ports, arguments)
    }

    /// Starts a command that serves a folder of resources, and waits for nothing.
    pub fn launch(
        &self,
        command: &str,
        config: &str,
        ports: &[u16],
        arguments: &[&str],
    ) -> Gateway {
        let role = command;
        let map: Vec<(u16, u16)> = ports.iter().map(|port| (*port, free_port())).collect();
        let own = [free_port(), free_port(), free_port()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(self.dir.path()).args([role, "--config", config, "--certs", "certs"]);
        command.args(["--bind", "127.0.0.1"]);
        if !arguments.contains(&"--state") {
            command.args(["--state", "off"]);
        }
        if !arguments.contains(&"--workers") {
            command.args(["--workers", "2"]);
        }
        for (flag, port) in ["--status", "--metrics", "--admin"].iter().zip(own) {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        for (from, to) in &map {
            command.arg("--port-map").arg(format!("{from}={to}"));
        }
        command.args(arguments).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, out_reader) = collect(child.stdout.take().unwrap());
        let (err, err_reader) = collect(child.stderr.take().unwrap());
        let [status, metrics, admin] = own;
        let readers = Mutex::new(vec![out_reader, err_reader]);
        Gateway { child: Mutex::new(child), readers, out, err, map, status, metrics, admin }
    }
}

/// A running gateway; it is killed when dropped.
pub struct Gateway {
    child: Mutex<Child>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    map: Vec<(u16, u16)>,
    status: u16,
    metrics: u16,
    admin: u16,
}

impl Gateway {
    /// The port bound for a port of the configuration.
    pub fn port(&self, written: u16) -> u16 {
        self.map.iter().find(|(from, _)| *from == written).unwrap().1
    }

    pub fn status_port(&self) -> u16 {
        self.status
    }

    /// Status of a path of the status port; nothing while nobody listens.
    pub fn status(&self, path: &str) -> Option<u16> {
        fetch_status(self.status, path)
    }

    pub fn metrics(&self) -> String {
        fetch(self.metrics, "GET", "/metrics").unwrap()
    }

    /// A page of the admin port.
    pub fn admin(&self, path: &str) -> Value {
        let answer = fetch(self.admin, "GET", path).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    pub fn post(&self, path: &str) -> String {
        fetch(self.admin, "POST", path).unwrap()
    }

    pub fn generation(&self) -> u64 {
        self.admin("/config_dump")["generation"].as_u64().unwrap()
    }

    /// Makes a change and waits until it is live, and told of everywhere.
    pub fn reload(&self, change: impl FnOnce()) {
        let before = self.generation();
        change();
        self.wait("the change is live", || self.generation() > before);
        let told = || format!("portcullis_config_generation {}\n", self.generation());
        self.wait("it is told", || self.metrics().contains(&told()));
    }

    /// Waits for a condition, and blocks the thread: backends within a test then need another
    /// (`flavor = "multi_thread"`).
    pub fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            let over = self.child.lock().unwrap().try_wait().unwrap();
            let gone = over.is_some() || start.elapsed() > PATIENCE;
            assert!(!gone, "waited for: {what}\n{over:?}\n{}\n{}", self.err(), self.out());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the program's log says this.
    pub fn tells(&self, text: &str) {
        self.wait(text, || self.err().contains(text));
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args([signal, &self.pid().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for the end of the process, and of what it said.
    pub fn ended(&self) -> ExitStatus {
        let start = Instant::now();
        loop {
            let over = self.child.lock().unwrap().try_wait().unwrap();
            if let Some(status) = over {
                self.readers.lock().unwrap().drain(..).for_each(|reader| reader.join().unwrap());
                return status;
            }
            assert!(start.elapsed() < DRAINED, "it does not end: {}", self.err());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The program's log so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.lock().unwrap()).into_owned()
    }

    /// The access log so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.lock().unwrap()).into_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

pub fn collect(
    mut from: impl std::io::Read + Send + 'static,
) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let into = Arc::<Mutex<Vec<u8>>>::default();
    let shared = into.clone();
    let reader = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            shared.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
    (into, reader)
}

/// A port nobody listens on; below the range from which the system takes ports for connections.
///
/// The UDP port of the same number is held until the process ends: it tells this and other test
/// processes that the port is taken before somebody listens on it.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    loop {
        let address = ("127.0.0.1", fastrand::u16(10_000..32_000));
        if let (Ok(hold), Ok(_)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
            TAKEN.lock().unwrap().push(hold);
            return address.1;
        }
    }
}

/// Status of a path of a port of the program's own; nothing while nobody listens.
pub fn fetch_status(port: u16, path: &str) -> Option<u16> {
    fetch(port, "GET", path)?.split(' ').nth(1)?.parse().ok()
}

fn fetch(port: u16, method: &str, path: &str) -> Option<String> {
    use std::io::Write as _;

    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A Gateway with one server.
pub fn gateway(name: &str, port: u16, protocol: &str, hosts: &str, tls: &str) -> String {
    let tls = if tls.is_empty() { String::new() } else { format!(", tls: {{{tls}}}") };
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, \
         namespace: istio-system}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{{port: \
         {{number: {port}, name: {name}, protocol: {protocol}}}, hosts: [{hosts}]{tls}}}]}}\n"
    )
}

/// A VirtualService of namespace `shop` with rules as written.
pub fn routes(name: &str, gateways: &str, hosts: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, \
         namespace: shop}}\nspec:\n  hosts: [{hosts}]\n  gateways: [{gateways}]\n{rules}"
    )
}

/// A service `NAME.shop.internal` with one port on loopback.
pub fn service(name: &str, protocol: &str, port: u16) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, \
         namespace: shop}}\nspec: {{hosts: [{name}.shop.internal], location: MESH_INTERNAL, \
         resolution: STATIC, ports: [{{number: 80, name: p, protocol: {protocol}}}], endpoints: \
         [{{address: 127.0.0.1, ports: {{p: {port}}}}}]}}\n"
    )
}

/// A plaintext and a TLS server (credential `a`) that send requests for `a.com` to a backend.
pub fn secured(port: u16) -> String {
    gateway("plain", 80, "HTTP", "'*'", "")
        + &gateway("secure", 443, "HTTPS", "a.com", "mode: SIMPLE, credentialName: a")
        + &routes("r", "istio-system/plain, istio-system/secure", "a.com", &to("echo"))
        + &service("echo", "HTTP", port)
}

/// A gateway of one worker that sends requests for `a.com` to a backend.
pub fn front(protocol: &str, port: u16) -> (Site, Gateway) {
    let site = Site::new();
    site.config(
        "all",
        &(gateway("plain", 80, "HTTP", "'*'", "")
            + &routes("r", "istio-system/plain", "a.com", &to("echo"))
            + &service("echo", protocol, port)),
    );
    let gateway = site.start_with(&[80], &["--workers", "1"]);
    (site, gateway)
}

/// A service as [`service`], with endpoints of their own: fields beside the port of each.
pub fn endpoints(name: &str, protocol: &str, endpoints: &[(u16, &str)]) -> String {
    let list: Vec<_> = endpoints
        .iter()
        .map(|(port, fields)| format!("{{address: 127.0.0.1, ports: {{p: {port}}}{fields}}}"))
        .collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, \
         namespace: shop}}\nspec: {{hosts: [{name}.shop.internal], location: MESH_INTERNAL, \
         resolution: STATIC, ports: [{{number: 80, name: p, protocol: {protocol}}}], endpoints: \
         [{}]}}\n",
        list.join(", ")
    )
}

/// A DestinationRule for [`service`].
pub fn policy(name: &str, policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, \
         namespace: shop}}\nspec: {{host: {name}.shop.internal, trafficPolicy: {{{policy}}}}}\n"
    )
}

/// Rules that send everything to a service.
pub fn to(name: &str) -> String {
    format!("  http: [{{route: [{{destination: {{host: {name}.shop.internal}}}}]}}]\n")
}

/// Puts two keys on a folder, `..data` swapped as Kubernetes does.
pub fn mounted(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir_all(&data).unwrap();
    for (name, text) in files {
        fs::write(data.join(name), text).unwrap();
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let fresh = folder.join("..data_tmp");
    std::os::unix::fs::symlink(format!("..{version}"), &fresh).unwrap();
    fs::rename(fresh, folder.join("..data")).unwrap();
}
