//! What a configuration is expected to do with requests: YAML beside it, judged by [`crate::explain`].
//!
//! **Invariant:** an expectation is compared with the outcome of the data path's own decision, and
//! with nothing else; what is not expected is not looked at.

mod file;
mod report;

use http::header::{AUTHORIZATION, HeaderValue};
use rustls::pki_types::CertificateDer;

use crate::base::claim::Claims;
use crate::diag::Location;
use crate::explain::{self, Explanation, Outcome, Question, explain, header};
use crate::snapshot::Snapshot;

pub use file::{Expected, Request, Test, TestFile};
pub use report::{json, text};

/// What expectations need from outside.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Signs claims with a key that the fetched key sets hold; the token.
    pub sign: &'a dyn Fn(&Claims) -> Result<String, String>,
    /// The certificates of a PEM file that is named in a test's file.
    pub certificates: &'a dyn Fn(&str) -> Result<Vec<CertificateDer<'static>>, String>,
    /// Unix time in seconds.
    pub now: i64,
}

/// What became of a test.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub location: Location,
    /// What was decided, or why the request is none.
    pub told: Result<Explanation, String>,
    /// Where the outcome differs.
    pub differences: Vec<Difference>,
}

/// An expectation that was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its field in `expect`.
    pub field: &'static str,
    /// What it says.
    pub expected: String,
    /// What was decided; nothing when there is no such thing.
    pub actual: Option<String>,
}

impl Judged {
    /// Whether every expectation was met.
    pub fn passed(&self) -> bool {
        self.told.is_ok() && self.differences.is_empty()
    }
}

/// Asks what would happen to a test's request, and compares.
pub fn judge(snapshot: &Snapshot, test: &Test, location: Location, means: Means<'_>) -> Judged {
    let told = question(&test.request, means)
        .and_then(|question| explain(snapshot, &question).map_err(|error| error.to_string()))
        .and_then(|told| expects_something(&test.expect).map(|()| told));
    let differences = match &told {
        Ok(told) => compare(&test.expect, &told.outcome),
        Err(_) => Vec::new(),
    };
    Judged { name: test.name.clone(), location, told, differences }
}

/// A test that any outcome meets tests nothing.
fn expects_something(expected: &Expected) -> Result<(), String> {
    if *expected == Expected::default() {
        return Err("nothing is expected: write expect with an action or another outcome".into());
    }
    Ok(())
}

fn question(request: &Request, means: Means<'_>) -> Result<Question, String> {
    let no_url = || format!("\"{}\" is no URL: write https://host/path", request.url);
    let mut question = Question::get(request.url.parse().map_err(|_| no_url())?, means.now);
    if let Some(method) = &request.method {
        question.method = method.parse().map_err(|_| format!("\"{method}\" is no method"))?;
    }
    match (&request.protocol, &request.method) {
        (Some(_), Some(_)) => {
            return Err("protocol and method exclude each other: keep one".into());
        }
        (Some(protocol), None) => question.ask_for(protocol),
        (None, _) => {}
    }
    for (name, value) in &request.headers {
        let invalid = || format!("\"{name}\" is no header, or its value cannot be sent");
        let (name, value) = header(&format!("{name}:{value}")).ok_or_else(invalid)?;
        question.headers.append(name, value);
    }
    if let Some(name) = &request.sni {
        question.server_name.clone_from(name);
    }
    if let Some(address) = &request.source_ip {
        question.source =
            explain::address(address).ok_or_else(|| format!("\"{address}\" is no address"))?;
    }
    if let Some(file) = &request.client_cert {
        question.client_chain = (means.certificates)(file)?;
    }
    let token = match (&request.token, &request.claims) {
        (Some(_), Some(_)) => return Err("token and claims exclude each other: keep one".into()),
        (Some(token), None) => Some(token.expose().clone()),
        (None, Some(claims)) => Some((means.sign)(claims)?),
        (None, None) => None,
    };
    if let Some(token) = token {
        let bearer = HeaderValue::try_from(format!("Bearer {token}"));
        let bearer = bearer.map_err(|_| "the token has characters that none has".to_owned())?;
        question.headers.insert(AUTHORIZATION, bearer);
    }
    Ok(question)
}

fn compare(expected: &Expected, outcome: &Outcome) -> Vec<Difference> {
    let number = |status: Option<u16>| status.map(|status| status.to_string());
    let names = outcome.clusters.iter().map(|one| one.cluster.as_deref().unwrap_or("unknown"));
    let clusters = Some(names.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty());
    let listed = expected.clusters.as_ref().map(|names| names.join(", "));
    let action = Some(outcome.action.to_owned());
    let pairs = [
        ("action", expected.action.clone(), action),
        ("status", number(expected.status), number(outcome.status)),
        ("grpcStatus", number(expected.grpc_status), number(outcome.grpc_status)),
        ("reason", expected.reason.clone(), outcome.reason.map(str::to_owned)),
        ("server", expected.server.clone(), outcome.server.clone()),
        ("host", expected.host.clone(), outcome.host.clone()),
        ("route", expected.route.clone(), outcome.rule.clone()),
        ("location", expected.location.clone(), outcome.location.clone()),
        ("clusters", listed, clusters),
        ("path", expected.path.clone(), outcome.path.clone()),
        ("authority", expected.authority.clone(), outcome.authority.clone()),
        ("principal", expected.principal.clone(), outcome.principal.clone()),
        ("policy", expected.policy.clone(), outcome.policy.clone()),
    ];
    let differs = pairs.into_iter().filter_map(|(field, expected, actual)| {
        let expected = expected.filter(|expected| Some(expected) != actual.as_ref())?;
        Some(Difference { field, expected, actual })
    });
    differs.collect()
}

#[cfg(test)]
mod tests;
