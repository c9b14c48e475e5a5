//! A port of the workload beside which this process runs (`portcullis sidecar`).

use std::sync::Arc;

use crate::base::id::Origin;

use super::cluster::ClusterId;
use super::listener::{ServerBlock, TcpBlock};

/// What is before one port of the application.
#[derive(Debug)]
pub struct Inbound {
    /// What says how callers connect: the PeerAuthentication, else what declares the port.
    pub origin: Origin,
    /// The way of requests to the application, else of bytes: what is refused is counted as on it.
    pub application: ClusterId,
    /// What plaintext meets; nothing refuses it (`STRICT`).
    pub plain: Option<Spoken>,
    /// What the mesh's mutual TLS meets; nothing when TLS is not looked for (`DISABLE`).
    pub mutual: Option<Spoken>,
}

/// What is spoken on a port, by its declared protocol.
#[derive(Debug)]
pub enum Spoken {
    /// HTTP of either version.
    Http(Arc<ServerBlock>),
    /// Bytes.
    Tcp(Arc<TcpBlock>),
    /// One of the two: it is not declared, and told by what comes.
    Either(Arc<ServerBlock>, Arc<TcpBlock>),
}

impl Spoken {
    /// What takes requests.
    pub fn http(&self) -> Option<&Arc<ServerBlock>> {
        match self {
            Self::Http(block) | Self::Either(block, _) => Some(block),
            Self::Tcp(_) => None,
        }
    }

    /// What takes bytes.
    pub fn tcp(&self) -> Option<&Arc<TcpBlock>> {
        match self {
            Self::Tcp(block) | Self::Either(_, block) => Some(block),
            Self::Http(_) => None,
        }
    }
}

impl Inbound {
    /// The mode in Istio's word.
    pub fn mode(&self) -> &'static str {
        match (&self.plain, &self.mutual) {
            (Some(_), Some(_)) => "PERMISSIVE",
            (None, _) => "STRICT",
            (Some(_), None) => "DISABLE",
        }
    }

    /// What takes requests that come with the mesh's TLS, or without TLS.
    pub fn http(&self, secured: bool) -> Option<&Arc<ServerBlock>> {
        let spoken = if secured { &self.mutual } else { &self.plain };
        spoken.as_ref()?.http()
    }
}
