//! From a host to an open connection: declared endpoints, a proxy, or DNS.
//!
//! **Invariant:** an address that nobody declared is judged after resolution; one that does not answer
//! takes no more than [`STAGGER`] from the next.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::address;
use super::fetch::FetchError;
use super::location::Target;
use super::proxies::Proxy;
use crate::auth::jwt::DeclaredEndpoints;
use crate::base::limit;

/// How the host of a key set is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// Endpoints of a host that a resource declares.
    pub(super) declared: Option<&'a DeclaredEndpoints>,
    /// Failures in a row before: another address is tried first each time.
    pub(super) attempt: u32,
}

impl<'a> Way<'a> {
    /// The declared endpoints of a target.
    pub(super) fn declares(&self, target: &Target) -> Option<&'a DeclaredEndpoints> {
        self.declared.filter(|declared| {
            declared.port == target.port() && declared.host.eq_ignore_ascii_case(target.host())
        })
    }
}

/// Connects to a target without a proxy.
pub(super) async fn direct(target: &Target, way: Way<'_>) -> Result<TcpStream, FetchError> {
    let addresses = match way.declares(target) {
        Some(declared) => resolve_all(&declared.places).await?,
        None => resolve(target.host(), target.port()).await?,
    };
    any_of(addresses, way.attempt).await.map_err(|source| FetchError::Connect {
        host: target.host().to_owned(),
        port: target.port(),
        source,
    })
}

/// Connects to a proxy, which the operator named: it may be anywhere.
pub(super) async fn to_proxy(proxy: &Proxy, attempt: u32) -> Result<TcpStream, FetchError> {
    let failed = |source| FetchError::Proxy { proxy: proxy.to_string(), source };
    let found = tokio::net::lookup_host((proxy.host(), proxy.port())).await.map_err(failed)?;
    any_of(found.take(limit::DNS_ADDRESSES).collect(), attempt).await.map_err(failed)
}

/// Asks a proxy to connect on to a target (RFC 9110 section 9.3.6).
pub(super) async fn tunnel(
    stream: TcpStream,
    proxy: &Proxy,
    target: &Target,
    driver: &mut JoinSet<()>,
) -> Result<TokioIo<Upgraded>, FetchError> {
    let place = format!("{}:{}", target.bracketed_host(), target.port());
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    driver.spawn(async {
        // The request's own future reports what goes wrong on the connection.
        let _ = connection.with_upgrades().await;
    });
    let mut request = Request::connect(&place).header(HOST, &place);
    if let Some(value) = proxy.authorization() {
        request = request.header(PROXY_AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| target.unusable())?;
    let response = sender.send_request(request).await.map_err(FetchError::Http)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::ProxyStatus(proxy.to_string(), response.status()));
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(FetchError::Http)
}

/// Declared addresses as they are, declared names by DNS; a name that fails leaves the others.
async fn resolve_all(places: &[(Box<str>, u16)]) -> Result<Vec<SocketAddr>, FetchError> {
    let mut out = Vec::new();
    let mut failure = None;
    for (host, port) in places.iter().take(limit::DNS_ADDRESSES) {
        match host.parse() {
            Ok(ip) => out.push(SocketAddr::new(ip, *port)),
            Err(_) => match resolve(host, *port).await {
                Ok(found) => out.extend(found),
                Err(error) => failure = Some(error),
            },
        }
    }
    failure.filter(|_| out.is_empty()).map_or(Ok(out), Err)
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, FetchError> {
    let failed = |source| FetchError::Resolve { host: host.to_owned(), source };
    let resolved = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let (refused, allowed): (Vec<SocketAddr>, Vec<SocketAddr>) =
        resolved.take(limit::DNS_ADDRESSES).partition(|socket| address::is_refused(socket.ip()));
    match (allowed.is_empty(), refused.first()) {
        (false, _) => Ok(allowed),
        (true, Some(socket)) => Err(refuse(host, socket.ip())),
        (true, None) => Err(failed(io::Error::from(io::ErrorKind::AddrNotAvailable))),
    }
}

/// An address written in the URL is judged even when a proxy would connect to it.
pub(super) fn check_literal(target: &Target) -> Result<(), FetchError> {
    match target.host().parse::<IpAddr>() {
        Ok(ip) if address::is_refused(ip) => Err(refuse(target.host(), ip)),
        _ => Ok(()),
    }
}

fn refuse(host: &str, address: IpAddr) -> FetchError {
    FetchError::AddressRefused { host: host.to_owned(), address }
}

/// The first connection among addresses, each begun when the one before failed or was silent.
async fn any_of(mut addresses: Vec<SocketAddr>, attempt: u32) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    if addresses.is_empty() {
        return Err(last);
    }
    let first = attempt as usize % addresses.len();
    addresses.rotate_left(first);
    let mut waiting = addresses.into_iter();
    let mut begun = JoinSet::new();
    loop {
        let more = match waiting.next() {
            Some(address) => {
                begun.spawn(TcpStream::connect(address));
                true
            }
            None => false,
        };
        let ended = tokio::select! {
            ended = begun.join_next() => ended,
            () = tokio::time::sleep(STAGGER), if more => continue,
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last = error,
            Some(Err(error)) => last = io::Error::other(error),
            None => return Err(last),
        }
    }
}

/// How long an address may be silent before the next one is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A listener whose queue is full: further connections are never answered.
    fn silent() -> (std::net::TcpListener, Vec<std::net::TcpStream>, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut fill = Vec::new();
        while let Ok(stream) =
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50))
        {
            fill.push(stream);
        }
        (listener, fill, address)
    }

    #[tokio::test]
    async fn a_silent_address_and_a_dead_one_starve_no_other() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = (good.local_addr().unwrap(), good);
        let (_listener, _fill, silent) = silent();
        let dead = "127.0.0.1:1".parse().unwrap();
        for attempt in 0..3 {
            let addresses = vec![silent, dead, good.0];
            let stream = tokio::time::timeout(limit::JWKS_FETCH_TIME, any_of(addresses, attempt));
            assert_eq!(stream.await.unwrap().unwrap().peer_addr().unwrap(), good.0, "{attempt}");
        }
        assert!(any_of(vec![dead], 7).await.is_err());
        assert!(any_of(Vec::new(), 7).await.is_err());
    }

    #[test]
    fn refused_addresses_are_told_by_their_text_too() {
        for (uri, refused) in [
            ("http://169.254.169.254/", true),
            ("https://[fd00:ec2::254]/", true),
            ("https://10.0.0.1/", false),
            ("https://a.example/", false),
        ] {
            assert_eq!(check_literal(&Target::parse(uri).unwrap()).is_err(), refused, "{uri}");
        }
    }
}
