//! The command line: names, defaults and help of every command, and what each calls.
//!
//! **Invariant:** every flag can also be set by the environment variable `PORTCULLIS_` and its name.

mod args;
mod ca;
mod certs;
mod check;
mod demo;
mod explain;
mod health;
mod issuer;
mod load;
mod run;
mod sidecar;
mod test;
mod values;

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::compile::settings::OwnPorts;

use values::{Inbound, Listen, PortMap};

/// The command line as given.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    styles = STYLES,
    about = "An edge ingress gateway that reads Istio's resources",
    long_about = "An edge ingress gateway that reads Istio's resources: TLS by SNI, JWT checks, \
                  routing, and mutual TLS to backends with the mesh identity. It reloads its files \
                  without losing a request.",
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Sidecar(sidecar::SidecarArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Test(test::TestArgs),
    Ca(ca::CaArgs),
    Certs(certs::CertsArgs),
    Demo(demo::DemoArgs),
    Health(health::HealthArgs),
}

impl Cli {
    /// Reads the process's arguments and environment. Prints help or the usage error and exits
    /// (0 for help, 2 for an error) when there is no command to run.
    pub fn from_env() -> Self {
        Self::from_args(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads arguments, the program's name first.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(args)?;
        if let Some(place) = taken_twice(&matches) {
            let message = format!("--inbound listens twice at {place}; keep one of them\n");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        if let Some((place, flag)) = taken_by_own(&matches) {
            let message =
                format!("--inbound listens at {place}, where {flag} is; move one of them\n");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        if let Some(from) = mapped_twice(&matches) {
            let message = format!("--port-map names port {from} twice; keep one of them\n");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// A port that two of `--port-map` move.
fn mapped_twice(matches: &clap::ArgMatches) -> Option<u16> {
    let (_, command) = matches.subcommand()?;
    let maps = command.try_get_many::<PortMap>("port_map").ok()??;
    let mut seen = HashSet::new();
    maps.map(|map| map.from).find(|from| !seen.insert(*from))
}

/// A place where two of `--inbound` listen.
fn taken_twice(matches: &clap::ArgMatches) -> Option<String> {
    let (_, command) = matches.subcommand()?;
    let ports = command.try_get_many::<Inbound>("inbound").ok()??;
    let mut seen = HashSet::new();
    let mut places = ports.map(|port| port.listen(None).to_string());
    places.find(|place| !seen.insert(place.clone()))
}

/// A place where `--inbound` listens and a port of the program's own is, with its flag.
fn taken_by_own(matches: &clap::ArgMatches) -> Option<(String, &'static str)> {
    let (_, command) = matches.subcommand()?;
    let inbound = command.try_get_many::<Inbound>("inbound").ok()??;
    let own = |name| command.try_get_one::<Listen>(name).ok()?.and_then(|listen| listen.0);
    let own = OwnPorts { status: own("status"), metrics: own("metrics"), admin: own("admin") };
    let bind = command.try_get_one::<IpAddr>("bind").ok()?.copied();
    let mut places = inbound.map(|port| port.listen(bind));
    places.find_map(|place| own.at(&place).map(|(flag, _)| (place.to_string(), flag)))
}

/// Runs the command and says how the process ends.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Sidecar(args) => sidecar::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Ca(args) => ca::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Health(args) => health::run(&args),
    }
}

/// The definition, with help that names environment variables but not what they hold.
fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("sidecar", sidecar::defaults)
        .mut_subcommand("demo", demo::defaults)
        .mut_subcommands(|sub| sub.mut_args(|arg| arg.hide_env_values(true)))
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  portcullis demo                              the whole story on one machine
  portcullis certs                             development certificates under certs/
  portcullis check --config gateways/          what would be loaded, and what is wrong with it
  portcullis explain https://shop.example.com/  what would happen to a request, and why
  portcullis test gateways/                    does it do what *.test.yaml expects of it
  portcullis run --port-map 443=8443           serve gateways/, with 443 bound as 8443
  portcullis sidecar --inbound 15006=8080      stand before an application of the mesh

Every flag can be set by an environment variable: --port-map is PORTCULLIS_PORT_MAP.

Exit codes:
  0  done, or drained after a signal to stop
  1  it failed, or the configuration has errors
  2  the command line is wrong";

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(line.split_whitespace().map(OsString::from))
    }

    fn refuses(line: &str, said: &str) {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(said), "{line}: {error}");
    }

    #[test]
    fn a_port_is_mapped_once() {
        for line in [
            "portcullis run --port-map 80=8080 --port-map 80=9090",
            "portcullis check --port-map 80=8080,80=8080",
        ] {
            refuses(line, "names port 80 twice");
        }
        assert!(parse("portcullis run --port-map 80=8080 --port-map 81=8081").is_ok());
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        for sub in command().get_subcommands() {
            for arg in sub.get_arguments().filter(|arg| !arg.is_positional()) {
                let long = arg.get_long().unwrap_or_default();
                let expected = format!("PORTCULLIS_{}", long.to_uppercase().replace('-', "_"));
                let name = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                assert_eq!(name, Some(expected), "{} --{long}", sub.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_help_with_examples_and_exit_codes() {
        for sub in command().get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            for part in ["Examples:", "Exit codes:"] {
                assert!(help.contains(part), "{}: {help}", sub.get_name());
            }
        }
    }

    /// The words of a line for a POSIX shell, as far as examples use its quoting.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote, mut inside) = (vec![String::new()], None, false);
        for c in line.chars() {
            match (c, quote) {
                ('\'' | '"', None) => (quote, inside) = (Some(c), true),
                (_, Some(open)) if c == open => quote = None,
                (' ', None) if inside => {
                    words.push(String::new());
                    inside = false;
                }
                (' ', None) => {}
                _ => {
                    inside = true;
                    words.last_mut().unwrap().push(c);
                }
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    /// The commands of the examples in a help, with what they are given.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        let (examples, _) = examples.split_once("\n\n").unwrap();
        let examples = examples.replace("\\\n", " ");
        let command = |line: &str| {
            let words = words(line);
            let given = words.iter().take_while(|word| !matches!(word.as_str(), "|" | ">"));
            given.cloned().collect::<Vec<_>>()
        };
        examples.lines().map(command).collect()
    }

    #[test]
    fn every_example_of_the_help_is_a_command() {
        for sub in command().get_subcommands() {
            let help = sub.get_after_help().unwrap().to_string();
            let all = examples(&help);
            assert!(!all.is_empty(), "{help}");
            for words in &all {
                // What is set by a variable before the command is what the flag would be given.
                let own = words.iter().position(|word| word == "portcullis").unwrap();
                let (variables, line) = words.split_at(own);
                let flags = variables.iter().map(|variable| {
                    let (name, value) = variable.split_once('=').unwrap();
                    let flag = name.trim_start_matches("PORTCULLIS_").to_lowercase();
                    format!("--{}={value}", flag.replace('_', "-"))
                });
                let line: Vec<_> = line.iter().cloned().chain(flags).map(OsString::from).collect();
                assert!(Cli::from_args(line).is_ok(), "{words:?}");
            }
            assert!(all.iter().any(|words| words.iter().any(|word| word == sub.get_name())));
        }
        let told = EXAMPLES.lines().skip(1).take_while(|line| !line.is_empty());
        for line in told {
            let line = line.trim().split("  ").next().unwrap();
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let check = |line: &str, expected: &[&str]| assert_eq!(words(line), expected, "{line}");
        check("  a  b ", &["a", "b"]);
        check("a 'b \"c' \"d e\"f", &["a", "b \"c", "d ef"]);
    }

    #[test]
    fn help_fits_a_terminal_and_hides_what_the_environment_holds() {
        for sub in command().get_subcommands_mut() {
            let help = sub.clone().term_width(100).render_help().to_string();
            for line in help.lines() {
                assert!(line.len() <= 100, "{}: {line}", sub.get_name());
            }
        }
    }

    #[test]
    fn unknown_commands_flags_and_values_are_usage_errors() {
        refuses("portcullis", "Usage:");
        refuses("portcullis fly", "fly");
        refuses("portcullis run --fly", "--fly");
        refuses("portcullis run --port-map 443", "443=8443");
        refuses("portcullis run --port-map 443=0", "port");
        refuses("portcullis run --status 15021", "127.0.0.1:15021");
        refuses("portcullis run --workers 0", "workers");
        refuses("portcullis run --labels istio", "istio=ingressgateway");
        refuses("portcullis run --drain-delay 5", "5s");
        refuses("portcullis run --bind localhost", "localhost");
        refuses("portcullis run --identity ca:host", "ca:HOST:PORT");
        refuses("portcullis run --locality a/b/c/d", "REGION/ZONE/SUBZONE");
        refuses("portcullis run --access-log xml", "json");
        refuses("portcullis run --log-level a=b=c", "info");
        refuses("portcullis run --log-level bogus", "info");
        refuses("portcullis run --labels a=b=c,,", "istio=ingressgateway");
        refuses("portcullis run --namespace A_B", "namespace");
        refuses("portcullis run --root-namespace a/b", "namespace");
        refuses("portcullis run --trust-domain a/b", "cluster.local");
        refuses("portcullis certs --trust-domain a/b", "cluster.local");
        refuses("portcullis ca --trust-domain a/b", "cluster.local");
        refuses("portcullis check -o yaml", "sarif");
        refuses("portcullis explain", "URL");
        refuses("portcullis explain https://a.com/ --header x", "NAME: VALUE");
        refuses("portcullis ca --lifetime 91d", "24h");
        refuses("portcullis sidecar", "--inbound");
        refuses("portcullis sidecar --inbound 8080", "15006=8080");
        refuses("portcullis sidecar --inbound 1=2 --inbound 1=3", "twice");
        refuses("portcullis sidecar --inbound 15021=2", "where --status is");
        refuses("portcullis check --inbound 127.0.0.1:7=2 --metrics [::]:7", "where --metrics is");
        assert!(parse("portcullis sidecar --inbound 15021=2 --status off").is_ok());
        assert!(parse("portcullis sidecar --inbound 15000=2 --bind 10.0.0.1").is_ok());
    }
}
