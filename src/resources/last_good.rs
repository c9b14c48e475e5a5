//! What a document that broke was before it broke: that goes on until it is mended or deleted.
//!
//! **Invariant**: nothing goes on that a file which can be read wholly does not name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{AnyResource, Broken, Parsed, ParsedFile};
use crate::base::id::{Generation, ResourceId};
use crate::diag::{Diagnostic, Location, catalog};

/// Takes over what broken documents were in `before`, whose snapshot was `generation`; they count as
/// outlived then.
pub(super) fn take_over(
    files: &[&ParsedFile],
    before: &Parsed,
    generation: Generation,
    parsed: &mut Parsed,
) -> Vec<AnyResource> {
    let unclear: HashMap<&Arc<str>, &Location> =
        files.iter().filter_map(|file| Some((&file.path, file.unclear.as_ref()?))).collect();
    if unclear.is_empty() && parsed.set.broken.is_empty() {
        return Vec::new();
    }
    let fresh: HashSet<&ResourceId> =
        files.iter().flat_map(|file| &file.resources).map(AnyResource::id).collect();
    let broken: HashMap<ResourceId, Location> = parsed
        .set
        .broken
        .iter()
        .map(|broken| (broken.id.clone(), broken.location.clone()))
        .collect();
    let mut taken = Vec::new();
    // Of a file in which some document is unclear: what that document may have been.
    let mut maybe: BTreeMap<&Location, Vec<ResourceId>> = BTreeMap::new();
    for resource in before.set.each().filter(|resource| !fresh.contains(resource.id())) {
        let (id, place) = (resource.id().clone(), resource.location(""));
        let since = *before.last_good.get(&id).unwrap_or(&generation);
        if let Some(location) = broken.get(&id) {
            parsed.diagnostics.push(one(&id, &place, since).at(location.clone()));
        } else if let Some(location) = unclear.get(&place.file) {
            maybe.entry(location).or_default().push(id.clone());
            let unknown = Broken { token_parameters: None, ..resource.broken((*location).clone()) };
            parsed.set.outlived.push(unknown);
        } else {
            continue;
        }
        parsed.last_good.insert(id, since);
        taken.push(resource);
    }
    parsed.diagnostics.extend(maybe.iter().map(|(location, ids)| several(ids, location)));
    // A document without a readable name is one of those that its file held; one with a name of its own
    // is no other.
    let was = |broken: &Broken| {
        let held = maybe.iter().filter(|(at, _)| at.file == broken.location.file);
        let mut held = held.flat_map(|(_, ids)| ids);
        let ResourceId { namespace, name, .. } = &broken.id;
        parsed.last_good.contains_key(&broken.id)
            || held.any(|id| {
                let named = id.name == *name
                    && (broken.is_of_any_namespace() || id.namespace == *namespace);
                broken.may_be(id.kind) && (name.is_empty() || named)
            })
    };
    let outlived = |broken: &mut Broken| !fresh.contains(&broken.id) && was(broken);
    parsed.set.outlived.extend(parsed.set.broken.extract_if(.., outlived));
    taken
}

fn one(id: &ResourceId, place: &Location, since: Generation) -> Diagnostic {
    let message =
        format!("{id} goes on as it was in generation {since}, when it was read from {place}");
    let finding = Diagnostic::new(&catalog::LAST_GOOD_GOES_ON, message).resource(id.clone());
    finding.help("correct the document, or delete it to take the resource away")
}

fn several(ids: &[ResourceId], location: &Location) -> Diagnostic {
    let first = ids.first().map(ToString::to_string).unwrap_or_default();
    let message = match ids.len() {
        1 => format!("{first}, which this file held, goes on as it was"),
        count => format!("{count} resources that this file held go on as they were, {first} first"),
    };
    let finding = Diagnostic::new(&catalog::LAST_GOOD_GOES_ON, message).at(location.clone());
    finding.help("correct the document here; it does not say what it is")
}
