//! One match entry of a rule as a condition on requests.

use std::collections::BTreeMap;

use http::HeaderName;

use crate::base::claim::ClaimPath;
use crate::base::pattern::whole_value;
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::HttpMatch;
use crate::route::matcher::{HeaderKey, HeaderMatch, QueryMatch, RequestMatch, ValueMatch};

/// What is wrong with a condition, and in which field of the match entry.
pub struct InvalidCondition {
    /// Field below the match entry: `headers.x-kind`.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// The condition of a match entry, as far as it can be read; the rest is told.
pub fn condition(entry: &HttpMatch, invalid: &mut Vec<InvalidCondition>) -> RequestMatch {
    let mut read = |field: &str, written: &StringMatch| {
        value(field, written).map_err(|why| invalid.push(why)).ok()
    };
    let mut optional = |name: &str, written: &Option<StringMatch>| {
        written.as_ref().and_then(|written| read(name, written))
    };
    let uri = optional("uri", &entry.uri).map(|uri| match uri {
        ValueMatch::Exact(text) if entry.ignore_uri_case => ValueMatch::ExactIgnoringCase(text),
        ValueMatch::Prefix(text) if entry.ignore_uri_case => ValueMatch::PrefixIgnoringCase(text),
        uri => uri,
    });
    let scheme = optional("scheme", &entry.scheme);
    let method = optional("method", &entry.method);
    let authority = optional("authority", &entry.authority);
    let query = entry.query_params.iter().filter_map(|(name, written)| {
        let value = read(&format!("queryParams.{name}"), written)?;
        Some(QueryMatch { name: name.as_str().into(), value })
    });
    let query = query.collect();
    let headers_met = headers("headers", &entry.headers, invalid);
    let without_headers = headers("withoutHeaders", &entry.without_headers, invalid);
    RequestMatch { uri, scheme, method, authority, headers: headers_met, without_headers, query }
}

/// Whether a match entry asks for a token's claim; the field that does.
pub fn claim_field(entry: &HttpMatch) -> Option<String> {
    let of = |field: &'static str, map: &BTreeMap<String, StringMatch>| {
        let found = map.keys().find(|name| is_claim(name))?;
        Some(format!("{field}.{found}"))
    };
    of("headers", &entry.headers).or_else(|| of("withoutHeaders", &entry.without_headers))
}

fn headers(
    field: &str,
    written: &BTreeMap<String, StringMatch>,
    invalid: &mut Vec<InvalidCondition>,
) -> Vec<HeaderMatch> {
    let one = |(name, written): (&String, &StringMatch)| {
        let field = format!("{field}.{name}");
        let broken = |message| InvalidCondition { field: field.clone(), message };
        let key = match name.to_ascii_lowercase().as_str() {
            ":path" => HeaderKey::Path,
            ":method" => HeaderKey::Method,
            ":authority" | "host" => HeaderKey::Authority,
            ":scheme" => HeaderKey::Scheme,
            _ if is_claim(name) => {
                let path = claim(name).ok_or_else(|| {
                    broken(format!("\"{name}\" names no claim; write @request.auth.claims[name]"))
                })?;
                HeaderKey::Claim(path)
            }
            other => HeaderName::from_bytes(other.as_bytes())
                .map(HeaderKey::Field)
                .map_err(|_| broken(format!("\"{name}\" is not a header name")))?,
        };
        Ok(HeaderMatch { key, value: value(&field, written)? })
    };
    let read =
        written.iter().filter_map(|one_of| one(one_of).map_err(|why| invalid.push(why)).ok());
    read.collect()
}

/// The condition of a `StringMatch`.
pub fn value(field: &str, written: &StringMatch) -> Result<ValueMatch, InvalidCondition> {
    Ok(match written {
        StringMatch::Exact(text) => ValueMatch::Exact(text.as_str().into()),
        StringMatch::Prefix(text) => ValueMatch::Prefix(text.as_str().into()),
        StringMatch::Present => ValueMatch::Present,
        StringMatch::Regex(text) if text == "*" => ValueMatch::Present,
        StringMatch::Regex(text) => {
            let regex = whole_value(text).map_err(|error| InvalidCondition {
                field: field.to_owned(),
                message: error.to_string(),
            })?;
            ValueMatch::Regex(Box::new(regex))
        }
    })
}

const CLAIMS: &str = "@request.auth.claims";

fn is_claim(name: &str) -> bool {
    name.get(..CLAIMS.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLAIMS))
}

/// The claim of `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
fn claim(name: &str) -> Option<ClaimPath> {
    let rest = name.get(CLAIMS.len()..)?;
    let names: Vec<&str> = match rest.strip_prefix('.') {
        Some(dotted) => dotted.split('.').collect(),
        None => rest.strip_prefix('[')?.strip_suffix(']')?.split("][").collect(),
    };
    names.iter().all(|name| !name.is_empty()).then(|| ClaimPath::of(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        assert!(is_claim(name), "{name}");
        assert_eq!(claim(name).map(|path| path.to_string()).as_deref(), expected, "{name}");
    }

    #[test]
    fn claims_are_named_with_dots_or_brackets() {
        check("@request.auth.claims.a.b", Some("[a][b]"));
        check("@Request.Auth.Claims[https://x.y/z][b]", Some("[https://x.y/z][b]"));
        for bad in ["", ".", ".a.", "[]", "[a", "a", "[a]b"] {
            check(&format!("{CLAIMS}{bad}"), None);
        }
        assert!(!is_claim("x-request"));
    }
}
