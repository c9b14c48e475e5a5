//! What is known of the tokens of one request while its rules are asked.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::auth::jwt::cache::{Key, TokenCache};
use crate::auth::jwt::failure::InvalidToken;
use crate::auth::jwt::issuer_keys::KeyState;
use crate::auth::jwt::token::Token;
use crate::base::hash::Fingerprint;
use crate::base::limit;

/// The tokens of one request so far, and how many signatures may still be checked for it.
pub(super) struct Seen<'a> {
    pub(super) tokens: SmallVec<[SeenToken<'a>; 1]>,
    pub(super) checks: usize,
}

pub(super) struct SeenToken<'a> {
    pub(super) text: Cow<'a, str>,
    digest: Option<Fingerprint>,
    pub(super) parsed: Option<Result<Token<'a>, InvalidToken>>,
}

impl<'a> Seen<'a> {
    /// The token's place; one that was found before is taken apart once.
    pub(super) fn token(&mut self, text: Cow<'a, str>) -> Result<&mut SeenToken<'a>, InvalidToken> {
        let known = self.tokens.iter().position(|token| token.text == text);
        if known.is_none() {
            if self.tokens.len() >= limit::REQUEST_TOKENS {
                return Err(InvalidToken::TooMany);
            }
            self.tokens.push(SeenToken { text, digest: None, parsed: None });
        }
        let index = known.unwrap_or(self.tokens.len() - 1);
        self.tokens.get_mut(index).ok_or(InvalidToken::TooMany)
    }
}

impl<'a> SeenToken<'a> {
    pub(super) fn key(&mut self, cache: &TokenCache, state: &KeyState) -> Option<Key> {
        let KeyState::Ready(keys) = state else { return None };
        if cache.is_off() || self.text.len() > limit::TOKEN_BYTES {
            return None;
        }
        let digest = *self.digest.get_or_insert_with(|| Fingerprint::of(self.text.as_bytes()));
        Some((digest, keys.fingerprint()))
    }

    pub(super) fn parsed(&mut self) -> Result<&Token<'a>, InvalidToken> {
        let parsed = self.parsed.get_or_insert_with(|| Token::parse(self.text.clone()));
        parsed.as_ref().map_err(|reason| *reason)
    }
}
