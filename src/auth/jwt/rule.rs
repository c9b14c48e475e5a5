//! The rules of the gateway's RequestAuthentications, pooled, and the verdict over a request.
//!
//! **Invariant:** accepted means that one rule verified all tokens it found, or that no rule found
//! any; headers that rules fill never reach a backend with a client's value.

mod seen;

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use smallvec::SmallVec;

use super::cache::TokenCache;
use super::failure::{InvalidToken, JwtFailure};
use super::issuer_keys::IssuerKeys;
use super::locate::{
    FoundToken, FoundTokens, Locations, RequestTokens, TokenPlace, without_parameters,
};
use super::token::Content;
use crate::base::claim::{self, ClaimPath, Claims};
use crate::base::header::is_read_as;
use crate::base::id::Origin;
use crate::base::limit;
use seen::{Seen, SeenToken};

/// One rule (`RequestAuthentication.spec.jwtRules[]`), with its defaults applied.
#[derive(Clone, Debug)]
pub struct JwtRule {
    /// `issuer`; nothing: any.
    pub issuer: Option<Box<str>>,
    /// `audiences`.
    pub audiences: Audiences,
    /// `fromHeaders`, `fromParams`, `fromCookies`.
    pub locations: Locations,
    /// `forwardOriginalToken`.
    pub forward: ForwardToken,
    /// `outputPayloadToHeader`.
    pub payload_header: Option<HeaderName>,
    /// `outputClaimToHeaders`.
    pub claim_headers: Vec<ClaimHeader>,
    /// `spaceDelimitedClaims`, for [`ClaimPath::strings`].
    pub space_delimited: Arc<[Box<str>]>,
    /// Keys of the issuer.
    pub keys: Arc<IssuerKeys>,
    /// Whether they are fetched; else they are written in the rule, or it has none.
    pub fetched: bool,
    /// Where the rule is written.
    pub origin: Origin,
}

/// A header filled from a claim (`outputClaimToHeaders[]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimHeader {
    /// Name of the header.
    pub header: HeaderName,
    /// The claim.
    pub claim: ClaimPath,
}

/// What becomes of a verified token (`forwardOriginalToken`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardToken {
    /// The backend gets it.
    Keep,
    /// The header or query parameter that held it is removed; cookies stay.
    Remove,
}

/// Audiences a rule allows, without scheme and trailing slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audiences(Vec<Box<str>>);

impl Audiences {
    /// Allows each of a list; an empty list allows any audience and none.
    pub fn new<'a>(list: impl IntoIterator<Item = &'a str>) -> Self {
        Self(list.into_iter().map(|audience| normalized(audience).into()).collect())
    }

    fn allow<'a>(&self, mut audiences: impl Iterator<Item = &'a str>) -> bool {
        self.0.is_empty()
            || audiences.any(|audience| self.0.iter().any(|own| **own == *normalized(audience)))
    }
}

/// An audience without a leading `http://` or `https://` and without one trailing slash.
fn normalized(audience: &str) -> &str {
    let name = audience
        .strip_prefix("http://")
        .or_else(|| audience.strip_prefix("https://"))
        .unwrap_or(audience);
    name.strip_suffix('/').unwrap_or(name)
}

/// What is known of who sent a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// No rule found a token.
    Anonymous,
    /// A rule verified its tokens.
    Verified(Box<VerifiedToken>),
}

/// A verified token.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    /// Place of the rule that verified it.
    pub rule: usize,
    /// All claims.
    pub claims: Arc<Claims>,
    /// Claims of the rule that are lists of words.
    pub space_delimited: Arc<[Box<str>]>,
    /// `iss/sub` (`request.auth.principal`), when the token has both.
    pub principal: Option<Arc<str>>,
    /// Payload segment as it was sent, base64url without padding.
    pub payload: Arc<str>,
    /// Every place where the rule found a token.
    pub places: SmallVec<[TokenPlace; 1]>,
}

impl VerifiedToken {
    /// `iss`; empty when absent.
    pub fn issuer(&self) -> &str {
        self.text_claim("iss")
    }

