//! What happens to a connection and to a request: one pure function each.
//!
//! [`connection::choose`] picks the chain for a ClientHello; [`head::Head`] is what a request's head says, and
//! [`request::decide`] picks server block,
//! verdict, route and destination for a request head. The data path acts on their answers and
//! `explain` prints them, so the two cannot differ.
//!
//! **Invariant:** no clock, randomness, sockets or locks: facts come in as arguments, and every
//! answer carries the [`crate::base::id::Origin`] that decided it.

pub mod connection;
pub mod head;
pub mod reject;
pub mod request;
pub mod sanitize;
