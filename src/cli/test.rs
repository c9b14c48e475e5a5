//! `portcullis test`: does the configuration do with requests what is expected of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::args::InputArgs;
use super::issuer::Issuer;
use super::load::{load, print};
use super::values::OutputFormat;
use crate::app;
use crate::auth::jwt::{IssuerKeys, JwksSource};
use crate::diag::{Diagnostic, Location, Severity, count, render};
use crate::expectation::{Judged, Means, Test, TestFile, json, judge, text};
use crate::resources::parse_placed;
use crate::source::files::{self, Found, FoundFile};

/// Ask the data path's own decisions whether requests meet what is expected of them
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TestArgs {
    /// Configuration with its tests (*.test.yaml), instead of --config; repeatable
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,

    #[command(flatten)]
    inputs: InputArgs,

    /// Form of the report
    #[arg(
        short,
        long,
        env = "PORTCULLIS_OUTPUT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Report"
    )]
    output: OutputFormat,
}

pub(super) fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let mut inputs = args.inputs.inputs();
    if !args.folders.is_empty() {
        inputs.config.clone_from(&args.folders);
    }
    let tests = match read(&inputs.config) {
        Ok(tests) if tests.is_empty() => {
            bail!("no test was found: write NAME.test.yaml beside the resources, as --help shows")
        }
        Ok(tests) => tests,
        Err(found) => {
            print(&render::text(&found, &|path| std::fs::read(path).ok().map(Into::into)))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let issuer = Issuer::new()?;
    let keys = |_: &JwksSource| Arc::new(IssuerKeys::inline(issuer.key_set().as_bytes()).0);
    let loaded = load(&inputs, &keys)?;
    let (errors, _) = count(&loaded.diagnostics);
    let now = app::unix_seconds();
    let sign = |claims: &_| issuer.sign(claims, now).map_err(|error| error.to_string());
    let judged: Vec<_> = tests
        .into_iter()
        .map(|(test, location)| {
            let certificates = |name: &str| certificates(Path::new(&*location.file), name);
            let means = Means { sign: &sign, certificates: &certificates, now };
            judge(&loaded.output.snapshot, &test, location.clone(), means)
        })
        .collect();
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&json(&judged))?,
        OutputFormat::Text if errors > 0 => {
            format!("{}the configuration has errors: portcullis check tells them", text(&judged))
        }
        OutputFormat::Text => text(&judged),
    })?;
    let passed = judged.iter().all(Judged::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every test with its place, or why one of the files is none.
fn read(roots: &[PathBuf]) -> Result<Vec<(Test, Location)>, Vec<Diagnostic>> {
    let Found { files, diagnostics: mut found, .. } = files::tests(roots);
    found.retain(|finding| finding.severity != Severity::Info);
    let mut tests = Vec::new();
    for FoundFile { file, .. } in &files {
        match parse_placed::<TestFile>(file, "test file") {
            Ok(parsed) => {
                let places: Vec<_> = (0..parsed.value.tests.len())
                    .map(|index| parsed.location(&format!("tests[{index}]")))
                    .collect();
                tests.extend(parsed.value.tests.into_iter().zip(places));
            }
            Err(why) => found.extend(why),
        }
    }
    if found.is_empty() { Ok(tests) } else { Err(found) }
}

/// The certificates of a file that a test names.
fn certificates(test: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let path = test.parent().unwrap_or(Path::new("")).join(name);
    let chain = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("clientCert \"{}\" cannot be read", path.display()));
    chain.map_err(|error| format!("{error:#}"))
}

const EXAMPLES: &str = "\
A test is a request and what shall become of it; what is not expected is not looked at, and a test that expects
nothing fails:
  tests:
    - name: a cart is served by the mesh
      request:
        url: https://shop.example.com/cart
        method: POST                                  # and headers, sni, sourceIp; or protocol: websocket
        claims: {iss: https://issuer.example.com, sub: alice, aud: shop}      # or token
        clientCert: ../client.pem                     # from this file's folder
      expect:
        action: forward             # redirect, respond, reject, stream, close; and status, grpcStatus, reason
        route: cart                 # and server, host, policy, principal
        path: /cart                 # and authority, location
        clusters: [outbound|80||cart.shop.internal]

Claims are signed by a key that every key set with a jwksUri holds; nothing is fetched.

Examples:
  portcullis test gateways/
  portcullis test --config gateways/ -o json | jq '.tests[] | select(.passed | not)'

Exit codes:
  0  every expectation is met
  1  one is not, or the configuration or a test cannot be read
  2  the command line is wrong";
