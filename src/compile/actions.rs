//! What a rule does, from what is written.

use std::num::NonZeroU16;

use bytes::Bytes;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::AsciiSet;

use crate::base::header::is_framing;
use crate::base::host::without_port;
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::{self as vs, DerivePort};
use crate::route::headers::{HeaderOps, Side, Site, Template};
use crate::route::rewrite::{
    InvalidRewrite, LOCATION, PathRewrite, Redirect, RedirectPort, TARGET,
};
use crate::route::weight::Weighted;
use crate::snapshot::route::{Action, Destination, DirectResponse, Forward};

use super::clusters::Written;
use super::routes::{Broken, Find, Rule};

/// A match of a rule, as its action sees it; the whole rule where it has none.
#[derive(Clone, Copy)]
pub(super) struct One<'a> {
    /// The path it is for.
    pub(super) uri: Option<&'a StringMatch>,
    /// The name of its route.
    pub(super) name: &'a str,
}

impl<'a> One<'a> {
    fn site(self, side: Side) -> Site<'a> {
        Site { route: self.name, side }
    }
}

impl Rule<'_> {
    /// The action of the rule for a match; one that cannot be used leads nowhere.
    pub(super) fn action(&mut self, one: One<'_>, find: &mut Find<'_>) -> Action {
        self.written_action(one, find).unwrap_or_else(|Broken| Action::Forward(Forward::nowhere()))
    }

    fn written_action(&mut self, one: One<'_>, find: &mut Find<'_>) -> Result<Action, Broken> {
        let rule = self.written;
        if rule.delegate.is_some() {
            return Ok(Action::Forward(Forward::nowhere()));
        }
        if let Some(redirect) = &rule.redirect {
            let site = one.site(Side::Response);
            let operations = self.operations("", rule.headers.as_deref(), site)?;
            return Ok(Action::Redirect(self.redirect(redirect, one.uri)?, operations));
        }
        if let Some(direct) = &rule.direct_response {
            let status = u16::try_from(direct.status).ok();
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            let status =
                status.ok_or_else(|| self.broken(".directResponse.status", "not a status"))?;
            let body = direct.body.as_ref().map_or_else(Bytes::new, |body| {
                match (&body.string, &body.bytes) {
                    (Some(text), _) => Bytes::from(text.clone()),
                    (None, Some(bytes)) => Bytes::from(bytes.0.clone()),
                    (None, None) => Bytes::new(),
                }
            });
            let site = one.site(Side::Response);
            let response_headers = self.operations("", rule.headers.as_deref(), site)?;
            return Ok(Action::Respond(DirectResponse { status, body, response_headers }));
        }
        self.forward(one, find).map(Action::Forward)
    }

    fn redirect(
        &mut self,
        redirect: &vs::HttpRedirect,
        uri: Option<&StringMatch>,
    ) -> Result<Redirect, Broken> {
        let status = match redirect.redirect_code {
            0 | 301 => StatusCode::MOVED_PERMANENTLY,
            302 => StatusCode::FOUND,
            303 => StatusCode::SEE_OTHER,
            307 => StatusCode::TEMPORARY_REDIRECT,
            308 => StatusCode::PERMANENT_REDIRECT,
            other => {
                let message = format!("{other} is no redirect; use 301, 302, 303, 307 or 308");
                return Err(self.broken(".redirect.redirectCode", message));
            }
        };
        let path = if redirect.prefix_rewrite.is_empty() {
            (!redirect.uri.is_empty()).then(|| PathRewrite::full(&redirect.uri, LOCATION))
        } else {
            Some(prefix(uri, &redirect.prefix_rewrite, LOCATION))
        };
        let port = match (redirect.port.filter(|port| *port != 0), redirect.derive_port) {
            (Some(port), _) => RedirectPort::Number(
                u16::try_from(port)
                    .map_err(|_| self.broken(".redirect.port", format!("{port} is no port")))?,
            ),
            (None, Some(DerivePort::FromRequestPort)) => RedirectPort::Number(self.scope.port),
            (None, Some(DerivePort::FromProtocolDefault)) => RedirectPort::Default,
            (None, None) => RedirectPort::FromAuthority,
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        let (authority, scheme) = (some(&redirect.authority), some(&redirect.scheme));
        Ok(Redirect { status, path, authority, scheme, port })
    }

    fn forward(&mut self, one: One<'_>, find: &mut Find<'_>) -> Result<Forward, Broken> {
        let rule = self.written;
        let path = match &rule.rewrite {
            None => None,
            Some(rewrite) => self.rewrite(rewrite, one.uri)?,
        };
        let (asks, answers) = (one.site(Side::Request), one.site(Side::Response));
        let rewritten = rule.rewrite.as_ref().map_or("", |rewrite| rewrite.authority.as_str());
        let own_request = self.operations("", rule.headers.as_deref(), asks)?;
        let own_response = self.operations("", rule.headers.as_deref(), answers)?;
        let own_host = self.host("", rule.headers.as_deref())?;
        let authority = self.authority(".rewrite.authority", rewritten)?;
        let single = rule.route.len() == 1;
        let mut destinations = Vec::new();
        for (index, route) in rule.route.iter().enumerate() {
            let field = format!(".route[{index}]");
            let headers = route.headers.as_deref();
            let to = self.operations(&field, headers, asks)?;
            let back = self.operations(&field, headers, answers)?;
            let host = self.host(&field, headers)?;
            let Some(destination) = &route.destination else {
                return Err(self.broken(&field, "a destination is missing"));
            };
            let place = format!("{}{field}.destination", self.field);
            let cluster = find(&self.destination((destination, &place), "requests get 503"));
            let weight = u32::try_from(route.weight).unwrap_or(0);
            destinations.push((
                weight,
                Destination {
                    cluster,
                    authority: host,
                    request_headers: steps(&own_request, to, single),
                    response_headers: steps(&own_response, back, single),
                },
            ));
        }
        let destinations = Weighted::new(destinations)
            .ok_or_else(|| self.broken(".route", "no destination has a weight above 0"))?;
        let timeout = rule.timeout.map(|time| time.0);
        Ok(Forward {
            destinations,
            path,
            authority: authority.or(own_host),
            timeout,
            retry: self.retry(),
            fault: self.fault(),
            cors: self.cors()?,
            mirrors: self.mirrors(find),
        })
    }

    /// A destination at a place, and what comes of it while it names nobody.
    pub(super) fn destination<'r>(
        &'r self,
        (destination, field): (&'r vs::Destination, &'r str),
        effect: &'static str,
    ) -> Written<'r> {
        Written { resource: self.resource, destination, field, listener: self.scope.port, effect }
    }

    fn rewrite(
        &mut self,
        rewrite: &vs::HttpRewrite,
        uri: Option<&StringMatch>,
    ) -> Result<Option<PathRewrite>, Broken> {
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            let compiled = PathRewrite::regex(&regex.r#match, &regex.rewrite);
            return compiled.map(Some).map_err(|error| {
                let part =
                    if matches!(error, InvalidRewrite::Regex(_)) { "match" } else { "rewrite" };
                self.broken(&format!(".rewrite.uriRegexRewrite.{part}"), error.to_string())
            });
        }
        if rewrite.uri.is_empty() {
            return Ok(None);
        }
        Ok(Some(match uri {
            Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => {
                PathRewrite::full(&rewrite.uri, TARGET)
            }
            _ => prefix(uri, &rewrite.uri, TARGET),
        }))
    }

    fn operations(
        &mut self,
        of: &str,
        headers: Option<&vs::Headers>,
        site: Site<'_>,
    ) -> Result<HeaderOps, Broken> {
        let (written, whose) = match site.side {
            Side::Request => (request(headers), "request"),
            Side::Response => (response(headers), "response"),
        };
        let Some(written) = written else { return Ok(HeaderOps::default()) };
        let field = &format!("{of}.headers.{whose}");
        let mut out = HeaderOps::default();
        for (index, name) in written.remove.iter().enumerate() {
            out.remove.extend(self.changeable(&format!("{field}.remove[{index}]"), name)?);
        }
        let lists = [("set", &written.set, &mut out.set), ("add", &written.add, &mut out.add)];
        for (list, written, target) in lists {
            for (name, value) in written {
                let field = format!("{field}.{list}.{name}");
                let Some(name) = self.changeable(&field, name)? else { continue };
                let value = Template::parse(value, site)
                    .map_err(|error| self.broken(&field, error.to_string()))?;
                target.push((name, value));
            }
        }
        Ok(out)
    }

    /// The host that operations on a request set, as it is written.
    fn host(
        &mut self,
        of: &str,
        headers: Option<&vs::Headers>,
    ) -> Result<Option<HeaderValue>, Broken> {
        let written = request(headers);
        let all = written.into_iter().flat_map(|written| written.set.iter().chain(&written.add));
        let host =
            all.into_iter().find(|(name, _)| HOST.as_str().eq_ignore_ascii_case(plain(name)));
        let Some((name, value)) = host else { return Ok(None) };
        let list = if written.is_some_and(|written| written.set.contains_key(name)) {
            "set"
        } else {
            "add"
        };
        self.authority(&format!("{of}.headers.request.{list}.{name}"), value)
    }

    /// An authority as it is written, like Istio's: variables have no value here.
    fn authority(&mut self, field: &str, text: &str) -> Result<Option<HeaderValue>, Broken> {
        if text.is_empty() {
            return Ok(None);
        }
        let named = Authority::try_from(text).is_ok() && !text.contains('@');
        let port = text.get(without_port(text).len()..).unwrap_or_default();
        let port = port.strip_prefix(':').map(str::parse::<NonZeroU16>);
        let good = named && !matches!(port, Some(Err(_)));
        let value = good.then(|| HeaderValue::from_str(text).ok()).flatten();
        let message = || {
            format!("\"{text}\" is not a host, with a port or without; variables do not work here")
        };
        value.map(Some).ok_or_else(|| self.broken(field, message()))
    }

    /// The header that an operation names; nothing where it is left out, or is the host.
    fn changeable(&mut self, field: &str, name: &str) -> Result<Option<HeaderName>, Broken> {
        let read = HeaderName::from_bytes(plain(name).as_bytes())
            .map_err(|_| self.broken(field, format!("\"{name}\" is not a header name")))?;
        Ok(Some(read).filter(|name| *name != HOST && !is_framing(name)))
    }
}

/// A header's name, that of the pseudo-header for the host among them.
fn plain(name: &str) -> &str {
    if name.eq_ignore_ascii_case(":authority") { "host" } else { name }
}

fn prefix(uri: Option<&StringMatch>, replacement: &str, encoded: &'static AsciiSet) -> PathRewrite {
    let matched = match uri {
        Some(StringMatch::Prefix(text)) => text.len(),
        _ => 1,
    };
    PathRewrite::prefix(matched, replacement, encoded)
}

fn request(headers: Option<&vs::Headers>) -> Option<&vs::HeaderOperations> {
    headers.and_then(|headers| headers.request.as_ref())
}

fn response(headers: Option<&vs::Headers>) -> Option<&vs::HeaderOperations> {
    headers.and_then(|headers| headers.response.as_ref())
}

/// With one destination both levels are one step and the destination's wins; with several, the
/// destination's step comes first and the rule's wins.
fn steps(rule: &HeaderOps, destination: HeaderOps, single: bool) -> Vec<HeaderOps> {
    let mut out = if single {
        let mut merged = rule.clone();
        merged.extend(&destination);
        vec![merged]
    } else {
        vec![destination, rule.clone()]
    };
    out.retain(|step| !step.is_empty());
    out
}
