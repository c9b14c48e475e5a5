//! One connection to one endpoint: TCP, then TLS, under one deadline.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::snapshot::cluster::Address;

/// How a connection is secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Plaintext.
    Plain,
    /// TLS with this configuration and server name.
    Tls(Arc<rustls::ClientConfig>, ServerName<'static>),
}

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// An endpoint that could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Refused or unreachable.
    #[error("connection failed")]
    Refused(#[source] io::Error),
    /// Not connected in time.
    #[error("connection timed out")]
    Timeout,
    /// The handshake failed.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The cluster's TLS material is unusable.
    #[error("TLS material is unusable: {0}")]
    Unusable(Arc<str>),
}

/// Connects; dropping the future closes what there is.
pub async fn connect(
    address: &Address,
    security: Security,
    within: Duration,
) -> Result<Stream, ConnectError> {
    timeout(within, attempt(address, security)).await.map_err(|_| ConnectError::Timeout)?
}

async fn attempt(address: &Address, security: Security) -> Result<Stream, ConnectError> {
    let socket = match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(&**path).await.map_err(ConnectError::Refused)?;
            return Ok(Stream::Unix(stream));
        }
        Address::Socket(socket) => {
            TcpStream::connect(socket).await.map_err(ConnectError::Refused)?
        }
    };
    socket.set_nodelay(true).map_err(ConnectError::Refused)?;
    match security {
        Security::Plain => Ok(Stream::Tcp(socket)),
        Security::Tls(config, name) => {
            let connector = TlsConnector::from(config);
            let stream = connector.connect(name, socket).await.map_err(ConnectError::Tls)?;
            Ok(Stream::Tls(Box::new(stream)))
        }
    }
}

impl Stream {
    /// This end's address; none for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Tls(tls) => tls.get_ref().0.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Whether the peer agreed on HTTP/2 by ALPN.
    pub fn negotiated_http2(&self) -> bool {
        matches!(self, Self::Tls(tls)
            if matches!(tls.get_ref().1.alpn_protocol(), Some(b"h2" | b"istio-h2")))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(s) => s.is_write_vectored(),
            Self::Unix(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}
