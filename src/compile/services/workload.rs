//! The Service of a workload's own port, as the workload sees it.

use std::sync::Arc;

use super::{KubeService, Port, Service, Services, Source, host};
use crate::base::id::ResourceId;
use crate::compile::names::selects;
use crate::resources::core::PortOrName;
use crate::resources::service_entry::ServiceEntry;
use crate::resources::{Labels, Resource};

impl Services<'_> {
    /// The service, and its port, that sends a workload what comes at its `port`; the oldest where there
    /// are several.
    pub fn of_workload(
        &self,
        (namespace, labels): (&str, &Labels),
        port: u16,
    ) -> Option<(&Service, &Port)> {
        let known = |host: &str| {
            let of_host = self.by_host.get(&host.to_ascii_lowercase()).into_iter().flatten();
            of_host.map(|(service, _)| service).find(|service| service.namespace == namespace)
        };
        let own = |id: &ResourceId, selector: &Labels| {
            *id.namespace == *namespace && !selector.is_empty() && selects(selector, labels)
        };
        let mut kube = self.set.services.iter().filter(|one| own(&one.id, &one.spec.selector));
        let kube = kube.find_map(|one| {
            let of_host = self.by_host.get(&host(one, self.cluster_domain));
            let (service, _) =
                of_host?.iter().find(|(_, source)| matches!(source, Source::Kube(_)))?;
            let target = |candidate: &&Port| self.target(one, candidate) == Some(port);
            Some((service, service.ports.iter().find(target)?))
        });
        kube.or_else(|| {
            let selecting = |one: &&Arc<Resource<ServiceEntry>>| {
                let selector = one.spec.workload_selector.as_ref();
                selector.is_some_and(|selector| own(&one.id, &selector.labels))
            };
            self.set.service_entries.iter().filter(selecting).find_map(|entry| {
                let service = entry.spec.hosts.iter().find_map(|host| known(host))?;
                Some((service, service.ports.iter().find(|one| one.target == port)?))
            })
        })
    }

    /// The port of a workload that a Service's port stands for: one with a name is known by the
    /// Service's slices.
    fn target(&self, service: &Resource<KubeService>, port: &Port) -> Option<u16> {
        let written = service.spec.ports.iter().find(|one| one.name == port.name)?;
        if !matches!(written.target_port, Some(PortOrName::Name(_))) {
            return Some(port.target);
        }
        let slices = self.slices.get(&(&*service.id.namespace, &*service.id.name));
        let ports = slices.into_iter().flatten().flat_map(|slice| &slice.spec.ports);
        let number = ports.filter(|one| one.name == port.name).map(|one| one.port).next()?;
        u16::try_from(number).ok()
    }
}
