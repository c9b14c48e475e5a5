//! Whether a provider is asked: about a request before tokens and other policies are looked at, about a
//! connection after them.

use crate::auth::authz::{Denial, Facts, Selected};
use crate::auth::jwt::Verdict;
use crate::snapshot::external::{External, Provider};
use crate::snapshot::listener::TcpBlock;
use crate::snapshot::{Access, Authorization, Snapshot};

use super::connection::ConnectionFacts;
use super::request::{RequestFacts, judged};

/// The CUSTOM policies by provider, in the order in which providers are asked.
pub fn providers(snapshot: &Snapshot) -> &[External] {
    match &snapshot.authorization {
        Authorization::Enforce(access) => &access.external,
        _ => &[],
    }
}

/// The rule that selects a request for a provider.
pub fn selects<'a>(external: &'a External, facts: &RequestFacts<'_>) -> Option<Selected<'a>> {
    judged(facts, &Verdict::Anonymous, true, |facts| external.policies.select(facts))
}

/// Refuses a request that is to be asked about while there is nobody to ask.
pub(super) fn refuse_unasked_request(
    access: &Access,
    facts: &RequestFacts<'_>,
) -> Result<(), Denial> {
    let mut unasked = access.external.iter().filter(|one| one.provider.is_none());
    refuse(unasked.find_map(|external| selects(external, facts)))
}

/// Refuses a connection whose bytes are passed on and that is to be asked about while there is nobody to
/// ask.
pub(super) fn refuse_unasked_stream(access: &Access, facts: &Facts<'_>) -> Result<(), Denial> {
    let mut unasked = access.external.iter().filter(|one| one.provider_of_streams().is_none());
    refuse(unasked.find_map(|external| external.policies.select(facts)))
}

fn refuse(selected: Option<Selected<'_>>) -> Result<(), Denial> {
    selected.map_or(Ok(()), |selected| Err(Denial::by(&selected)))
}

/// Who is asked about a connection whose bytes are passed on, in order, each with the rule that selects it.
pub fn of_stream<'a>(
    snapshot: &'a Snapshot,
    block: &TcpBlock,
    facts: &ConnectionFacts<'_>,
) -> Vec<(&'a Provider, Selected<'a>)> {
    match &snapshot.authorization {
        Authorization::Enforce(access) if block.judged && !access.external.is_empty() => {
            let facts = facts.for_policies();
            let asked = |external: &'a External| {
                let provider = external.provider_of_streams()?;
                Some((provider, external.policies.select(&facts)?))
            };
            access.external.iter().filter_map(asked).collect()
        }
        _ => Vec::new(),
    }
}
