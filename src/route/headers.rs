//! Header operations with Envoy's `%…%` variables (`VirtualService.spec.http[].headers`).
//!
//! One step removes, then sets, then adds; every value is worked out from the headers as received.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::time_format::InvalidTimeFormat;
use super::variable::{Variable, command};

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
    /// A variable of answers in a request.
    #[error("variable \"%{0}%\" has no value in a request: it can stand in headers.response alone")]
    NoAnswerYet(String),
    /// A time that cannot be written so.
    #[error("variable \"%{0}%\": {1}")]
    Time(String, InvalidTimeFormat),
}

/// Where a template stands.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The rule's name, as the access log has it; empty for none.
    pub route: &'a str,
    /// Whose headers they are.
    pub side: Side,
}

/// Whose headers a template is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A request's.
    Request,
    /// An answer's.
    Response,
}

/// Gives variables their values.
pub trait Values {
    /// The value of a variable; nothing when it has none.
    fn value(&self, variable: &Variable) -> Option<Cow<'_, str>>;
}

impl Template {
    /// Compiles a value as written in YAML.
    pub fn parse(text: &str, site: Site<'_>) -> Result<Self, InvalidTemplate> {
        let bad = || InvalidTemplate::BadValue(text.to_owned());
        HeaderValue::from_bytes(text.as_bytes()).map_err(|_| bad())?;
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let (name, tail) =
                command(after).ok_or_else(|| InvalidTemplate::Unterminated(text.to_owned()))?;
            rest = tail;
            match name {
                "" => literal.push('%'),
                // Known before any request.
                "ROUTE_NAME" => literal.push_str(site.route),
                name => {
                    let variable = Variable::parse(name, site.side)?;
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal).into()));
                    }
                    parts.push(Part::Variable(variable));
                }
            }
        }
        literal.push_str(rest);
        if parts.is_empty() {
            return HeaderValue::try_from(literal).map(Self::Literal).map_err(|_| bad());
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
                            out.push_str(values.value(variable).as_deref().unwrap_or_default());
                        }
                    }
                }
                HeaderValue::try_from(out).ok().filter(|value| !value.is_empty())
            }
        }
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
                None if place < self.set.len() && matches!(template, Template::Parts(_)) => {
                    headers.remove(name);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::variable::RequestPart;
    use super::*;

    struct Client;

    const ANSWER: Site<'_> = Site { route: "shop", side: Side::Response };

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
                .map(|(n, v)| (n.parse().unwrap(), Template::parse(v, ANSWER).unwrap()))
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
    fn the_rules_name_is_filled_in_before_any_request() {
        let check = |text: &str, route: &str, expected: &str| {
            let parsed = Template::parse(text, Site { route, side: Side::Request });
            assert_eq!(parsed, Ok(Template::Literal(expected.parse().unwrap())), "{text}");
        };
        check("%ROUTE_NAME%", "a.b", "a.b");
        check("of %ROUTE_NAME% 100%%", "", "of  100%");
        let parsed = Template::parse("%ROUTE_NAME%", Site { route: "a\nb", side: Side::Request });
        assert!(matches!(parsed, Err(InvalidTemplate::BadValue(_))));
    }

    #[test]
    fn a_variable_without_a_value_is_empty() {
        check(
            &ops(&[], &[("x-a", "%REQ(x-none)%")], &[("x-b", "%REQ(x-none)%")]),
            &[("x-old", "seen")],
        );
        check(
            &ops(&[], &[("x-a", "a%REQ(x-none)%z")], &[("x-b", "%REQ(x-old)%")]),
            &[("x-old", "seen"), ("x-a", "az"), ("x-b", "seen")],
        );
    }

    #[test]
    fn what_a_client_wrote_does_not_pass_for_a_value_that_is_set_and_missing() {
        check(&ops(&[], &[("x-old", "%REQUESTED_SERVER_NAME%")], &[]), &[]);
        check(&ops(&[], &[], &[("x-old", "%REQUESTED_SERVER_NAME%")]), &[("x-old", "seen")]);
    }

    #[test]
    fn bad_templates_are_refused() {
        let parse = |text: &str| Template::parse(text, ANSWER);
        assert!(matches!(parse("50%"), Err(InvalidTemplate::Unterminated(_))));
        assert!(matches!(parse("%START_TIME(%Y)"), Err(InvalidTemplate::UnknownVariable(_))));
        assert!(matches!(parse("a\nb"), Err(InvalidTemplate::BadValue(_))));
        for bad in [
            "NOPE",
            "ROUTE_NAME()",
            "RESPONSE_CODE():1",
            "REQ(a",
            "START_TIME(%s",
            "START_TIME(%s):3",
        ] {
            let parsed = parse(&format!("%{bad}%"));
            assert!(matches!(parsed, Err(InvalidTemplate::UnknownVariable(_))), "{bad}");
        }
        assert!(matches!(parse("%START_TIME(%Q)%"), Err(InvalidTemplate::Time(..))));
        let request = Site { side: Side::Request, ..ANSWER };
        let parsed = Template::parse("%RESPONSE_CODE%", request);
        assert!(matches!(parsed, Err(InvalidTemplate::NoAnswerYet(_))));
    }
}
