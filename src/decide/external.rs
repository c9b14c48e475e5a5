//! Whether a provider is asked about a request, before tokens and other policies are looked at.

use crate::auth::authz::Selected;
use crate::auth::jwt::Verdict;
use crate::snapshot::external::External;
use crate::snapshot::listener::{Listener, ServerBlock};
use crate::snapshot::{Authorization, Snapshot};

use super::request::{RequestFacts, judged, serves};

/// The CUSTOM policies by provider, in the order in which providers are asked; none for a request that
/// its connection does not serve.
pub fn providers<'a>(
    snapshot: &'a Snapshot,
    listener: &Listener,
    block: &ServerBlock,
    authority: &str,
) -> &'a [External] {
    match &snapshot.authorization {
        Authorization::Enforce(access) if !access.external.is_empty() => {
            if serves(listener, block, authority) { &access.external } else { &[] }
        }
        _ => &[],
    }
}

/// The rule that selects a request for a provider.
pub fn selects<'a>(external: &'a External, facts: &RequestFacts<'_>) -> Option<Selected<'a>> {
    judged(facts, &Verdict::Anonymous, true, |facts| external.policies.select(facts))
}
