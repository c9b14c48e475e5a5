//! Regular expressions as Istio takes them: RE2's dialect, bounded in length and when compiled.
//!
//! They run over bytes, because header values need not be UTF-8.

use regex::bytes::{Regex, RegexBuilder};

use super::limit;

/// A regular expression that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegex {
    /// Longer than Istio's validation allows.
    #[error("regular expression is {0} bytes long; at most {max} are allowed", max = limit::REGEX_BYTES)]
    TooLong(usize),
    /// Not RE2's dialect, or too large when compiled.
    #[error("regular expression does not compile: {0}")]
    Syntax(String),
}

/// Compiles a regular expression that must match a whole value.
pub fn whole_value(pattern: &str) -> Result<Regex, InvalidRegex> {
    // Compiled as written first, so that a stray ")" cannot escape the anchors.
    search(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

/// Compiles a regular expression for search and replace.
pub fn search(pattern: &str) -> Result<Regex, InvalidRegex> {
    if pattern.len() > limit::REGEX_BYTES {
        return Err(InvalidRegex::TooLong(pattern.len()));
    }
    compile(pattern)
}

fn compile(text: &str) -> Result<Regex, InvalidRegex> {
    let built = RegexBuilder::new(text).size_limit(limit::REGEX_PROGRAM_BYTES).build();
    built.map_err(|error| InvalidRegex::Syntax(reason(&error)))
}

/// The reason alone: the library draws the pattern over several lines.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}
