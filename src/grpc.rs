//! gRPC as the CA and the sources of the mesh identity speak it: messages, and both ends of a
//! connection.
//!
//! Messages are written by hand, as far as they are used; fields that are left out are skipped.
//! **Invariant:** every message, connection and call is bounded before it is read.

pub mod authority;
pub mod client;
pub mod ext_authz;
pub mod health;
pub mod istio;
pub mod sds;
pub mod server;
pub mod workload;
