//! JWT authentication (`RequestAuthentication`): where tokens sit, whether they hold, and what the
//! request looks like afterwards.
//!
//! **Invariant:** a request is [`Verdict::Verified`] only when every token that one rule found in it
//! has a signature by a key of that rule's issuer and claims that the rule allows. The clock is an
//! argument; keys arrive from outside through [`IssuerKeys`].

mod address;
mod cache;
mod failure;
mod issuer_keys;
mod json;
mod keys;
mod locate;
mod rule;
mod source;
mod token;

#[cfg(test)]
pub(crate) mod fixture;

pub use crate::base::claim::{ClaimPath, Claims};
pub use address::{InvalidAddress, web_address};
pub use cache::TokenCache;
pub use failure::{InvalidToken, JwtFailure, challenge};
pub use issuer_keys::{IssuerKeys, KeyState};
pub use keys::{InvalidKeySet, KeySet, SkippedKey, UnusableKey};
pub use locate::{HeaderLocation, Locations, RequestTokens, TokenPlace};
pub use rule::{
    Audiences, Authenticator, ClaimHeader, ForwardToken, JwtRule, Verdict, VerifiedToken,
    is_preflight, remove_owned,
};
pub use source::{DeclaredEndpoints, JwksSource, KeyLocation, printable};