    /// `sub`; empty when absent.
    pub fn subject(&self) -> &str {
        self.text_claim("sub")
    }

    fn text_claim(&self, name: &str) -> &str {
        self.claims.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()
    }
}

impl JwtRule {
    /// Judges a token in Envoy's order: form, issuer, times, audience, key, signature.
    fn accept(
        &self,
        seen: &mut SeenToken<'_>,
        now: i64,
        cache: &TokenCache,
        checks: &mut usize,
    ) -> Result<Content, InvalidToken> {
        // One look at the keys, so that what is kept was verified by the set it is kept for.
        let state = self.keys.current();
        let key = seen.key(cache, &state);
        if let Some(content) = key.as_ref().and_then(|key| cache.find(key)) {
            self.check(&content, now)?;
            return Ok(content);
        }
        let token = seen.parsed()?;
        self.check(&token.content, now)?;
        self.keys.verify(&state, token, checks)?;
        if let Some(key) = key {
            cache.keep(key, token.content.clone());
        }
        Ok(token.content.clone())
    }

    /// Checks what a token says, in Envoy's order: issuer, times, audience.
    fn check(&self, content: &Content, now: i64) -> Result<(), InvalidToken> {
        if self.issuer.as_ref().is_some_and(|issuer| **issuer != *content.issuer()) {
            return Err(InvalidToken::IssuerUnknown);
        }
        content.check_time(now)?;
        if self.audiences.allow(content.audiences()) {
            Ok(())
        } else {
            Err(InvalidToken::AudienceNotAllowed)
        }
    }
}

