//! The data half: connections in, requests through.
//!
//! Every worker thread runs [`worker::run`]: its own sockets, its own connections, its own pools.
//! A connection goes through [`connection::serve`], a request through [`http::service::serve`], a
//! stream of bytes through [`tcp`]. What lives long is judged again ([`standing`]).
//!
//! **Invariant:** nothing here blocks, parses YAML or reads files.

mod caller;
pub mod connection;
mod hello;
pub mod http;
pub mod inbound;
pub mod serving;
pub mod standing;
pub mod tcp;
pub mod worker;
