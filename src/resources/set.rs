//! Puts the resources of many files together.
//!
//! **Invariant**: the result depends on the files' contents and paths only, not on their order.

use std::collections::HashMap;
use std::sync::Arc;

use super::gateway::Server;
use super::{
    AuthorizationPolicy, Broken, ConfigFile, DestinationRule, EndpointSlice, Gateway, Meta, Parsed,
    ParsedFile, PeerAuthentication, RequestAuthentication, Resource, ResourceSet, Restricted,
    Secret, Served, ServedHosts, Service, ServiceEntry, Streams, VirtualService, WorkloadEntry,
    last_good,
};
use crate::base::id::{Generation, ResourceId};
use crate::diag::{self, Diagnostic, Location, catalog};

macro_rules! kinds {
    ($($kind:ident => $list:ident;)+) => {
        /// A resource of some kind.
        #[derive(Clone, Debug)]
        #[allow(missing_docs, reason = "each variant holds the kind it is named after")]
        pub enum AnyResource {
            $($kind(Arc<Resource<$kind>>),)+
        }

        impl AnyResource {
            /// Kind, namespace and name.
            pub fn id(&self) -> &ResourceId {
                match self {
                    $(Self::$kind(resource) => &resource.id,)+
                }
            }

            /// `metadata`.
            pub fn meta(&self) -> &Meta {
                match self {
                    $(Self::$kind(resource) => &resource.meta,)+
                }
            }

            /// Where a field was written.
            pub fn location(&self, path: &str) -> Location {
                match self {
                    $(Self::$kind(resource) => resource.location(path),)+
                }
            }

            fn add_to(&self, set: &mut ResourceSet) {
                match self {
                    $(Self::$kind(resource) => set.$list.push(Arc::clone(resource)),)+
                }
            }

            fn same_meaning(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$kind(a), Self::$kind(b)) => {
                        a.spec == b.spec
                            && a.unread == b.unread
                            && a.meta.annotations == b.meta.annotations
                    })+
                    _ => false,
                }
            }
        }

        impl ResourceSet {
            /// Every resource, kind by kind.
            pub(super) fn each(&self) -> impl Iterator<Item = AnyResource> {
                let all = std::iter::empty();
                $(let all = all.chain(self.$list.iter().cloned().map(AnyResource::$kind));)+
                all
            }

            /// What Istio's webhook would warn about, and what it lets in and cannot work.
            pub fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
                let all = std::iter::empty();
                $(let all = all.chain(self.$list.iter().flat_map(|one| &one.findings));)+
                all
            }
        }
    };
}

kinds! {
    Gateway => gateways;
    VirtualService => virtual_services;
    DestinationRule => destination_rules;
    ServiceEntry => service_entries;
    WorkloadEntry => workload_entries;
    RequestAuthentication => request_authentications;
    AuthorizationPolicy => authorization_policies;
    PeerAuthentication => peer_authentications;
    Secret => secrets;
    Service => services;
    EndpointSlice => endpoint_slices;
}

impl ResourceSet {
    /// Whether there is no document of a kind that is read, broken or not.
    pub fn is_empty(&self) -> bool {
        self.broken.is_empty() && self.each().next().is_none()
    }
}

impl AnyResource {
    fn selector(&self) -> Option<super::Labels> {
        let selector = match self {
            Self::RequestAuthentication(resource) => &resource.spec.selector,
            Self::AuthorizationPolicy(resource) => &resource.spec.selector,
            Self::PeerAuthentication(resource) => &resource.spec.selector,
            Self::DestinationRule(resource) => &resource.spec.workload_selector,
            Self::Gateway(gateway) => return Some(gateway.spec.selector.clone()),
            _ => return None,
        };
        selector.as_ref().map(|selector| selector.match_labels.clone())
    }

