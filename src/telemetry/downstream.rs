//! Clients' connections and handshakes.

use std::rc::Rc;

use super::worker::Shard;

/// How a client's TLS handshake ended (`portcullis_tls_handshakes_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandshakeOutcome {
    /// Done with a full exchange.
    Ok,
    /// Done by resuming a session.
    Resumed,
    /// Not for us to do: the stream is passed through.
    Passthrough,
    /// No server block serves the name, or there was none.
    NoSniMatch,
    /// No whole ClientHello in time.
    HelloTimeout,
    /// The first bytes are TLS, but not a ClientHello within its bounds.
    HelloMalformed,
    /// Not done in time.
    Timeout,
    /// The client's certificate is missing or refused.
    ClientCertificate,
    /// No common version, cipher or application protocol, or a broken message.
    Protocol,
    /// The client spoke without TLS.
    Plaintext,
    /// The client left.
    Closed,
    /// The server block has no usable certificate.
    NoCertificate,
}

impl HandshakeOutcome {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Resumed => "resumed",
            Self::Passthrough => "passthrough",
            Self::NoSniMatch => "no_sni_match",
            Self::HelloTimeout => "hello_timeout",
            Self::HelloMalformed => "hello_malformed",
            Self::Timeout => "timeout",
            Self::ClientCertificate => "client_certificate",
            Self::Protocol => "protocol",
            Self::Plaintext => "plaintext",
            Self::Closed => "closed",
            Self::NoCertificate => "no_certificate",
        }
    }
}

/// What a client's connection is (`portcullis_connections_active`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Accepted; hello or handshake under way.
    Handshake,
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// A TCP route, TLS ended here or not used.
    Tcp,
    /// TLS passed through.
    Passthrough,
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Handshake, Self::Http, Self::Tcp, Self::Passthrough];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Passthrough => "passthrough",
        }
    }
}

/// A client's connection; counted in `portcullis_connections_active` until dropped.
#[derive(Debug)]
pub struct OpenConnection {
    shard: Rc<Shard>,
    kind: ConnectionKind,
}

impl OpenConnection {
    pub(super) fn new(shard: Rc<Shard>) -> Self {
        let connection = Self { shard, kind: ConnectionKind::Handshake };
        connection.count(1);
        connection
    }

    /// Says what the connection turned out to be.
    pub fn becomes(&mut self, kind: ConnectionKind) {
        self.count(-1);
        self.kind = kind;
        self.count(1);
    }

    fn count(&self, change: i64) {
        if let Some(level) = self.shard.series.connections_active.get(self.kind as usize) {
            level.add(change);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.count(-1);
    }
}

/// A request being served; counted in `portcullis_requests_active` until dropped.
#[derive(Debug)]
pub struct ActiveRequest(Rc<Shard>);

impl ActiveRequest {
    pub(super) fn new(shard: Rc<Shard>) -> Self {
        shard.series.requests_active.add(1);
        Self(shard)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.series.requests_active.add(-1);
    }
}
