//! A file of tests, `NAME.test.yaml`, as written.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::base::claim::Claims;
use crate::base::secret::Secret;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TestFile {
    /// Each by itself.
    pub tests: Vec<Test>,
}

/// One request and what shall become of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Test {
    /// What it is called in the report.
    pub name: String,
    /// The request.
    pub request: Request,
    /// What shall become of it.
    pub expect: Expected,
}

/// A request that nobody sends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// `https://host/path`, `http://host/path`, `tls://name:port` or `tcp://host:port`.
    pub url: String,
    /// GET when absent.
    pub method: Option<String>,
    /// `:protocol` of an extended CONNECT, such as `websocket` (RFC 8441); the method is CONNECT then.
    pub protocol: Option<String>,
    /// Headers by name.
    pub headers: BTreeMap<String, String>,
    /// Name in the ClientHello, the URL's host when absent; empty for none.
    pub sni: Option<String>,
    /// A token, sent as `authorization: Bearer`.
    #[serde(deserialize_with = "secret")]
    pub token: Option<Secret<String>>,
    /// Claims of a token that is signed for the test, by a key that every fetched key set holds.
    pub claims: Option<Claims>,
    /// The client's certificate with its intermediates: a PEM file, from the test's folder.
    pub client_cert: Option<String>,
    /// The client's address, 127.0.0.1 when absent.
    pub source_ip: Option<String>,
}

/// What shall become of a request; what is absent may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Expected {
    /// `forward`, `redirect`, `respond`, `reject`, `stream` or `close`.
    pub action: Option<String>,
    /// Status of an answer that the gateway makes itself; 200 to clients that speak gRPC.
    pub status: Option<u16>,
    /// Its `grpc-status`, for such a client.
    pub grpc_status: Option<u16>,
    /// Reason code of a refusal, as in the access log.
    pub reason: Option<String>,
    /// The server block, as `explain` names it; `http/PORT` for plaintext.
    pub server: Option<String>,
    /// The virtual host's pattern.
    pub host: Option<String>,
    /// Name of the rule, with its match's behind a dot where that has one.
    pub route: Option<String>,
    /// `location` of a redirect.
    pub location: Option<String>,
    /// Every destination's cluster, in order: `outbound|PORT|SUBSET|HOST`.
    pub clusters: Option<Vec<String>>,
    /// Path and query that the backend sees.
    pub path: Option<String>,
    /// `host` that the backend sees.
    pub authority: Option<String>,
    /// The verified token's `ISSUER/SUBJECT`.
    pub principal: Option<String>,
    /// The policy that allowed or refused: `AuthorizationPolicy NAMESPACE/NAME`.
    pub policy: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}
