//! The token's part: what each rule says of the request, and with which keys.

use super::{Explanation, FetchedKeys, place};
use crate::auth::jwt::{Authenticator, JwtRule, KeyState, RequestTokens, Verdict, is_preflight};
use crate::decide::request::RequestFacts;
use crate::snapshot::Snapshot;

pub(super) fn tell(
    tale: &mut Explanation,
    snapshot: &Snapshot,
    fetched: FetchedKeys,
    facts: &RequestFacts<'_>,
) {
    let Some(authenticator) = &snapshot.authentication else {
        tale.step("token", "no RequestAuthentication applies");
        return;
    };
    if is_preflight(facts.head.method, facts.head.headers) {
        tale.step("token", "none is needed: a CORS preflight");
        return;
    }
    let tokens =
        RequestTokens { headers: facts.head.headers, path_and_query: facts.path_and_query };
    // Each rule by itself, by the code that judges them together.
    let rules = authenticator.rules().iter().map(|rule| {
        let alone = Authenticator::new(vec![rule.clone()]);
        let issuer = rule.issuer.as_deref().unwrap_or("any issuer");
        let verdict = match alone.authenticate(tokens, facts.now, facts.tokens) {
            Ok(Verdict::Anonymous) => "finds no token".to_owned(),
            Ok(Verdict::Verified(token)) => match &token.principal {
                Some(principal) => format!("verifies the token of {principal}"),
                None => "verifies the token".to_owned(),
            },
            Err(failure) => format!("refuses the token: {}", failure.message()),
        };
        format!("{issuer}: {verdict}; {}; {}", keys(rule, fetched), place(&rule.origin))
    });
    let rules: Vec<_> = rules.collect();
    let decision = match authenticator.authenticate(tokens, facts.now, facts.tokens) {
        Ok(Verdict::Anonymous) => "no token: the request is anonymous".to_owned(),
        Ok(Verdict::Verified(token)) => {
            format!("verified: {}", token.principal.as_deref().unwrap_or("no principal"))
        }
        Err(failure) => format!("refused: {}", failure.message()),
    };
    tale.step("token", decision).considered(rules);
}

/// The keys that a rule had.
fn keys(rule: &JwtRule, fetched: FetchedKeys) -> String {
    let count = match &**rule.keys.current() {
        KeyState::Ready(set) => set.usable(),
        KeyState::Unusable => return "its key set has no usable key".to_owned(),
        KeyState::NeverFetched => {
            return match fetched {
                FetchedKeys::Live => "its keys are not fetched yet",
                FetchedKeys::Kept => "no keys are kept in --state",
                FetchedKeys::Absent => {
                    "its keys are not fetched here: name --state, or ask a running gateway"
                }
            }
            .to_owned();
        }
    };
    let plural = if count == 1 { "" } else { "s" };
    let origin = match (rule.fetched, fetched) {
        (false, _) => "inline",
        (true, FetchedKeys::Kept) => "kept in --state",
        (true, _) => "fetched",
    };
    format!("{count} key{plural} {origin}")
}
