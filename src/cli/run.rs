//! `portcullis run`: serve.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::args::{InputArgs, LISTENERS};
use super::values::{self, StateDir};
use crate::app;
use crate::app::settings::{AccessLogFormat, Settings};
use crate::probe::Probes;
use crate::telemetry::logs::LogsFormat;

/// Serve what the configuration says, and follow its changes
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    inputs: InputArgs,

    /// Worker threads [default: one for each CPU]
    #[arg(long, env = "PORTCULLIS_WORKERS", value_name = "N", help_heading = LISTENERS)]
    workers: Option<NonZeroUsize>,

    /// Access log on standard output [default: text, or what the mesh configuration says]
    #[arg(long, env = "PORTCULLIS_ACCESS_LOG", value_name = "FORMAT", help_heading = LOGS)]
    access_log: Option<AccessLogFormat>,

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

    /// Folder for what survives a restart (last good key sets and the like); or off
    #[arg(
        long,
        env = "PORTCULLIS_STATE",
        value_name = "DIR",
        default_value = "state/",
        help_heading = STOPPING
    )]
    state: StateDir,

    /// After SIGTERM: go on accepting for this long while not ready
    #[arg(
        long,
        env = "PORTCULLIS_DRAIN_DELAY",
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::duration,
        help_heading = STOPPING
    )]
    drain_delay: Duration,

    /// After SIGTERM: cut what is still open after this long; a second signal cuts at once
    #[arg(
        long,
        env = "PORTCULLIS_DRAIN_DEADLINE",
        value_name = "TIME",
        default_value = "25s",
        value_parser = values::duration,
        help_heading = STOPPING
    )]
    drain_deadline: Duration,
}

impl RunArgs {
    /// The plain values.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            inputs: self.inputs.inputs(),
            workers: self.workers.unwrap_or_else(one_per_cpu),
            drain_delay: self.drain_delay,
            drain_deadline: self.drain_deadline,
            probes: Probes::default(),
            access_log: self.access_log,
            state: self.state.0.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format,
        }
    }
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    app::run(&args.settings(), || ())?;
    Ok(ExitCode::SUCCESS)
}

fn one_per_cpu() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

const LOGS: &str = "Logs";
const STOPPING: &str = "Restart and stop";

const EXAMPLES: &str = "\
Examples:
  portcullis run
  portcullis run --config gateways/ --config extra.yaml --certs /etc/portcullis/certs
  portcullis run --port-map 80=8080 --port-map 443=8443 --bind 127.0.0.1
  portcullis run --labels istio=internal-gateway --namespace edge --access-log json
  portcullis run --identity sds:unix:/run/secrets/workload-spiffe-uds/socket
  portcullis run --identity ca:istiod.istio-system.svc:15012
  PORTCULLIS_PORT_MAP=80=8080,443=8443 portcullis run

SIGTERM and SIGINT drain, a second one cuts; SIGHUP looks at the files at once, which happens by
itself when they change.

Exit codes:
  0  drained, or stopped at the drain deadline
  1  it could not start or go on; standard error says why
  2  the command line is wrong";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser;

    use super::*;
    use crate::identity::IdentitySource;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: RunArgs,
    }

    fn settings(flags: &str) -> Settings {
        let line = format!("run {flags}");
        Only::try_parse_from(line.split_whitespace()).unwrap().args.settings()
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = settings("");
        let inputs = &settings.inputs;
        assert_eq!(inputs.config, [PathBuf::from("gateways/")]);
        assert_eq!(inputs.certs, PathBuf::from("certs/"));
        assert_eq!(inputs.identity, IdentitySource::Folder("certs/identity".into()));
        assert_eq!((inputs.bind, inputs.port_map.as_slice()), (None, &[][..]));
        assert_eq!((inputs.namespace.as_str(), &inputs.root_namespace), ("istio-system", &None));
        assert_eq!(inputs.labels.get("istio").map(String::as_str), Some("ingressgateway"));
        assert_eq!((&inputs.trust_domain, &inputs.locality), (&None, &None));
        assert_eq!(settings.workers, one_per_cpu());
        let own: Vec<_> = inputs.own_ports.each().map(|(_, own)| own.to_string()).collect();
        assert_eq!(own, ["0.0.0.0:15021", "0.0.0.0:15090", "127.0.0.1:15000"]);
        assert_eq!(settings.state, Some(PathBuf::from("state/")));
        assert_eq!(settings.drain_delay, Duration::ZERO);
        assert_eq!(settings.drain_deadline, Duration::from_secs(25));
        assert_eq!(settings.access_log, None);
        assert_eq!(settings.log_format, LogsFormat::Text);
    }

    #[test]
    fn flags_change_what_they_name() {
        let settings = settings(
            "--config a --config b --certs c --port-map 80=8080 --port-map 443=8443 --bind ::1 \
             --workers 3 --status off --state off --access-log json --locality r/z \
             --drain-deadline 1m30s --log-level info,portcullis=debug",
        );
        assert_eq!(settings.inputs.config, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(settings.inputs.identity, IdentitySource::Folder("c/identity".into()));
        assert_eq!(settings.inputs.port_map, [(80, 8080), (443, 8443)]);
        assert_eq!(settings.inputs.bind, "::1".parse().ok());
        assert_eq!(settings.workers.get(), 3);
        assert_eq!((settings.inputs.own_ports.status, settings.state), (None, None));
        assert_eq!(settings.access_log, Some(AccessLogFormat::Json));
        assert_eq!(settings.inputs.locality.unwrap().zone, "z");
        assert_eq!(settings.drain_deadline, Duration::from_secs(90));
        assert_eq!(settings.log_level, "info,portcullis=debug");
    }
    #[test]
    fn the_identitys_source_can_be_a_service() {
        let source = |flags: &str| settings(flags).inputs.identity;
        assert_eq!(source("--identity unix:w"), IdentitySource::WorkloadApi("w".into()));
        assert_eq!(source("--identity sds:unix:s"), IdentitySource::Sds("s".into()));
        let service = |flags: &str| match source(flags) {
            IdentitySource::CertificateService(service) => service,
            other => panic!("{other:?}"),
        };
        let default = service("--identity ca:istiod:15012");
        assert_eq!((default.host.as_str(), default.port), ("istiod", 15012));
        assert_eq!(default.token, PathBuf::from("/var/run/secrets/tokens/istio-token"));
        let own = service("--identity ca:a:1 --identity-token t --identity-roots r");
        assert_eq!((own.token, own.roots), (PathBuf::from("t"), PathBuf::from("r")));
    }
}
