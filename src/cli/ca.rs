//! `portcullis ca`: the built-in CA.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rcgen::SanType;

use super::values::{self, InvalidValue, Listen};
use crate::app;
use crate::app::ca::{Settings, TokenSettings};
use crate::app::settings::DEFAULT_TRUST_DOMAIN;
use crate::base::limit;
use crate::ca::WorkloadId;
use crate::ca::server::CaSettings;
use crate::telemetry::logs::LogsFormat;
use crate::upstream::jwks::KeyAccess;

/// Issue the mesh's certificates, and renew them
///
/// The folder gets a root and a signing certificate below it, ECDSA P-256, unless it holds ca-cert.pem,
/// ca-key.pem, root-cert.pem and cert-chain.pem already. Keys must be readable by their owner alone.
/// Callers of CreateCertificate show a Kubernetes service-account token (--token-keys) or a join
/// token; callers of the sockets are known by their user id. The folder's workloads.yaml says which
/// identity join tokens and users have. Every certificate is written down in issued.jsonl until it ends.
/// Serials in revoked.txt are listed in ca-crl.pem. Changes of these files are taken up within seconds.
///
/// To roll the root: add the new root to root-cert.pem; once every workload has been renewed, replace
/// ca-cert.pem, ca-key.pem and cert-chain.pem; once more, and the old root can go.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CaArgs {
    /// Folder with the CA's certificates and keys; may be a mounted Secret if --state is another
    #[arg(
        long,
        env = "PORTCULLIS_DIR",
        value_name = "DIR",
        default_value = "ca/",
        help_heading = WHAT
    )]
    dir: PathBuf,

    /// Folder for everything but the CA's certificates and keys: workloads.yaml, revoked.txt, and what the
    /// CA writes [default: that of --dir]
    #[arg(long, env = "PORTCULLIS_STATE", value_name = "DIR", help_heading = WHAT)]
    state: Option<PathBuf>,

    /// Trust domain of every identity
    #[arg(
        long,
        env = "PORTCULLIS_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = DEFAULT_TRUST_DOMAIN,
        value_parser = values::trust_domain,
        help_heading = WHAT
    )]
    trust_domain: String,

    /// Namespace in the identity of the CA's own server
    #[arg(
        long,
        env = "PORTCULLIS_NAMESPACE",
        default_value = "istio-system",
        value_parser = values::namespace,
        help_heading = WHAT
    )]
    namespace: String,

    /// Life of a certificate, 90 days at most; it is renewed at half of it
    #[arg(
        long,
        env = "PORTCULLIS_LIFETIME",
        value_name = "TIME",
        default_value = "24h",
        value_parser = lifetime,
        help_heading = WHAT
    )]
    lifetime: Duration,

    /// Serve CreateCertificate (istio.v1.auth.IstioCertificateService) here, over TLS; or off
    #[arg(
        long,
        env = "PORTCULLIS_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15012",
        help_heading = WHERE
    )]
    listen: Listen,

    /// DNS name of the CA's server, in its certificate; repeatable
    #[arg(
        long,
        env = "PORTCULLIS_HOST",
        value_name = "NAME",
        default_value = "localhost,istiod.istio-system.svc",
        value_delimiter = ',',
        value_parser = values::dns_name,
        help_heading = WHERE
    )]
    host: Vec<String>,

    /// Serve Envoy's SDS (secrets default and ROOTCA) on this Unix socket
    #[arg(long, env = "PORTCULLIS_SDS", value_name = "PATH", help_heading = WHERE)]
    sds: Option<PathBuf>,

    /// Serve the SPIFFE Workload API on this Unix socket
    #[arg(long, env = "PORTCULLIS_WORKLOAD_API", value_name = "PATH", help_heading = WHERE)]
    workload_api: Option<PathBuf>,

    /// Serve /healthz/ready and /healthz/live here, or off; it is ready while certificates can be issued
    #[arg(
        long,
        env = "PORTCULLIS_STATUS",
        value_name = "ADDR:PORT",
        default_value = "off",
        help_heading = WHERE
    )]
    status: Listen,

    /// Accept service-account tokens signed by these keys: a JWKS file, or its https address
    #[arg(long, env = "PORTCULLIS_TOKEN_KEYS", value_name = "FILE|URL", help_heading = WHO)]
    token_keys: Option<String>,

    /// Roots of the server at that address [default: the system's]; for a Kubernetes API server
    /// /var/run/secrets/kubernetes.io/serviceaccount/ca.crt. Read again for each fetch
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_KEYS_CA",
        value_name = "FILE",
        requires = "token_keys",
        help_heading = WHO
    )]
    token_keys_ca: Option<PathBuf>,

    /// Bearer token to ask that server with [default: none]. Read again for each fetch
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_KEYS_TOKEN",
        value_name = "FILE",
        requires = "token_keys",
        help_heading = WHO
    )]
    token_keys_token: Option<PathBuf>,

    /// Issuer that these tokens must name [default: any]
    #[arg(long, env = "PORTCULLIS_TOKEN_ISSUER", value_name = "ISSUER", help_heading = WHO)]
    token_issuer: Option<String>,

    /// Audience that these tokens must be for; repeatable, one is enough
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_AUDIENCE",
        value_name = "AUDIENCE",
        default_value = "istio-ca",
        value_delimiter = ',',
        help_heading = WHO
    )]
    token_audience: Vec<String>,

    /// What the program's log on standard error holds: a level, or levels by module
    #[arg(
        long,
        env = "PORTCULLIS_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        value_parser = values::log_level,
        help_heading = LOGS
    )]
    log_level: String,

    /// Form of the program's log
    #[arg(
        long,
        env = "PORTCULLIS_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = LOGS
    )]
    log_format: LogsFormat,
}

