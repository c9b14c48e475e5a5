//! Where the messages of an HTTP/1.1 stream begin and end (RFC 9112 section 6.3).

use memchr::memchr;

/// How much of a line is kept while the rest of it has not come; a header that says where a body ends
/// is refused from this length on.
const LINE_BYTES: usize = 64;

/// Where in a message the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the request line; empty lines are ignored there.
    Start,
    Head,
    /// A body of this length is left.
    Body(u64),
    ChunkSize,
    /// Of a chunk this much is left.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailer,
}

/// How long the body is that the head at hand announces.
#[derive(Clone, Copy, Debug)]
enum Length {
    Absent,
    Bytes(u64),
    Chunked,
}

/// The boundaries of messages in a stream of bytes.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    length: Length,
    /// The beginning of a line whose end has not come, and the last byte of it that has.
    line: Vec<u8>,
    last: u8,
    /// The message at hand asks for another protocol and is not answered.
    pub(super) asked: bool,
    /// A line was refused: nothing that follows means anything.
    pub(super) refused: bool,
}

impl Framing {
    pub(super) fn new() -> Self {
        let (place, length, line) = (Place::Start, Length::Absent, Vec::new());
        Self { place, length, line, last: 0, asked: false, refused: false }
    }

    /// Looks at the next bytes, and spoils the end of a line that is refused; how many may pass. The
    /// others follow that line, or a message that has to be answered first.
    pub(super) fn judge(&mut self, mut bytes: &mut [u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() && !self.refused {
            if self.waits() {
                return all - bytes.len();
            }
            let taken = match &mut self.place {
                Place::Body(left) | Place::Chunk(left) => {
                    let taken = usize::try_from(*left).map_or(bytes.len(), |l| l.min(bytes.len()));
                    *left -= taken as u64;
                    taken
                }
                _ => self.line(bytes),
            };
            self.place = match self.place {
                Place::Body(0) => Place::Start,
                Place::Chunk(0) => Place::ChunkEnd,
                same => same,
            };
            bytes = bytes.get_mut(taken..).unwrap_or_default();
        }
        all - bytes.len()
    }

    /// Whether a head has begun or is to begin, and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Start | Place::Head)
    }

    /// Whether what comes next depends on an answer.
    fn waits(&self) -> bool {
        self.asked && self.place == Place::Start
    }

    /// Takes bytes up to the end of the line; how many.
    fn line(&mut self, bytes: &mut [u8]) -> usize {
        let Some(end) = memchr(b'\n', bytes) else {
            self.keep(bytes);
            return bytes.len();
        };
        let Some((line, _)) = bytes.split_at_checked(end) else { return bytes.len() };
        let next = if self.line.is_empty() {
            self.end_of_line(line)
        } else {
            self.keep(line);
            let mut whole = std::mem::take(&mut self.line);
            if whole.len() == LINE_BYTES {
                whole.push(self.last);
            }
            self.end_of_line(&whole)
        };
        match (next, bytes.get_mut(end)) {
            (Some(next), _) => self.place = next,
            (None, Some(line_feed)) => {
                self.refused = true;
                *line_feed = 0;
            }
            (None, None) => self.refused = true,
        }
        end + 1
    }

    fn keep(&mut self, more: &[u8]) {
        let room = (LINE_BYTES - self.line.len()).min(more.len());
        self.line.extend_from_slice(more.get(..room).unwrap_or_default());
        self.last = more.last().copied().unwrap_or(self.last);
    }

    /// Where a line without its LF leads; nothing when it is refused.
    fn end_of_line(&mut self, line: &[u8]) -> Option<Place> {
        let line = line.strip_suffix(b"\r")?;
        match self.place {
            Place::Start | Place::Trailer if line.is_empty() => Some(Place::Start),
            Place::Start => {
                self.length = Length::Absent;
                Some(Place::Head)
            }
            Place::Head if line.is_empty() => Some(match self.length {
                Length::Absent | Length::Bytes(0) => Place::Start,
                Length::Bytes(length) => Place::Body(length),
                Length::Chunked => Place::ChunkSize,
            }),
            Place::Head => self.field(line),
            Place::ChunkSize => match chunk_size(line)? {
                0 => Some(Place::Trailer),
                size => Some(Place::Chunk(size)),
            },
            Place::ChunkEnd => line.is_empty().then_some(Place::ChunkSize),
            Place::Trailer => Some(Place::Trailer),
            Place::Body(_) | Place::Chunk(_) => None,
        }
    }

    /// A header line: at most one may say where the body ends.
    fn field(&mut self, line: &[u8]) -> Option<Place> {
        self.asked |= value_of(line, b"upgrade:").is_some();
        let length = if let Some(value) = value_of(line, b"content-length:") {
            Length::Bytes(decimal(value)?)
        } else if value_of(line, b"transfer-encoding:").is_some() {
            Length::Chunked
        } else {
            return Some(Place::Head);
        };
        let only = matches!(self.length, Length::Absent);
        self.length = length;
        (only && line.len() < LINE_BYTES).then_some(Place::Head)
    }
}

