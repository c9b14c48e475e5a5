//! What a caller of a workload's port speaks, by its first bytes and its ClientHello, and what takes it.

use std::sync::Arc;

use crate::base::limit;
use crate::snapshot::inbound::{Inbound, Spoken};
use crate::snapshot::listener::{Chain, MESH_PROTOCOLS, ServerBlock, TcpBlock};

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A TLS record with a ClientHello.
    Tls,
    /// A request line of HTTP/1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Anything else, or nothing.
    Other,
}

/// What takes a connection without TLS.
#[derive(Clone, Copy, Debug)]
pub enum Plain<'a> {
    /// HTTP, of version 2 where that is known.
    Http(&'a Arc<ServerBlock>, Option<bool>),
    /// Bytes.
    Tcp(&'a Arc<TcpBlock>),
}

/// What a connection begins with, as far as its port makes a difference of it; nothing while more
/// bytes are needed to tell.
pub fn opening(inbound: &Inbound, seen: &[u8]) -> Option<Opening> {
    if inbound.mutual.is_some() && is_hello(seen)? {
        return Some(Opening::Tls);
    }
    match &inbound.plain {
        Some(Spoken::Either(..)) => request(seen),
        _ => Some(Opening::Other),
    }
}

/// What takes a connection without TLS; nothing when the port refuses it.
pub fn plain(inbound: &Inbound, opening: Opening) -> Option<Plain<'_>> {
    match inbound.plain.as_ref()? {
        Spoken::Http(block) => Some(Plain::Http(block, None)),
        Spoken::Tcp(block) => Some(Plain::Tcp(block)),
        Spoken::Either(http, tcp) => Some(match opening {
            Opening::Http1 => Plain::Http(http, Some(false)),
            Opening::Http2 => Plain::Http(http, Some(true)),
            Opening::Tls | Opening::Other => Plain::Tcp(tcp),
        }),
    }
}

/// What takes a connection with TLS, by the application protocols its ClientHello offers. TLS that
/// is not the mesh's is the application's own, where plaintext may come and bytes are taken.
pub fn chain<'h>(
    inbound: &Inbound,
    offered: Option<impl Iterator<Item = &'h [u8]>>,
) -> Option<Chain> {
    let (mut of_the_mesh, mut http) = (false, false);
    for name in offered.into_iter().flatten() {
        of_the_mesh |= MESH_PROTOCOLS.contains(&name);
        http |= HTTP_PROTOCOLS.contains(&name);
    }
    if let Some(plain) = &inbound.plain
        && !of_the_mesh
    {
        return plain.tcp().cloned().map(Chain::Passthrough);
    }
    let mutual = inbound.mutual.as_ref()?;
    let requests = mutual.http().filter(|_| http || mutual.tcp().is_none());
    let requests = requests.cloned().map(Chain::Http);
    requests.or_else(|| mutual.tcp().cloned().map(Chain::Tcp))
}

/// Application protocols that say HTTP.
const HTTP_PROTOCOLS: [&[u8]; 6] =
    [b"istio-http/1.0", b"istio-http/1.1", b"istio-h2", b"http/1.0", b"http/1.1", b"h2"];

/// Whether a TLS record with a ClientHello begins here (RFC 8446 sections 4 and 5.1).
fn is_hello(seen: &[u8]) -> Option<bool> {
    const TESTS: [fn(u8) -> bool; 6] = [
        |kind| kind == 0x16,
        |major| major == 3,
        |minor| minor <= 4,
        |length| length <= 0x40,
        |_| true,
        |message| message == 1,
    ];
    if !TESTS.iter().zip(seen).all(|(test, byte)| test(*byte)) {
        return Some(false);
    }
    (seen.len() >= TESTS.len()).then_some(true)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that a request line is believed to begin with.
const METHOD_BYTES: usize = 24;

/// Which request begins here. A line that is too long to wait for its end is a request: what judges
/// requests then refuses it.
fn request(seen: &[u8]) -> Option<Opening> {
    if seen.starts_with(PREFACE) {
        return Some(Opening::Http2);
    }
    if PREFACE.starts_with(seen) {
        return None;
    }
    let end = seen.iter().position(|byte| *byte == b'\n');
    let line = seen.get(..end.unwrap_or(seen.len())).unwrap_or_default();
    let method = line.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    let Some(after) = line.get(method) else {
        let over = end.is_some() || method > METHOD_BYTES;
        return over.then_some(Opening::Other);
    };
    if method == 0 || method > METHOD_BYTES || *after != b' ' {
        return Some(Opening::Other);
    }
    if end.is_none() {
        return (line.len() > limit::REQUEST_LINE_SEEN_BYTES).then_some(Opening::Http1);
    }
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    Some(if version.starts_with(b"HTTP/1.") { Opening::Http1 } else { Opening::Other })
}

#[cfg(test)]
mod tests;
