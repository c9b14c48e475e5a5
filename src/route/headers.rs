//! Header operations with Envoy's `%…%` variables (`VirtualService.spec.http[].headers`).
//!
//! One step removes, then sets, then adds; every value is worked out from the headers as received.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// The operations of one step.
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    /// Names to remove.
    pub remove: Vec<HeaderName>,
    /// Lines that replace every line of their name.
    pub set: Vec<(HeaderName, Template)>,
    /// Lines to append.
    pub add: Vec<(HeaderName, Template)>,
}

/// A header value, with variables or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// Always the same value.
    Literal(HeaderValue),
    /// Text and variables in turn.
    Parts(Vec<Part>),
}

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As written.
    Text(Box<str>),
    /// Filled in for each request.
    Variable(Variable),
}

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
    /// `START_TIME`, RFC 3339 with milliseconds.
    StartTime,
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

/// A header value that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// A byte that no header may hold.
    #[error("\"{0}\" holds a character that is not allowed in a header value")]
    BadValue(String),
    /// `%` without its end.
    #[error("\"{0}\" has a \"%\" without its end; write \"%%\" for a percent sign")]
    Unterminated(String),
    /// A variable that this gateway does not know.
    #[error("variable \"%{0}%\" is not known here")]
    UnknownVariable(String),
}

/// Gives variables their values.
pub trait Values {
    /// The value of a variable; nothing when it has none.
    fn value(&self, variable: &Variable) -> Option<Cow<'_, str>>;
}

impl Template {
    /// Compiles a value as written in YAML.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let (name, tail) = after
                .split_once('%')
                .ok_or_else(|| InvalidTemplate::Unterminated(text.to_owned()))?;
            rest = tail;
            if name.is_empty() {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Variable(Variable::parse(name)?));
        }
        literal.push_str(rest);
        let bad = || InvalidTemplate::BadValue(text.to_owned());
        HeaderValue::from_str(text).map_err(|_| bad())?;
        if parts.is_empty() {
            return HeaderValue::from_str(&literal).map(Self::Literal).map_err(|_| bad());
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self::Parts(parts))
    }

    /// The value for one request; nothing when it comes out empty or is no legal header value.
    fn render(&self, values: &impl Values) -> Option<HeaderValue> {
        match self {
            Self::Literal(value) => (!value.is_empty()).then(|| value.clone()),
            Self::Parts(parts) => {
                let mut out = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => out.push_str(text),
                        Part::Variable(variable) => {
                            out.push_str(values.value(variable).as_deref().unwrap_or("-"));
                        }
                    }
                }
                HeaderValue::try_from(out).ok().filter(|value| !value.is_empty())
            }
        }
    }
}

impl Variable {
    fn parse(name: &str) -> Result<Self, InvalidTemplate> {
        let unknown = || InvalidTemplate::UnknownVariable(name.to_owned());
        if let Some(request) = name.strip_prefix("REQ(") {
            return Self::of_request(request).ok_or_else(unknown);
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
            "START_TIME" => Self::StartTime,
            "DOWNSTREAM_PEER_URI_SAN" => Self::PeerUriSan,
            "DOWNSTREAM_PEER_SUBJECT" => Self::PeerSubject,
            "DOWNSTREAM_PEER_CERT" => Self::PeerCertificate,
            "DOWNSTREAM_PEER_FINGERPRINT_256" => Self::PeerFingerprint,
            "DOWNSTREAM_TLS_VERSION" => Self::TlsVersion,
            "UPSTREAM_HOST" => Self::UpstreamHost,
            _ => return Err(unknown()),
        })
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

impl HeaderOps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Appends another step's operations to this one's; on the same `set` name the later wins.
    pub fn extend(&mut self, later: &Self) {
        self.remove.extend(later.remove.iter().cloned());
        self.set.retain(|(name, _)| later.set.iter().all(|(other, _)| other != name));
        self.set.extend(later.set.iter().cloned());
        self.add.extend(later.add.iter().cloned());
    }

    /// Carries the step out.
    pub fn apply(&self, headers: &mut HeaderMap, values: &impl Values) {
        if self.is_empty() {
            return;
        }
        let rendered: SmallVec<[Option<HeaderValue>; 8]> =
            self.set.iter().chain(&self.add).map(|(_, template)| template.render(values)).collect();
        for name in &self.remove {
            headers.remove(name);
        }
        let entries = self.set.iter().chain(&self.add);
        for (place, ((name, template), value)) in entries.zip(rendered).enumerate() {
            match value {
                Some(value) if place < self.set.len() => _ = headers.insert(name, value),
                Some(value) => _ = headers.append(name, value),
                // What a client wrote must not pass for what could not be filled in.
                None if matches!(template, Template::Parts(_)) => _ = headers.remove(name),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client;

    impl Values for Client {
        fn value(&self, variable: &Variable) -> Option<Cow<'_, str>> {
            match variable {
                Variable::RemoteIp => Some("192.0.2.7".into()),
                Variable::Request { part: RequestPart::Header(name), .. } if name == "x-old" => {
                    Some("seen".into())
                }
                _ => None,
            }
        }
    }

    fn ops(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> HeaderOps {
        let pairs = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(n, v)| (n.parse().unwrap(), Template::parse(v).unwrap()))
                .collect::<Vec<_>>()
        };
        HeaderOps {
            remove: remove.iter().map(|n| n.parse().unwrap()).collect(),
            set: pairs(set),
            add: pairs(add),
        }
    }

    fn check(ops: &HeaderOps, expected: &[(&str, &str)]) {
        let mut headers = HeaderMap::new();
        headers.insert("x-old", HeaderValue::from_static("seen"));
        ops.apply(&mut headers, &Client);
        let got: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn remove_comes_before_set_before_add() {
        check(
            &ops(&["x-old"], &[("x-a", "1")], &[("x-a", "2"), ("x-old", "new")]),
            &[("x-a", "1"), ("x-a", "2"), ("x-old", "new")],
        );
    }

    #[test]
    fn variables_see_the_headers_as_received() {
        check(
            &ops(
                &["x-old"],
                &[("x-b", "ip=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %REQ(x-old)% 100%%")],
                &[],
            ),
            &[("x-b", "ip=192.0.2.7 seen 100%")],
        );
    }

    #[test]
    fn empty_values_add_nothing() {
        check(&ops(&[], &[("x-a", "")], &[("x-b", "")]), &[("x-old", "seen")]);
    }

    #[test]
    fn bad_templates_are_refused() {
        assert!(matches!(Template::parse("50%"), Err(InvalidTemplate::Unterminated(_))));
        assert!(matches!(Template::parse("%NOPE%"), Err(InvalidTemplate::UnknownVariable(_))));
        assert!(matches!(Template::parse("a\nb"), Err(InvalidTemplate::BadValue(_))));
        for bad in ["bad name", "a?", "?b", ":status", "a?b?c"] {
            let parsed = Template::parse(&format!("%REQ({bad})%"));
            assert!(matches!(parsed, Err(InvalidTemplate::UnknownVariable(_))), "{bad}");
        }
        for bad in ["REQ(a", "REQ(a)x", "REQ(a):", "REQ(a):-1", "REQ(a):x"] {
            let parsed = Template::parse(&format!("%{bad}%"));
            assert!(matches!(parsed, Err(InvalidTemplate::UnknownVariable(_))), "{bad}");
        }
    }
}