    /// What it takes away when it is set aside.
    pub(super) fn broken(&self, location: Location) -> Broken {
        let mut broken = Broken {
            id: self.id().clone(),
            location,
            selector: self.selector(),
            export_to: Vec::new(),
            perhaps_private: false,
            restricted: Restricted::Nothing,
            served: Arc::default(),
            token_parameters: Some(Vec::new()),
            told_only: false,
        };
        match self {
            Self::RequestAuthentication(policy) => {
                let rules = policy.spec.jwt_rules.iter();
                let names = rules.flat_map(|rule| rule.from_params.iter().cloned()).collect();
                broken.token_parameters = policy.unread.is_empty().then_some(names);
            }
            Self::DestinationRule(rule) => {
                broken.export_to.clone_from(&rule.spec.export_to);
                broken.restricted = Restricted::Hosts([rule.spec.host.as_str().into()].into());
            }
            Self::VirtualService(service) => {
                broken.export_to.clone_from(&service.spec.export_to);
                let hosts = service.spec.hosts.clone();
                let served = ServedHosts { hosts, port: None, redirects: false };
                let gateways = Some(service.spec.gateways.clone());
                let streams =
                    if service.spec.tcp.is_empty() { Streams::Nothing } else { Streams::Anything };
                broken.served =
                    Arc::new(Served { servers: vec![served], gateways, streams, more: false });
            }
            Self::Gateway(gateway) => {
                let servers = gateway.spec.servers.iter().map(served_hosts).collect();
                broken.served = Arc::new(Served { servers, ..Served::default() });
            }
            Self::ServiceEntry(entry) if !entry.spec.subject_alt_names.is_empty() => {
                broken.export_to.clone_from(&entry.spec.export_to);
                let hosts = entry.spec.hosts.iter().map(|host| host.as_str().into());
                broken.restricted = Restricted::Hosts(hosts.collect());
            }
            _ => {}
        }
        broken
    }
}

fn served_hosts(server: &Server) -> ServedHosts {
    let bare = |host: &String| host.rsplit('/').next().unwrap_or_default().to_owned();
    ServedHosts {
        hosts: server.hosts.iter().map(bare).collect(),
        port: server.port.as_ref().and_then(|port| u16::try_from(port.number).ok()),
        redirects: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
    }
}

/// Reads files and puts them together.
pub fn parse(files: &[ConfigFile]) -> Parsed {
    let files: Vec<ParsedFile> = files.iter().map(super::parse_file).collect();
    assemble(&files, &Parsed::default(), Generation(0))
}

/// Puts files together: orders resources, and sets aside the later of two with one name (as
/// [`Broken`], unless the two are equal). What broke goes on as it was in `before`, the configuration
/// of `generation`; what was never read refuses, unless `before` was open without it.
pub fn assemble<'a>(
    files: impl IntoIterator<Item = &'a ParsedFile>,
    before: &Parsed,
    generation: Generation,
) -> Parsed {
    let mut files: Vec<&ParsedFile> = files.into_iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut parsed = Parsed::default();
    for file in &files {
        parsed.diagnostics.extend(file.diagnostics.iter().cloned());
        parsed.set.broken.extend(file.broken.iter().cloned());
    }
    let taken_over = last_good::take_over(&files, before, generation, &mut parsed);
    let mut resources: Vec<&AnyResource> = files.iter().flat_map(|file| &file.resources).collect();
    if !taken_over.is_empty() {
        resources.extend(&taken_over);
        resources.sort_by_cached_key(|resource| resource.location(""));
    }
    resources.sort_by_key(|resource| {
        let created = resource.meta().creation_timestamp;
        (created.is_none(), created)
    });
    let mut seen: HashMap<&ResourceId, &AnyResource> = HashMap::with_capacity(resources.len());
    for resource in resources {
        if let Some(first) = seen.get(resource.id()) {
            set_aside(resource, first, &mut parsed);
        } else {
            seen.insert(resource.id(), resource);
            resource.add_to(&mut parsed.set);
        }
    }
    let mut unread = files.iter().filter_map(|file| file.unread.as_ref());
    let unread = unread.next().filter(|_| !before.opened);
    parsed.set.broken.extend(unread.map(|place| Broken::unread(place.clone())));
    parsed.opened = before.opened || (unread.is_none() && parsed.set.each().next().is_some());
    diag::sort(&mut parsed.diagnostics);
    parsed
}

fn set_aside(later: &AnyResource, first: &AnyResource, parsed: &mut Parsed) {
    let location = later.location("metadata.name");
    parsed.diagnostics.push(
        Diagnostic::new(
            &catalog::DUPLICATE_RESOURCE,
            format!("{} is already defined at {}", later.id(), first.location("metadata.name")),
        )
        .at(location.clone())
        .field("metadata.name")
        .resource(later.id().clone())
        .help("remove one of the two, or give it another name; this one is not used"),
    );
    if !later.same_meaning(first) {
        parsed.set.broken.push(later.broken(location));
    }
}
