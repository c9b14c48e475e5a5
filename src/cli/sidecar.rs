//! `portcullis sidecar`: serve one application of the mesh.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::args::{PORTS, RoleArgs};
use super::run::RunArgs;
use crate::app;
use crate::app::settings::Settings;
use crate::probe::Probes;

/// Stand before one application of the mesh: mutual TLS, tokens and policies for its callers
///
/// Takes the connections of its callers and sends them on to the application on this machine. Which
/// callers need the mesh's mutual TLS says PeerAuthentication; what they may do, AuthorizationPolicy and
/// RequestAuthentication. Gateways are not served.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SidecarArgs {
    #[command(flatten)]
    role: RoleArgs,

    /// Kubelet's probes of the application, answered at the status port: JSON as Istio's injection
    /// writes it [default: the environment variable ISTIO_KUBE_APP_PROBERS]
    #[arg(long, env = "PORTCULLIS_PROBES", value_name = "JSON", help_heading = PORTS)]
    probes: Option<Probes>,

    #[command(flatten)]
    run: RunArgs,
}

impl SidecarArgs {
    /// The plain values; `injected` are the probes that Istio's injection put into the environment.
    fn settings(&self, injected: Option<&str>) -> anyhow::Result<Settings> {
        let injected = injected.map(str::parse).transpose().context(INJECTED)?;
        let settings = self.run.settings();
        let probes = self.probes.clone().or(injected).unwrap_or_default();
        Ok(Settings { inputs: self.role.of(settings.inputs), probes, ..settings })
    }
}

/// The definition, whose defaults are a workload's: neither a gateway's labels nor its namespace.
pub(super) fn defaults(command: clap::Command) -> clap::Command {
    command
        .mut_arg("inbound", |arg| arg.required(true))
        .mut_arg("labels", |arg| arg.default_value(""))
        .mut_arg("namespace", |arg| arg.default_value("default"))
        .mut_arg("port_map", |arg| arg.hide(true))
}

pub(super) fn run(args: &SidecarArgs) -> anyhow::Result<ExitCode> {
    let injected = std::env::var(INJECTED).ok();
    app::run(&args.settings(injected.as_deref())?, || ())?;
    Ok(ExitCode::SUCCESS)
}

/// Where Istio's injection puts probes.
const INJECTED: &str = "ISTIO_KUBE_APP_PROBERS";

const EXAMPLES: &str = r#"Examples:
  portcullis sidecar --inbound 15006=8080 --config policies/ --namespace shop --labels app=cart
  portcullis sidecar --inbound 15006=8080 --inbound 15007=9090 --identity unix:/run/workload.sock
  portcullis sidecar --inbound 10.0.0.5:8080=127.0.0.1:8080 --status 0.0.0.0:15020
  portcullis sidecar --inbound 15006=8080 --probes \
    '{"/app-health/cart/livez":{"httpGet":{"path":"/healthz","port":8080}}}'

Exit codes:
  0  drained, or stopped at the drain deadline
  1  it could not start or go on; standard error says why
  2  the command line is wrong"#;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: SidecarArgs,
    }

    const ONE: &str = r#"{"/app-health/a/livez":{"tcpSocket":{"port":1}}}"#;
    const TWO: &str = r#"{"/app-health/b/livez":{"tcpSocket":{"port":2}}}"#;

    fn check(flags: &[&str], injected: Option<&str>, expected: &str) {
        let line = [&["sidecar", "--inbound", "1=2"], flags].concat();
        let args = Only::try_parse_from(line).unwrap().args;
        let probes = args.settings(injected).unwrap().probes;
        assert_eq!(Ok(probes), expected.parse(), "{flags:?} {injected:?}");
    }

    #[test]
    fn probes_are_those_of_the_flag_else_the_injected_ones() {
        check(&[], None, "{}");
        check(&[], Some(ONE), ONE);
        check(&["--probes", TWO], None, TWO);
        check(&["--probes", TWO], Some(ONE), TWO);
    }
}
