//! `portcullis check`: what is wrong with what `run` would load.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::args::{InputArgs, RoleArgs};
use super::load::{load, no_keys, print};
use crate::app::settings::{Inputs, ReportFormat};
use crate::base::limit;
use crate::diag::{Diagnostic, count, render};
use crate::reload::RootError;

/// Say what is wrong with what `run` would load, by the same compiler
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    inputs: InputArgs,

    #[command(flatten)]
    role: RoleArgs,

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
    let inputs = args.role.of(args.inputs.inputs());
    let diagnostics = findings(&inputs)?;
    print(&match args.output {
        ReportFormat::Text => render::text(&diagnostics, &source),
        ReportFormat::Json => render::json(&diagnostics),
        ReportFormat::Sarif => render::sarif(&diagnostics),
    })?;
    let (errors, warnings) = count(&diagnostics);
    let failed = errors > 0 || (args.strict && warnings > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The text of a file, when it is one that configuration can be read from.
fn source(path: &str) -> Option<Arc<[u8]>> {
    let meta = std::fs::metadata(path).ok()?;
    let readable = meta.is_file() && meta.len() <= limit::CONFIG_FILE_BYTES;
    readable.then(|| std::fs::read(path).ok().map(Into::into))?
}

/// What is found, a root that cannot be read among it.
fn findings(inputs: &Inputs) -> anyhow::Result<Vec<Diagnostic>> {
    match load(inputs, &no_keys) {
        Ok(loaded) => Ok(loaded.diagnostics),
        Err(error) => Ok(vec![error.downcast::<RootError>()?.finding()]),
    }
}

const REPORT: &str = "Report";

const EXAMPLES: &str = "\
Examples:
  portcullis check
  portcullis check --config gateways/ --certs certs/ --strict
  portcullis check -o json | jq '.diagnostics[].message'
  portcullis check -o sarif > portcullis.sarif
  portcullis check --inbound 15006=8080 --namespace shop --labels app=cart

Exit codes:
  0  clean, or only warnings without --strict
  1  errors, or warnings with --strict
  2  the command line is wrong";
