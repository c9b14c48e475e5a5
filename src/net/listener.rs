//! Binding of listening sockets: one for each worker, so that no accept crosses a thread.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Pending connections the kernel keeps for us.
const BACKLOG: i32 = 4096;

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(cause, *privileged))]
pub struct BindError {
    /// Where.
    pub address: String,
    /// Whether the port is below 1024.
    pub privileged: bool,
    /// What the system says.
    pub cause: io::Error,
}

fn reason(error: &io::Error, privileged: bool) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop the other program, or move this port with --port-map".into()
        }
        io::ErrorKind::PermissionDenied if privileged => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or move this port with \
             --port-map"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has this address; choose one that it has with --bind, or in \
             the server's bind"
                .into()
        }
        _ => explained(error),
    }
}

/// What the system says, and what to do when it is that no file descriptors are left.
pub fn explained(error: &io::Error) -> String {
    let out = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    if error.raw_os_error().is_some_and(|code| out.contains(&code)) {
        format!("{error}; raise the limit on open files (ulimit -n)")
    } else {
        error.to_string()
    }
}

/// Binds `count` sockets to one address, all or none.
///
/// The address is first tried without sharing, so that another program on the port, another
/// portcullis too, is an error and not a silent partner.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, BindError> {
    let wrap = |cause| BindError {
        address: address.to_string(),
        privileged: (1..1024).contains(&address.port()),
        cause,
    };
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
pub fn bind_unix(path: &Path) -> Result<std::os::unix::net::UnixListener, BindError> {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    let wrap = |cause| BindError { address: path.display().to_string(), privileged: false, cause };
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
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
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(97)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_the_way_out() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(first.local_addr().unwrap(), 2).unwrap_err();
        assert!(error.to_string().contains("--port-map"), "{error}");
    }

    #[test]
    fn an_address_that_the_machine_does_not_have_is_told_with_the_way_out() {
        let error = bind("192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("--bind"), "{error}");
    }

    #[test]
    fn workers_share_one_address_but_others_cannot() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sockets = bind(free, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert!(bind(free, 1).is_err());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_but_not_a_live_one_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(bind_unix(&path).unwrap());
        let live = bind_unix(&path).unwrap();
        assert!(bind_unix(&path).is_err());
        drop(live);
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        assert!(bind_unix(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
    }
}
