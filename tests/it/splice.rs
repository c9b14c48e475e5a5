//! The kernel moves the bytes of streams that nothing has to be read of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::client::tls;
use crate::gateway::{Gateway, Site, gateway, routes, service};

/// How many pipes of the process hold bytes.
fn pipes_with_bytes(gateway: &Gateway) -> usize {
    let entries = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    let pipe = |path: PathBuf| {
        let name = fs::read_link(&path).ok()?;
        name.to_str()?.starts_with("pipe:").then_some((name, path))
    };
    let pipes: BTreeMap<_, _> = entries.filter_map(|entry| pipe(entry.unwrap().path())).collect();
    let held = |path: &PathBuf| {
        File::open(path).is_ok_and(|pipe| rustix::io::ioctl_fionread(pipe).unwrap() > 0)
    };
    pipes.values().filter(|path| held(path)).count()
}

/// Fills a stream from both ends, of which neither reads, and expects bytes where the kernel keeps them.
fn check(port: u16, first: &[u8]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site::new();
    let rules = |kind: &str, of: &str| {
        format!("  {kind}: [{{{of}route: [{{destination: {{host: b.shop.internal}}}}]}}]\n")
    };
    let sni = "match: [{sniHosts: [a.com]}], ";
    site.config(
        "all",
        &(gateway("plain", 9000, "TCP", "'*'", "")
            + &gateway("passed", 443, "TLS", "a.com", "mode: PASSTHROUGH")
            + &routes("r", "istio-system/plain", "'*'", &rules("tcp", ""))
            + &routes("s", "istio-system/passed", "a.com", &rules("tls", sni))
            + &service("b", "TCP", listener.local_addr().unwrap().port())),
    );
    let gateway = site.start(&[9000, 443]);
    let mut client = TcpStream::connect(("127.0.0.1", gateway.port(port))).unwrap();
    client.write_all(first).unwrap();
    let (mut backend, _) = listener.accept().unwrap();
    assert_eq!(pipes_with_bytes(&gateway), 0);
    let bytes = vec![0; 1 << 20];
    for (end, full) in [(&mut client, 1), (&mut backend, 2)] {
        end.set_nonblocking(true).unwrap();
        gateway.wait("a pipe holds what is not taken", || {
            while end.write(&bytes).is_ok() {}
            pipes_with_bytes(&gateway) == full
        });
    }
}

#[test]
fn tcp_is_moved_by_the_kernel() {
    check(9000, b"hello");
}

#[test]
fn tls_that_is_passed_on_is_moved_by_the_kernel() {
    let name = ServerName::try_from("a.com").unwrap();
    let config = tls(&Site::new().edge, None, &[]);
    let mut hello = Vec::new();
    ClientConnection::new(config, name).unwrap().write_tls(&mut hello).unwrap();
    check(443, &hello);
}
