//! `portcullis health`: ask a running gateway whether it is ready, for containers without a shell.
//!
//! **Invariant:** it ends within [`TIME`] for connecting and [`TIME`] for each read and write.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::values::Listen;

/// Ask a running gateway whether it is ready: a container's health check
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HealthArgs {
    /// Health port of the running gateway, as run was given it
    #[arg(
        long,
        env = "PORTCULLIS_STATUS",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:15021"
    )]
    status: Listen,
}

pub(super) fn run(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let addr = args.status.0.context("the status port is off: give run and health --status")?;
    let addr = reachable(addr);
    let line = status_line(addr)
        .with_context(|| format!("no answer from {addr}: is portcullis running there?"))?;
    if line.starts_with("HTTP/1.1 200") {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("{addr} is not ready: it answered \"{}\"", line.escape_debug())
}

/// Where to reach a socket bound to `addr`: the loopback address for one bound to all.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Asks for readiness; returns the first line of the answer, at most [`LINE_BYTES`] of it.
fn status_line(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIME)?;
    stream.set_read_timeout(Some(TIME))?;
    stream.set_write_timeout(Some(TIME))?;
    let request =
        format!("GET /healthz/ready HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

const TIME: Duration = Duration::from_secs(2);
const LINE_BYTES: u64 = 128;

const EXAMPLES: &str = "\
Examples:
  portcullis health
  portcullis health --status 127.0.0.1:16021

Exit codes:
  0  ready
  1  not ready, or no answer
  2  the command line is wrong";

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn check(answer: &'static str, said: Result<(), &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend_from_slice(&byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(head).unwrap()
        });
        let result = run(&HealthArgs { status: Listen(Some(addr)) });
        assert!(server.join().unwrap().starts_with("GET /healthz/ready HTTP/1.1\r\n"));
        match (result, said) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(said)) => assert!(format!("{error:#}").contains(said), "{error:#}"),
            (result, _) => panic!("{answer:?}: {result:?}"),
        }
    }

    #[test]
    fn a_ready_gateway_is_healthy() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(()));
    }

    #[test]
    fn any_other_answer_is_not() {
        check("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("503"));
        check("", Err("not ready"));
        check("\u{1b}[2J 200", Err("not ready"));
    }

    #[test]
    fn no_answer_is_an_error_that_says_where() {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = run(&HealthArgs { status: Listen(Some(addr)) }).unwrap_err();
        assert!(error.to_string().contains(&addr.to_string()), "{error:#}");
        assert!(run(&HealthArgs { status: Listen(None) }).is_err());
    }

    #[test]
    fn a_port_on_all_addresses_is_reached_over_loopback() {
        assert_eq!(reachable(([0, 0, 0, 0], 1).into()), ([127, 0, 0, 1], 1).into());
        assert_eq!(reachable(([0u16; 8], 1).into()).to_string(), "[::1]:1");
    }
}
