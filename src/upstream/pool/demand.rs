//! What is asked of a pool, and why it cannot be had.

use std::net::SocketAddr;

use crate::upstream::bounds::Overflow;
use crate::upstream::connect::ConnectError;

/// What a request wants of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The request's host, for the name in a handshake.
    pub host: &'a str,
    /// What keeps it on one endpoint.
    pub hash: Option<u64>,
    /// The two ends of the client's connection, for PROXY headers: the client's, this one's.
    pub client: (SocketAddr, SocketAddr),
    /// What kind of connection will do.
    pub wanted: Wanted,
}

/// What kind of connection will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Any that can carry a request.
    #[default]
    Any,
    /// One that carried nothing yet.
    Fresh,
}

/// No connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The cluster has no endpoint that may be used.
    #[error("no endpoint")]
    NoEndpoint,
    /// A bound of the cluster is reached.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The chosen endpoint could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}
