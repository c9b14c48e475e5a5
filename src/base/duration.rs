//! Istio's duration grammar: a decimal number with a unit, several in a row, `1h`, `1m30s`, `0.5s`.

use std::time::Duration;

/// A duration that does not follow the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a duration: write a number and a unit (ms, s, m, h), for example \"1.5s\"")]
pub struct InvalidDuration(pub String);

/// Reads a duration (Go's `time.ParseDuration` without signs, as protobuf's JSON accepts it).
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    if rest == "0" {
        return Ok(total);
    }
    while !rest.is_empty() {
        let number_end =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, millis: u64) {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
    }

    #[test]
    fn units_add_up() {
        check("1.5s", 1500);
        check("1m30s", 90_000);
        check("0s", 0);
        check("100ms", 100);
        check("1h", 3_600_000);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "1", "s", "-1s", "1x", "1s ", "1.2.3s", "99999999999999999999999h", "1e3s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
