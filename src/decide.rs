//! What happens to a connection and to a request: one pure function each.
//!
//! [`connection::choose`] picks the chain for a ClientHello, [`inbound`] what takes a connection to a
//! workload's port; [`head::Head`] is what a request's head says, [`external::selects`] says which
//! providers are asked, and [`request::decide`] picks server block, verdict, route and destination for
//! it; [`target`] is what its backend is asked for; [`reply`] says how an answer of our own reaches a client that speaks gRPC. [`standing`] asks again
//! about what lives long. The data path acts on their answers and `explain` prints them, so the two
//! cannot differ.
//!
//! **Invariant:** no clock, randomness, sockets or locks: facts come in as arguments, and every
//! answer carries the [`crate::base::id::Origin`] that decided it.

pub mod connection;
pub mod external;
pub mod grpc_web;
pub mod head;
pub mod inbound;
pub mod reject;
pub mod reply;
pub mod request;
pub mod sanitize;
pub mod standing;
pub mod target;
pub mod trusted;
pub mod websocket;
