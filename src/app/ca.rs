//! `portcullis ca`: the built-in CA as a process.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use http::Uri;
use time::OffsetDateTime;
use tokio::runtime::{Builder, Handle};

use super::ports::{self, serve_port};
use super::{Signals, files};
use crate::admin::status::{self, Readiness};
use crate::auth::jwt::{IssuerKeys, JwksSource, KeyLocation, KeySet, KeyState};
use crate::base::limit;
use crate::ca::server::listen::{self, Interface};
use crate::ca::server::{Ca, CaSettings, keep};
use crate::ca::{KubernetesTokens, TokenCallers};
use crate::net::listener::bind_unix;
use crate::source::reader::Reader;
use crate::source::touched::Changes;
use crate::telemetry::logs::LogsFormat;
use crate::telemetry::{Metrics, WorkloadLabels, logs};
use crate::upstream::jwks::{JwksEngine, KeyAccess};

/// Everything that a CA needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder, names and lives.
    pub ca: CaSettings,
    /// Where CreateCertificate is served; `None` is off.
    pub listen: Option<SocketAddr>,
    /// Socket of Envoy's SDS.
    pub sds: Option<PathBuf>,
    /// Socket of the SPIFFE Workload API.
    pub workload_api: Option<PathBuf>,
    /// Where readiness is served; `None` is off.
    pub status: Option<SocketAddr>,
    /// Which service-account tokens are accepted; none when nothing is said.
    pub tokens: Option<TokenSettings>,
    /// Which lines of the program's log are written, as `tracing-subscriber` reads it.
    pub log_level: String,
    /// Form of the program's log.
    pub log_format: LogsFormat,
}

/// Service-account tokens that are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// File or `https` address of the key set.
    pub keys: String,
    /// Whom they are had from at an address, and who asks.
    pub access: KeyAccess,
    /// `iss`; any when nothing.
    pub issuer: Option<String>,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
}

/// Serves until a signal to stop.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    logs::start(&settings.log_level, settings.log_format)?;
    files::claim(0)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ca")
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let mut signals = Signals::new(&runtime)?;
    let keys = settings.tokens.as_ref().map(|tokens| TokenKeys::start(tokens, runtime.handle()));
    let keys = keys.transpose()?;
    let callers = TokenCallers {
        trust_domain: settings.ca.trust_domain.clone(),
        kubernetes: settings.tokens.as_ref().zip(keys.as_ref()).map(|(tokens, keys)| {
            let issuer = tokens.issuer.as_deref();
            KubernetesTokens::new(issuer, &tokens.audiences, keys.keys.clone())
        }),
    };
    let (ca, keeper) = Ca::open(settings.ca.clone(), callers, OffsetDateTime::now_utc())?;
    let ca = Arc::new(ca);
    let _guard = runtime.enter();
    serve(settings, &ca)?;
    let status_port = ports::open("--status", settings.status)?;
    runtime.spawn(keep(ca.clone(), keeper));
    if let Some(listener) = status_port {
        serve_status(listener, ca);
    }
    tracing::info!(
        listen = settings.listen.map(|address| address.to_string()),
        sds = settings.sds.as_ref().map(|path| path.display().to_string()),
        workload_api = settings.workload_api.as_ref().map(|path| path.display().to_string()),
        "the CA serves"
    );
    let signal = runtime.block_on(signals.next());
    tracing::info!(signal, "stopping");
    for path in [&settings.sds, &settings.workload_api].into_iter().flatten() {
        let _ = std::fs::remove_file(path);
    }
    drop(keys);
    runtime.shutdown_background();
    Ok(())
}

/// Opens the port and the sockets and serves them on the runtime entered.
fn serve(settings: &Settings, ca: &Arc<Ca>) -> anyhow::Result<()> {
    if let Some(address) = settings.listen {
        let failed = || format!("cannot listen on {address}; choose another with --listen, or off");
        let listener = TcpListener::bind(address).with_context(failed)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let ca = ca.clone();
        tokio::spawn(async move {
            if let Err(error) = listen::port(ca, listener).await {
                tracing::error!(%error, "CreateCertificate is not served");
            }
        });
    }
    let sockets =
        [(&settings.sds, Interface::Secrets), (&settings.workload_api, Interface::WorkloadApi)];
    for (path, interface) in sockets {
        if let Some(path) = path {
            let listener = open_socket(path)?;
            tokio::spawn(listen::socket(ca.clone(), listener, interface));
        }
    }
    Ok(())
}

