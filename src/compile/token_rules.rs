//! One token rule (`RequestAuthentication.spec.jwtRules[]`) as the gateway checks it.
//!
//! **Invariant:** a rule with a part that cannot be used keeps its issuer and has no key.

use std::sync::Arc;

use http::Uri;
use http::header::{HOST, HeaderName};
use http::uri::Scheme;

use crate::auth::jwt::{
    Audiences, ClaimHeader, ClaimPath, DeclaredEndpoints, ForwardToken, HeaderLocation,
    InvalidAddress, InvalidKeySet, IssuerKeys, JwksSource, JwtRule, KeyLocation, KeyState,
    Locations, web_address,
};
use crate::base::header::is_framing;
use crate::base::limit;
use crate::diag::{Code, Diagnostic, Severity, catalog};
use crate::resources::request_authentication as written;
use crate::resources::{RequestAuthentication, Resource};
use crate::snapshot::cluster::Address;

use super::authentication::FindKeys;
use super::findings::{Findings, at};
use super::selection::unread;
use super::services::{Member, Place, Services};

/// Compiles one rule.
pub struct RulePass<'a, 'k> {
    /// Where it is written.
    pub policy: &'a Resource<RequestAuthentication>,
    /// `spec.jwtRules[0]`.
    pub field: String,
    /// Keys of a source.
    pub keys: &'a FindKeys<'k>,
    /// Services that may be issuers, and the gateway's namespace.
    pub services: (&'a Services<'a>, &'a str),
    /// Sources so far.
    pub sources: &'a mut Vec<JwksSource>,
    /// Findings so far.
    pub findings: &'a mut Findings,
}

/// Some part of a rule cannot be used.
struct Unusable;

impl RulePass<'_, '_> {
    /// The rule; without a key when it cannot be used as written.
    pub fn compile(mut self, rule: &written::JwtRule) -> JwtRule {
        let mut sound = self.fields_exist().is_ok();
        let mut payload_header = None;
        if !rule.output_payload_to_header.is_empty() {
            payload_header = self.output("outputPayloadToHeader", &rule.output_payload_to_header);
            sound &= payload_header.is_some();
        }
        let claim_headers = self.claim_headers(rule, &mut sound);
        let headers = self.header_locations(rule, &mut sound);
        for (index, _) in rule.audiences.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            self.broken(&format!(".audiences[{index}]"), "an empty audience matches nobody");
            sound = false;
        }
        let found = if sound { self.find_keys(rule) } else { Err(Unusable) };
        let unusable = || (Arc::new(IssuerKeys::new(KeyState::Unusable)), false);
        let (keys, fetched) = found.unwrap_or_else(|Unusable| unusable());
        let not_empty = |list: &[String]| -> Vec<String> {
            list.iter().filter(|name| !name.is_empty()).cloned().collect()
        };
        JwtRule {
            issuer: (!rule.issuer.is_empty()).then(|| rule.issuer.as_str().into()),
            audiences: Audiences::new(rule.audiences.iter().map(String::as_str)),
            locations: Locations::new(
                headers,
                not_empty(&rule.from_params),
                not_empty(&rule.from_cookies),
            ),
            forward: if rule.forward_original_token {
                ForwardToken::Keep
            } else {
                ForwardToken::Remove
            },
            payload_header,
            claim_headers,
            space_delimited: rule
                .space_delimited_claims
                .iter()
                .map(|c| c.as_str().into())
                .collect(),
            keys,
            fetched,
            origin: self.policy.origin(&self.field),
        }
    }

    fn find(&self, field: &str, code: &'static Code, message: impl Into<String>) -> Diagnostic {
        at(self.policy, format!("{}{field}", self.field), code, message)
    }

    fn broken(&mut self, field: &str, message: impl Into<String>) {
        let finding = self.find(field, &catalog::INVALID_TOKEN_RULE, message);
        self.findings.add(finding.help("tokens of this issuer get 401 until it is corrected"));
    }

    fn keyless(&mut self, field: &str, message: impl Into<String>) -> Unusable {
        let finding = self.find(field, &catalog::KEYS_UNUSABLE, message);
        self.findings.add(finding.help("tokens of this issuer get 401 until it is corrected"));
        Unusable
    }

    /// A rule that lost a field may accept more than it says.
    fn fields_exist(&mut self) -> Result<(), Unusable> {
        let policy = self.policy;
        let of_this_rule = |field: &&str| {
            field.strip_prefix(&*self.field).is_some_and(|rest| rest.starts_with('.'))
        };
        let Some(field) = unread(policy).find(of_this_rule) else { return Ok(()) };
        let rest = field.get(self.field.len()..).unwrap_or_default().to_owned();
        self.broken(&rest, "a rule with a field that does not exist may accept more than it says");
        Err(Unusable)
    }

