//! The PROXY protocol's header, which tells a server whom a connection is for (HAProxy's
//! specification, versions 1 and 2): written to backends, read from what stands before this gateway.
//!
//! **Invariant:** a header tells one family of addresses; IPv4 within IPv6 is told as IPv4.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::base::limit;

/// Version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_2_PROXY: u8 = 0x21;
/// Version 2, command LOCAL: the sender speaks for itself.
const VERSION_2_LOCAL: u8 = 0x20;
const TCP_4: u8 = 0x11;
const TCP_6: u8 = 0x21;
const UNKNOWN: u8 = 0x00;
/// Most bytes of a line (specification, section 2.1).
const TEXT_BYTES: usize = 107;

/// The header of a connection from `source` to `destination`.
pub fn header(version: Version, (source, destination): (SocketAddr, SocketAddr)) -> Vec<u8> {
    let ends = (source.ip().to_canonical(), destination.ip().to_canonical());
    let ports = (source.port(), destination.port());
    match version {
        Version::V1 => text(ends, ports).into_bytes(),
        Version::V2 => binary(ends, ports),
    }
}

fn text(ends: (IpAddr, IpAddr), (from, to): (u16, u16)) -> String {
    let family = match ends {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        _ => return "PROXY UNKNOWN\r\n".to_owned(),
    };
    format!("PROXY {family} {} {} {from} {to}\r\n", ends.0, ends.1)
}

fn binary(ends: (IpAddr, IpAddr), (from, to): (u16, u16)) -> Vec<u8> {
    let mut body = Vec::with_capacity(36);
    let family = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            TCP_4
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            TCP_6
        }
        _ => UNKNOWN,
    };
    if family != UNKNOWN {
        body.extend(from.to_be_bytes());
        body.extend(to.to_be_bytes());
    }
    let mut header = Vec::with_capacity(52);
    header.extend(SIGNATURE);
    header.extend([VERSION_2_PROXY, family]);
    header.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    header.extend(body);
    header
}

/// A connection's ends: where it comes from, and where it was sent to.
pub type Ends = (SocketAddr, SocketAddr);

/// Reads a header and not a byte more; nothing when it names no addresses (`UNKNOWN`, `LOCAL`).
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Ends>> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_binary(stream).await;
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if !line.starts_with(b"PROXY ") || line.len() >= TEXT_BYTES {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    parse_text(&line).ok_or_else(malformed)
}

async fn read_binary<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Ends>> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [command, family, len1, len0] = fixed;
    let length = usize::from(u16::from_be_bytes([len1, len0]));
    if length > limit::PROXY_HEADER_BYTES {
        return Err(malformed());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    match command {
        VERSION_2_LOCAL => Ok(None),
        VERSION_2_PROXY => parse_binary(family, &body).ok_or_else(malformed),
        _ => Err(malformed()),
    }
}

/// The ends in a line; the outer `None` when it is no header.
#[allow(clippy::option_option, reason = "a header may name nobody")]
fn parse_text(line: &[u8]) -> Option<Option<Ends>> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("PROXY ")?.strip_suffix("\r\n")?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (family, from, to) = (word()?, word()?, word()?);
    let ports = (port(word()?)?, port(word()?)?);
    let ends: (IpAddr, IpAddr) = match family {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?.into(), to.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?.into(), to.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    words.next().is_none().then_some(Some(sockets(ends, ports)))
}

