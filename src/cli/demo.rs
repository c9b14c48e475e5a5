//! `portcullis demo`: the whole story on one machine.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use clap::Args;

use super::run::RunArgs;
use crate::app::settings::Settings;

/// Show the whole story on this machine: certificates, backends, a token issuer and the gateway
///
/// Makes the development certificates that are missing, starts sample backends (one behind mutual
/// TLS, one with TLS of its own) and a token issuer, serves gateways/, and prints commands to paste.
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

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let _settings = args.settings();
    anyhow::bail!("this build has no demo yet")
}

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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: DemoArgs,
    }

    fn check(flags: &str, bind: &str, port_map: &[(u16, u16)]) {
        let line = format!("demo {flags}");
        let inputs = Only::try_parse_from(line.split_whitespace()).unwrap().args.settings().inputs;
        assert_eq!(inputs.bind, bind.parse().ok(), "{flags}");
        assert_eq!(inputs.port_map, port_map, "{flags}");
    }

    #[test]
    fn it_stays_on_this_machine_and_off_privileged_ports() {
        check("", "127.0.0.1", &[(80, 8080), (443, 8443)]);
    }

    #[test]
    fn flags_win_over_its_own_defaults() {
        check("--bind ::1 --port-map 443=1443", "::1", &[(443, 1443)]);
    }
}
