//! One token rule (`RequestAuthentication.spec.jwtRules[]`) as the gateway checks it.
//!
//! **Invariant:** a rule with a part that cannot be used keeps its issuer and has no key.

use std::sync::Arc;

use http::Uri;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Scheme;

use crate::auth::jwt::{
    Audiences, ClaimHeader, ClaimPath, DeclaredEndpoints, ForwardToken, HeaderLocation,
    InvalidKeySet, IssuerKeys, JwksSource, JwtRule, KeyLocation, KeyState, Locations,
};
use crate::base::{header, limit};
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
        const FRAMING: [HeaderName; 8] = [
            CONNECTION,
            CONTENT_LENGTH,
            HOST,
            TE,
            TRANSFER_ENCODING,
            UPGRADE,
            header::KEEP_ALIVE,
            header::PROXY_CONNECTION,
        ];
        let name = HeaderName::from_bytes(text.as_bytes()).ok();
        let name = name.filter(|name| !FRAMING.contains(name));
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
        let location = if !rule.jwks_uri.is_empty() {
            if !is_address(&rule.jwks_uri) {
                return Err(self.keyless(".jwksUri", "the address must begin with http(s)://"));
            }
            KeyLocation::Uri(rule.jwks_uri.as_str().into())
        } else if is_address(&rule.issuer) {
            KeyLocation::Discovery { issuer: rule.issuer.as_str().into() }
        } else {
            let message = "the rule has no jwks, no jwksUri and no issuer that is an address";
            return Err(self.keyless("", message));
        };
        let timeout = rule.timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero());
        let source = JwksSource {
            issuer: rule.issuer.as_str().into(),
            endpoints: self.declared(&location.first_address()),
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
    fn declared(&self, address: &str) -> Option<DeclaredEndpoints> {
        let uri: Uri = address.parse().ok()?;
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
            Place::Address(Address::Unix(_)) => None,
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

fn is_address(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::jwt::fixture::issuer;
    use crate::compile::fixture;

    /// A rule in, the compiled one, its sources and the codes out.
    fn compile(rule: &str) -> (JwtRule, Vec<JwksSource>, Vec<&'static str>) {
        let spec = format!("spec: {{jwtRules: [{rule}]}}");
        let set = fixture::set("RequestAuthentication", &["{name: a, namespace: edge}", &spec]);
        let policy = &set.request_authentications[0];
        let (mut findings, mut sources) = (Findings::default(), Vec::new());
        let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
        let field = "spec.jwtRules[0]".to_owned();
        let settings = fixture::settings();
        let services = Services::new(&set, &settings, &mut findings);
        let services = (&services, &*settings.namespace);
        let (sources_so_far, findings_so_far) = (&mut sources, &mut findings);
        let pass = RulePass {
            policy,
            field,
            keys: &keys,
            services,
            sources: sources_so_far,
            findings: findings_so_far,
        };
        let rule = pass.compile(&policy.spec.jwt_rules[0]);
        (rule, sources, fixture::codes(findings))
    }

    /// The state of a rule's keys and the codes.
    fn check(rule: &str, state: &str, codes: &[&str]) {
        let (compiled, _, found) = compile(rule);
        let shown = match &**compiled.keys.current() {
            KeyState::Ready(keys) => format!("{} keys", keys.usable()),
            KeyState::NeverFetched => "to fetch".to_owned(),
            KeyState::Unusable => "unusable".to_owned(),
        };
        assert_eq!((&*shown, &*found), (state, codes), "{rule}");
        assert_eq!(compiled.issuer.as_deref(), Some("https://x"), "{rule}");
    }

    fn inline(jwks: &str) -> String {
        format!("{{issuer: \"https://x\", jwks: '{jwks}'}}")
    }

    #[test]
    fn keys_are_inline_or_fetched_or_discovered() {
        check(&inline(&issuer().key_set("ES256", "k")), "1 keys", &[]);
        check("{issuer: \"https://x\", jwksUri: \"http://y/k\"}", "to fetch", &[]);
        check("{issuer: \"https://x\"}", "to fetch", &[]);
        let (_, sources, _) = compile("{issuer: \"https://x\", timeout: 2s}");
        let location = KeyLocation::Discovery { issuer: "https://x".into() };
        let timeout = std::time::Duration::from_secs(2);
        let issuer = "https://x".into();
        assert_eq!(sources, [JwksSource { issuer, location, timeout, endpoints: None }]);
    }

    /// A service at port 8443 and the address of a key set in; its declared places out.
    fn check_declared(service: &str, uri: &str, expected: &[&str]) {
        let service =
            format!("spec: {{ports: [{{number: 8443, name: p, protocol: TLS}}], {service}}}");
        let policy = format!("spec: {{jwtRules: [{{issuer: x, jwksUri: \"{uri}\"}}]}}");
        let set = fixture::set_of(&[
            ("networking.istio.io/v1", "ServiceEntry", "{name: s, namespace: edge}", &service),
            (
                "security.istio.io/v1",
                "RequestAuthentication",
                "{name: a, namespace: edge}",
                &policy,
            ),
        ]);
        let settings = fixture::settings();
        let (mut findings, mut sources) = (Findings::default(), Vec::new());
        let services = Services::new(&set, &settings, &mut findings);
        let policy = &set.request_authentications[0];
        let keys = |_: &JwksSource| Arc::new(IssuerKeys::new(KeyState::NeverFetched));
        RulePass {
            policy,
            field: "spec.jwtRules[0]".to_owned(),
            keys: &keys,
            services: (&services, &settings.namespace),
            sources: &mut sources,
            findings: &mut findings,
        }
        .compile(&policy.spec.jwt_rules[0]);
        let endpoints = sources[0].endpoints.as_ref();
        let places = endpoints.iter().flat_map(|declared| declared.places.iter());
        let places: Vec<_> = places.map(|(host, port)| format!("{host} {port}")).collect();
        assert_eq!(places, expected, "{service} {uri}");
    }

    #[test]
    fn an_issuer_is_where_a_service_entry_says() {
        let listed = "hosts: [I.internal], resolution: STATIC, endpoints: [{address: 10.0.0.1, \
                      ports: {p: 1}}, {address: \"fd00::1\"}]";
        check_declared(listed, "https://i.internal:8443/k", &["10.0.0.1 1", "fd00::1 8443"]);
        check_declared(listed, "https://i.internal/k", &[]);
        check_declared(listed, "https://j.internal:8443/k", &[]);
        let named = "hosts: [i.internal], resolution: DNS, endpoints: [{address: real.example}]";
        check_declared(named, "https://i.internal:8443/k", &["real.example 8443"]);
        let none = "hosts: [i.internal], resolution: STATIC";
        check_declared(none, "https://i.internal:8443/k", &[]);
    }

    #[test]
    fn inline_keys_win_over_an_address() {
        let jwks = issuer().key_set("ES256", "k");
        let rule = format!("{{issuer: \"https://x\", jwksUri: \"https://y\", jwks: '{jwks}'}}");
        let (_, sources, _) = compile(&rule);
        assert!(sources.is_empty());
        check(&rule, "1 keys", &[]);
    }

    #[test]
    fn keys_that_cannot_be_used_fail_closed() {
        check(&inline("nonsense"), "unusable", &["PC050"]);
        check(&inline("{\"keys\": []}"), "unusable", &["PC050"]);
        check(&inline("{\"keys\": [{\"kty\": \"RSA\"}]}"), "unusable", &["PC050"]);
        check("{issuer: \"https://x\", jwksUri: \"ftp://y\"}", "unusable", &["PC050"]);
        let (rule, _, codes) = compile("{issuer: someone}");
        assert!(matches!(**rule.keys.current(), KeyState::Unusable));
        assert_eq!(codes, ["PC050"]);
    }

    #[test]
    fn a_key_that_is_left_out_beside_a_usable_one_is_told() {
        let keys = json!({"keys": [{"kty": "x"}, issuer().jwk("ES256")]}).to_string();
        check(&inline(&keys), "1 keys", &["PC050"]);
    }

    #[test]
    fn a_rule_with_a_part_that_cannot_be_used_has_no_key() {
        for part in [
            "audience: [a]",
            "audiences: [\"\"]",
            "fromHeaders: [{name: \"a b\"}]",
            "fromHeaders: [{name: a, prefx: x}]",
            "fromParams: [\"\"]",
            "fromCookies: [\"\"]",
            "outputPayloadToHeader: \"a b\"",
            "outputPayloadToHeader: Transfer-Encoding",
            "outputClaimToHeaders: [{header: host, claim: a}]",
            "outputClaimToHeaders: [{header: x-a}]",
        ] {
            check(&format!("{{issuer: \"https://x\", {part}}}"), "unusable", &["PC051"]);
        }
    }

    #[test]
    fn every_field_is_carried_over() {
        let (rule, _, codes) = compile(
            "{issuer: \"https://x\", audiences: [a], fromHeaders: [{name: X-T, prefix: \"T \"}], \
             fromParams: [p], fromCookies: [c], forwardOriginalToken: true, outputPayloadToHeader: \
             x-p, outputClaimToHeaders: [{header: x-s, claim: a.b}], spaceDelimitedClaims: [s]}",
        );
        let headers =
            vec![HeaderLocation { name: HeaderName::from_static("x-t"), prefix: "T ".into() }];
        assert_eq!(rule.locations, Locations::new(headers, ["p"], ["c"]));
        assert_eq!(rule.audiences, Audiences::new(["a"]));
        assert_eq!(rule.forward, ForwardToken::Keep);
        assert_eq!(rule.payload_header, Some(HeaderName::from_static("x-p")));
        assert_eq!(rule.claim_headers[0].claim, ClaimPath::dotted("a.b"));
        assert_eq!(&*rule.space_delimited, ["s".into()]);
        assert_eq!(codes, [] as [&str; 0]);
        assert_eq!(rule.origin.line, 4);
    }
}
