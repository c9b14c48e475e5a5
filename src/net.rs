//! Sockets and streams that know nothing of routes: binding, the coarse clock that ends stuck
//! connections, replaying what was read to look at it, judging HTTP/1.1 before it is parsed, and copying bytes without copying them.
//!
//! **Invariant:** nothing here knows a snapshot.

pub mod coalesce;
pub mod copy;
pub mod executor;
pub mod guarded;
pub mod listener;
pub mod liveness;
pub mod proxy_protocol;
pub mod rewind;
pub mod strict;
