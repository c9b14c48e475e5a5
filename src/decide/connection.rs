//! From a ClientHello to the chain that takes the connection.

use crate::route::hosts::HostIndex;
use crate::snapshot::listener::Chain;

/// The chain for a server name: exact name over longest wildcard over `*`, in any mode. A client
/// without SNI, or with one that no server has, reaches only a `*` server.
pub fn choose<'a>(chains: &'a HostIndex<Chain>, server_name: Option<&str>) -> Option<&'a Chain> {
    chains.lookup(server_name.unwrap_or_default())
}
