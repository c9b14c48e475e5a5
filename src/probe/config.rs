//! Probes as Istio's injection writes them (`ISTIO_KUBE_APP_PROBERS`): a JSON object from path to
//! Kubernetes' probe.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;
use serde::Deserialize;

use super::{Probe, Probes, Question};
use crate::base::limit;

/// Probes that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProbes {
    /// It is no such JSON.
    #[error("{0}; write the probes as ISTIO_KUBE_APP_PROBERS has them, for example {EXAMPLE}")]
    Json(String),
    /// The path is none of a probe.
    #[error(
        "\"{0}\" is no path of a probe; write /app-health/CONTAINER/livez, readyz or startupz, or /app-lifecycle/CONTAINER/prestopz or poststartz"
    )]
    Path(String),
    /// Nothing or several things are asked.
    #[error("{0} needs exactly one of httpGet, tcpSocket and grpc")]
    Kind(String),
    /// What to get is no path.
    #[error("{0}: httpGet.path \"{1}\" is no path")]
    Target(String, String),
}

const EXAMPLE: &str = r#"{"/app-health/cart/livez":{"httpGet":{"path":"/healthz","port":8080}}}"#;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: u32,
}

#[derive(Deserialize)]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: NonZeroU16,
    #[serde(default)]
    scheme: Scheme,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    #[serde(alias = "")]
    Http,
    Https,
}

#[derive(Deserialize)]
struct TcpSocket {
    port: NonZeroU16,
}

#[derive(Deserialize)]
struct Grpc {
    port: NonZeroU16,
    service: Option<String>,
}

impl FromStr for Probes {
    type Err = InvalidProbes;

    fn from_str(text: &str) -> Result<Self, InvalidProbes> {
        let written: BTreeMap<String, Written> =
            serde_json::from_str(text).map_err(|error| InvalidProbes::Json(error.to_string()))?;
        let read = |(path, written): (String, Written)| {
            let probe = probe(&path, written)?;
            Ok((path, probe))
        };
        written.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

fn probe(path: &str, written: Written) -> Result<Probe, InvalidProbes> {
    if !is_of_a_probe(path) {
        return Err(InvalidProbes::Path(path.to_owned()));
    }
    let (question, port) = match (written.http_get, written.tcp_socket, written.grpc) {
        (Some(get), None, None) => {
            let slash = if get.path.starts_with('/') { "" } else { "/" };
            let target = PathAndQuery::try_from(format!("{slash}{}", get.path))
                .map_err(|_| InvalidProbes::Target(path.to_owned(), get.path))?;
            (Question::Http { tls: get.scheme == Scheme::Https, path: target }, get.port)
        }
        (None, Some(socket), None) => (Question::Tcp, socket.port),
        (None, None, Some(grpc)) => {
            (Question::Grpc { service: grpc.service.unwrap_or_default() }, grpc.port)
        }
        _ => return Err(InvalidProbes::Kind(path.to_owned())),
    };
    // Kubernetes' default where none is written.
    let time = Duration::from_secs(u64::from(written.timeout_seconds.max(1)));
    Ok(Probe { question, port: port.get(), time: time.min(limit::PROBE_TIME) })
}

fn is_of_a_probe(path: &str) -> bool {
    let mut parts = path.split('/');
    let mut next = || parts.next().unwrap_or_default();
    let (root, kind, container, what) = (next(), next(), next(), next());
    root.is_empty()
        && matches!(kind, "app-health" | "app-lifecycle")
        && !container.is_empty()
        && matches!(what, "livez" | "readyz" | "startupz" | "prestopz" | "poststartz")
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(probe: &str) -> Result<Probe, InvalidProbes> {
        let probes: Probes = format!(r#"{{"/app-health/cart/livez":{probe}}}"#).parse()?;
        Ok(probes.0.into_values().next().unwrap())
    }

    fn check(probe: &str, question: Question, port: u16, seconds: u64) {
        let time = Duration::from_secs(seconds);
        assert_eq!(one(probe), Ok(Probe { question, port, time }), "{probe}");
    }

    fn http(path: &'static str, tls: bool) -> Question {
        Question::Http { tls, path: PathAndQuery::from_static(path) }
    }

    #[test]
    fn kubernetes_probes_are_read() {
        check(r#"{"httpGet":{"path":"/h?a=b","port":8080}}"#, http("/h?a=b", false), 8080, 1);
        check(r#"{"httpGet":{"path":"h","port":1,"scheme":"HTTPS"}}"#, http("/h", true), 1, 1);
        check(r#"{"httpGet":{"port":1,"host":"","httpHeaders":[]}}"#, http("/", false), 1, 1);
        check(r#"{"tcpSocket":{"port":5},"timeoutSeconds":7}"#, Question::Tcp, 5, 7);
        let grpc = |service: &str| Question::Grpc { service: service.to_owned() };
        check(r#"{"grpc":{"port":9,"service":null}}"#, grpc(""), 9, 1);
        check(r#"{"grpc":{"port":9,"service":"a"},"timeoutSeconds":999}"#, grpc("a"), 9, 25);
        assert_eq!("{}".parse(), Ok(Probes::default()));
    }

    #[test]
    fn what_is_no_probe_is_refused() {
        for wrong in [
            "{}",
            r#"{"tcpSocket":{"port":1},"grpc":{"port":1}}"#,
            r#"{"tcpSocket":{"port":0}}"#,
            r#"{"tcpSocket":{"port":65536}}"#,
            r#"{"tcpSocket":{"port":"http"}}"#,
            r#"{"httpGet":{"path":"/a b","port":1}}"#,
            r#"{"httpGet":{"port":1,"scheme":"GOPHER"}}"#,
            "1",
        ] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
        for path in ["", "/", "/app-health/livez", "/app-health//livez", "/app-health/a/health"] {
            let told = format!(r#"{{"{path}":{{"tcpSocket":{{"port":1}}}}}}"#).parse::<Probes>();
            assert_eq!(told, Err(InvalidProbes::Path(path.to_owned())));
        }
        for path in ["/app-health/a/livez/", "x/app-health/a/livez", "/other/a/livez"] {
            let told = format!(r#"{{"{path}":{{"tcpSocket":{{"port":1}}}}}}"#).parse::<Probes>();
            assert!(told.is_err(), "{path}");
        }
    }
}
