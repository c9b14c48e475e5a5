//! What a server believes of those before it, and what it tells backends of a client's certificate.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::host::without_port;
use crate::base::id::Origin;
use crate::route::hosts::HostIndex;

/// Whose word on the client a server takes, and what becomes of `x-forwarded-client-cert`.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    /// Proxies before it.
    pub proxies: Said<TrustedProxies>,
    /// `x-forwarded-client-cert` handling.
    pub client_cert: Said<ClientCertForwarding>,
}

/// What a block does: the same for all its hosts, or, on a plaintext port, what the Gateway of each says.
#[derive(Clone, Debug, Default)]
pub struct ByHost<T> {
    /// Of hosts that have none of their own.
    pub rest: Arc<T>,
    /// Of those that have; nothing where all say the same.
    pub hosts: Option<HostIndex<Arc<T>>>,
}

impl<T> ByHost<T> {
    /// The same of all hosts.
    pub fn all(rest: Arc<T>) -> Self {
        Self { rest, hosts: None }
    }

    /// Of the host of a request, with its port or without.
    pub fn of(&self, authority: &str) -> &T {
        let own = self.hosts.as_ref().and_then(|hosts| hosts.lookup(without_port(authority)));
        own.unwrap_or(&self.rest)
    }
}

/// A setting, and where a Gateway says it; nothing where it holds for the whole mesh.
#[derive(Clone, Debug, Default)]
pub struct Said<T> {
    /// The setting.
    pub value: T,
    /// The Gateway's annotation.
    pub by: Option<Origin>,
}

/// Proxies whose word on the client counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxies {
    /// So many, whoever connects (`gatewayTopology.numTrustedProxies`).
    Hops(usize),
    /// Those with these addresses.
    Blocks(Box<[IpNet]>),
}

impl Default for TrustedProxies {
    fn default() -> Self {
        Self::Hops(0)
    }
}

/// Whether an address is in one of the blocks.
pub fn contain(blocks: &[IpNet], address: IpAddr) -> bool {
    blocks.iter().any(|block| block.contains(&address))
}

/// What happens to `x-forwarded-client-cert`
/// (`MeshConfig.defaultConfig.gatewayTopology.forwardClientCertDetails`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertForwarding {
    /// Removed, and set when the client showed a certificate.
    #[default]
    SanitizeSet,
    /// Removed.
    Sanitize,
    /// The client's is kept when it showed a certificate.
    ForwardOnly,
    /// The certificate is appended to the client's.
    AppendForward,
    /// The client's is kept.
    AlwaysForwardOnly,
}

impl ClientCertForwarding {
    /// Every way.
    pub const ALL: [Self; 5] = [
        Self::SanitizeSet,
        Self::Sanitize,
        Self::ForwardOnly,
        Self::AppendForward,
        Self::AlwaysForwardOnly,
    ];

    /// As Istio writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SanitizeSet => "SANITIZE_SET",
            Self::Sanitize => "SANITIZE",
            Self::ForwardOnly => "FORWARD_ONLY",
            Self::AppendForward => "APPEND_FORWARD",
            Self::AlwaysForwardOnly => "ALWAYS_FORWARD_ONLY",
        }
    }

    /// Whether it matters what certificate the client showed.
    pub fn asks(self) -> bool {
        matches!(self, Self::SanitizeSet | Self::AppendForward | Self::ForwardOnly)
    }
}
