//! Whom requests and streams are counted for.

use std::rc::Rc;

use crate::auth::authz::Peer;
use crate::telemetry::Destination;

/// The destination as it is counted for a caller; callers without an identity share one.
pub(super) fn counted(peer: Option<&Peer>, destination: Rc<Destination>) -> Rc<Destination> {
    let Some(id) = peer.and_then(|peer| peer.ids.first()) else { return destination };
    let namespace = id.workload.as_ref().map_or("", |(namespace, _)| namespace);
    destination.called_by(&id.principal, namespace)
}
