//! One VirtualService's HTTP rules as routes.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::diag::catalog;
use crate::resources::Resource;
use crate::resources::meta::StringMatch;
use crate::resources::virtual_service::{
    self as vs, DerivePort, HttpMatch, HttpRoute, VirtualService,
};
use crate::route::headers::{HeaderOps, Template};
use crate::route::matcher::{
    HeaderKey, HeaderMatch, QueryMatch, RequestMatch, ValueMatch, search, whole_value,
};
use crate::route::rewrite::{PathRewrite, Redirect, RedirectPort, substitution};
use crate::route::weight::Weighted;
use crate::snapshot::cluster::ClusterId;
use crate::snapshot::route::{Action, Destination, DirectResponse, Forward, Route};

use super::findings::{Findings, at};
use super::names::{reference, selects};
use super::settings::CompileSettings;

/// For whom a VirtualService is compiled.
pub struct Scope<'a> {
    /// Who this gateway is.
    pub settings: &'a CompileSettings,
    /// Namespace and name of the Gateway.
    pub gateway: (&'a str, &'a str),
    /// `servers[].port.number`.
    pub port: u16,
}

/// Finds the cluster of a destination, or tells why there is none.
pub type Find<'f> =
    dyn FnMut(&Resource<VirtualService>, &vs::Destination, &str, u16) -> Option<ClusterId> + 'f;

/// A rule that cannot be served; it is left out.
struct Broken;

/// The routes of every rule that applies in this scope, in order.
pub fn http_routes(
    resource: &Resource<VirtualService>,
    scope: &Scope<'_>,
    find: &mut Find<'_>,
    findings: &mut Findings,
) -> Vec<Arc<Route>> {
    let mut routes = Vec::new();
    for (index, rule) in resource.spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        unsupported(resource, rule, &field, findings);
        let matches = applicable(rule, scope);
        if matches.is_empty() && !rule.r#match.is_empty() {
            continue;
        }
        let mut compiled = Vec::new();
        let mut rule_pass = Rule { resource, written: rule, field: &field, scope, findings };
        if rule_pass.compile(&matches, find, &mut compiled).is_err() {
            continue;
        }
        let all = compiled.iter().any(|route: &Arc<Route>| route.condition.is_catch_all());
        routes.extend(compiled);
        if all && index + 1 < resource.spec.http.len() {
            let field = format!("spec.http[{}]", index + 1);
            let message = "the rule before takes every request";
            let finding = at(resource, field, &catalog::UNREACHABLE_RULE, message);
            findings.add(finding.help("put the rule without a match last"));
            break;
        }
    }
    routes
}

fn applicable<'r>(rule: &'r HttpRoute, scope: &Scope<'_>) -> Vec<(usize, &'r HttpMatch)> {
    let here = |m: &HttpMatch| {
        let gateways_fit = m.gateways.is_empty()
            || m.gateways.iter().any(|name| reference(name, scope.gateway.0) == scope.gateway);
        (m.port == 0 || m.port == u32::from(scope.port))
            && gateways_fit
            && selects(&m.source_labels, &scope.settings.labels)
            && (m.source_namespace.is_empty() || m.source_namespace == scope.settings.namespace)
    };
    rule.r#match.iter().enumerate().filter(|(_, m)| here(m)).collect()
}

fn unsupported(
    resource: &Resource<VirtualService>,
    rule: &HttpRoute,
    field: &str,
    findings: &mut Findings,
) {
    let mut warn = |present: bool, name: &str, instead: &str| {
        if present {
            let diagnostic = at(
                resource,
                format!("{field}.{name}"),
                &catalog::FIELD_NOT_ACTED_ON,
                format!("{name} is not acted on yet"),
            );
            findings.add(diagnostic.help(instead));
        }
    };
    warn(rule.retries.is_some(), "retries", "only connects that failed are tried again, twice");
    warn(rule.fault.is_some(), "fault", "no fault is injected");
    warn(rule.mirror.is_some(), "mirror", "nothing is mirrored");
    warn(!rule.mirrors.is_empty(), "mirrors", "nothing is mirrored");
    warn(rule.cors_policy.is_some(), "corsPolicy", "preflights go to the backend");
}

struct Rule<'a, 'r> {
    resource: &'r Resource<VirtualService>,
    written: &'r HttpRoute,
    field: &'a str,
    scope: &'a Scope<'a>,
    findings: &'a mut Findings,
}

impl Rule<'_, '_> {
    fn broken(&mut self, field: &str, message: impl Into<String>) -> Broken {
        let field = format!("{}{field}", self.field);
        let diagnostic = at(self.resource, field, &catalog::ROUTE_BROKEN, message);
        self.findings.add(diagnostic.help("the rule is left out; the other rules are served"));
        Broken
    }

