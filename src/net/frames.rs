//! HTTP/2 frames by their headers alone (RFC 9113 section 4.1): payloads are stepped over, not looked
//! at, so that watching a stream costs nearly nothing.

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content.
    Data,
    /// A head, or trailers.
    Headers,
    /// A priority, in the scheme that RFC 9113 gave up.
    Priority,
    /// A stream is given up.
    Reset,
    /// Settings, or that they were taken.
    Settings,
    /// A promised stream.
    Push,
    /// A ping, or the answer to one.
    Ping,
    /// The connection ends.
    GoAway,
    /// More may be sent.
    WindowUpdate,
    /// The rest of a head.
    Continuation,
    /// Anything else.
    Unknown,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::Push,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }

    /// The reason code of a connection that too many such frames ended.
    pub fn flood(self) -> &'static str {
        match self {
            Self::Data => "http2_data_flood",
            Self::Headers => "http2_headers_flood",
            Self::Priority => "http2_priority_flood",
            Self::Reset => "http2_reset_flood",
            Self::Settings => "http2_settings_flood",
            Self::Push => "http2_push_flood",
            Self::Ping => "http2_ping_flood",
            Self::GoAway => "http2_goaway_flood",
            Self::WindowUpdate => "http2_window_update_flood",
            Self::Continuation => "http2_continuation_flood",
            Self::Unknown => "http2_unknown_flood",
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes after the header.
    pub length: u32,
    /// What the frame is.
    pub kind: Kind,
    flags: u8,
    /// The stream it belongs to; 0 for the connection.
    pub stream: u32,
}

impl Header {
    const BYTES: usize = 9;

    fn parse(bytes: [u8; Self::BYTES]) -> Self {
        let [length @ .., kind, flags, _, _, _, _] = bytes;
        let [.., id0, id1, id2, id3] = bytes;
        let [len0, len1, len2] = length;
        Self {
            length: u32::from_be_bytes([0, len0, len1, len2]),
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes([id0 & 0x7f, id1, id2, id3]),
        }
    }

    /// The header of an empty frame that is not the last of its kind.
    pub fn empty(kind: u8, stream: u32) -> [u8; Self::BYTES] {
        let [id0, id1, id2, id3] = stream.to_be_bytes();
        [0, 0, 0, kind, 0, id0, id1, id2, id3]
    }

    /// Whether DATA surely carries some: padding fills 256 bytes at most (RFC 9113 section 6.1).
    pub fn has_content(self) -> bool {
        let padded = self.flags & 0x8 != 0;
        self.length > if padded { 256 } else { 0 }
    }

    /// Whether HEADERS or DATA ends its stream.
    pub fn ends_stream(self) -> bool {
        self.flags & 0x1 != 0
    }

    /// Whether HEADERS or CONTINUATION ends its head.
    pub fn ends_head(self) -> bool {
        self.flags & 0x4 != 0
    }
}

/// A walk over the frames of one direction, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Walk {
    head: [u8; Header::BYTES],
    seen: usize,
    /// Bytes until the next header.
    rest: usize,
    stopped: bool,
}

impl Walk {
    /// A walk that begins after so many bytes.
    pub fn after(bytes: usize) -> Self {
        Self { rest: bytes, ..Self::default() }
    }

    /// Goes to the end of the bytes, or of a frame at whose header `each` says to stop, from where it
    /// goes no further; says how far it went.
    pub fn pass(&mut self, bytes: &[u8], mut each: impl FnMut(Header) -> bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.rest > 0 {
                let step = self.rest.min(bytes.len() - at);
                self.rest -= step;
                at += step;
                continue;
            }
            if self.stopped {
                break;
            }
            let (Some(to), Some(from)) = (self.head.get_mut(self.seen..), bytes.get(at..)) else {
                break;
            };
            let step = to.len().min(from.len());
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            self.seen += step;
            at += step;
            if self.seen == Header::BYTES {
                let header = Header::parse(self.head);
                self.seen = 0;
                self.rest = usize::try_from(header.length).unwrap_or(usize::MAX);
                self.stopped = each(header);
            }
        }
        at
    }

    /// Whether a frame has ended and no other has begun.
    pub fn is_between(&self) -> bool {
        self.seen == 0 && self.rest == 0
    }

    /// Whether a frame's header is read and its payload is not, or in part.
    pub fn is_in_payload(&self) -> bool {
        self.rest > 0
    }

    /// Whether a frame's header is read in part.
    pub fn is_in_header(&self) -> bool {
        self.seen > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut, the same headers are found, and a stop is at the end of its frame.
        #[test]
        fn frames_are_found_in_any_pieces(
            frames in prop::collection::vec((0..300_usize, 0..12_u8, any::<u8>(), any::<u32>()), 0..20),
            skip in 0..30_usize,
            size in 1..100_usize,
            stop in 0..20_usize,
        ) {
            let mut bytes = vec![0; skip];
            let mut expected = Vec::new();
            let mut end = None;
            for (index, (length, kind, flags, stream)) in frames.iter().enumerate() {
                let length_bytes = u32::try_from(*length).unwrap().to_be_bytes();
                bytes.extend(&length_bytes[1..]);
                bytes.extend([*kind, *flags]);
                bytes.extend(stream.to_be_bytes());
                bytes.extend(vec![0xff; *length]);
                let header = Header {
                    length: u32::try_from(*length).unwrap(),
                    kind: Kind::of(*kind),
                    flags: *flags,
                    stream: stream & 0x7fff_ffff,
                };
                expected.push(header);
                if index == stop {
                    end = Some(bytes.len());
                }
            }
            let mut walk = Walk::after(skip);
            let mut found = Vec::new();
            let mut passed = 0;
            for piece in bytes.chunks(size) {
                let went = walk.pass(piece, |header| {
                    found.push(header);
                    found.len() == stop + 1
                });
                passed += went;
            }
            expected.truncate(stop + 1);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(passed, end.unwrap_or(bytes.len()));
        }
    }
}
