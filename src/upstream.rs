//! Connections to backends: choosing an endpoint, connecting, keeping what can be used again.
//!
//! Each worker has its own [`registry::Upstreams`]; nothing of it is shared, so taking a connection
//! out of a pool costs no lock. Names ([`resolve`]) and key sets ([`jwks`]) are looked up on the
//! control runtime and read through cells.
//!
//! **Invariant:** a connection is used again only for the cluster key and server name it was made
//! for.

pub mod connect;
pub mod jwks;
pub mod pool;
pub mod registry;
pub mod resolve;