/// Serves readiness: whether certificates can be issued.
fn serve_status(listener: TcpListener, ca: Arc<Ca>) {
    let readiness = Readiness::default();
    readiness.configured();
    readiness.serving();
    tokio::spawn(serve_port(listener, status::handler(readiness.clone(), None)));
    tokio::spawn(async move { ca.tell_end(|end| readiness.ready_until(end)).await });
}

/// A socket that every user may connect to: who they are decides what they get.
fn open_socket(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder \"{}\"", folder.display()))?;
    }
    let listener = bind_unix(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .with_context(|| format!("cannot open \"{}\" to its users", path.display()))?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}

/// Keys of service-account tokens, kept fresh until dropped.
struct TokenKeys {
    keys: Arc<IssuerKeys>,
    _engine: Option<JwksEngine>,
}

impl TokenKeys {
    fn start(settings: &TokenSettings, runtime: &Handle) -> anyhow::Result<Self> {
        let secured = settings.keys.starts_with("https://");
        anyhow::ensure!(
            secured || settings.access == KeyAccess::default(),
            "--token-keys-ca and --token-keys-token are for an https address in --token-keys"
        );
        if fetched(&settings.keys)? {
            let metrics = Metrics::new(WorkloadLabels::default())?;
            let engine = JwksEngine::new(runtime.clone(), Vec::new(), metrics)
                .with_access(settings.access.clone());
            let source = JwksSource {
                issuer: settings.issuer.as_deref().unwrap_or_default().into(),
                location: KeyLocation::Uri(settings.keys.as_str().into()),
                timeout: limit::JWKS_FETCH_TIME,
                endpoints: None,
            };
            let keys = engine.keys(&source);
            engine.update(&[source]);
            return Ok(Self { keys, _engine: Some(engine) });
        }
        let path = PathBuf::from(&settings.keys);
        let mut reader = Reader::default();
        let state = read_keys(&path, &mut reader)
            .with_context(|| format!("--token-keys \"{}\"", path.display()))?;
        let keys = Arc::new(IssuerKeys::new(state));
        runtime.spawn(follow_keys(path, reader, keys.clone()));
        Ok(Self { keys, _engine: None })
    }
}

/// Whether keys are at an address. Without TLS it must be this machine's: who is on the way could put
/// keys of its own there, and be anyone.
fn fetched(keys: &str) -> anyhow::Result<bool> {
    if !keys.starts_with("http://") {
        return Ok(keys.starts_with("https://"));
    }
    let uri = keys.parse::<Uri>().context("--token-keys is no address")?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    anyhow::ensure!(
        here,
        "--token-keys \"{keys}\" is not protected on its way; give an https address, or a file"
    );
    Ok(true)
}

fn read_keys(path: &Path, reader: &mut Reader) -> anyhow::Result<KeyState> {
    reader.begin(&Changes::Anything);
    let content = reader.read(path, limit::JWKS_BYTES as u64)?.context("it is too large")?;
    Ok(KeyState::Ready(KeySet::parse(content.bytes())?))
}

/// Follows a file of keys; one that cannot be used leaves the last good ones.
async fn follow_keys(path: PathBuf, mut reader: Reader, keys: Arc<IssuerKeys>) {
    let mut failure = String::new();
    loop {
        tokio::time::sleep(limit::CA_SCAN_TIME).await;
        match read_keys(&path, &mut reader) {
            Ok(state) => {
                failure.clear();
                keys.publish(state);
            }
            Err(error) => {
                let said = format!("{error:#}");
                if said != failure {
                    tracing::error!(
                        error = said,
                        "the token keys cannot be used; the last ones stay"
                    );
                    failure = said;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str, expected: Option<bool>) {
        assert_eq!(fetched(keys).ok(), expected, "{keys}");
    }

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        check("keys.json", Some(false));
        check("https://a.example/keys", Some(true));
        for here in ["http://localhost:8001/k", "http://127.0.0.1/k", "http://[::1]:1/k"] {
            check(here, Some(true));
        }
        for away in
            ["http://a.example/k", "http://10.0.0.1/k", "http://localhost.a.example/k", "http://"]
        {
            check(away, None);
        }
    }
}
