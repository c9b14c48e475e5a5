//! Claims as other parts use them: looked up by path, copied to headers, compared as lists.
//!
//! **Invariant:** nothing here decides whether a token is valid.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::{Map, Number, Value};

/// Claims of a token.
pub type Claims = Map<String, Value>;

/// A claim, nested ones by the names on the way (`outputClaimToHeaders[].claim`,
/// `@request.auth.claims[a][b]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<[Box<str>]>);

impl ClaimPath {
    /// Reads `a.b.c`.
    pub fn dotted(text: &str) -> Self {
        Self::of(text.split('.'))
    }

    /// A path of whole names, dots in them included.
    pub fn of(names: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// The claim's value.
    pub fn find<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, name| value.get(&**name))
    }

    /// The claim as a list of strings: a string is one, or several when the claim is
    /// space-delimited; of a list the strings count; anything else has none.
    pub fn strings<'a>(&self, claims: &'a Claims, delimited: &[Box<str>]) -> Vec<&'a str> {
        match self.find(claims) {
            Some(Value::String(text)) if self.is_delimited(delimited) => {
                text.split(' ').filter(|part| !part.is_empty()).collect()
            }
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn is_delimited(&self, delimited: &[Box<str>]) -> bool {
        match &*self.0 {
            [name] => ALWAYS_DELIMITED.contains(&&**name) || delimited.contains(name),
            _ => false,
        }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "[{name}]"))
    }
}

/// The header value of a claim: strings, numbers and booleans as text, lists and objects as base64 of
/// their JSON. Nothing for null, for empty text and for text that no header can hold.
///
/// Numbers are Envoy's: whole ones without a point however they are written (`2.0`, `1e3`), others with
/// six digits after it. Integers that floating point cannot hold stay exact.
pub fn header_value(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(_) => value.to_string(),
        Value::Number(number) => number_text(number),
        Value::Array(_) | Value::Object(_) => STANDARD.encode(value.to_string()),
    };
    if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
}

fn number_text(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        None => number.to_string(),
        Some(whole) if whole.fract() == 0.0 && whole.abs() < TWO_TO_64 => format!("{whole:.0}"),
        Some(fraction) => format!("{fraction:.6}"),
    }
}

/// 2 to the power of 64.
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

/// Split on spaces in every rule (`jwtRules[].spaceDelimitedClaims` adds to them).
const ALWAYS_DELIMITED: [&str; 2] = ["scope", "permission"];

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str(json).unwrap()
    }

    fn check(json: &str, path: &str, expected: Option<&str>) {
        let claims = claims(json);
        let value = ClaimPath::dotted(path).find(&claims).and_then(header_value);
        assert_eq!(value.as_ref().map(|v| v.to_str().unwrap()), expected, "{json} {path}");
    }

    #[test]
    fn nested_claims_are_rendered_by_type() {
        check(r#"{"a":{"b":"x"}}"#, "a.b", Some("x"));
        check(r#"{"a":12}"#, "a", Some("12"));
        check(r#"{"a":true}"#, "a", Some("true"));
        check(r#"{"a":2.0}"#, "a", Some("2"));
        check(r#"{"a":1e3}"#, "a", Some("1000"));
        check(r#"{"a":1.5}"#, "a", Some("1.500000"));
        check(r#"{"a":-7}"#, "a", Some("-7"));
        check(r#"{"a":-0.25}"#, "a", Some("-0.250000"));
        check(r#"{"a":9007199254740993}"#, "a", Some("9007199254740993"));
        check(r#"{"a":18446744073709551615}"#, "a", Some("18446744073709551615"));
        check(r#"{"a":["x",1]}"#, "a", Some("WyJ4IiwxXQ=="));
        check(r#"{"a":{"b":1}}"#, "a", Some("eyJiIjoxfQ=="));
    }

    #[test]
    fn what_no_header_can_hold_gives_none() {
        check(r#"{"a":"x\r\ny: z"}"#, "a", None);
        check(r#"{"a":""}"#, "a", None);
        check(r#"{"a":null}"#, "a", None);
        check(r#"{"a":"x"}"#, "a.b", None);
        check("{}", "a", None);
        check("{}", "", None);
    }

    #[test]
    fn scope_is_always_a_list() {
        let claims = claims(r#"{"scope":"a  b","x":"a b","l":["c",1,"d"],"n":1}"#);
        let strings = |name, more: &[&str]| {
            let more: Vec<Box<str>> = more.iter().map(|text| (*text).into()).collect();
            ClaimPath::dotted(name).strings(&claims, &more)
        };
        assert_eq!(strings("scope", &[]), ["a", "b"]);
        assert_eq!(strings("x", &[]), ["a b"]);
        assert_eq!(strings("x", &["x"]), ["a", "b"]);
        assert_eq!(strings("l", &[]), ["c", "d"]);
        assert!(strings("n", &[]).is_empty());
    }

    #[test]
    fn whole_names_may_hold_dots() {
        let claims = claims(r#"{"https://a.example/r":{"b":"x"}}"#);
        let path = ClaimPath::of(["https://a.example/r", "b"]);
        assert_eq!(path.strings(&claims, &[]), ["x"]);
    }
}
