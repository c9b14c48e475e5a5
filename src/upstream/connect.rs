//! One connection to one endpoint: TCP, a PROXY header, then TLS, under one deadline.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::tunnel::Posted;
use crate::net::lone::Lone;
use crate::snapshot::cluster::{Address, Keepalive};

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
    Tls(Box<TlsStream<Lone<TcpStream>>>),
    /// TLS over a Unix domain socket.
    UnixTls(Box<TlsStream<Lone<UnixStream>>>),
    /// Through a proxy that was asked by CONNECT, and this end's address of the connection to it.
    Tunnel(TokioIo<Upgraded>, Option<SocketAddr>),
    /// Through a proxy that was asked by POST, and the same.
    Posted(Box<Posted>, Option<SocketAddr>),
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

/// How a connection is opened.
#[derive(Debug)]
pub struct Opening {
    /// How it is secured.
    pub security: Security,
    /// TCP and TLS together.
    pub within: Duration,
    /// Probes of a silent peer.
    pub keepalive: Option<Keepalive>,
    /// Bytes before everything else, TLS included.
    pub preface: Option<Vec<u8>>,
}

/// Connects; dropping the future closes what there is.
pub async fn connect(address: &Address, opening: Opening) -> Result<Stream, ConnectError> {
    let within = opening.within;
    timeout(within, attempt(address, opening)).await.map_err(|_| ConnectError::Timeout)?
}

async fn attempt(address: &Address, opening: Opening) -> Result<Stream, ConnectError> {
    let Opening { security, keepalive, preface, .. } = opening;
    match address {
        Address::Unix(path) => {
            let mut socket = UnixStream::connect(&**path).await.map_err(ConnectError::Refused)?;
            begin(&mut socket, preface).await?;
            Ok(match security {
                Security::Plain => Stream::Unix(socket),
                Security::Tls(config, name) => Stream::UnixTls(shake(config, name, socket).await?),
            })
        }
        Address::Socket(address) => {
            let mut socket = TcpStream::connect(address).await.map_err(ConnectError::Refused)?;
            socket.set_nodelay(true).map_err(ConnectError::Refused)?;
            if let Some(keepalive) = keepalive {
                probe(&socket, keepalive).map_err(ConnectError::Refused)?;
            }
            begin(&mut socket, preface).await?;
            Ok(match security {
                Security::Plain => Stream::Tcp(socket),
                Security::Tls(config, name) => Stream::Tls(shake(config, name, socket).await?),
            })
        }
    }
}

async fn begin<S: AsyncWrite + Unpin>(
    socket: &mut S,
    preface: Option<Vec<u8>>,
) -> Result<(), ConnectError> {
    let Some(preface) = preface else { return Ok(()) };
    socket.write_all(&preface).await.map_err(ConnectError::Refused)
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    socket: S,
) -> Result<Box<TlsStream<Lone<S>>>, ConnectError> {
    let stream = TlsConnector::from(config).connect(name, Lone::new(socket)).await;
    stream.map(Box::new).map_err(ConnectError::Tls)
}

fn probe(socket: &TcpStream, Keepalive { time, interval, probes }: Keepalive) -> io::Result<()> {
    let mut settings = TcpKeepalive::new();
    if let Some(time) = time {
        settings = settings.with_time(time);
    }
    if let Some(interval) = interval {
        settings = settings.with_interval(interval);
    }
    if let Some(probes) = probes {
        settings = settings.with_retries(probes);
    }
    SockRef::from(socket).set_tcp_keepalive(&settings)
}

/// Does the same with whatever a stream is.
macro_rules! each {
    ($stream:expr, $one:ident => $what:expr) => {
        match $stream {
            Stream::Tcp($one) => $what,
            Stream::Unix($one) => $what,
            Stream::Tls($one) => $what,
            Stream::UnixTls($one) => $what,
            Stream::Tunnel($one, _) => $what,
            Stream::Posted($one, _) => $what,
        }
    };
}

impl Stream {
    /// This end's address; none for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Tls(tls) => tls.get_ref().0.stream().local_addr().ok(),
            Self::Unix(_) | Self::UnixTls(_) => None,
            Self::Tunnel(_, local) | Self::Posted(_, local) => *local,
        }
    }

    /// Whether it is secured.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::UnixTls(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), one => Pin::new(one).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), one => Pin::new(one).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), one => Pin::new(one).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, one => one.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), one => Pin::new(one).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), one => Pin::new(one).poll_shutdown(cx))
    }
}