    /// A header that the rule may fill: none that frames or routes the request.
    fn output(&mut self, field: &str, text: &str) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes()).ok();
        let name = name.filter(|name| *name != HOST && !is_framing(name));
        if name.is_none() {
            let message = format!("\"{text}\" is not a header that a claim can be sent in");
            self.broken(&format!(".{field}"), message);
        }
        name
    }

    fn claim_headers(&mut self, rule: &written::JwtRule, sound: &mut bool) -> Vec<ClaimHeader> {
        let mut out = Vec::new();
        for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
            let field = format!("outputClaimToHeaders[{index}]");
            if output.claim.is_empty() {
                self.broken(&format!(".{field}.claim"), "the claim has no name");
                *sound = false;
            }
            match self.output(&format!("{field}.header"), &output.header) {
                Some(header) => {
                    out.push(ClaimHeader { header, claim: ClaimPath::dotted(&output.claim) });
                }
                None => *sound = false,
            }
        }
        out
    }

    fn header_locations(
        &mut self,
        rule: &written::JwtRule,
        sound: &mut bool,
    ) -> Vec<HeaderLocation> {
        let mut out = Vec::new();
        for (index, location) in rule.from_headers.iter().enumerate() {
            if let Ok(name) = HeaderName::from_bytes(location.name.as_bytes()) {
                out.push(HeaderLocation { name, prefix: location.prefix.as_str().into() });
            } else {
                let message = format!("\"{}\" is not a header name", location.name);
                self.broken(&format!(".fromHeaders[{index}].name"), message);
                *sound = false;
            }
        }
        for (list, name) in [(&rule.from_params, "fromParams"), (&rule.from_cookies, "fromCookies")]
        {
            for (index, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
                self.broken(&format!(".{name}[{index}]"), "an empty name finds no token");
                *sound = false;
            }
        }
        out
    }

    /// The rule's keys, and whether they are fetched.
    fn find_keys(&mut self, rule: &written::JwtRule) -> Result<(Arc<IssuerKeys>, bool), Unusable> {
        if !rule.jwks.is_empty() {
            return self.inline(&rule.jwks).map(|keys| (keys, false));
        }
        let (field, location) = if !rule.jwks_uri.is_empty() {
            (".jwksUri", KeyLocation::Uri(rule.jwks_uri.as_str().into()))
        } else if web_address(&rule.issuer) != Err(InvalidAddress::Scheme) {
            (".issuer", KeyLocation::Discovery { issuer: rule.issuer.as_str().into() })
        } else {
            let message = "the rule has no jwks, no jwksUri and no issuer that is an address";
            return Err(self.keyless("", message));
        };
        let address = web_address(&location.first_address())
            .map_err(|error| self.keyless(field, error.to_string()))?;
        let timeout = rule.timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero());
        let source = JwksSource {
            issuer: rule.issuer.as_str().into(),
            endpoints: self.declared(&address),
            location,
            timeout: timeout.unwrap_or(limit::JWKS_FETCH_TIME),
        };
        let keys = (self.keys)(&source);
        if !self.sources.contains(&source) {
            self.sources.push(source);
        }
        Ok((keys, true))
    }

    /// Endpoints that a ServiceEntry or Service has for the host and port of an address.
    fn declared(&self, uri: &Uri) -> Option<DeclaredEndpoints> {
        let host = uri.host()?.to_ascii_lowercase();
        let default = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        let (services, gateway) = self.services;
        let service = services.find(&host, &self.policy.id.namespace, gateway)?;
        let written = service.ports.iter().find(|own| own.number == port)?;
        let place = |member: Member| match member.place {
            Place::Address(Address::Socket(socket)) => {
                Some((socket.ip().to_string().into(), socket.port()))
            }
            Place::Name(name, port) => Some(((*name).into(), port)),
            Place::Address(Address::Unix(_)) | Place::Unknown(_) => None,
        };
        let places: Arc<[_]> =
            services.members(service, written).into_iter().filter_map(place).collect();
        let host = host.into();
        (!places.is_empty()).then_some(DeclaredEndpoints { host, port, places })
    }

    fn inline(&mut self, jwks: &str) -> Result<Arc<IssuerKeys>, Unusable> {
        let (keys, outcome) = IssuerKeys::inline(jwks.as_bytes());
        if let Err(error) = outcome {
            let mut message = error.to_string();
            if let InvalidKeySet::NoUsableKey(skipped) = &error
                && let Some(first) = skipped.first()
            {
                message = format!("{message}: key {}: {}", first.index, first.reason);
            }
            return Err(self.keyless(".jwks", message));
        }
        let skipped = match &**keys.current() {
            KeyState::Ready(set) => set.skipped().to_vec(),
            KeyState::NeverFetched | KeyState::Unusable => Vec::new(),
        };
        for key in skipped {
            let message = format!("key {} is not used: {}", key.index, key.reason);
            let finding = self.find(".jwks", &catalog::KEYS_UNUSABLE, message);
            self.findings.add(finding.severity(Severity::Warning));
        }
        Ok(Arc::new(keys))
    }
}

#[cfg(test)]
mod tests;
