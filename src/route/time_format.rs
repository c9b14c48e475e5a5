//! Times as Envoy's `%START_TIME(...)%` writes them, in UTC: `strftime`'s conversions, and fractions of a
//! second (`%f` with nine digits, `%3f`, `%E3S`).

use time::OffsetDateTime;
use time::format_description::{OwnedFormatItem, parse_strftime_owned};

use crate::base::limit;

/// The format of a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Text and conversions of whole seconds.
    Whole(OwnedFormatItem),
    /// So many digits of a second's fraction.
    Fraction(u32),
}

/// A format that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimeFormat {
    /// A conversion that is not known, or does not end.
    #[error("\"%{0}\" is no conversion of a time; write %Y, %m, %d, %H, %M, %S, %s, %3f or %z")]
    Conversion(String),
    /// It is too long.
    #[error("the format of a time has at most {most} bytes", most = limit::TIME_FORMAT_BYTES)]
    TooLong,
}

/// The conversions whose texts can stand in a header, and are here what they are in C.
const CONVERSIONS: &str = "aAbBhCdDeFgGHIjklmMpRsSTuVyYz%";

/// What a percent sign begins.
enum Conversion {
    /// As `strftime` has it.
    Whole(char),
    /// `%f`, `%3f`.
    Fraction(u32),
    /// `%E3S`: seconds with so many digits of their fraction.
    Seconds(u32),
    /// `%Z`.
    Zone,
}

impl Conversion {
    /// Reads what follows a percent sign; the rest.
    fn read(text: &str) -> Option<(Self, &str)> {
        let mut chars = text.chars();
        let first = chars.next()?;
        let rest = chars.as_str();
        let digits = |c: char| c.to_digit(10).filter(|digits| *digits > 0);
        match first {
            'f' => Some((Self::Fraction(9), rest)),
            'Z' => Some((Self::Zone, rest)),
            'E' => {
                let digits = digits(chars.next()?)?;
                Some((Self::Seconds(digits), chars.as_str().strip_prefix('S')?))
            }
            known if CONVERSIONS.contains(known) => Some((Self::Whole(known), rest)),
            other => Some((Self::Fraction(digits(other)?), rest.strip_prefix('f')?)),
        }
    }
}

impl TimeFormat {
    /// RFC 3339 with milliseconds.
    pub(super) const STANDARD: &str = "%Y-%m-%dT%H:%M:%E3SZ";

    /// Compiles what stands in the brackets.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidTimeFormat> {
        if text.len() > limit::TIME_FORMAT_BYTES {
            return Err(InvalidTimeFormat::TooLong);
        }
        let mut pieces = Vec::new();
        let mut whole = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            whole.push_str(before);
            let unknown = || InvalidTimeFormat::Conversion(after.chars().take(3).collect());
            let (conversion, tail) = Conversion::read(after).ok_or_else(unknown)?;
            rest = tail;
            let digits = match conversion {
                Conversion::Whole(name) => {
                    whole.extend(['%', name]);
                    continue;
                }
                Conversion::Zone => {
                    whole.push_str("UTC");
                    continue;
                }
                Conversion::Fraction(digits) => digits,
                Conversion::Seconds(digits) => {
                    whole.push_str("%S.");
                    digits
                }
            };
            pieces.extend(compiled(&std::mem::take(&mut whole))?);
            pieces.push(Piece::Fraction(digits));
        }
        whole.push_str(rest);
        pieces.extend(compiled(&whole)?);
        Ok(Self(pieces.into()))
    }

    /// A time in this format.
    pub fn write(&self, time: OffsetDateTime) -> Option<String> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Whole(item) => _ = time.format_into(&mut out, item).ok()?,
                Piece::Fraction(digits) => {
                    out.extend((1..=*digits).map(|place| {
                        let digit = time.nanosecond() / 10_u32.pow(9 - place) % 10;
                        b'0' + u8::try_from(digit).unwrap_or_default()
                    }));
                }
            }
        }
        String::from_utf8(out).ok()
    }
}

fn compiled(whole: &str) -> Result<Option<Piece>, InvalidTimeFormat> {
    if whole.is_empty() {
        return Ok(None);
    }
    let item = parse_strftime_owned(whole);
    let item = item.map_err(|_| InvalidTimeFormat::Conversion(whole.to_owned()))?;
    Ok(Some(Piece::Whole(item)))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_written_as_envoy_writes_them() {
        let time = datetime!(2026-03-07 04:05:06.007_089_1 UTC);
        let check = |format: &str, expected: &str| {
            let written = TimeFormat::parse(format).map(|format| format.write(time));
            assert_eq!(written, Ok(Some(expected.to_owned())), "{format}");
        };
        check(TimeFormat::STANDARD, "2026-03-07T04:05:06.007Z");
        check("%Y/%m/%dT%H:%M:%S%z", "2026/03/07T04:05:06+0000");
        check("%s.%3f", "1772856306.007");
        check("%6f %9f %f %1f", "007089 007089100 007089100 0");
        check("%a, %d %b %Y %T %Z", "Sat, 07 Mar 2026 04:05:06 UTC");
        check("%e|%j|%I %p|%F %R|%y|%D", " 7|066|04 AM|2026-03-07 04:05|26|03/07/26");
        check("100%% (a) %u", "100% (a) 6");
        check("", "");
    }

    #[test]
    fn what_is_no_format_is_told() {
        let check = |format: &str, expected: &str| {
            let found = TimeFormat::parse(format).unwrap_err();
            assert_eq!(found, InvalidTimeFormat::Conversion(expected.to_owned()), "{format}");
        };
        check("%Q", "Q");
        check("%Y%", "");
        check("%n%Y", "n%Y");
        check("%0f", "0f");
        check("%12f", "12f");
        check("%E3", "E3");
        check("%-d", "-d");
        check("%é", "é");
        let long = "x".repeat(limit::TIME_FORMAT_BYTES + 1);
        assert_eq!(TimeFormat::parse(&long), Err(InvalidTimeFormat::TooLong));
    }
}
