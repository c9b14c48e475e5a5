//! HTTP/2 by raw frames, as either end: what no library would send.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::connect;
use crate::gateway::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// `ENHANCE_YOUR_CALM`
pub const CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it is sent.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A head of fields, each a literal that is not indexed (RFC 7541 section 6.2.2).
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // Lengths are integers with a prefix of seven bits (section 5.1).
            let mut left = text.len();
            if left < 127 {
                bytes.push(u8::try_from(left).unwrap());
            } else {
                bytes.push(127);
                left -= 127;
                while left >= 128 {
                    bytes.push(u8::try_from(left % 128).unwrap() | 128);
                    left /= 128;
                }
                bytes.push(u8::try_from(left).unwrap());
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// The head of a request for `a.com`.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    let of = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.com")];
    fields(&of)
}

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One end of a connection.
pub struct Raw(pub TcpStream);

impl Raw {
    /// A client that said its preface and settings.
    pub async fn client(port: u16, settings: &[u8]) -> Self {
        let mut raw = Self(connect(port).await);
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        raw
    }

    /// A server that took the preface and said its settings.
    pub async fn server(mut stream: TcpStream, settings: &[u8]) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        let mut raw = Self(stream);
        raw.send(&frame(SETTINGS, 0, 0, settings)).await;
        raw
    }

    /// Sends as much as the other end takes.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.0.write_all(bytes)).await.unwrap();
    }

    /// The next frame; nothing at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let (kind, flags) = (head[3], head[4]);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length.try_into().unwrap()];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap()) & 0x7fff_ffff;
            Some(Frame { kind, flags, stream, payload })
        };
        timeout(PATIENCE, read).await.unwrap()
    }

    /// The next frame of a kind, those before it left out.
    pub async fn wait(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Sends a PING and waits for its answer: what was sent before is done with.
    pub async fn settle(&mut self) -> bool {
        self.send(&frame(PING, 0, 0, b"portcull")).await;
        while let Some(frame) = self.next().await {
            if frame.kind == PING && frame.flags & ACK != 0 {
                return true;
            }
            if frame.kind == GOAWAY {
                return false;
            }
        }
        false
    }

    /// The reason that the connection is ended with, once it has ended; nothing without GOAWAY.
    pub async fn ended(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                reason = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        reason
    }
}
