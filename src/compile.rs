//! Resources and file bytes to listeners, routes and clusters, with what is wrong along the way.
//!
//! **Invariant:** compiling is a pure function: no file is read, no clock asked, and a broken
//! resource harms only what it names.

pub mod bindings;
pub mod credentials;
pub mod destination_rules;
pub mod files;
pub mod findings;
pub mod gateways;
pub mod names;
pub mod peers;
pub mod routes;
pub mod server_tls;
pub mod services;
pub mod settings;
