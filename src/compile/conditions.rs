//! One match entry of a rule as a condition on requests.

use std::collections::BTreeMap;

use http::HeaderName;

use crate::base::claim::ClaimPath;
use crate::diag::{Code, Diagnostic, catalog};
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::HttpMatch;
use crate::route::matcher::{
    HeaderKey, HeaderMatch, QueryMatch, RequestMatch, ValueMatch, whole_value,
};

/// What is wrong with a condition, and in which field of the match entry.
pub struct InvalidCondition {
    /// Field below the match entry: `headers.x-kind`.
    pub field: String,
    /// The finding's code.
    pub code: &'static Code,
    /// What is wrong.
    pub message: String,
}

impl InvalidCondition {
    /// What to do about it.
    pub fn help(&self, diagnostic: Diagnostic) -> Diagnostic {
        diagnostic.help(if self.code == &catalog::INVALID_REGEX {
            "write a regular expression of RE2"
        } else {
            "the rule is left out; the other rules are served"
        })
    }
}

/// The condition of a match entry.
pub fn condition(entry: &HttpMatch) -> Result<RequestMatch, InvalidCondition> {
    let optional = |name: &str, written: &Option<StringMatch>| {
        written.as_ref().map(|written| value(name, written)).transpose()
    };
    let uri = optional("uri", &entry.uri)?.map(|uri| match uri {
        ValueMatch::Exact(text) if entry.ignore_uri_case => ValueMatch::ExactIgnoringCase(text),
        ValueMatch::Prefix(text) if entry.ignore_uri_case => ValueMatch::PrefixIgnoringCase(text),
        uri => uri,
    });
    let query = entry.query_params.iter().map(|(name, written)| {
        let value = value(&format!("queryParams.{name}"), written)?;
        Ok(QueryMatch { name: name.as_str().into(), value })
    });
    Ok(RequestMatch {
        uri,
        scheme: optional("scheme", &entry.scheme)?,
        method: optional("method", &entry.method)?,
        authority: optional("authority", &entry.authority)?,
        headers: headers("headers", &entry.headers)?,
        without_headers: headers("withoutHeaders", &entry.without_headers)?,
        query: query.collect::<Result<_, _>>()?,
    })
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
) -> Result<Vec<HeaderMatch>, InvalidCondition> {
    let one = |(name, written): (&String, &StringMatch)| {
        let field = format!("{field}.{name}");
        let broken = |message| InvalidCondition {
            field: field.clone(),
            code: &catalog::ROUTE_BROKEN,
            message,
        };
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
    written.iter().map(one).collect()
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
                code: &catalog::INVALID_REGEX,
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