/// A port as the specification writes it: no sign, no leading zero.
fn port(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// The ends in a binary body, whose further fields are not looked at.
#[allow(clippy::option_option, reason = "a header may name nobody")]
fn parse_binary(family: u8, body: &[u8]) -> Option<Option<Ends>> {
    match family {
        TCP_4 => ends::<4>(body).map(Some),
        TCP_6 => ends::<16>(body).map(Some),
        UNKNOWN => Some(None),
        _ => None,
    }
}

/// Two addresses of `N` bytes, and two ports.
fn ends<const N: usize>(body: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = body.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk()?;
    let (to_port, _) = rest.split_first_chunk()?;
    let ports = (u16::from_be_bytes(*from_port), u16::from_be_bytes(*to_port));
    Some(sockets((IpAddr::from(*from), IpAddr::from(*to)), ports))
}

fn sockets((from, to): (IpAddr, IpAddr), ports: (u16, u16)) -> Ends {
    let socket = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    (socket(from, ports.0), socket(to, ports.1))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, source: &str, destination: &str, expected: &[u8]) {
        let ends = (source.parse().unwrap(), destination.parse().unwrap());
        assert_eq!(header(version, ends), expected, "{source} {destination}");
    }

    #[test]
    fn version_1_is_a_line() {
        let check = |source, destination, line: &str| {
            check(Version::V1, source, destination, line.as_bytes());
        };
        check("192.0.2.1:5", "192.0.2.2:443", "PROXY TCP4 192.0.2.1 192.0.2.2 5 443\r\n");
        check(
            "[2001:db8::1]:5",
            "[2001:db8::2]:443",
            "PROXY TCP6 2001:db8::1 2001:db8::2 5 443\r\n",
        );
        check("[::ffff:192.0.2.1]:5", "192.0.2.2:4", "PROXY TCP4 192.0.2.1 192.0.2.2 5 4\r\n");
        check("[2001:db8::1]:5", "192.0.2.2:4", "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let start = b"\r\n\r\n\0\r\nQUIT\n\x21";
        let whole = |rest: &[u8]| [start, rest].concat();
        let four = b"\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x05\x01\xbb";
        check(Version::V2, "192.0.2.1:5", "192.0.2.2:443", &whole(four));
        check(Version::V2, "192.0.2.1:5", "[2001:db8::2]:443", &whole(b"\x00\x00\x00"));
        let six = header(
            Version::V2,
            ("[2001:db8::1]:5".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap()),
        );
        assert_eq!((six.len(), six[13], six[15]), (52, 0x21, 36));
    }

    /// What is read of some bytes, and how many are left.
    async fn read_all(bytes: &[u8]) -> Option<(Option<Ends>, usize)> {
        let mut rest = bytes;
        let ends = read(&mut rest).await.ok()?;
        Some((ends, rest.len()))
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_nothing_behind_it() {
        for (from, to) in [
            ("192.0.2.1:5", "192.0.2.2:443"),
            ("[2001:db8::1]:5", "[2001:db8::2]:443"),
            ("192.0.2.1:5", "[2001:db8::2]:443"),
        ] {
            let ends: Ends = (from.parse().unwrap(), to.parse().unwrap());
            let told = (ends.0.is_ipv4() == ends.1.is_ipv4()).then_some(ends);
            for version in [Version::V1, Version::V2] {
                let mut bytes = header(version, ends);
                bytes.extend(b"rest");
                assert_eq!(read_all(&bytes).await, Some((told, 4)), "{from} {to} {version:?}");
            }
        }
        let mut local =
            header(Version::V2, ("192.0.2.1:5".parse().unwrap(), "192.0.2.2:4".parse().unwrap()));
        local[12] = 0x20;
        assert_eq!(read_all(&local).await, Some((None, 0)));
        assert_eq!(read_all(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").await, Some((None, 0)));
        let mut extended =
            header(Version::V2, ("192.0.2.1:5".parse().unwrap(), "192.0.2.2:4".parse().unwrap()));
        extended[15] += 3;
        extended.extend(b"tlvX");
        assert_eq!(read_all(&extended).await.unwrap().1, 1);
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let ends = ("192.0.2.1:5".parse().unwrap(), "192.0.2.2:4".parse().unwrap());
        let binary = header(Version::V2, ends);
        let changed = |at: usize, byte: u8| {
            let mut bytes = binary.clone();
            bytes[at] = byte;
            bytes
        };
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5 443 6\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +5 443\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5 65536\r\n",
            b"PROXY TCP4 ::1 ::2 5 443\r\n",
            b"PROXY TCP5 192.0.2.1 192.0.2.2 5 443\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5 443",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
            &binary[..binary.len() - 1],
            &changed(12, 0x11),
            &changed(13, 0x12),
            &changed(14, 0xff),
            &changed(15, 11),
        ] {
            assert_eq!(read_all(bytes).await, None, "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(start in 0..3_usize, bytes in proptest::collection::vec(0..=255_u8, 0..80)) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][start];
            let bytes = [start, &bytes].concat();
            futures_util::future::FutureExt::now_or_never(read_all(&bytes)).unwrap();
        }
    }
}
