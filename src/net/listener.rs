//! Binding of listening sockets: one for each worker, so that no accept crosses a thread.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Pending connections the kernel keeps for us.
const BACKLOG: i32 = 4096;

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.what(), self.advice())]
pub struct BindError {
    /// Where.
    address: String,
    kind: Kind,
    /// What the system says; that a file exists where it is no socket.
    cause: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Below 1024.
    PrivilegedPort,
    Port,
    Path,
}

impl BindError {
    fn of_port(address: SocketAddr, cause: io::Error) -> Self {
        let privileged = (1..1024).contains(&address.port());
        let kind = if privileged { Kind::PrivilegedPort } else { Kind::Port };
        Self { address: address.to_string(), kind, cause }
    }

    fn of_path(path: &Path, cause: io::Error) -> Self {
        Self { address: path.display().to_string(), kind: Kind::Path, cause }
    }

    /// What cannot be, and why.
    pub fn what(&self) -> String {
        let cause = self.known().map_or_else(|| self.cause.to_string(), |(why, _)| why.to_owned());
        format!("cannot listen on {}: {cause}", self.address)
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        self.known().map_or("choose another address", |known| known.1)
    }

    /// Why, and what to do, where it is known better than the system says it.
    fn known(&self) -> Option<(&'static str, &'static str)> {
        use io::ErrorKind::{
            AddrInUse, AddrNotAvailable, AlreadyExists, InvalidInput, NotFound, PermissionDenied,
        };
        if is_out_of_files(&self.cause) {
            return Some(("too many files are open", RAISE_THE_LIMIT));
        }
        Some(match (self.kind, self.cause.kind()) {
            (Kind::Path, AddrInUse) => {
                ("another program listens there", "stop it, or choose another path")
            }
            (Kind::Path, AlreadyExists) => {
                ("there is a file that is no socket", "remove it, or choose another path")
            }
            (Kind::Path, NotFound) => {
                ("its folder does not exist", "make the folder, or choose another path")
            }
            (Kind::Path, PermissionDenied) => {
                ("this user may not write to its folder", "grant it, or choose another path")
            }
            (Kind::Path, _) => return None,
            (_, AddrInUse) => {
                ("the port is in use", "stop the other program, or move this port with --port-map")
            }
            (Kind::PrivilegedPort, PermissionDenied) => (
                "ports below 1024 need CAP_NET_BIND_SERVICE",
                "grant it, or move this port with --port-map",
            ),
            (_, AddrNotAvailable) => (
                "no interface of this machine has this address",
                "choose one that it has with --bind, or in the server's bind",
            ),
            (_, InvalidInput) => (
                "no connection can come to an address of this kind",
                "choose another with --bind, or in the server's bind",
            ),
            _ if has_no_family(&self.cause) => (
                "this machine has no IPv6",
                "choose an IPv4 address with --bind, or in the server's bind",
            ),
            _ => return None,
        })
    }
}

/// What to do when no file descriptors are left.
const RAISE_THE_LIMIT: &str = "raise the limit on open files (ulimit -n)";

fn is_out_of_files(error: &io::Error) -> bool {
    let out = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| out.contains(&code))
}

fn has_no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// What the system says, and what to do when it is that no file descriptors are left.
pub fn explained(error: &io::Error) -> String {
    if is_out_of_files(error) { format!("{error}; {RAISE_THE_LIMIT}") } else { error.to_string() }
}

/// Binds `count` sockets to one address, all or none.
///
/// The address is first tried without sharing, so that another program on the port, another
/// portcullis too, is an error and not a silent partner.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, BindError> {
    let wrap = |cause| BindError::of_port(address, cause);
    drop(open(address, Sharing::Alone).map_err(wrap)?);
    (0..count).map(|_| open(address, Sharing::Workers).map_err(wrap)).collect()
}

/// Binds to every address of this machine: IPv6 with IPv4, or IPv4 alone where there is no IPv6.
pub fn bind_any(port: u16, count: usize) -> Result<Vec<std::net::TcpListener>, BindError> {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind(any6, count) {
        Err(error) if no_ipv6(&error.cause) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), count)
        }
        result => result,
    }
}

/// Binds a Unix domain socket; a stale socket file is replaced, any other file is not.
pub fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let wrap = |cause| BindError::of_path(path, cause);
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(wrap(io::ErrorKind::AlreadyExists.into()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(wrap(io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(wrap)?;
    }
    let listener = UnixListener::bind(path).map_err(wrap)?;
    listener.set_nonblocking(true).map_err(wrap)?;
    Ok(listener)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Workers,
}

fn open(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Workers)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || has_no_family(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T>(result: Result<T, BindError>, what: &str, advice: &str) {
        let Err(error) = result else { panic!("it could be bound") };
        let said = (error.what(), error.advice().to_owned());
        assert!(said.0.contains(what) && said.1.contains(advice), "{said:?}");
        assert_eq!(error.to_string(), format!("{}; {}", said.0, said.1));
    }

    fn bind_at(address: &str) -> Result<Vec<std::net::TcpListener>, BindError> {
        bind(address.parse().unwrap(), 2)
    }

    #[test]
    fn what_cannot_be_bound_is_told_with_the_way_out() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = first.local_addr().unwrap().to_string();
        check(bind_at(&taken), "the port is in use", "--port-map");
        check(bind_at("192.0.2.1:0"), "no interface of this machine", "--bind");
        check(bind_at("[::ffff:127.0.0.1]:0"), "an address of this kind", "--bind");
    }

    #[test]
    fn a_path_that_cannot_be_bound_is_told_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("f"), "x").unwrap();
        check(bind_unix(&path("f")), "a file that is no socket", "remove it");
        assert_eq!(std::fs::read_to_string(path("f")).unwrap(), "x");
        check(bind_unix(&path("nowhere/s")), "its folder does not exist", "make the folder");
        let _live = bind_unix(&path("s")).unwrap();
        check(bind_unix(&path("s")), "another program listens there", "another path");
        check(bind_unix(&path(&"s".repeat(200))), "path", "another address");
    }

    #[test]
    fn workers_share_one_address_but_others_cannot() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sockets = bind(free, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert!(bind(free, 1).is_err());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(bind_unix(&path).unwrap());
        assert!(bind_unix(&path).is_ok());
    }
}
