//! Connections to backends: choosing an endpoint, connecting, keeping what can be used again.
//!
//! Each worker has its own [`registry::Upstreams`], so taking a connection out of a pool costs no
//! lock. What holds for the process ([`shared`]: bounds and ejections) exists only for clusters that
//! ask for it. Names ([`resolve`]) and key sets ([`jwks`]) are looked up on the control runtime and
//! read through cells.
//!
//! **Invariant:** a connection is used again only for the cluster key and server name it was made
//! for.

pub mod bounds;
pub mod connect;
pub mod health;
pub mod jwks;
pub mod pool;
pub mod registry;
pub mod resolve;
pub mod shared;
pub mod tunnel;
