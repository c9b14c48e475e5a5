//! What can stand between the percent signs of a header's value, as Envoy's access log has it.

use http::header::HeaderName;

use super::headers::{InvalidTemplate, Side};
use super::time_format::TimeFormat;

/// What can stand between percent signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `DOWNSTREAM_REMOTE_ADDRESS`: the client's address and port.
    RemoteAddress,
    /// `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`.
    RemoteIp,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`: the peer's, whoever it speaks for.
    PeerAddress,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT`.
    PeerIp,
    /// `DOWNSTREAM_LOCAL_ADDRESS`.
    LocalAddress,
    /// `DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT`.
    LocalIp,
    /// `DOWNSTREAM_LOCAL_PORT`.
    LocalPort,
    /// `REQUESTED_SERVER_NAME`: the SNI.
    ServerName,
    /// `PROTOCOL`: `HTTP/1.1` or `HTTP/2`.
    Protocol,
    /// `START_TIME`, or `START_TIME(%s.%3f)`: when the request came.
    StartTime(TimeFormat),
    /// `RESPONSE_CODE`: the answer's status.
    ResponseCode,
    /// `DOWNSTREAM_PEER_URI_SAN`.
    PeerUriSan,
    /// `DOWNSTREAM_PEER_SUBJECT`.
    PeerSubject,
    /// `DOWNSTREAM_PEER_CERT`: its PEM, percent-encoded.
    PeerCertificate,
    /// `DOWNSTREAM_PEER_FINGERPRINT_256`: SHA-256 of its DER, in hexadecimal.
    PeerFingerprint,
    /// `DOWNSTREAM_TLS_VERSION`: `TLSv1.2` or `TLSv1.3`.
    TlsVersion,
    /// `UPSTREAM_HOST`.
    UpstreamHost,
    /// `REQ(name?other):20`: a part of the request as received, or another where it has none; so many
    /// bytes of it.
    Request {
        /// What is looked for first.
        part: RequestPart,
        /// What is taken without it.
        other: Option<RequestPart>,
        /// Bytes at most.
        most: Option<usize>,
    },
}

/// What `REQ(…)` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestPart {
    /// A header.
    Header(HeaderName),
    /// `:method`, `:path`, `:authority` or `:scheme`.
    Pseudo(&'static str),
}

impl RequestPart {
    fn parse(name: &str) -> Option<Self> {
        match [":method", ":path", ":authority", ":scheme"].into_iter().find(|own| *own == name) {
            Some(pseudo) => Some(Self::Pseudo(pseudo)),
            None => HeaderName::from_bytes(name.as_bytes()).ok().map(Self::Header),
        }
    }
}

/// A variable's text, without its percent signs, and what follows it; what stands in brackets may have
/// percent signs of its own.
pub(super) fn command(text: &str) -> Option<(&str, &str)> {
    let name = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let bracket = name.filter(|at| text.get(*at..).is_some_and(|rest| rest.starts_with('(')));
    let in_brackets = bracket.and_then(|from| {
        let mut ends = text.match_indices(')').map(|(at, _)| at + 1).filter(|at| *at > from);
        ends.find_map(|at| {
            let rest = text.get(at..)?;
            let most = rest.strip_prefix(':').unwrap_or(rest);
            let tail = most.trim_start_matches(|c: char| c.is_ascii_digit());
            let closed =
                tail.starts_with('%') && (rest.starts_with(':') || rest.len() == tail.len());
            closed.then(|| text.split_at(text.len() - tail.len()))
        })
    });
    match in_brackets {
        Some((command, tail)) => Some((command, tail.strip_prefix('%')?)),
        None => text.split_once('%'),
    }
}

impl Variable {
    pub(super) fn parse(name: &str, side: Side) -> Result<Self, InvalidTemplate> {
        let unknown = || InvalidTemplate::UnknownVariable(name.to_owned());
        if let Some(request) = name.strip_prefix("REQ(") {
            return Self::of_request(request).ok_or_else(unknown);
        }
        if let Some(format) = name.strip_prefix("START_TIME(") {
            return Self::of_time(name, format.strip_suffix(')').ok_or_else(unknown)?);
        }
        Ok(match name {
            "DOWNSTREAM_REMOTE_ADDRESS" => Self::RemoteAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::RemoteIp,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::PeerAddress,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::PeerIp,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::LocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::LocalIp,
            "DOWNSTREAM_LOCAL_PORT" => Self::LocalPort,
            "REQUESTED_SERVER_NAME" => Self::ServerName,
            "PROTOCOL" => Self::Protocol,
            "START_TIME" => return Self::of_time(name, TimeFormat::STANDARD),
            "RESPONSE_CODE" if side == Side::Request => {
                return Err(InvalidTemplate::NoAnswerYet(name.to_owned()));
            }
            "RESPONSE_CODE" => Self::ResponseCode,
            "DOWNSTREAM_PEER_URI_SAN" => Self::PeerUriSan,
            "DOWNSTREAM_PEER_SUBJECT" => Self::PeerSubject,
            "DOWNSTREAM_PEER_CERT" => Self::PeerCertificate,
            "DOWNSTREAM_PEER_FINGERPRINT_256" => Self::PeerFingerprint,
            "DOWNSTREAM_TLS_VERSION" => Self::TlsVersion,
            "UPSTREAM_HOST" => Self::UpstreamHost,
            _ => return Err(unknown()),
        })
    }

    fn of_time(name: &str, format: &str) -> Result<Self, InvalidTemplate> {
        let invalid = |error| InvalidTemplate::Time(name.to_owned(), error);
        TimeFormat::parse(format).map(Self::StartTime).map_err(invalid)
    }

    /// What follows `REQ(`.
    fn of_request(text: &str) -> Option<Self> {
        let (names, most) = text.rsplit_once(')')?;
        let most = match most.strip_prefix(':') {
            Some(number) => Some(number.parse().ok()?),
            None if most.is_empty() => None,
            None => return None,
        };
        let (part, other) = match names.split_once('?') {
            Some((part, other)) => (part, Some(RequestPart::parse(other)?)),
            None => (names, None),
        };
        Some(Self::Request { part: RequestPart::parse(part)?, other, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_ends_where_its_brackets_do() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            assert_eq!(command(text), expected, "{text}");
        };
        check("PROTOCOL% and %", Some(("PROTOCOL", " and %")));
        check("%b", Some(("", "b")));
        check("START_TIME(%Y-%m)%b", Some(("START_TIME(%Y-%m)", "b")));
        check("REQ(a):20%%REQ(b)%", Some(("REQ(a):20", "%REQ(b)%")));
        check("START_TIME(a)b)%", Some(("START_TIME(a)b)", "")));
        check("REQ(a%b", Some(("REQ(a", "b")));
        check("REQ(a)20%b", Some(("REQ(a)20", "b")));
        check("PROTOCOL", None);
        check("REQ(ä", None);
    }

    #[test]
    fn parts_of_requests_are_named_whole() {
        for bad in
            ["bad name)", "a?)", "?b)", ":status)", "a?b?c)", "a", "a)x", "a):", "a):-1", "a):x"]
        {
            let parsed = Variable::parse(&format!("REQ({bad}"), Side::Request);
            assert!(matches!(parsed, Err(InvalidTemplate::UnknownVariable(_))), "{bad}");
        }
    }
}
