//! PeerAuthentication as far as it concerns a client: whether an endpoint wants plaintext.

use std::collections::HashMap;

use crate::resources::peer_authentication::{MutualTlsMode, PeerAuthentication};
use crate::resources::{Labels, Resource, ResourceSet};

use super::names::selects;

/// The policies by level.
#[derive(Debug, Default)]
pub struct PeerPolicies<'a> {
    mesh: MutualTlsMode,
    namespaces: HashMap<&'a str, MutualTlsMode>,
    workloads: HashMap<&'a str, Vec<&'a Resource<PeerAuthentication>>>,
}

impl<'a> PeerPolicies<'a> {
    /// Sorts the policies of a set into levels; the oldest of a level wins.
    pub fn new(set: &'a ResourceSet, root_namespace: &str) -> Self {
        let mut policies = Self::default();
        let mut mesh = None;
        for policy in &set.peer_authentications {
            let namespace = &*policy.meta.namespace;
            let mode = policy.spec.mtls.unwrap_or_default().mode;
            let selector = policy.spec.selector.as_ref();
            if namespace == root_namespace {
                mesh.get_or_insert(mode);
            } else if selector.is_some_and(|selector| !selector.match_labels.is_empty()) {
                policies.workloads.entry(namespace).or_default().push(policy);
            } else {
                policies.namespaces.entry(namespace).or_insert(mode);
            }
        }
        policies.mesh = mesh.unwrap_or_default();
        policies
    }

    /// Whether a workload's port is spoken to in plaintext.
    pub fn plaintext(&self, namespace: &str, labels: &Labels, port: u16) -> bool {
        let workload = self.workloads.get(namespace).into_iter().flatten().find(|policy| {
            policy.spec.selector.as_ref().is_some_and(|s| selects(&s.match_labels, labels))
        });
        let modes = [
            workload
                .and_then(|policy| policy.spec.port_level_mtls.get(&u32::from(port)))
                .map(|mtls| mtls.mode),
            workload.map(|policy| policy.spec.mtls.unwrap_or_default().mode),
            self.namespaces.get(namespace).copied(),
            Some(self.mesh),
        ];
        let effective = modes.into_iter().flatten().find(|mode| *mode != MutualTlsMode::Unset);
        effective == Some(MutualTlsMode::Disable)
    }
}
