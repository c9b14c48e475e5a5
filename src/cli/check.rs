//! `portcullis check`: what is wrong with what `run` would load.

use std::process::ExitCode;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::args::InputArgs;
use crate::app::settings::ReportFormat;

/// Say what is wrong with what `run` would load, by the same compiler
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    inputs: InputArgs,

    /// Form of the report
    #[arg(
        short,
        long,
        env = "PORTCULLIS_OUTPUT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = REPORT
    )]
    output: ReportFormat,

    /// Exit with 1 for warnings too
    #[arg(
        long,
        env = "PORTCULLIS_STRICT",
        value_parser = FalseyValueParser::new(),
        help_heading = REPORT
    )]
    strict: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let _request = (args.inputs.inputs(), args.output, args.strict);
    anyhow::bail!("this build cannot check yet")
}

const REPORT: &str = "Report";

const EXAMPLES: &str = "\
Examples:
  portcullis check
  portcullis check --config gateways/ --certs certs/ --strict
  portcullis check -o json | jq '.diagnostics[].message'
  portcullis check -o sarif > portcullis.sarif

Exit codes:
  0  clean, or only warnings without --strict
  1  errors, or warnings with --strict
  2  the command line is wrong";
