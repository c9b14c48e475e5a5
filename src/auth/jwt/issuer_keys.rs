//! The keys of an issuer as they come and go, shared between those who verify and those who fetch.
//!
//! **Invariant:** verifying never waits: keys that are not there are asked for, and the token is
//! refused.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::failure::InvalidToken;
use super::keys::{InvalidKeySet, KeySet};
use super::token::Token;

/// What is known of an issuer's keys.
#[derive(Debug)]
pub enum KeyState {
    /// Keys to verify with: inline, or the last good ones that were fetched.
    Ready(KeySet),
    /// Never had: its tokens are refused until a fetch succeeds.
    NeverFetched,
    /// The configured or fetched document has no usable key.
    Unusable,
}

/// The keys of one issuer, shared by the rules that name it and by whoever fetches them.
pub struct IssuerKeys {
    state: ArcSwap<KeyState>,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl IssuerKeys {
    /// Starts in a state.
    pub fn new(state: KeyState) -> Self {
        Self { state: ArcSwap::from_pointee(state), wake: OnceLock::new() }
    }

    /// Keys of an inline document; a broken one makes the issuer's tokens fail.
    pub fn inline(json: &[u8]) -> (Self, Result<(), InvalidKeySet>) {
        match KeySet::parse(json) {
            Ok(keys) => (Self::new(KeyState::Ready(keys)), Ok(())),
            Err(error) => (Self::new(KeyState::Unusable), Err(error)),
        }
    }

    /// Installs what is called when a token needs keys that are not there. It must be quick and must
    /// not block; the first one installed stays.
    pub fn on_wanted(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
    }

    /// The state at this moment.
    pub fn current(&self) -> arc_swap::Guard<Arc<KeyState>> {
        self.state.load()
    }

    /// Replaces the state.
    pub fn publish(&self, state: KeyState) {
        self.state.store(Arc::new(state));
    }

    /// Verifies a token with the keys of a moment; asks for new ones when those cannot decide. Takes
    /// each signature check from `checks`.
    pub(super) fn verify(
        &self,
        state: &KeyState,
        token: &Token<'_>,
        checks: &mut usize,
    ) -> Result<(), InvalidToken> {
        let (outcome, wanted) = match state {
            KeyState::Ready(keys) => {
                let outcome = keys.verify(token, checks);
                (outcome, outcome.is_err() && keys.lacks(token))
            }
            KeyState::NeverFetched => (Err(InvalidToken::KeysMissing), true),
            KeyState::Unusable => (Err(InvalidToken::KeysUnusable), true),
        };
        if wanted && let Some(wake) = self.wake.get() {
            wake();
        }
        outcome
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerKeys").field("state", &self.current()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::auth::jwt::fixture::{Issuer, issuer, stranger};

    #[test]
    fn debug_output_has_no_key_material() {
        let jwk = issuer().jwk("HS256");
        let (keys, outcome) = IssuerKeys::inline(issuer().key_set("HS256", "the-id").as_bytes());
        let shown = format!("{keys:?}");
        assert!(outcome.is_ok() && shown.contains("the-id"), "{shown}");
        assert!(!shown.contains(jwk["k"].as_str().unwrap()), "{shown}");
    }

    fn check_wake(state: KeyState, header: &Value, expected: (Result<(), InvalidToken>, usize)) {
        let keys = IssuerKeys::new(state);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        keys.on_wanted(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let token = issuer().token(header, &json!({}));
        let token = Token::parse(token.as_str().into()).unwrap();
        let outcome = keys.verify(&keys.current(), &token, &mut 100);
        assert_eq!((outcome, calls.load(Ordering::Relaxed)), expected, "{header}");
    }

    #[test]
    fn keys_are_asked_for_only_when_they_could_decide() {
        let ready = |issuer: &Issuer| {
            KeyState::Ready(KeySet::parse(issuer.key_set("ES256", "k").as_bytes()).unwrap())
        };
        let header = json!({"alg": "ES256", "kid": "k"});
        check_wake(ready(issuer()), &header, (Ok(()), 0));
        check_wake(ready(stranger()), &header, (Err(InvalidToken::Signature), 0));
        check_wake(KeyState::NeverFetched, &header, (Err(InvalidToken::KeysMissing), 1));
        check_wake(KeyState::Unusable, &header, (Err(InvalidToken::KeysUnusable), 1));
        let rotated = json!({"alg": "ES256", "kid": "new"});
        check_wake(ready(issuer()), &rotated, (Err(InvalidToken::KeyUnknown), 1));
        let mac = json!({"alg": "HS256", "kid": "new"});
        check_wake(ready(issuer()), &mac, (Err(InvalidToken::KeyUnknown), 0));
        for header in [json!({"alg": "RS256", "kid": "k"}), json!({"alg": "HS256"})] {
            check_wake(ready(issuer()), &header, (Err(InvalidToken::Signature), 0));
        }
    }
}