impl CaArgs {
    /// The plain values.
    fn settings(&self) -> anyhow::Result<Settings> {
        let ca = CaSettings {
            dir: self.dir.clone(),
            state: self.state.clone().unwrap_or_else(|| self.dir.clone()),
            trust_domain: self.trust_domain.replace('@', "."),
            own: WorkloadId::new(&self.trust_domain, &self.namespace, SERVICE_ACCOUNT)?,
            names: names(&self.host, self.listen.0)?,
            lifetime: self.lifetime,
        };
        let tokens = self.token_keys.as_ref().map(|keys| TokenSettings {
            keys: keys.clone(),
            access: KeyAccess {
                roots: self.token_keys_ca.clone(),
                token: self.token_keys_token.clone(),
            },
            issuer: self.token_issuer.clone(),
            audiences: self.token_audience.clone(),
        });
        Ok(Settings {
            ca,
            listen: self.listen.0,
            sds: self.sds.clone(),
            workload_api: self.workload_api.clone(),
            status: self.status.0,
            tokens,
            log_level: self.log_level.clone(),
            log_format: self.log_format,
        })
    }
}

pub(super) fn run(args: &CaArgs) -> anyhow::Result<ExitCode> {
    app::ca::run(&args.settings()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Names of the CA's server: those given, and the address it listens on.
fn names(hosts: &[String], listen: Option<SocketAddr>) -> Result<Vec<SanType>, rcgen::Error> {
    let address = listen.map(|listen| listen.ip()).filter(|ip: &IpAddr| !ip.is_unspecified());
    let hosts = hosts.iter().map(|host| host.as_str().try_into().map(SanType::DnsName));
    hosts.chain(address.map(|ip| Ok(SanType::IpAddress(ip)))).collect()
}

/// Reads a life: at least a second, as certificates count in seconds, and no more than is issued.
fn lifetime(text: &str) -> Result<Duration, InvalidValue> {
    let life = values::duration(text).map_err(|_| InvalidValue::Lifetime)?;
    let fine = (Duration::from_secs(1)..=limit::CA_LIFETIME).contains(&life);
    if fine { Ok(life) } else { Err(InvalidValue::Lifetime) }
}

/// Service account in the identity of the CA's own server.
const SERVICE_ACCOUNT: &str = "portcullis-ca";

const WHAT: &str = "What is issued";
const WHERE: &str = "Where it is asked for";
const WHO: &str = "Who may ask";
const LOGS: &str = "Logs";

const EXAMPLES: &str = "\
Examples:
  portcullis ca --sds run/sds.sock --workload-api run/workload.sock
  portcullis ca --dir /etc/portcullis/ca --listen 0.0.0.0:15012 --host ca.example.internal \\
      --token-keys jwks.json --token-issuer https://kubernetes.default.svc.cluster.local
  portcullis run --identity sds:unix:run/sds.sock

workloads.yaml in the folder:
  sockets:
  - {uid: 1000, namespace: shop, serviceAccount: cart}
  tokens:
  - {sha256: 9f86...0a08, namespace: istio-system, serviceAccount: gateway}

Exit codes:
  0  stopped by a signal
  1  it could not start; standard error says why
  2  the command line is wrong";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: CaArgs,
    }

    fn settings(flags: &str) -> Settings {
        let line = format!("ca {flags}");
        Only::try_parse_from(line.split_whitespace()).unwrap().args.settings().unwrap()
    }

    #[test]
    fn defaults_open_nothing_but_the_port_on_loopback() {
        let settings = settings("");
        assert_eq!(settings.ca.dir, PathBuf::from("ca/"));
        assert_eq!(settings.ca.state, settings.ca.dir);
        assert_eq!(
            settings.ca.own.as_str(),
            "spiffe://cluster.local/ns/istio-system/sa/portcullis-ca"
        );
        assert_eq!(settings.ca.lifetime, Duration::from_hours(24));
        assert_eq!(settings.ca.names.len(), 3);
        assert_eq!(settings.listen, Some(([127, 0, 0, 1], 15012).into()));
        assert_eq!((settings.sds, settings.workload_api, settings.tokens), (None, None, None));
        assert_eq!(settings.status, None);
    }

    #[test]
    fn flags_change_what_they_name() {
        let settings = settings(
            "--dir d --trust-domain a@b --listen off --host x.y --sds s --workload-api w \
             --token-keys k.json --token-issuer i --token-audience a,b --lifetime 90s \
             --status 127.0.0.1:1",
        );
        assert_eq!(settings.ca.trust_domain, "a.b");
        assert_eq!((settings.listen, settings.ca.names.len()), (None, 1));
        assert_eq!(settings.sds, Some("s".into()));
        assert_eq!(settings.workload_api, Some("w".into()));
        assert_eq!(settings.status, Some(([127, 0, 0, 1], 1).into()));
        let tokens = settings.tokens.unwrap();
        assert_eq!((tokens.keys.as_str(), tokens.issuer.as_deref()), ("k.json", Some("i")));
        assert_eq!(tokens.audiences, ["a", "b"]);
        assert_eq!(settings.ca.lifetime, Duration::from_secs(90));
    }

    #[test]
    fn lives_have_their_bounds() {
        assert!(lifetime("1s").is_ok() && lifetime("2160h").is_ok());
        for text in ["0s", "999ms", "2161h", "x", ""] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }
}
