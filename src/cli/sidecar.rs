//! `portcullis sidecar`: serve one application of the mesh.

use std::process::ExitCode;

use clap::Args;

use super::args::RoleArgs;
use super::run::RunArgs;
use crate::app;
use crate::app::settings::Settings;

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

    #[command(flatten)]
    run: RunArgs,
}

impl SidecarArgs {
    /// The plain values.
    pub(super) fn settings(&self) -> Settings {
        let settings = self.run.settings();
        Settings { inputs: self.role.of(settings.inputs), ..settings }
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
    app::run(&args.settings(), || ())?;
    Ok(ExitCode::SUCCESS)
}

const EXAMPLES: &str = "\
Examples:
  portcullis sidecar --inbound 15006=8080 --config policies/ --namespace shop --labels app=cart
  portcullis sidecar --inbound 15006=8080 --inbound 15007=9090 --identity unix:/run/workload.sock
  portcullis sidecar --inbound 10.0.0.5:8080=127.0.0.1:8080 --status 0.0.0.0:15020

Exit codes:
  0  drained, or stopped at the drain deadline
  1  it could not start or go on; standard error says why
  2  the command line is wrong";