/// The value of a header line with this name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// A length that the parser reads in the same way; nothing for one in another form.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// The size at the beginning of a chunk's line; extensions are skipped.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let size = line.get(..digits).and_then(|size| std::str::from_utf8(size).ok())?;
    // Digits that fill all that is kept of a line may go on.
    (digits < LINE_BYTES / 2).then(|| u64::from_str_radix(size, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What passes of `bytes` that come in pieces of `size`.
    fn judged(bytes: &[u8], size: usize) -> (Vec<u8>, Framing) {
        let mut framing = Framing::new();
        let mut all = Vec::new();
        for piece in bytes.to_vec().chunks_mut(size) {
            let passed = framing.judge(piece);
            all.extend_from_slice(&piece[..passed]);
            if framing.refused {
                break;
            }
            assert_eq!(passed, piece.len());
        }
        (all, framing)
    }

    /// All of `bytes` passes, or what comes before `spoiled` and its line end, spoiled.
    fn check(bytes: &str, spoiled: Option<&str>) {
        for size in 1..=bytes.len() {
            let (all, framing) = judged(bytes.as_bytes(), size);
            let at = spoiled.map(|before| bytes.find(before).unwrap() + before.len());
            let mut expected = bytes.as_bytes().to_vec();
            if let Some(at) = at {
                assert_eq!(expected[at], b'\n', "{bytes:?}");
                expected[at] = 0;
                expected.truncate(at + 1);
            } else {
                assert_eq!(framing.place, Place::Start, "{bytes:?} by {size}");
            }
            assert_eq!(all, expected, "{bytes:?} by {size}: {framing:?}");
            assert_eq!(framing.refused, at.is_some());
        }
    }

    #[test]
    fn messages_pass_whatever_their_bodies_hold() {
        check("GET / HTTP/1.1\r\nhost: a\r\n\r\n", None);
        check("\r\n\r\nGET / HTTP/1.1\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n", None);
        check("PUT / HTTP/1.1\r\nContent-LENGTH:  3\t\r\n\r\n\na\nGET / HTTP/1.1\r\n\r\n", None);
        check("PUT / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", None);
        let chunked = "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let rest = "GET / HTTP/1.1\r\n\r\n";
        check(&format!("{chunked}0\r\n\r\n{rest}"), None);
        check(
            &format!("{chunked}2;x=\"y\"\r\n\n\n\r\nA \r\n\n234567890\r\n0\r\na: b\r\n\r\n{rest}"),
            None,
        );
        let long = "x".repeat(200);
        check(&format!("{chunked}1;{long}\r\n\n\r\n00\r\nt: {long}\r\n\r\n{rest}"), None);
        check(&format!("GET /{long} HTTP/1.1\r\nx-{long}: {long}\r\n\r\n{rest}"), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        check("GET / HTTP/1.1\nhost: a\r\n\r\n", Some("1.1"));
        check("GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", Some("host: a"));
        check("GET / HTTP/1.1\r\nhost: a\r\n\n", Some("host: a\r\n"));
        check("\nGET / HTTP/1.1\r\n\r\n", Some(""));
        let long = "x".repeat(200);
        check(&format!("GET / HTTP/1.1\r\nx: {long}\nhost: a\r\n\r\n"), Some(&long));
        check(
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nx: y\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some("chunked\r"),
        );
        check(
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
            Some("length: 5\r"),
        );
        check(
            "P / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
            Some("5\r\ncontent-length: 5\r"),
        );
        check("P / HTTP/1.1\r\ncontent-length: +5\r\n\r\n", Some("+5\r"));
        check("P / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", Some("5, 5\r"));
        let chunked = "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        check(&format!("{chunked}1\nx\r\n0\r\n\r\n"), Some("\r\n\r\n1"));
        check(&format!("{chunked}2;\nAA\r\n2a\r\n0\r\n\r\n"), Some("2;"));
        check(&format!("{chunked}0;\n\r\n"), Some("0;"));
        check(&format!("{chunked}x\r\n"), Some("\r\n\r\nx\r"));
        check(&format!("{chunked}{}1\r\n", "0".repeat(80)), Some("01\r"));
        check(&format!("{chunked}0\r\na: b\nc: d\r\n\r\n"), Some("a: b"));
        check(&format!("{chunked}0\r\n\r\nGET / HTTP/1.1\n\r\n"), Some("GET / HTTP/1.1"));
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let body =
            proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..90);
        let head =
            |length: String| format!("PUT /x HTTP/1.1\r\nhost: a\r\n{length}\r\n").into_bytes();
        prop_oneof![
            Just(head(String::new())),
            body.clone().prop_map(move |body| {
                let mut all = head(format!("content-length: {}\r\n", body.len()));
                all.extend(body);
                all
            }),
            proptest::collection::vec(body, 0..4).prop_map(move |chunks| {
                let mut all = head("transfer-encoding: chunked\r\n".to_owned());
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    all.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    all.extend_from_slice(chunk);
                    all.extend_from_slice(b"\r\n");
                }
                all.extend_from_slice(b"0\r\n\r\n");
                all
            }),
        ]
    }

    proptest! {
        #[test]
        fn no_byte_of_a_message_is_touched(messages in proptest::collection::vec(message(), 1..6), size in 1usize..80) {
            let bytes = messages.concat();
            let (all, framing) = judged(&bytes, size);
            prop_assert_eq!(all, bytes);
            prop_assert_eq!(framing.place, Place::Start);
        }
    }
}
