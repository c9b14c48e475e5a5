//! What would happen to one request, and why: the data path's own decisions, told step by step.
//!
//! [`explain`] asks [`crate::decide`] the questions that a worker asks of a connection and a request,
//! and writes down the answers with the resource that gave each.
//!
//! **Invariant:** no traffic, no clock; what decides is never decided here a second time.

mod backend;
mod connection;
mod head;
mod policy;
mod query;
mod request;
mod text;
mod token;

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, Method, Uri};
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use crate::base::host::without_port;
use crate::base::id::Origin;
use crate::snapshot::Snapshot;

pub use query::{address, header};
pub use text::text;

/// A request that nobody sends.
#[derive(Clone, Debug)]
pub struct Question {
    /// `https`, `http`, or `tls` and `tcp` for a connection alone; with a host, and a port where it
    /// is not the scheme's.
    pub url: Uri,
    /// Its method.
    pub method: Method,
    /// `:protocol` of an extended CONNECT; empty for none.
    pub protocol: String,
    /// Its headers, apart from `host`.
    pub headers: HeaderMap,
    /// Name in the ClientHello, in lower case; empty for none.
    pub server_name: String,
    /// The client's certificate and its intermediates; empty for none.
    pub client_chain: Vec<CertificateDer<'static>>,
    /// The client's address.
    pub source: IpAddr,
    /// Unix time in seconds.
    pub now: i64,
    /// Which keys stand for those that are fetched.
    pub fetched: FetchedKeys,
}

/// Keys that stand for those that a running gateway fetches (`jwksUri`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchedKeys {
    /// Those that it has.
    Live,
    /// Those that it kept on disk.
    Kept,
    /// None.
    Absent,
}

impl Question {
    /// A GET of a URL by a client on this machine, which sends the URL's host as its name.
    pub fn get(url: Uri, now: i64) -> Self {
        let host = url.authority().map_or("", |authority| without_port(authority.as_str()));
        let named = host.parse::<IpAddr>().is_err() && !host.starts_with('[');
        let server_name = if named { host.to_ascii_lowercase() } else { String::new() };
        Self {
            url,
            method: Method::GET,
            protocol: String::new(),
            headers: HeaderMap::new(),
            server_name,
            client_chain: Vec::new(),
            source: Ipv4Addr::LOCALHOST.into(),
            now,
            fetched: FetchedKeys::Live,
        }
    }
}

impl Question {
    /// Makes it an extended CONNECT (RFC 8441).
    pub fn ask_for(&mut self, protocol: &str) {
        self.method = Method::CONNECT;
        protocol.clone_into(&mut self.protocol);
    }
}

/// A question that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuestion {
    /// Not a URL of these kinds.
    #[error(
        "\"{0}\" is not a URL here; write https://host/path, http://host/path, tls://name:port or tcp://host:port"
    )]
    Url(String),
    /// A parameter of the admin port that cannot be read.
    #[error(
        "\"{0}\" cannot be read; write url=, method=, protocol=, header=NAME:VALUE, sni=, source-ip=, token= or client-cert=PEM"
    )]
    Parameter(String),
    /// A scheme without a port of its own.
    #[error("\"{0}\" needs a port, as in tls://name:443")]
    Port(String),
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    /// Number of the snapshot that was asked.
    pub generation: u64,
    /// The decisions in the order in which they are made.
    pub steps: Vec<Step>,
    /// What the client and the backend would see.
    pub outcome: Outcome,
}

/// One decision.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What is decided: `listener`, `server`, `certificate`, `host`, `token`, ...
    pub step: &'static str,
    /// The decision.
    pub decision: String,
    /// The resource that decides, with file and line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What was looked at besides, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub considered: Vec<String>,
}

/// How it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// `forward`, `redirect`, `respond`, `reject`, `stream` or `close`.
    pub action: &'static str,
    /// Status of an answer that the gateway makes itself, as it is sent: 200 to clients that speak gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Its `grpc-status`, for such a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Reason code of a refusal, as in the access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Key of the server block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The virtual host's pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Where the route is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The rule's name, as the access log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The verified token's principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The policy that allowed or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `location` of a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Clusters with their weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Share>,
    /// Path and query that the backend sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `host` that the backend sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// A destination's part of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The cluster; nothing when its service is not known.
    pub cluster: Option<String>,
    /// Its weight, of those of all.
    pub weight: u32,
    /// Reason code of what the gateway answers in its place, as far as that is known already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// Answers a question about a snapshot.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Explanation, InvalidQuestion> {
    let asked = connection::Asked::of(&question.url)?;
    let mut tale = Explanation { generation: snapshot.generation.0, ..Explanation::default() };
    connection::tell(&mut tale, snapshot, question, &asked);
    Ok(tale)
}

impl Explanation {
    fn step(&mut self, step: &'static str, decision: impl Into<String>) -> &mut Step {
        let decision = decision.into();
        self.steps.push_mut(Step { step, decision, by: None, considered: Vec::new() })
    }
}

impl Step {
    fn by(&mut self, origin: &Origin) -> &mut Self {
        self.by = Some(place(origin));
        self
    }

    fn considered(&mut self, lines: impl IntoIterator<Item = String>) -> &mut Self {
        self.considered.extend(lines);
        self
    }
}

fn place(origin: &Origin) -> String {
    format!("{} at {}:{}", origin.resource, origin.file, origin.line)
}