    fn compile(
        &mut self,
        matches: &[(usize, &HttpMatch)],
        find: &mut Find<'_>,
        out: &mut Vec<Arc<Route>>,
    ) -> Result<(), Broken> {
        if self.written.delegate.is_some() {
            return Err(self.broken(".delegate", "delegates are not acted on yet"));
        }
        if matches.is_empty() {
            let action = self.action(None, find)?;
            out.push(self.route("", RequestMatch::default(), action));
            return Ok(());
        }
        for (index, entry) in matches {
            let condition = self.condition(*index, entry)?;
            let action = self.action(entry.uri.as_ref(), find)?;
            out.push(self.route(&entry.name, condition, action));
        }
        Ok(())
    }

    fn route(&self, match_name: &str, condition: RequestMatch, action: Action) -> Arc<Route> {
        let name = match (self.written.name.as_str(), match_name) {
            (name, "") | ("", name) => name.to_owned(),
            (rule, entry) => format!("{rule}.{entry}"),
        };
        let origin = self.resource.origin(self.field);
        Arc::new(Route { name: name.into(), origin, condition, action })
    }

    fn condition(&mut self, index: usize, entry: &HttpMatch) -> Result<RequestMatch, Broken> {
        let field = format!(".match[{index}]");
        let case = entry.ignore_uri_case;
        Ok(RequestMatch {
            uri: self.value(&format!("{field}.uri"), entry.uri.as_ref(), case)?,
            scheme: self.value(&format!("{field}.scheme"), entry.scheme.as_ref(), false)?,
            method: self.value(&format!("{field}.method"), entry.method.as_ref(), false)?,
            authority: self.value(
                &format!("{field}.authority"),
                entry.authority.as_ref(),
                false,
            )?,
            headers: self.headers(&format!("{field}.headers"), &entry.headers)?,
            without_headers: self
                .headers(&format!("{field}.withoutHeaders"), &entry.without_headers)?,
            query: entry
                .query_params
                .iter()
                .map(|(name, value)| {
                    let value = self.required(&format!("{field}.queryParams.{name}"), value)?;
                    Ok(QueryMatch { name: name.as_str().into(), value })
                })
                .collect::<Result<_, Broken>>()?,
        })
    }

    fn headers(
        &mut self,
        field: &str,
        written: &std::collections::BTreeMap<String, StringMatch>,
    ) -> Result<Vec<HeaderMatch>, Broken> {
        let mut out = Vec::new();
        for (name, value) in written {
            let field = format!("{field}.{name}");
            let key = match name.to_ascii_lowercase().as_str() {
                ":path" => HeaderKey::Path,
                ":method" => HeaderKey::Method,
                ":authority" | "host" => HeaderKey::Authority,
                ":scheme" => HeaderKey::Scheme,
                claim if claim.starts_with("@request.auth") => {
                    return Err(self.broken(&field, "matching on claims is not acted on yet"));
                }
                other => HeaderName::from_bytes(other.as_bytes())
                    .map(HeaderKey::Field)
                    .map_err(|_| self.broken(&field, format!("\"{name}\" is not a header name")))?,
            };
            out.push(HeaderMatch { key, value: self.required(&field, value)? });
        }
        Ok(out)
    }

    fn value(
        &mut self,
        field: &str,
        written: Option<&StringMatch>,
        ignore_case: bool,
    ) -> Result<Option<ValueMatch>, Broken> {
        let Some(written) = written else { return Ok(None) };
        let value = self.required(field, written)?;
        Ok(Some(match value {
            ValueMatch::Exact(text) if ignore_case => ValueMatch::ExactIgnoringCase(text),
            ValueMatch::Prefix(text) if ignore_case => ValueMatch::PrefixIgnoringCase(text),
            value => value,
        }))
    }

    fn required(&mut self, field: &str, written: &StringMatch) -> Result<ValueMatch, Broken> {
        Ok(match written {
            StringMatch::Exact(text) => ValueMatch::Exact(text.as_str().into()),
            StringMatch::Prefix(text) => ValueMatch::Prefix(text.as_str().into()),
            StringMatch::Present => ValueMatch::Present,
            StringMatch::Regex(text) if text == "*" => ValueMatch::Present,
            StringMatch::Regex(text) => {
                let regex = whole_value(text).map_err(|error| {
                    let field = format!("{}{field}", self.field);
                    let diagnostic =
                        at(self.resource, field, &catalog::INVALID_REGEX, error.to_string());
                    self.findings.add(diagnostic.help("write a regular expression of RE2"));
                    Broken
                })?;
                ValueMatch::Regex(Box::new(regex))
            }
        })
    }

