//! `portcullis demo`: the whole story on one machine.

mod backends;
mod sidecar;
mod token;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use time::OffsetDateTime;

use super::certs::{self, CertsArgs};
use super::run::RunArgs;
use crate::app;
use crate::app::settings::{DEFAULT_TRUST_DOMAIN, Settings};

/// Show the whole story on this machine: certificates, backends, a token issuer and the gateway
///
/// Makes the development certificates that are missing, starts sample backends (one behind a sidecar that
/// wants mutual TLS, one with TLS of its own) and a token issuer, serves gateways/, and prints commands to
/// paste.
/// Takes every flag of run; listens on 127.0.0.1, with 80 as 8080 and 443 as 8443, unless told
/// otherwise.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    run: RunArgs,
}

impl DemoArgs {
    /// The plain values, on this machine only and without privileged ports unless told otherwise.
    pub(super) fn settings(&self) -> Settings {
        let mut settings = self.run.settings();
        let inputs = &mut settings.inputs;
        inputs.bind = inputs.bind.or(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        if inputs.port_map.is_empty() {
            inputs.port_map = vec![(80, 8080), (443, 8443)];
        }
        settings
    }
}

/// The definition, whose own ports are on this machine only, too.
pub(super) fn defaults(command: clap::Command) -> clap::Command {
    command
        .mut_arg("status", |arg| arg.default_value("127.0.0.1:15021"))
        .mut_arg("metrics", |arg| arg.default_value("127.0.0.1:15090"))
}

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings();
    let inputs = &settings.inputs;
    let trust_domain = inputs.trust_domain.clone();
    let certs = CertsArgs {
        certs: inputs.certs.clone(),
        host: Vec::new(),
        trust_domain: trust_domain.unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned()),
        namespace: inputs.namespace.clone(),
        service_account: certs::DEFAULT_SERVICE_ACCOUNT.to_owned(),
    };
    certs::make(&certs, OffsetDateTime::now_utc())?;
    backends::start(&inputs.certs)?;
    let _cart = sidecar::start(inputs)?;
    let story = story(&settings);
    let mut told = Ok(());
    app::run(&settings, || told = std::io::stderr().write_all(story.as_bytes()))?;
    told.context("cannot write to standard error")?;
    Ok(ExitCode::SUCCESS)
}

/// What to try, with this run's addresses and files.
fn story(settings: &Settings) -> String {
    let inputs = &settings.inputs;
    let bound = |port: u16| {
        let moved = inputs.port_map.iter().find(|(from, _)| *from == port);
        moved.map_or(port, |(_, to)| *to)
    };
    let address = inputs.bind.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let at = |port| std::net::SocketAddr::new(address, port).to_string();
    let (https, http) = (at(bound(443)), at(bound(80)));
    STORY
        .replace("{certs}", inputs.certs.display().to_string().trim_end_matches('/'))
        .replace("{port}", &bound(443).to_string())
        .replace("{https}", &https)
        .replace("{http}", &http)
}

const STORY: &str = r#"
The shop is open. Paste these into another terminal:

  alias shop='curl --cacert {certs}/edge-ca/tls.crt --connect-to ::{https}'

  # SIMPLE: the gateway shows its certificate; the catalogue is plain HTTP behind it
  shop https://shop.example.com/items/1

  # the cart is a workload of the mesh: the gateway re-encrypts (ISTIO_MUTUAL), the cart's sidecar
  # verifies who calls and tells the cart
  shop https://shop.example.com/cart

  # the sidecar is STRICT: refused without a certificate of the mesh, let in with one
  curl -i http://127.0.0.1:9401/cart
  curl -i --insecure https://127.0.0.1:9401/cart
  curl -i --http1.1 --insecure --cert {certs}/identity/cert-chain.pem --key {certs}/identity/key.pem https://127.0.0.1:9401/cart

  # a token: the cart learns who it is from x-user; a bad one gets 401
  shop -H "authorization: Bearer $(curl -s http://127.0.0.1:9400/token?sub=bob)" https://shop.example.com/cart
  shop -H 'authorization: Bearer forged.token.here' -i https://shop.example.com/cart

  # MUTUAL: refused without a client certificate, let in with one
  shop https://admin.example.com/
  shop --cert {certs}/client/tls.crt --key {certs}/client/tls.key https://admin.example.com/

  # PASSTHROUGH: the certificate is the backend's own
  shop https://legacy.example.com/

  # plain HTTP is sent to HTTPS
  curl -i --connect-to ::{http} http://shop.example.com/

In a browser: https://shop.localhost:{port}/ (import {certs}/edge-ca/tls.crt, or accept the warning).
Change a file under gateways/ and ask again: it is live at once. Ctrl-C ends it.

"#;

const EXAMPLES: &str = "\
Examples:
  portcullis demo
  portcullis demo --port-map 443=9443 --port-map 80=9080
  portcullis demo --access-log json

Exit codes:
  0  stopped by Ctrl-C or SIGTERM
  1  it could not start; standard error says why
  2  the command line is wrong";

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn check(flags: &str, bind: &str, port_map: &[(u16, u16)], own: &[&str]) {
        let line = format!("demo {flags}");
        let command = defaults(DemoArgs::augment_args(clap::Command::new("demo")));
        let matches = command.try_get_matches_from(line.split_whitespace()).unwrap();
        let inputs = DemoArgs::from_arg_matches(&matches).unwrap().settings().inputs;
        assert_eq!(inputs.bind, bind.parse().ok(), "{flags}");
        assert_eq!(inputs.port_map, port_map, "{flags}");
        let found: Vec<_> = inputs.own_ports.each().map(|(_, own)| own.to_string()).collect();
        assert_eq!(found, own, "{flags}");
    }

    #[test]
    fn it_stays_on_this_machine_and_off_privileged_ports() {
        let own = ["127.0.0.1:15021", "127.0.0.1:15090", "127.0.0.1:15000"];
        check("", "127.0.0.1", &[(80, 8080), (443, 8443)], &own);
    }

    #[test]
    fn flags_win_over_its_own_defaults() {
        let flags = "--bind ::1 --port-map 443=1443 --status 0.0.0.0:1 --metrics off --admin off";
        check(flags, "::1", &[(443, 1443)], &["0.0.0.0:1"]);
    }
}
