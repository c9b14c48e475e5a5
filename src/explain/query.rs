//! A question as the query of a URL, for the admin port.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{InvalidQuestion, Question};
use crate::base::query;

impl Question {
    /// Reads, from a form's query, `url`, `method`, `protocol`, `header` (`name: value`, repeatable), `sni`, `source-ip`, `token`
    /// and `client-cert` (PEM, with its intermediates).
    pub fn from_query(query: &str, now: i64) -> Result<Self, InvalidQuestion> {
        let pairs: Vec<(String, String)> = query::pairs(query).collect();
        let url = pairs.iter().find(|(name, _)| name == "url").map_or("", |(_, url)| url);
        let parsed = url.parse().map_err(|_| InvalidQuestion::Url(url.to_owned()))?;
        let mut question = Self::get(parsed, now);
        for (name, value) in &pairs {
            let invalid = || InvalidQuestion::Parameter(format!("{name}={value}"));
            match &**name {
                "url" => {}
                "method" => question.method = value.parse().map_err(|_| invalid())?,
                "protocol" => question.ask_for(value),
                "sni" => question.server_name = value.to_ascii_lowercase(),
                "source-ip" => question.source = address(value).ok_or_else(invalid)?,
                "token" => {
                    let token = bearer(value).ok_or_else(|| unreadable(name))?;
                    question.headers.insert(AUTHORIZATION, token);
                }
                "client-cert" => {
                    question.client_chain = chain(value).ok_or_else(|| unreadable(name))?;
                }
                "header" => {
                    let (name, value) = header(value).ok_or_else(invalid)?;
                    question.headers.append(name, value);
                }
                _ => return Err(invalid()),
            }
        }
        Ok(question)
    }
}

/// A parameter of which the value is not repeated.
fn unreadable(name: &str) -> InvalidQuestion {
    InvalidQuestion::Parameter(format!("{name}="))
}

/// An address as that of a connection's peer is told.
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn chain(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}

/// Reads `name: value`.
pub fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<(&str, &str, usize), &str>) {
        let question = Question::from_query(query, 0);
        let seen = question.as_ref().map(|question| {
            (question.method.as_str(), question.server_name.as_str(), question.headers.len())
        });
        match (seen, expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected, "{query}"),
            (Err(error), Err(said)) => {
                assert!(error.to_string().contains(said), "{query}: {error}");
            }
            (seen, _) => panic!("{query}: {seen:?}"),
        }
    }

    #[test]
    fn parameters_make_a_question() {
        check("url=https://a.com/x", Ok(("GET", "a.com", 0)));
        check("url=https%3A%2F%2Fa.com&method=POST&sni=", Ok(("POST", "", 0)));
        check("url=http://[::1]/&header=x-a:%201&header=x-a:2", Ok(("GET", "", 2)));
        check("url=http://a/&header=x-a:+b+c", Ok(("GET", "a", 1)));
    }

    #[test]
    fn who_asks_is_told_as_a_connection_tells_it() {
        let pem = "-----BEGIN%20CERTIFICATE-----%0AAQID%0A-----END%20CERTIFICATE-----%0A";
        let query = format!(
            "url=https://a.com/&source-ip=::ffff:192.0.2.7&token=a.b.c&client-cert={pem}{pem}"
        );
        let question = Question::from_query(&query, 0).unwrap();
        assert_eq!(question.source, IpAddr::from([192, 0, 2, 7]));
        assert_eq!(question.headers[AUTHORIZATION], "Bearer a.b.c");
        assert!(question.headers[AUTHORIZATION].is_sensitive());
        assert_eq!(question.client_chain, [vec![1, 2, 3].into(), vec![1, 2, 3].into()]);
    }

    #[test]
    fn spaces_are_written_as_forms_do() {
        let query = "url=http://a/%3Fq%3Da%2Bb&header=x-a:+b%2Bc+d";
        let question = Question::from_query(query, 0).unwrap();
        assert_eq!(question.headers["x-a"], "b+c d");
        assert!(format!("{question:?}").contains("q=a+b"));
    }

    #[test]
    fn what_is_no_parameter_is_told() {
        check("", Err("is not a URL"));
        check("url=https://a.com/&source-ip=x", Err("source-ip=x"));
        check("url=https://a.com/&header=x", Err("header=x"));
        check("url=https://a.com/&fly=1", Err("fly=1"));
        check("url=https://a.com/&token=a%0Ab", Err("\"token=\""));
        check("url=https://a.com/&client-cert=hello", Err("\"client-cert=\""));
    }
}