    fn action(&mut self, uri: Option<&StringMatch>, find: &mut Find<'_>) -> Result<Action, Broken> {
        let rule = self.written;
        if let Some(redirect) = &rule.redirect {
            let operations =
                self.operations(".headers.response", response(rule.headers.as_deref()))?;
            return Ok(Action::Redirect(self.redirect(redirect, uri)?, operations));
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
            let response_headers =
                self.operations(".headers.response", response(rule.headers.as_deref()))?;
            return Ok(Action::Respond(DirectResponse { status, body, response_headers }));
        }
        self.forward(uri, find).map(Action::Forward)
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
            (!redirect.uri.is_empty()).then(|| PathRewrite::Full(redirect.uri.as_str().into()))
        } else {
            Some(prefix(uri, &redirect.prefix_rewrite))
        };
        let port = match (redirect.port, redirect.derive_port) {
            (Some(port), _) => RedirectPort::Number(u16::try_from(port).unwrap_or(0)),
            (None, Some(DerivePort::FromRequestPort)) => RedirectPort::Number(self.scope.port),
            (None, Some(DerivePort::FromProtocolDefault)) => {
                RedirectPort::Number(if redirect.scheme == "http" { 80 } else { 443 })
            }
            (None, None) => RedirectPort::FromAuthority,
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        let (authority, scheme) = (some(&redirect.authority), some(&redirect.scheme));
        Ok(Redirect { status, path, authority, scheme, port })
    }

    fn forward(
        &mut self,
        uri: Option<&StringMatch>,
        find: &mut Find<'_>,
    ) -> Result<Forward, Broken> {
        let rule = self.written;
        let path = match &rule.rewrite {
            None => None,
            Some(rewrite) => self.rewrite(rewrite, uri)?,
        };
        let rewritten = rule.rewrite.as_ref().map_or("", |rewrite| rewrite.authority.as_str());
        let mut own_request =
            self.operations(".headers.request", request(rule.headers.as_deref()))?;
        let own_response =
            self.operations(".headers.response", response(rule.headers.as_deref()))?;
        let own_host = take_host(&mut own_request);
        let authority = HeaderValue::from_str(rewritten).ok().filter(|value| !value.is_empty());
        let single = rule.route.len() == 1;
        let mut destinations = Vec::new();
        for (index, route) in rule.route.iter().enumerate() {
            let field = format!(".route[{index}]");
            let headers = route.headers.as_deref();
            let mut to = self.operations(&format!("{field}.headers.request"), request(headers))?;
            let back = self.operations(&format!("{field}.headers.response"), response(headers))?;
            let host = take_host(&mut to);
            let Some(destination) = &route.destination else {
                return Err(self.broken(&field, "a destination is missing"));
            };
            let place = format!("{}{field}.destination", self.field);
            let cluster = find(self.resource, destination, &place, self.scope.port);
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
        let timeout = rule.timeout.map(|time| time.0).filter(|time| !time.is_zero());
        Ok(Forward { destinations, path, authority: authority.or(own_host), timeout })
    }

    fn rewrite(
        &mut self,
        rewrite: &vs::HttpRewrite,
        uri: Option<&StringMatch>,
    ) -> Result<Option<PathRewrite>, Broken> {
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            let compiled = search(&regex.r#match).map_err(|error| {
                self.broken(".rewrite.uriRegexRewrite.match", error.to_string())
            })?;
            return Ok(Some(PathRewrite::Regex {
                regex: Box::new(compiled),
                substitution: substitution(&regex.rewrite),
            }));
        }
        if rewrite.uri.is_empty() {
            return Ok(None);
        }
        Ok(Some(match uri {
            Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => {
                PathRewrite::Full(rewrite.uri.as_str().into())
            }
            _ => prefix(uri, &rewrite.uri),
        }))
    }

    fn operations(
        &mut self,
        field: &str,
        written: Option<&vs::HeaderOperations>,
    ) -> Result<HeaderOps, Broken> {
        let Some(written) = written else { return Ok(HeaderOps::default()) };
        let mut out = HeaderOps::default();
        for name in &written.remove {
            out.remove.push(self.header_name(field, name)?);
        }
        for (list, target) in [(&written.set, &mut out.set), (&written.add, &mut out.add)] {
            for (name, value) in list {
                let value = Template::parse(value)
                    .map_err(|error| self.broken(field, error.to_string()))?;
                target.push((self.header_name(field, name)?, value));
            }
        }
        Ok(out)
    }

    fn header_name(&mut self, field: &str, name: &str) -> Result<HeaderName, Broken> {
        let name = if name == ":authority" { "host" } else { name };
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| self.broken(field, format!("\"{name}\" is not a header name")))
    }
}

