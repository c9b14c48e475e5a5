//! The program's own log: `tracing` on standard error, its level changeable at run time.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, fmt, reload};

/// Shape of the program's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogsFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// A log that cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The level does not follow the grammar.
    #[error(
        "\"{0}\" is not a log level: write off, error, warn, info, debug or trace, or module=level pairs"
    )]
    Level(String),
    /// A log is set up already.
    #[error("the program's log is set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// The log is gone.
    #[error("the log level cannot be reached")]
    Gone(#[from] reload::Error),
}

/// The level of the running log.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// The level now, as [`LogLevel::set`] reads it.
    pub fn current(&self) -> Result<String, LogsError> {
        let level = self.0.with_current(ToString::to_string)?;
        Ok(level.strip_prefix(QUIET).map_or(level.clone(), ToOwned::to_owned))
    }

    /// Changes the level: `debug`, or `info,portcullis::proxy=trace`.
    pub fn set(&self, level: &str) -> Result<(), LogsError> {
        Ok(self.0.reload(filter(level)?)?)
    }
}

/// Whether a level can be read, before there is a log.
pub fn check(level: &str) -> Result<(), LogsError> {
    filter(level).map(drop)
}

/// Starts the program's log, for the whole process.
pub fn start(level: &str, format: LogsFormat) -> Result<LogLevel, LogsError> {
    let (filter, level) = reloadable(level)?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogsFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            tracing::subscriber::set_global_default(registry.with(lines))?;
        }
        LogsFormat::Json => {
            tracing::subscriber::set_global_default(registry.with(lines.json()))?;
        }
    }
    Ok(level)
}

pub(crate) type Reloadable = reload::Layer<EnvFilter, Registry>;

pub(crate) fn reloadable(level: &str) -> Result<(Reloadable, LogLevel), LogsError> {
    let (layer, handle) = reload::Layer::new(filter(level)?);
    Ok((layer, LogLevel(handle)))
}

/// The HTTP/2 library warns of each frame that a peer should not have sent: as many lines as the peer
/// likes. What is said of the library expressly comes after this, and counts.
const QUIET: &str = "h2=error,";

/// `EnvFilter` takes a lone word that is no level for a module and shuts all others up; refused here.
fn filter(level: &str) -> Result<EnvFilter, LogsError> {
    let invalid = || LogsError::Level(level.to_owned());
    let plausible = |directive: &str| match directive.split_once('=') {
        Some((_, level)) => !level.is_empty(),
        None => !directive.is_empty() && directive.parse::<LevelFilter>().is_ok(),
    };
    if !level.split(',').map(str::trim).all(plausible) {
        return Err(invalid());
    }
    let quiet = if level == "off" { "" } else { QUIET };
    let level = format!("{quiet}{level}");
    EnvFilter::builder().with_regex(false).parse(level).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(level: &str, shown: Option<&str>) {
        let (layer, handle) = reloadable("info").unwrap();
        let changed = handle.set(level);
        assert_eq!(changed.is_ok(), shown.is_some(), "{level}");
        assert_eq!(handle.current().unwrap(), shown.unwrap_or("info"));
        drop(layer);
    }

    #[test]
    fn level_changes_at_run_time() {
        check("debug", Some("debug"));
        check("off", Some("off"));
        check("info,h2=trace", Some("h2=trace,info"));
        check("warn,portcullis::proxy=trace", Some("portcullis::proxy=trace,h2=error,warn"));
    }

    #[test]
    fn a_bad_level_changes_nothing() {
        check("loud=very", None);
        check("portcullis=", None);
        check("verbose", None);
        check("", None);
    }
}
