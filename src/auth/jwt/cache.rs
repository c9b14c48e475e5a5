//! Tokens that were verified not long ago, so that one that comes again costs no signature check.
//!
//! **Invariant:** an entry is found only by the SHA-256 of the whole token and of the key set that
//! verified it; whoever finds it checks issuer, times and audience anew. It never grows past its
//! bounds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use super::token::Content;
use crate::base::hash::Fingerprint;
use crate::base::limit;

/// The verified tokens of one worker.
///
/// Tokens live in two halves: new and found ones in the young half; when that is full it becomes the
/// old half, and what nobody asked for since is forgotten.
pub struct TokenCache {
    halves: RefCell<Halves>,
    /// Most tokens and most bytes of their payloads in a half.
    half: (usize, usize),
}

/// Digest of a token, and of the key set that verified it.
pub(super) type Key = (Fingerprint, Fingerprint);

#[derive(Default)]
struct Halves {
    young: Half,
    old: Half,
}

#[derive(Default)]
struct Half {
    tokens: HashMap<Key, Content, foldhash::fast::RandomState>,
    bytes: usize,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::new(limit::CACHED_TOKENS, limit::CACHED_TOKEN_BYTES)
    }
}

impl TokenCache {
    /// Holds so many tokens, and so many bytes of their payloads.
    fn new(tokens: usize, bytes: usize) -> Self {
        Self { halves: RefCell::default(), half: (tokens / 2, bytes / 2) }
    }

    /// Remembers nothing: for a question that is asked once.
    pub fn none() -> Self {
        Self::new(0, 0)
    }

    pub(super) fn is_off(&self) -> bool {
        self.half.0 == 0
    }

    pub(super) fn find(&self, key: &Key) -> Option<Content> {
        let mut halves = self.halves.borrow_mut();
        if let Some(content) = halves.young.tokens.get(key) {
            return Some(content.clone());
        }
        let content = halves.old.tokens.remove(key)?;
        self.put(&mut halves, *key, content.clone());
        Some(content)
    }

    pub(super) fn keep(&self, key: Key, content: Content) {
        if !self.is_off() {
            self.put(&mut self.halves.borrow_mut(), key, content);
        }
    }

    fn put(&self, halves: &mut Halves, key: Key, content: Content) {
        let (tokens, bytes) = self.half;
        let size = content.payload.len();
        let young = &mut halves.young;
        if young.tokens.len() >= tokens || young.bytes.saturating_add(size) > bytes {
            halves.old = std::mem::take(young);
        }
        if size <= bytes {
            young.bytes += size;
            young.tokens.insert(key, content);
        }
    }
}

/// Shows no token.
impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::jwt::fixture::issuer;
    use crate::auth::jwt::token::Token;

    fn content(subject: &str) -> Content {
        let text = issuer().token(&json!({"alg": "HS256"}), &json!({"sub": subject}));
        Token::parse(text.into()).unwrap().content
    }

    fn key(number: usize) -> Key {
        (Fingerprint::of(&number.to_be_bytes()), Fingerprint::of(b"keys"))
    }

    fn held(cache: &TokenCache) -> usize {
        let halves = cache.halves.borrow();
        halves.young.tokens.len() + halves.old.tokens.len()
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let cache = TokenCache::new(8, 1 << 20);
        let one = content("a");
        for number in 0..100 {
            cache.keep(key(number), one.clone());
            assert!(cache.find(&key(0)).is_some(), "{number}");
            assert!(held(&cache) <= 8, "{number}");
        }
        assert!(cache.find(&key(50)).is_none());
        assert!(cache.find(&key(99)).is_some());
        assert!(cache.find(&(key(0).1, key(0).0)).is_none());
    }

    #[test]
    fn large_tokens_fill_it_sooner() {
        let one = content("a");
        let size = one.payload.len();
        let cache = TokenCache::new(1_000, 4 * size);
        for number in 0..100 {
            cache.keep(key(number), one.clone());
            let halves = cache.halves.borrow();
            assert!(halves.young.bytes <= 2 * size && halves.old.bytes <= 2 * size);
        }
        assert_eq!(held(&cache), 4);
        cache.keep(key(1_000), content(&"x".repeat(8 * size)));
        assert!(cache.find(&key(1_000)).is_none());
    }

    #[test]
    fn none_remembers_nothing_and_nothing_is_shown() {
        let cache = TokenCache::none();
        cache.keep(key(0), content("alice"));
        assert!(cache.find(&key(0)).is_none());
        let cache = TokenCache::default();
        cache.keep(key(0), content("alice"));
        assert!(!format!("{cache:?}").contains("alice"));
    }
}