fn prefix(uri: Option<&StringMatch>, replacement: &str) -> PathRewrite {
    let matched = match uri {
        Some(StringMatch::Prefix(text)) => text.len(),
        _ => 1,
    };
    PathRewrite::Prefix { matched, replacement: replacement.into() }
}

fn request(headers: Option<&vs::Headers>) -> Option<&vs::HeaderOperations> {
    headers.and_then(|headers| headers.request.as_ref())
}

fn response(headers: Option<&vs::Headers>) -> Option<&vs::HeaderOperations> {
    headers.and_then(|headers| headers.response.as_ref())
}

/// A literal `host` operation rewrites the authority.
fn take_host(operations: &mut HeaderOps) -> Option<HeaderValue> {
    let literal = |list: &[(HeaderName, Template)]| {
        list.iter().find_map(|(name, value)| match value {
            Template::Literal(value) if *name == HOST => Some(value.clone()),
            _ => None,
        })
    };
    let host = literal(&operations.set).or_else(|| literal(&operations.add));
    operations.set.retain(|(name, _)| *name != HOST);
    operations.add.retain(|(name, _)| *name != HOST);
    operations.remove.retain(|name| *name != HOST);
    host
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{ConfigFile, parse};

    fn check(rules: &str) -> (Vec<Arc<Route>>, Vec<&'static str>) {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a, \
             namespace: shop}}\nspec:\n  hosts: [a.com]\n  gateways: [gw]\n  http:\n{rules}"
        );
        let file = ConfigFile { path: "a.yaml".into(), bytes: yaml.into_bytes().into() };
        let parsed = parse(&[file]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let settings = CompileSettings::default();
        let scope = Scope { settings: &settings, gateway: ("shop", "gw"), port: 443 };
        let mut findings = Findings::default();
        let find: &mut Find<'_> = &mut |_, _, _, _| Some(ClusterId(0));
        let routes = http_routes(&parsed.set.virtual_services[0], &scope, find, &mut findings);
        (routes, findings.finish().iter().map(|d| d.code.id).collect())
    }

    #[test]
    fn each_match_is_a_route_and_the_rule_names_both() {
        let (routes, codes) = check(
            "  - name: r\n    match: [{name: x, uri: {prefix: /a}}, {uri: {exact: /b}}]\n    route: \
             [{destination: {host: c}}]\n",
        );
        let names: Vec<_> = routes.iter().map(|route| &*route.name).collect();
        assert_eq!(names, ["r.x", "r"]);
        assert!(codes.is_empty());
        assert_eq!(routes[0].origin.line, 8);
    }

    #[test]
    fn matches_of_other_ports_and_gateways_take_no_part() {
        let (routes, _) = check(
            "  - match: [{port: 80}, {gateways: [other]}]\n    route: [{destination: {host: c}}]\n",
        );
        assert!(routes.is_empty());
    }

    #[test]
    fn a_broken_rule_goes_alone() {
        let (routes, codes) = check(
            "  - match: [{uri: {regex: '('}}]\n    route: [{destination: {host: c}}]\n  - match: \
             [{headers: {'@request.auth.claims.sub': {exact: a}}}]\n    route: [{destination: {host: \
             c}}]\n  - match: [{uri: {prefix: /ok}}]\n    route: [{destination: {host: c}}]\n",
        );
        assert_eq!(routes.len(), 1);
        assert_eq!(codes, ["PC040", "PC045"]);
    }

    #[test]
    fn what_is_not_acted_on_is_told() {
        let (routes, codes) =
            check("  - fault: {abort: {httpStatus: 500}}\n    route: [{destination: {host: c}}]\n");
        assert_eq!((routes.len(), codes), (1, vec!["PC060"]));
    }

    #[test]
    fn rules_after_a_catch_all_are_told_and_dropped() {
        let (routes, codes) = check(
            "  - route: [{destination: {host: c}}]\n  - match: [{uri: {prefix: /x}}]\n    route: \
             [{destination: {host: c}}]\n",
        );
        assert_eq!((routes.len(), codes), (1, vec!["IST0130"]));
    }

    #[test]
    fn weights_that_are_all_zero_break_the_rule() {
        let (routes, codes) = check(
            "  - route: [{destination: {host: c}, weight: 0}, {destination: {host: d}, weight: 0}]\n",
        );
        assert_eq!((routes.len(), codes), (0, vec!["PC045"]));
    }
}