/// Removes headers that rules fill, and those that a backend may take for them (`x_user` for `x-user`).
pub fn remove_owned(owned: &[HeaderName], headers: &mut HeaderMap) {
    let is_owned =
        |name: &&HeaderName| owned.iter().any(|own| is_read_as(name.as_str(), own.as_str()));
    let found: SmallVec<[HeaderName; 4]> = headers.keys().filter(is_owned).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// All rules that apply to a gateway, in order.
#[derive(Clone, Debug, Default)]
pub struct Authenticator {
    rules: Vec<JwtRule>,
    owned_headers: Arc<[HeaderName]>,
}

impl Authenticator {
    /// Pools the rules of all RequestAuthentications that select the gateway.
    pub fn new(rules: Vec<JwtRule>) -> Self {
        let mut owned_headers: Vec<HeaderName> = Vec::new();
        for rule in &rules {
            let filled = rule.claim_headers.iter().map(|output| &output.header);
            for name in filled.chain(&rule.payload_header) {
                if !owned_headers.contains(name) {
                    owned_headers.push(name.clone());
                }
            }
        }
        Self { rules, owned_headers: owned_headers.into() }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[JwtRule] {
        &self.rules
    }

    /// Judges a request; `now` is in Unix seconds. The verdict is the same whatever `cache` holds.
    /// Preflights are the caller's to leave out (see [`is_preflight`]).
    pub fn authenticate(
        &self,
        request: RequestTokens<'_>,
        now: i64,
        cache: &TokenCache,
    ) -> Result<Verdict, JwtFailure> {
        let mut seen = Seen { tokens: SmallVec::new(), checks: limit::REQUEST_SIGNATURES };
        let mut refused: Option<(usize, InvalidToken)> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let found = rule.locations.find(request);
            if found.is_empty() {
                continue;
            }
            match verify_all(rule, found, now, cache, &mut seen) {
                Ok(verified) => {
                    let verified = VerifiedToken { rule: index, ..verified };
                    return Ok(Verdict::Verified(Box::new(verified)));
                }
                Err(reason) => {
                    let says_more = |(_, other)| {
                        other == InvalidToken::IssuerUnknown
                            && reason != InvalidToken::IssuerUnknown
                    };
                    if refused.is_none_or(says_more) {
                        refused = Some((index, reason));
                    }
                }
            }
        }
        let refusing =
            refused.and_then(|(index, reason)| Some((index, reason, self.rules.get(index)?)));
        match refusing {
            None => Ok(Verdict::Anonymous),
            Some((index, reason, rule)) => {
                Err(JwtFailure { reason, rule: index, origin: rule.origin.clone() })
            }
        }
    }

    /// The headers that policies and routes look at: those that rules fill hold what the verifying rule
    /// says, and never a client's value.
    pub fn judged<'a>(&self, verdict: &Verdict, headers: &'a HeaderMap) -> Cow<'a, HeaderMap> {
        if self.owned_headers.is_empty() {
            return Cow::Borrowed(headers);
        }
        let mut headers = headers.clone();
        self.fill(verdict, &mut headers);
        Cow::Owned(headers)
    }

    /// The headers that rules fill.
    pub fn owned_headers(&self) -> &Arc<[HeaderName]> {
        &self.owned_headers
    }

    /// Fills the headers of the verifying rule, and removes those that other rules fill.
    pub fn fill(&self, verdict: &Verdict, headers: &mut HeaderMap) {
        if !self.owned_headers.is_empty() {
            remove_owned(&self.owned_headers, headers);
        }
        let Verdict::Verified(verified) = verdict else { return };
        let Some(rule) = self.rules.get(verified.rule) else { return };
        if let Some(name) = &rule.payload_header
            && let Ok(value) = HeaderValue::try_from(&*verified.payload)
        {
            headers.insert(name, value);
        }
        for output in &rule.claim_headers {
            let value = output.claim.find(&verified.claims).and_then(claim::header_value);
            if let Some(value) = value {
                headers.insert(&output.header, value);
            }
        }
    }

    /// Makes the request what the backend shall see: removes headers that rules fill, removes the
    /// verified tokens unless they are forwarded, fills the headers of the verifying rule. Returns
    /// the new path and query when it changed.
    pub fn apply(
        &self,
        verdict: &Verdict,
        headers: &mut HeaderMap,
        path_and_query: &str,
    ) -> Option<String> {
        let mut path = None;
        if let Verdict::Verified(verified) = verdict
            && let Some(rule) = self.rules.get(verified.rule)
            && rule.forward == ForwardToken::Remove
        {
            for place in &verified.places {
                if let TokenPlace::Header(name) = place {
                    headers.remove(name);
                }
            }
            path = without_parameters(path_and_query, |name| {
                verified
                    .places
                    .iter()
                    .any(|place| matches!(place, TokenPlace::Parameter(own) if **own == *name))
            });
        }
        self.fill(verdict, headers);
        path
    }

    /// The path and query for logs: parameters that may hold a token are cut.
    pub fn loggable<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let holds_token =
            |name: &str| self.rules.iter().any(|rule| rule.locations.has_parameter(name));
        match without_parameters(path_and_query, holds_token) {
            Some(cut) => Cow::Owned(cut),
            None => Cow::Borrowed(path_and_query),
        }
    }
}

/// Verifies every token that a rule found; the first one speaks for the request.
fn verify_all<'a>(
    rule: &JwtRule,
    found: FoundTokens<'a>,
    now: i64,
    cache: &TokenCache,
    seen: &mut Seen<'a>,
) -> Result<VerifiedToken, InvalidToken> {
    let mut verified: Option<VerifiedToken> = None;
    for FoundToken { text, place } in found {
        let mut checks = seen.checks;
        let content = rule.accept(seen.token(text)?, now, cache, &mut checks);
        seen.checks = checks;
        let content = content?;
        verified.get_or_insert_with(|| describe(rule, content)).places.push(place);
    }
    verified.ok_or(InvalidToken::Form)
}

fn describe(rule: &JwtRule, content: Content) -> VerifiedToken {
    let Content { principal, claims, payload, .. } = content;
    let space_delimited = rule.space_delimited.clone();
    VerifiedToken { rule: 0, principal, claims, space_delimited, payload, places: SmallVec::new() }
}

/// Whether a request is a CORS preflight, which needs no token.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
