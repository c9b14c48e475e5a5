//! The Istio API as written: typed resources with their places, nothing defaulted, nothing resolved.
//!
//! Files are read one by one ([`parse_file`]) and put together ([`assemble`]), so a reload reads
//! only what changed. A document that cannot be read, or that Istio's webhook refuses, is reported and, when it says what it was,
//! recorded in [`ResourceSet::broken`], so that a security resource never goes missing in silence.
//!
//! **Order**: resources with a `metadata.creationTimestamp` first, oldest first; then the others by
//! file path and place in the file.
//!
//! **Invariant**: within a set, kind, namespace and name are unique.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::id::{Generation, Origin, ResourceId};
use crate::diag::{Diagnostic, Location};

pub mod authorization_policy;
pub mod core;
pub mod destination_rule;
pub mod gateway;
pub mod mesh_config;
pub mod mesh_networks;
pub mod meta;
pub mod peer_authentication;
pub mod request_authentication;
pub mod service_entry;
pub mod virtual_service;

mod broken;
mod de;
mod document;
mod kind;
mod last_good;
pub mod name;
pub mod nearest;
mod node;
mod place;
mod salvage;
mod served;
mod set;
mod single;
mod validate;

pub use authorization_policy::AuthorizationPolicy;
pub use broken::{Broken, Restricted};
pub use core::{EndpointSlice, Secret, Service};
pub use destination_rule::DestinationRule;
pub use document::parse_file;
pub use gateway::Gateway;
pub use mesh_config::{MeshConfig, parse_mesh_config};
pub use mesh_networks::{MeshNetworks, parse_mesh_networks};
pub use meta::{Labels, Meta};
pub use peer_authentication::PeerAuthentication;
pub use request_authentication::RequestAuthentication;
pub use served::{Served, ServedHosts, Streams};
pub use service_entry::{ServiceEntry, WorkloadEntry};
pub use set::{AnyResource, assemble, parse};
pub use single::{Placed, parse_placed, parse_single};
pub use virtual_service::VirtualService;

use place::Places;

/// One configuration file, read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Path as given to `--config`.
    pub path: Arc<str>,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// A resource, typed, with the places of its fields.
#[derive(Clone, Debug)]
pub struct Resource<T> {
    /// Kind, namespace and name.
    pub id: ResourceId,
    /// `metadata`.
    pub meta: Meta,
    /// `spec`; for kinds without one (Secret, EndpointSlice) the document itself.
    pub spec: T,
    /// Paths of fields that the kind does not have: reported, and left out of `spec`.
    pub unread: Box<[Box<str>]>,
    /// What Istio's webhook would warn about, and what it lets in and cannot work.
    pub findings: Box<[Diagnostic]>,
    places: Places,
}

impl<T> Resource<T> {
    /// Where a field was written, `spec.http[2].route[0].destination.subset` for example; the
    /// nearest parent that is there when the field is not.
    pub fn location(&self, path: &str) -> Location {
        self.places.location(path)
    }

    /// The same place as what a compiled thing carries.
    pub fn origin(&self, path: &str) -> Origin {
        let location = self.location(path);
        Origin { resource: self.id.clone(), file: location.file, line: location.line }
    }
}

/// Every resource of a configuration, in order.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "each list holds the kind it is named after")]
pub struct ResourceSet {
    pub gateways: Vec<Arc<Resource<Gateway>>>,
    pub virtual_services: Vec<Arc<Resource<VirtualService>>>,
    pub destination_rules: Vec<Arc<Resource<DestinationRule>>>,
    pub service_entries: Vec<Arc<Resource<ServiceEntry>>>,
    pub workload_entries: Vec<Arc<Resource<WorkloadEntry>>>,
    pub request_authentications: Vec<Arc<Resource<RequestAuthentication>>>,
    pub authorization_policies: Vec<Arc<Resource<AuthorizationPolicy>>>,
    pub peer_authentications: Vec<Arc<Resource<PeerAuthentication>>>,
    pub secrets: Vec<Arc<Resource<Secret>>>,
    pub services: Vec<Arc<Resource<Service>>>,
    pub endpoint_slices: Vec<Arc<Resource<EndpointSlice>>>,
    /// Documents that could not be read, in the order of files.
    pub broken: Vec<Broken>,
    /// Others that could not be read, where what they were before goes on.
    pub outlived: Vec<Broken>,
}

/// What one file holds.
#[derive(Clone, Debug)]
pub struct ParsedFile {
    /// Path as given to `--config`.
    pub path: Arc<str>,
    /// Resources in the order of the file.
    pub resources: Vec<AnyResource>,
    /// Documents that could not be read.
    pub broken: Vec<Broken>,
    /// Findings about this file alone.
    pub diagnostics: Vec<Diagnostic>,
    /// Where a document is that does not say what it is: not YAML, or without kind or name. What the
    /// file held before may still be in it.
    pub unclear: Option<Location>,
    /// Where something is that nobody knows what it is, though it may be a security resource: not text, a
    /// text that only mentions one, or a file that could not be opened.
    pub unread: Option<Location>,
}

impl ParsedFile {
    /// Of what could not be opened.
    pub fn unread(location: Location) -> Self {
        Self { unread: Some(location.clone()), ..Self::new(location.file) }
    }

    fn new(path: Arc<str>) -> Self {
        Self {
            path,
            resources: Vec::new(),
            broken: Vec::new(),
            diagnostics: Vec::new(),
            unclear: None,
            unread: None,
        }
    }
}

/// A configuration: its resources and what was found while reading.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The resources.
    pub set: ResourceSet,
    /// Findings of every file, sorted.
    pub diagnostics: Vec<Diagnostic>,
    /// Resources whose document is broken and that go on as they were in a generation.
    pub last_good: HashMap<ResourceId, Generation>,
    /// Whether all of a configuration was read once. Until then what is unread refuses requests; later it
    /// closes nothing that was open.
    pub opened: bool,
}
